"""Taking turns: A B C A B C, one process, the order turned by one in every round; medians with quartiles."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Spread", "first_call", "ratio", "take_turns"]

TURN = 0.01
"""Seconds that a turn lasts at least: a call that is quicker is repeated in its turn."""
MOST_REPEATS = 500


@dataclass(frozen=True)
class Spread:
    """A median and its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The quartiles of some values."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)

    @property
    def relative(self) -> float:
        """The distance of the quartiles as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def first_call(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    before: Callable[[], object],
    *,
    seconds: float,
    least: int = 5,
    most: int = 30,
) -> dict[str, list[float]]:
    """Seconds per call, one value a round, by label.

    Args:
        calls: what is timed; each must have run once or twice before, so that it is built and has its state.
        before: called before every turn, outside of the time.
        seconds: rounds begin until these have passed.
        least: rounds at least.
        most: rounds at most.
    """
    repeats: dict[str, int] = {}
    for label, call in calls.items():
        before()
        repeats[label] = min(MOST_REPEATS, 1 + int(TURN / max(first_call(call), 1e-7)))
    found: dict[str, list[float]] = {label: [] for label in calls}
    order, start = list(calls), time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for turn in range(most):
            if turn >= least and time.perf_counter() - start > seconds:
                break
            for label in order[turn % len(order) :] + order[: turn % len(order)]:
                before()
                call, count = calls[label], repeats[label]
                begin = time.perf_counter()
                for _ in range(count):
                    call()
                found[label].append((time.perf_counter() - begin) / count)
    finally:
        gc.enable()
    return found


def ratio(above: list[float], below: list[float]) -> Spread:
    """The spread of the ratio in the same round: what slows a round down slows both."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
