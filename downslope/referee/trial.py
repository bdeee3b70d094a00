"""Trial: train one workload with one method from one seed, and keep what happened."""

from __future__ import annotations

import contextlib
import math
import random
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from downslope.referee.errors import RaceError
from downslope.referee.recipe import tuples

__all__ = ["Point", "Progress", "Record", "Trainable", "agreed", "run_trial", "train_step", "unchanged"]

_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)
"""What a workload may change for the whole process: how to read it and how to set it."""


class Trainable(Protocol):
    """What a trial asks of a workload (see `downslope.referee.workload.Workload`)."""

    @property
    def model(self) -> Callable[[], nn.Module]: ...
    @property
    def train(self) -> Iterable[Any]: ...
    @property
    def validation(self) -> Iterable[Any]: ...
    @property
    def loss(self) -> Callable[[nn.Module, Any], Tensor]: ...
    @property
    def metric(self) -> Callable[[nn.Module, Iterable[Any]], float]: ...
    @property
    def evaluate_every(self) -> int: ...


@dataclass(frozen=True)
class Point:
    """One evaluation: the mean training loss since the last one, the metric, and the training seconds so far."""

    step: int
    loss: float | None
    metric: float
    seconds: float


Progress = Callable[[int, Point | None], None]
"""Called after a step, and before the first, with the point of the curve where it was just evaluated."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one trial did.

    `steps_to_target` is None where the target was not reached within `budget` steps. `cause` says, for a trial that
    broke, what became non-finite, at which step and in which parameter; such a trial never reaches its target. `cut` is
    the step at which a pruner ended a tuning trial.
    """

    hyper: dict[str, Any]
    seed: int
    budget: int
    steps: int
    steps_to_target: int | None
    best_metric: float | None
    seconds: float
    curve: tuple[Point, ...]
    cause: str | None = None
    cut: int | None = None
    state_bytes: int | None = None
    manifest: str | None = None

    def __post_init__(self) -> None:
        """Keep of a cause only what can be written to a file and shown in a terminal."""
        if self.cause is not None:
            shown = "".join(x if x.isprintable() or x == "\n" else "?" for x in str(self.cause))
            object.__setattr__(self, "cause", shown)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """The record from its JSON."""
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in content.items() if k in known}
        values["hyper"] = {k: tuples(v) for k, v in values["hyper"].items()}
        values["curve"] = tuple(Point(**point) for point in values["curve"])
        return cls(**values)


class Broken(Exception):
    """A loss, gradient, parameter or metric became non-finite."""


@dataclass
class _Run:
    """The state of a trial on the way."""

    curve: list[Point]
    losses: list[float]
    seconds: float = 0.0
    step: int = 0


def run_trial(
    workload: Trainable,
    make: Callable[..., Any],
    hyper: Mapping[str, Any],
    *,
    seed: int,
    steps: int,
    target: float,
    goal: str,
    stop_at_target: bool = True,
    bars: Mapping[int, float] | None = None,
    progress: Progress = lambda step, point: None,
) -> Record:
    """Train for at most `steps` steps and evaluate every `workload.evaluate_every`.

    Args:
        workload: model, batches, loss and metric.
        make: `make(model, **hyper)` gives the optimizer.
        hyper: the method's hyperparameters.
        seed: of the model's weights and the order of the batches.
        steps: the budget.
        target: the metric to reach.
        goal: `"min"` or `"max"`.
        stop_at_target: end at the first evaluation that reaches the target.
        bars: the best metric that a trial must have had by an evaluation, by step; one that falls short is cut there.
        progress: told about every step.

    Returns:
        The record; a trial that broke is a record with a cause, never an exception.
    """
    at, opt, cause, reached_at, cut = _Run([], []), None, None, None, None
    with unchanged():
        _seed_everything(seed)
        try:
            model = workload.model()
            opt = make(model, **hyper)
            batches = _endless(workload.train)
            reached_at = _evaluate(workload, model, opt, at, target, goal)
            progress(0, at.curve[-1])
            while at.step < steps and not (stop_at_target and reached_at is not None) and cut is None:
                batch = next(batches)
                start = time.perf_counter()
                at.step += 1
                at.losses.append(train_step(workload, model, opt, batch))
                at.seconds += time.perf_counter() - start
                due = at.step % workload.evaluate_every == 0 or at.step == steps
                reached_now = _evaluate(workload, model, opt, at, target, goal) if due else None
                reached_at = reached_at if reached_at is not None else reached_now
                if due and bars and at.step in bars and reached_at is None and _falls_short(at, bars[at.step], goal):
                    cut = at.step
                progress(at.step, at.curve[-1] if due else None)
        except RaceError:
            raise
        except Broken as error:
            cause = f"step {at.step}: {error}"
        except (Exception, SystemExit) as error:  # a method or workload that raises ends this trial, not the race
            cause = f"step {at.step}: {type(error).__name__}{_place(error)}: {_first_line(error)}"
    metrics = [point.metric for point in at.curve]
    manifest = _quietly(lambda: opt.manifest())  # type: ignore[union-attr]
    return Record(
        hyper=dict(hyper),
        seed=seed,
        budget=steps,
        steps=at.step,
        steps_to_target=reached_at,
        best_metric=(max(metrics) if goal == "max" else min(metrics)) if metrics else None,
        seconds=at.seconds,
        curve=tuple(at.curve),
        cause=cause,
        cut=cut,
        state_bytes=None if manifest is None else int(manifest.state_bytes),
        manifest=None if manifest is None else str(manifest),
    )


def train_step(workload: Trainable, model: nn.Module, opt: Any, batch: Any) -> float:
    """One step of training, with all that the method needs; returns the loss.

    Raises:
        Broken: when the loss or a gradient is not finite; the parameters have not moved then.
    """

    def closure() -> Tensor:
        opt.zero_grad()
        loss = workload.loss(model, batch)
        trained = [p for group in opt.param_groups for p in group["params"]]
        backward(loss, model, getattr(opt, "backward", Tensor.backward), trained)
        return loss

    if {"closure", "previous_gradient"} & set(getattr(opt, "needs", ())):
        return float(opt.step(closure).detach())
    loss = closure()
    opt.step()
    return loss.item()


def backward(
    loss: Tensor, model: nn.Module, differentiate: Callable[[Tensor], Any], trained: Iterable[Tensor] | None = None
) -> None:
    """Differentiate by `differentiate(loss)`, and refuse a loss or gradients that are not finite.

    `trained` are the parameters whose gradients count: those of the model if None, which takes longer to list.
    """
    finite = math.isfinite(loss.item())
    if not finite and (name := _first_non_finite(model, of_grad=False)):
        raise Broken(f"the loss became {loss.item()}; parameter {name!r} is not finite.")
    differentiate(loss)
    if not finite:
        name = _first_non_finite(model, of_grad=True)
        where = f"the gradient of {name!r} is not finite" if name else _largest(model)
        raise Broken(f"the loss became {loss.item()}; {where}.")
    grads = [p.grad.detach() for p in (model.parameters() if trained is None else trained) if p.grad is not None]
    # One number tells that all are finite; it may overflow where they are, so the slow look has the last word.
    if grads and not math.isfinite(torch.nn.utils.get_total_norm(grads).item()):
        name = _first_non_finite(model, of_grad=True)
        if name:
            raise Broken(f"the gradient of {name!r} is not finite (the loss is {loss.item():.6g}).")


def _first_non_finite(model: nn.Module, *, of_grad: bool) -> str | None:
    for name, p in model.named_parameters():
        tensor = p.grad if of_grad else p.detach()
        if tensor is not None and not torch.isfinite(tensor).all():
            return name
    return None


def _largest(model: nn.Module) -> str:
    """Where to look when nothing is non-finite: the parameter that has grown most."""
    name, value = max(((n, p.detach().abs().max().item()) for n, p in model.named_parameters()), key=lambda x: x[1])
    return f"all parameters and gradients are finite, the largest value is {value:.3g} in {name!r}"


def _evaluate(workload: Trainable, model: nn.Module, opt: Any, at: _Run, target: float, goal: str) -> int | None:
    """Add a point to the curve; returns the step if the target is reached there."""
    model.eval()
    with torch.no_grad():
        metric = agreed(float(workload.metric(model, workload.validation)))
    model.train()
    if not math.isfinite(metric):
        name = _first_non_finite(model, of_grad=False)
        where = f"parameter {name!r} is not finite" if name else _largest(model)
        raise Broken(f"the metric became {metric}; {where}.")
    loss = sum(at.losses) / len(at.losses) if at.losses else None
    at.losses.clear()
    at.curve.append(Point(at.step, loss, metric, at.seconds))
    return at.step if (metric >= target if goal == "max" else metric <= target) else None


def _falls_short(at: _Run, bar: float, goal: str) -> bool:
    """Whether the best metric so far is worse than the bar."""
    metrics = [point.metric for point in at.curve]
    return max(metrics) < bar if goal == "max" else min(metrics) > bar


def agreed(metric: float) -> float:
    """The metric of rank 0 where a trial trains on several processes: all of them must stop at the same step."""
    if not dist.is_available() or not dist.is_initialized():
        return metric
    value = torch.tensor(metric, dtype=torch.float64)
    dist.broadcast(value, 0)
    return float(value)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise Broken("the workload's train yields no batches.")


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Leave what is global in this process as it was: random numbers and settings of torch, NumPy and Python."""
    python, numpy = random.getstate(), np.random.get_state()
    settings = [(write, read, read()) for read, write in _SETTINGS]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for write, read, value in settings:
            if read() != value:
                write(value)


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _place(error: BaseException) -> str:
    """Where in the user's own code an error came from, if it did."""
    ours = str(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith((ours, "<"))]
    return f" at {own[-1].filename}, line {own[-1].lineno}" if own else ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else "(no message)"


def _quietly(read: Callable[[], Any]) -> Any:
    """A fact that is worth keeping but not worth failing for."""
    try:
        return read()
    except Exception:
        return None
