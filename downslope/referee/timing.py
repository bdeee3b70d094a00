"""Timing: seconds per step of every method, measured apart from the trials because machines are noisy.

All methods live in one process and take turns, A B C A B C, a few steps each, on the same batches held in memory. What
slows the machine down for a second then slows all of them; the median over the turns ignores it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from downslope._engine.build import watched
from downslope.referee.machine import Bystanders
from downslope.referee.statistics import Estimate, binomial_below, bootstrap
from downslope.referee.trial import Trainable, train_step

__all__ = ["TIMING_SHARE", "Runner", "measure_seconds", "ratio_interval", "seconds_per_step", "turns_needed"]

TIMING_SHARE = 0.01
"""The part of the level that is spent on not knowing seconds per step exactly, over all pairs of methods."""

WARM_UP = 3
TURN = 5
"""Steps that a method takes before the next one has its turn."""
BATCHES = 16


@dataclass(frozen=True)
class Runner:
    """A method ready to be timed: `make(model)` gives its optimizer."""

    label: str
    make: Callable[[Any], Any]


def measure_seconds(
    workload: Trainable,
    runners: Sequence[Runner],
    *,
    seconds: float = 8.0,
    least_turns: int | None = None,
    most_turns: int = 60,
) -> dict[str, Any]:
    """Seconds per step by turns of `TURN` steps, until `seconds` have passed.

    There are at least `least_turns` of them; if not given, as many as intervals of all pairs' ratios need
    (`ratio_interval`), 8 for two methods and 14 for ten.

    Returns:
        `{"turns": {label: [whole step, …]}, "step_alone": {label: [optimizer's part, …] or None},
        "first_step": {label: seconds}, "broken": {label: cause}}`, all per step; `"build"`: the seconds that compiling
        each method's kernels took, whenever that was (0 without any, None if not known); `"others"`: how many cores
        other programs kept busy meanwhile.
    """
    least = turns_needed(math.comb(len(runners), 2)) if least_turns is None else least_turns
    batches = list(itertools.islice(iter(workload.train), BATCHES))
    lanes: dict[str, _Lane] = {}
    first: dict[str, float] = {}
    build: dict[str, float | None] = {}
    broken: dict[str, str] = {}
    _warm_up(workload, batches)
    for runner in runners:
        try:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                lanes[runner.label] = lane = _Lane(workload, runner, batches)
                with watched() as kernels:
                    first[runner.label] = lane.take(1)[0]
                    lane.take(WARM_UP)
                build[runner.label] = _sum(kernels.values())
        except Exception as error:
            broken[runner.label] = f"{type(error).__name__}: {error}"
            lanes.pop(runner.label, None)
    whole: dict[str, list[float]] = {label: [] for label in lanes}
    alone: dict[str, list[float]] = {label: [] for label in lanes}
    start, order, bystanders = time.perf_counter(), list(lanes), Bystanders()
    for turn in range(most_turns):
        if not order or (turn >= least and time.perf_counter() - start > seconds):
            break
        for label in order[turn % len(order) :] + order[: turn % len(order)]:
            if label in broken:
                continue
            try:
                total, step = lanes[label].take(TURN)
            except Exception as error:
                broken[label] = f"{type(error).__name__}: {error}"
                continue
            whole[label].append(total)
            alone[label].append(step)
    for label in broken:
        whole.pop(label, None)
        alone.pop(label, None)
    return {
        "turns": whole,
        "step_alone": {label: None if lanes[label].closed else v for label, v in alone.items()},
        "first_step": first,
        "build": build,
        "broken": broken,
        "others": bystanders.cores(),
    }


def _warm_up(workload: Trainable, batches: Sequence[Any]) -> None:
    """One gradient, so that the first method does not pay for what torch does only once."""
    with contextlib.suppress(Exception), torch.random.fork_rng():  # what breaks here will break each lane, and be told
        workload.loss(workload.model(), batches[0]).backward()


def _sum(seconds: Iterable[float | None]) -> float | None:
    known = list(seconds)
    return None if None in known else sum(filter(None, known))


class _Lane:
    """One model with its optimizer, whose `step` is watched."""

    def __init__(self, workload: Trainable, runner: Runner, batches: Sequence[Any]) -> None:
        self.workload, self.model = workload, workload.model()
        self.opt = runner.make(self.model)
        self.batches = itertools.cycle(batches)
        # A closure runs the model inside step, so its part cannot be told from the optimizer's.
        self.closed = bool(frozenset(getattr(self.opt, "needs", ())) & {"closure", "previous_gradient"})
        self.in_step = 0.0
        inner = self.opt.step

        def watched(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                _wait_for_device()
                self.in_step += time.perf_counter() - start

        self.opt.step = watched

    def take(self, steps: int) -> tuple[float, float]:
        """Seconds per step, whole and in the optimizer."""
        self.in_step = 0.0
        _wait_for_device()
        start = time.perf_counter()
        for _ in range(steps):
            train_step(self.workload, self.model, self.opt, next(self.batches))
        _wait_for_device()
        return (time.perf_counter() - start) / steps, self.in_step / steps


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_per_step(turns: Sequence[float]) -> Estimate:
    """The median over turns with its bootstrap interval."""
    values = np.asarray(turns)
    low, high = bootstrap(len(turns), lambda draws: np.median(values[draws], axis=1))
    return Estimate(float(np.median(values)), low, high, 0.95)


def ratio_interval(
    turns: Mapping[str, Sequence[float]], a: str, b: str, *, pairs: int, floor: float
) -> tuple[float, float]:
    """Between which bounds the ratio of two methods' seconds per step lies; of `pairs` such, hardly one is wrong.

    The chance that any of them is wrong is at most `TIMING_SHARE`, whatever the noise is like: the bounds are the
    k-th smallest and largest of the ratios in each turn (turns are paired, since what happened to the machine
    happened to both), which hold their median but for a chance of 2 P(Binomial(n, 1/2) < k). To either side `floor`
    is added: where in memory a process happens to put things moves all turns of a method alike, so that no number
    of them shows it.
    """
    n = min(len(turns[a]), len(turns[b]))
    ratios = sorted(x / y for x, y in zip(turns[a][:n], turns[b][:n], strict=True))
    k = 1
    while 2 * binomial_below(n, k + 1) <= TIMING_SHARE / pairs:
        k += 1
    return float(ratios[k - 1] / (1 + floor)), float(ratios[-k] * (1 + floor))


def turns_needed(pairs: int) -> int:
    """So many turns that the smallest and the largest ratio of each pair hold its median, but for `TIMING_SHARE`."""
    return 1 + math.ceil(math.log2(max(pairs, 1) / TIMING_SHARE))
