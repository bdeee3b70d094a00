"""From a Lightning module: a workload of its `training_step` and `validation_step`.

The race's own loop calls them, so that every method is timed and evaluated alike; there is no Lightning `Trainer`. What
they log is collected as a `Trainer` would. Works with `lightning` and `pytorch_lightning`, and imports neither.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from downslope.referee.adapters.module import EPOCHS, EVALUATIONS, fresh_models
from downslope.referee.workload import Workload, WorkloadError

__all__ = ["from_lightning"]

CHANGES_TRAINING = (
    *("backward", "on_before_backward", "on_after_backward", "configure_gradient_clipping", "optimizer_step"),
    *("on_before_optimizer_step", "on_before_zero_grad", "optimizer_zero_grad", "on_train_batch_start"),
    *("on_validation_model_eval", "on_validation_model_train"),
)
"""Hooks that would make the race train something else than the Trainer does; modules that have them are refused."""
NOT_CALLED = (
    *("prepare_data", "configure_callbacks", "on_fit_start", "on_fit_end", "on_train_start", "on_train_end"),
    *("on_train_epoch_start", "on_train_epoch_end", "on_train_batch_end"),
)
"""Hooks that are not called, and about which a warning is given."""


def from_lightning(
    module: nn.Module | Callable[[], nn.Module],
    datamodule: Any = None,
    *,
    target: float,
    train: Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    monitor: str = "val_loss",
    goal: Literal["min", "max"] | None = None,
    name: str | None = None,
    steps: int | None = None,
    evaluate_every: int | None = None,
    keep_weights: bool = False,
    device: str | torch.device | None = None,
    description: str = "",
) -> Workload:
    """A workload of a Lightning module.

    Its `configure_optimizers`, gradient clipping and schedules are not used: what is raced is the method. `setup` and
    `configure_model` are called for each trial; `batch_idx` counts as a `Trainer` does, but there is none, so that
    `current_epoch` and `global_step` stay 0.

    Args:
        module: a function (or class without arguments) that gives a fresh `LightningModule`; or a module, copied and
            drawn anew as `from_module` does it.
        datamodule: a `LightningDataModule`; its `train_dataloader` and `val_dataloader` are used.
        target: the value of `monitor` that counts as reached.
        train, validation: loaders, instead of a datamodule.
        monitor: a name that `validation_step` or `on_validation_epoch_end` logs.
        goal: `"min"` or `"max"`; known for a name that ends with `loss`.
        name: of the workload; the name of the module's class or function by default.
        steps: the budget of a run; `EPOCHS` passes over the training batches by default.
        evaluate_every: steps between two evaluations; an `EVALUATIONS`-th of the budget by default.
        keep_weights: for a module: start every trial from its weights as they are.
        device: where to train; where the module is made by default.
        description: the module and data in one line, for the report.

    Raises:
        WorkloadError: in one sentence, for a module that needs what the race does not do.
    """
    train, validation = _loaders(datamodule, train, validation)
    build = fresh_models(module, keep_weights=keep_weights)
    cls: Any = module if isinstance(module, type) else type(module) if isinstance(module, nn.Module) else None
    if cls is not None:
        _check_once(cls)
    if goal is None and not monitor.endswith("loss"):
        raise _wrong(f"whether a larger {monitor!r} is better is not known; give `goal`, 'min' or 'max'")
    if steps is None:
        try:
            steps = EPOCHS * len(train)  # type: ignore[arg-type]
        except TypeError:
            raise _wrong("the training batches have no length; give `steps`") from None
    known = name or (cls.__name__ if cls is not None else getattr(module, "__name__", ""))

    def model() -> nn.Module:
        new: Any = build()
        _check_once(type(new))
        if not new.automatic_optimization:
            raise _wrong("the module steps its optimizers by hand (automatic_optimization is False); a race does it")
        new.log = _ignore  # a training step has no Trainer to log to
        new.setup(stage="fit")
        new.configure_model()
        return (new if device is None else new.to(device)).train()  # type: ignore[no-any-return]

    found = Workload(
        name=known if known and known != "<lambda>" else "lightning",
        model=model,
        train=train,
        validation=validation,
        loss=_loss,
        metric=lambda model, batches: _validate(model, batches, monitor),
        metric_name=monitor,
        goal=goal or "min",
        target=target,
        steps=steps,
        evaluate_every=evaluate_every if evaluate_every is not None else max(1, steps // EVALUATIONS),
        description=description,
    )
    return replace(found, train=_Numbered(train))  # now that the batches themselves have been checked


def _loaders(datamodule: Any, train: Any, validation: Any) -> tuple[Iterable[Any], Iterable[Any]]:
    if (train is None, validation is None) != (datamodule is not None, datamodule is not None):
        raise _wrong("give either a datamodule, or both `train` and `validation`")
    if datamodule is not None:
        datamodule.prepare_data()
        datamodule.setup("fit")
        train, validation = datamodule.train_dataloader(), datamodule.val_dataloader()
    if datamodule is not None and isinstance(validation, list | tuple):
        if len(validation) != 1:
            raise _wrong(f"there are {len(validation)} validation loaders; give the one that decides by `validation`")
        (validation,) = validation
    return train, validation


def _check(cls: Any) -> None:
    """Refuse a class that is no Lightning module or changes training in ways that a race would leave out."""
    base = next((c for c in cls.__mro__ if c.__name__ == "LightningModule"), None)
    if base is None:
        raise _wrong(f"{cls.__name__} is no LightningModule; from_module takes any other torch.nn.Module")

    def own(hooks: Iterable[str]) -> list[str]:
        return [h for h in hooks if getattr(cls, h, None) is not getattr(base, h, None)]

    if changing := own(CHANGES_TRAINING):
        raise _wrong(f"{cls.__name__} has {' and '.join(changing)}, which a race does not call; take it out to race it")
    if ignored := own(NOT_CALLED):
        text = f"from_lightning: a race does not call {' and '.join(ignored)} of {cls.__name__}."
        warnings.warn(text, stacklevel=4)


_check_once: Callable[[Any], None] = functools.cache(_check)


class _Numbered:
    """Training batches, each with its number in its pass."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return enumerate(self._batches)


def _loss(model: Any, numbered: tuple[int, Any]) -> Tensor:
    index, batch = numbered
    found = _call(model.training_step, _transferred(model, batch), index)
    if found is None:
        raise ValueError("training_step returned None; a race needs a loss for every batch")
    loss: Tensor = found["loss"] if isinstance(found, Mapping) else found
    return loss


def _validate(model: Any, batches: Iterable[Any], monitor: str) -> float:
    collected = _Collected()
    model.log = collected.log
    for hook in ("on_validation_start", "on_validation_epoch_start"):
        getattr(model, hook)()
    for index, batch in enumerate(batches):
        on_device = _transferred(model, batch)
        collected.rows = _rows(on_device)
        model.on_validation_batch_start(on_device, index)
        output = _call(model.validation_step, on_device, index)
        model.on_validation_batch_end(output, on_device, index)
    collected.rows = 1
    for hook in ("on_validation_epoch_end", "on_validation_end"):
        getattr(model, hook)()
    model.log = _ignore
    return collected.value(monitor)


def _call(step: Any, batch: Any, index: int) -> Any:
    """A step with as many arguments as it takes."""
    return step(batch, index) if _arguments(step.__func__) > 2 else step(batch)


@functools.cache
def _arguments(function: Any) -> int:
    return len(inspect.signature(function).parameters)


def _transferred(model: Any, batch: Any) -> Any:
    batch = model.on_before_batch_transfer(batch, 0)
    return model.on_after_batch_transfer(model.transfer_batch_to_device(batch, model.device, 0), 0)


def _rows(batch: Any) -> int:
    """The length of the first tensor in a batch."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((_rows(part) for part in parts if isinstance(part, Tensor | Mapping | list | tuple)), 1)


def _ignore(*_: Any, **__: Any) -> None:
    """What a training step logs."""


class _Collected:
    """What validation logs: means weighted by the rows of batches, and metrics that collect by themselves."""

    def __init__(self) -> None:
        self.rows = 1
        self._values: dict[str, list[tuple[float, int]]] = {}
        self._reduce: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}

    def log(self, name: str, value: Any, *_: Any, **options: Any) -> None:
        """In place of `LightningModule.log`."""
        if hasattr(value, "compute") and hasattr(value, "reset"):
            self._metrics[name] = value
            return
        self._reduce[name] = options.get("reduce_fx", "mean")
        weight = options.get("batch_size") or self.rows
        self._values.setdefault(name, []).append((float(value), weight))

    def value(self, name: str) -> float:
        """The number at the end of validation."""
        found = {n: m.compute() for n, m in self._metrics.items() if n == name}
        for metric in self._metrics.values():
            metric.reset()
        if name in found:
            return float(found[name])
        if name not in self._values:
            known = ", ".join(sorted({*self._values, *self._metrics})) or "nothing"
            raise ValueError(f"validation logs no {name!r}, the monitor; it logs {known}")
        pairs, reduce = self._values[name], self._reduce[name]
        if reduce == "mean":
            return sum(v * w for v, w in pairs) / sum(w for _, w in pairs)
        values = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
        return float((getattr(torch, reduce) if isinstance(reduce, str) else reduce)(values))


def _wrong(sentence: str) -> WorkloadError:
    return WorkloadError(f"from_lightning: {sentence}.")
