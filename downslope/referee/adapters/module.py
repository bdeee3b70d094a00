"""From a module: a workload out of a `torch.nn.Module`, loaders and a loss, as an ordinary training script has them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from downslope.referee.workload import Workload, WorkloadError

__all__ = ["EPOCHS", "EVALUATIONS", "fresh_models", "from_module", "moved"]

EPOCHS = 10
"""Passes over the training batches, where no number of steps is given."""
EVALUATIONS = 40
"""Evaluations of a run, where no interval is given; "steps to target" is then known to 2.5 % of the budget."""
IGNORED = -100
"""The label that torch's cross entropy leaves out; the accuracy does too."""

Criterion = Callable[[Any, Any], Tensor]
Step = Callable[[nn.Module, Any], Tensor]


def from_module(
    model: nn.Module | Callable[[], nn.Module],
    train: Iterable[Any],
    validation: Iterable[Any],
    *,
    target: float,
    loss: str | Criterion | None = None,
    training_step: Step | None = None,
    metric: Any = None,
    goal: Literal["min", "max"] | None = None,
    metric_name: str | None = None,
    name: str | None = None,
    steps: int | None = None,
    evaluate_every: int | None = None,
    keep_weights: bool = False,
    labels: str = "labels",
    description: str = "",
) -> Workload:
    """A workload from what a training script has.

    Args:
        model: a function that gives a fresh model (a class without arguments is one); it is called after the seed of
            a trial is set. Or a module: every trial trains a copy whose weights are drawn anew by the
            `reset_parameters` of each submodule with trainable parameters; what a constructor did beyond that is lost,
            and frozen parameters stay.
        train: batches, iterable again and again: a `DataLoader` that shuffles without a generator of its own, a list.
        validation: batches, always the same.
        target: the metric that counts as reached.
        loss: `"cross_entropy"`, `"binary_cross_entropy"` (of logits), `"mse"`, any function or module of (output,
            labels), or `"model"`: the model's output has it as `loss`, as models of Hugging Face do.
        training_step: instead of `loss`, a function of (model, batch) that gives the loss.
        metric: `"accuracy"` (the default for cross entropy), `"loss"` (the default else: the mean over the labels of
            the validation batches), a function of (model, validation batches) that gives a number, or an object with
            `update(output, labels)`, `compute()` and `reset()`, as of torchmetrics.
        goal: `"min"` or `"max"`; known for `"accuracy"`, `"loss"` and metrics that say `higher_is_better`.
        metric_name: what the number is; the metric's own name by default.
        name: of the workload; the name of the model's class or function by default.
        steps: the budget of a run; `EPOCHS` passes over `train` by default.
        evaluate_every: steps between two evaluations; an `EVALUATIONS`-th of the budget by default.
        keep_weights: for a module: start every trial from its weights as they are (fine-tuning); the seed then decides
            the order of batches and dropout.
        labels: where batches are dicts, the key of the labels; other batches end with them.
        description: the model and data in one line, for the report.

    Batches are moved to the device of the model's first parameter.

    Raises:
        WorkloadError: in one sentence.

    Example:
        >>> points = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]
        >>> from_module(lambda: nn.Linear(4, 3), points, points, loss="cross_entropy", target=0.9, name="toy").steps
        50
    """
    if (loss is None) == (training_step is None):
        raise _wrong("give either `loss`, of (output, labels), or `training_step`, of (model, batch)")
    _check_order(train)
    build = fresh_models(model, keep_weights=keep_weights)
    step = training_step or _step(_criterion(loss), labels)
    if metric is None:
        metric = "accuracy" if isinstance(loss, str) and loss == "cross_entropy" else "loss"
    measure, known_goal, known_name = _metric(metric, step, labels)
    goal = goal or known_goal
    if goal is None:
        raise _wrong("a metric of one's own needs `goal`, 'min' or 'max'")
    steps = steps if steps is not None else _steps(train)
    return Workload(
        name=name or _name(model),
        model=build,
        train=train,
        validation=validation,
        loss=lambda model, batch: step(model, moved(batch, _device(model))),
        metric=measure,
        metric_name=metric_name or known_name,
        goal=goal,
        target=target,
        steps=steps,
        evaluate_every=evaluate_every if evaluate_every is not None else max(1, steps // EVALUATIONS),
        description=description,
    )


def fresh_models(model: nn.Module | Callable[[], nn.Module], *, keep_weights: bool) -> Callable[[], nn.Module]:
    """A function that gives a new model per trial: the factory itself, or copies of a module.

    Copies keep the weights, or have them drawn anew by the `reset_parameters` of each submodule that holds trainable
    parameters. Frozen parameters stay.

    Raises:
        WorkloadError: when a module cannot be copied, or a submodule cannot draw its weights anew.
    """
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise _wrong(f"`model` must be a module or a function that gives a fresh one; got {type(model).__name__}")
        if keep_weights:
            raise _wrong("`keep_weights` is for a module; a function that gives a fresh one loads weights by itself")
        return model
    factory = "give a function that builds a fresh model instead, such as `lambda: Net(...)`"
    try:
        template = copy.deepcopy(model)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _wrong(f"the model cannot be copied ({reason}); {factory}") from error
    if keep_weights:
        return lambda: copy.deepcopy(template)
    for path, part in template.named_modules():
        if _trained(part) and _reset(part) is None:
            what = (
                f"submodule {path!r} ({type(part).__name__})" if path else f"the model itself ({type(part).__name__})"
            )
            raise _wrong(
                f"{what} has parameters but no `reset_parameters`, so a seed cannot draw its weights anew; {factory}, "
                f"or keep_weights=True to start every trial from the weights as they are"
            )

    def fresh() -> nn.Module:
        new = copy.deepcopy(template)
        new.apply(_draw_anew)  # children before parents, as they were built
        return new

    return fresh


def _trained(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters(recurse=False))


def _only_statistics(part: nn.Module) -> bool:
    """Whether a module holds buffers and no parameters, such as a batch norm that is not affine."""
    return not any(True for _ in part.parameters(recurse=False)) and any(True for _ in part.buffers(recurse=False))


def _reset(part: nn.Module) -> Callable[[], Any] | None:
    """How a module draws its weights anew; torch's attention keeps it under a private name."""
    for name in ("reset_parameters", "_reset_parameters"):
        if callable(found := getattr(part, name, None)):
            return found  # type: ignore[no-any-return]
    return None


def _draw_anew(part: nn.Module) -> None:
    if (_trained(part) or _only_statistics(part)) and (reset := _reset(part)) is not None:
        reset()


def _check_order(train: Iterable[Any]) -> None:
    """Refuse a loader whose order does not depend on the global random numbers, which the seed of a trial sets."""
    if isinstance(train, DataLoader):
        own = train.generator if train.generator is not None else getattr(train.sampler, "generator", None)
        if own is not None:
            raise _wrong(
                "the training DataLoader has a `generator` of its own, so the order of batches would not follow the "
                "seed of a trial; leave it out"
            )


def _steps(train: Iterable[Any]) -> int:
    try:
        return EPOCHS * len(train)  # type: ignore[arg-type]
    except TypeError:
        raise _wrong(
            f"the training batches have no length, so {EPOCHS} passes cannot be counted; give `steps`"
        ) from None


def _name(model: Any) -> str:
    name = type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__name__", "")
    return name if name.isidentifier() else "my-model"


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on a device: tensors, and what is in tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, device) for value in batch)
    return batch.to(device) if hasattr(batch, "to") else batch


# ----------------------------------------------------------------- losses


def _binary_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.view(labels.shape), labels.to(output.dtype))


CRITERIA: dict[str, Criterion | None] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": F.mse_loss,
    "model": None,
}


def _criterion(loss: Any) -> Criterion | None:
    if isinstance(loss, str):
        if loss not in CRITERIA:
            raise _wrong(f"`loss` must be a function of (output, labels) or one of {', '.join(CRITERIA)}; got {loss!r}")
        return CRITERIA[loss]
    if not callable(loss):
        raise _wrong(f"`loss` must be a function of (output, labels); got {type(loss).__name__}")
    return loss  # type: ignore[no-any-return]


def _step(criterion: Criterion | None, labels: str) -> Step:
    """The loss of a batch: by a criterion, or the model's own where it is None."""

    def step(model: nn.Module, batch: Any) -> Tensor:
        if criterion is None:
            output = model(**batch) if isinstance(batch, Mapping) else model(*batch)
            return output["loss"] if isinstance(output, Mapping) else output.loss  # type: ignore[no-any-return]
        return criterion(*predict(model, batch, labels))

    return step


def predict(model: nn.Module, batch: Any, labels: str) -> tuple[Any, Any]:
    """A model's output for a batch, and the labels: a dict's entry of that key, else the batch's last part."""
    if isinstance(batch, Mapping):
        if labels not in batch:
            raise ValueError(f"the batch has no {labels!r} among {', '.join(map(str, batch))}; name the key by labels=")
        output = model(**{key: value for key, value in batch.items() if key != labels})
        return getattr(output, "logits", output), batch[labels]
    *inputs, target = batch
    output = model(*inputs)
    return getattr(output, "logits", output), target


# ----------------------------------------------------------------- metrics


def _metric(
    metric: Any, step: Step, labels: str
) -> tuple[Callable[[nn.Module, Iterable[Any]], float], Literal["min", "max"] | None, str]:
    """The function of (model, batches), its goal if that is known, and its name."""
    # An object's own `==` may mean something else: that of torchmetrics makes a new metric.
    named = metric if isinstance(metric, str) else ""
    if named == "accuracy":
        return lambda model, batches: _mean(_right(*_predicted(model, b, labels)) for b in batches), "max", "accuracy"
    if named == "loss":
        return lambda model, batches: _mean(_loss(step, model, batch, labels) for batch in batches), "min", "loss"
    if all(hasattr(metric, part) for part in ("update", "compute", "reset")):  # of torchmetrics or torcheval
        better = getattr(metric, "higher_is_better", None)
        known: Literal["min", "max"] | None = None if better is None else "max" if better else "min"
        return lambda model, batches: _collected(metric, model, batches, labels), known, type(metric).__name__
    if callable(metric):
        return metric, None, getattr(metric, "__name__", "metric").strip("<>")
    raise _wrong(f"`metric` must be 'accuracy', 'loss', or a function of (model, batches); got {metric!r}")


def _predicted(model: nn.Module, batch: Any, labels: str) -> tuple[Any, Any]:
    return predict(model, moved(batch, _device(model)), labels)


def _right(output: Tensor, labels: Tensor) -> tuple[float, int]:
    """The share of right answers, and how many there were: classes (B, C, ...), or one logit per label."""
    if output.ndim == labels.ndim + 1 and output.shape[1] > 1:
        counted = labels != IGNORED
        right = (output.argmax(1) == labels) & counted
        return right.sum().item() / max(int(counted.sum()), 1), int(counted.sum())
    right = (output.reshape(labels.shape) > 0) == (labels > 0.5)
    return right.double().mean().item(), labels.numel()


def _loss(step: Step, model: nn.Module, batch: Any, labels: str) -> tuple[float, int]:
    """The loss of a batch, and how many examples it is the mean of."""
    value = step(model, moved(batch, _device(model))).item()
    if isinstance(batch, Mapping):
        first = batch.get(labels, next(iter(batch.values())))
    else:
        first = batch[-1] if isinstance(batch, list | tuple) else batch
    if not isinstance(first, Tensor):
        return value, 1
    return value, first.numel() if first.is_floating_point() else int((first != IGNORED).sum())


def _collected(metric: Any, model: nn.Module, batches: Iterable[Any], labels: str) -> float:
    metric.reset()
    if hasattr(metric, "to"):
        metric.to(_device(model))
    for batch in batches:
        metric.update(*_predicted(model, batch, labels))
    return float(metric.compute())


def _mean(parts: Iterable[tuple[float, int]]) -> float:
    total, number = 0.0, 0
    for value, count in parts:
        if count:
            total += value * count
            number += count
    return total / number if number else math.nan


def _wrong(sentence: str) -> WorkloadError:
    return WorkloadError(f"from_module: {sentence}.")
