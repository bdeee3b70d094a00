"""Trace: the paths of methods on a function of two variables, each tuned by the same number of trials.

The classical teaching figure shows whatever its author's learning rates show. Here every method gets the same number of
quasi-random trials on the same function from the same start, with the same noise, and the best one is drawn: the one
that arrives for good in the fewest steps, and where none arrives, the one that ends lowest. Arrived for good means that
the value stays within the tolerance of the minimum from that step to the end, so that flying through the minimum does
not count. What was tuned, to what, and how many of the trials arrived stands beside each path.

A path on two variables says how a rule moves, and nothing about which method trains a network faster: race them for
that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downslope._checks import ArgumentError
from downslope._registry import card, make, signature
from downslope.referee.errors import RaceError
from downslope.referee.landscapes import Landscape, landscape
from downslope.referee.recipe import SUPPLIED, candidates
from downslope.referee.trial import Broken, train_step, unchanged

__all__ = ["RATES", "Path", "Trace", "trace"]

RATES = ("log", 1e-4, 10.0)
"""Where the learning rate is searched: wide enough for every method on every function, and the same for all."""

FAR = 1e6  # a path that goes further than this has diverged


@dataclass(frozen=True, kw_only=True)
class Path:
    """The best trial of one method.

    Attributes:
        hyper: what was tuned, and to what.
        points: where the path was, from the start on.
        values: the function there, without noise.
        arrived: the step from which the value stays within the tolerance, or None.
        broken: why the path ended early, or None.
        hits: how many of the trials arrived.
        tried: how many trials there were; one for a method with nothing to tune.
    """

    method: str
    hyper: dict[str, Any]
    points: tuple[tuple[float, float], ...]
    values: tuple[float, ...]
    arrived: int | None
    broken: str | None
    hits: int = 0
    tried: int = 1

    @property
    def final(self) -> float:
        """The value at the end."""
        return self.values[-1]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Paths of methods over one landscape, in the order in which the methods were named."""

    landscape: Landscape
    paths: tuple[Path, ...]
    trials: int
    steps: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers; a value that is not finite is None."""
        return {
            "function": self.landscape.name,
            "formula": self.landscape.formula,
            "start": list(self.landscape.start),
            "tolerance": self.landscape.tolerance,
            "trials": self.trials,
            "steps": self.steps,
            "seed": self.seed,
            "paths": [
                {
                    "method": p.method,
                    "hyper": p.hyper,
                    "arrived": p.arrived,
                    "hits": p.hits,
                    "tried": p.tried,
                    "final": p.final if math.isfinite(p.final) else None,
                    "broken": p.broken,
                    "points": [list(point) for point in p.points],
                }
                for p in self.paths
            ],
        }


def trace(
    function: str | Landscape,
    methods: Sequence[str],
    *,
    trials: int = 32,
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda method: None,
) -> Trace:
    """The paths of methods on a function of two variables, each at its best of `trials` settings.

    The learning rate is searched log-uniformly over `RATES` where the method's card tunes it so, everything else that
    the card tunes over the card's own range, weight decay not at all (it is 0: it would move the minimum).

    Args:
        function: the name of a built-in landscape, or one of your own.
        methods: keys of methods.
        trials: settings tried per method.
        steps: length of every path; the landscape's own if None.
        seed: of the settings and of all noise.
        progress: told each method as its trials begin.

    Raises:
        RaceError: an unknown function, too few trials or steps, or a method that cannot move a point of two numbers.
        UnknownMethod: a key that no method has.
    """
    ground = function if isinstance(function, Landscape) else landscape(function)
    steps = ground.steps if steps is None else steps
    for name, value, least in (("trials", trials, 1), ("steps", steps, 1), ("seed", seed, 0)):
        if not (isinstance(value, int) and value >= least):
            raise RaceError(f"trace: {name} must be a whole number >= {least}; got {value!r}.", bad_input=True)
    if isinstance(methods, str):
        raise RaceError(f"trace: methods must be a list; write [{methods!r}].", bad_input=True)
    if not methods:
        raise RaceError("trace: methods must name at least one method; got none.", bad_input=True)
    if len(set(methods)) < len(methods):
        raise RaceError(f"trace: each method may be named once; got {', '.join(methods)}.", bad_input=True)
    for key in methods:
        _refuse(key, ground)
    noise = ground.noise * np.random.default_rng(seed).standard_normal((steps, 2))
    paths = []
    for key in methods:
        progress(key)
        paths.append(_best(key, ground, trials, noise, seed))
    return Trace(landscape=ground, paths=tuple(paths), trials=trials, steps=steps, seed=seed)


class _Walker(nn.Module):
    def __init__(self, start: tuple[float, float]) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def _optimizer(key: str, walker: nn.Module, hyper: Mapping[str, Any]) -> Any:
    still = {"weight_decay": 0.0} if "weight_decay" in signature(card(key)) else {}
    return make(key, walker, execution="reference", **(still | dict(hyper)))


def _refuse(key: str, ground: Landscape) -> None:
    """Say, before anything runs, that a method cannot be traced, and why."""
    needs = sorted(set(card(key).needs) - SUPPLIED) if card(key).ready else []
    if needs:
        raise RaceError(f"{key!r} cannot be traced: it needs {' and '.join(needs)}; leave it out.", bad_input=True)
    try:
        _optimizer(key, _Walker(ground.start), {})
    except ArgumentError as error:
        raise RaceError(
            f"{key!r} cannot be traced: it refuses a point of two numbers ({error}) Leave it out.", bad_input=True
        ) from error


def _space(key: str) -> dict[str, Sequence[Any]]:
    """What is tuned: the card's space with the common range of learning rates and without weight decay."""
    tuned: dict[str, Sequence[Any]] = dict(card(key).tuning or {})
    tuned.pop("weight_decay", None)
    if "lr" in tuned and tuned["lr"][0] == "log":
        tuned["lr"] = RATES
    return tuned


def _best(key: str, ground: Landscape, trials: int, noise: np.ndarray, seed: int) -> Path:
    space = _space(key)
    settings = candidates(space, trials if space else 1, seed)
    with unchanged():
        paths = [_walk(key, ground, hyper, noise, seed) for hyper in settings]
    hits = sum(p.arrived is not None for p in paths)
    best = min(paths, key=lambda p: (math.inf if p.arrived is None else p.arrived, p.broken is not None, p.final))
    return replace(best, hits=hits, tried=len(paths))


def _walk(key: str, ground: Landscape, hyper: Mapping[str, Any], noise: np.ndarray, seed: int) -> Path:
    """One path of at most `len(noise)` steps."""
    torch.manual_seed(seed)
    walker = _Walker(ground.start)
    opt = _optimizer(key, walker, hyper)
    task: Any = SimpleNamespace(loss=_loss(ground))
    points, values, broken = [ground.start], [_value(ground, ground.start)], None
    for step, draw in enumerate(torch.from_numpy(noise), start=1):
        try:
            train_step(task, walker, opt, draw)
        except Broken:
            broken = f"diverged at step {step}"
            break
        point = tuple(walker.point.tolist())
        if not all(abs(c) < FAR for c in point):
            broken = f"diverged at step {step}"
            break
        points.append(point)
        values.append(_value(ground, point))
    arrived = None if broken else _arrived(values, ground.least + ground.tolerance)
    return Path(
        method=key, hyper=dict(hyper), points=tuple(points), values=tuple(values), arrived=arrived, broken=broken
    )


def _loss(ground: Landscape) -> Any:
    def loss(walker: _Walker, draw: Tensor) -> Tensor:
        """The value, tilted so that its gradient has the noise of this step."""
        x, y = walker.point
        return ground.value(x, y) + (draw * walker.point).sum()

    return loss


def _value(ground: Landscape, point: tuple[float, ...]) -> float:
    x, y = torch.tensor(point, dtype=torch.float64)
    return ground.value(x, y).item()


def _arrived(values: Sequence[float], limit: float) -> int | None:
    """The first step from which all values are within the limit."""
    outside = [i for i, v in enumerate(values) if not v <= limit]
    step = outside[-1] + 1 if outside else 0
    return step if step < len(values) else None
