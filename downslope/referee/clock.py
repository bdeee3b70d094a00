"""Clock: a budget in time. When it is spent no more trials begin, and what every method has is judged.

A race that ends so is judged on whole rounds: the seeds that every method of a workload has run, never more of one
than of another. A workload without a whole round is not judged.
"""

from __future__ import annotations

import math
import numbers
import re
import time
from collections.abc import Mapping
from typing import Any

from downslope.referee.errors import RaceError
from downslope.referee.plan import Plan
from downslope.referee.trial import Record

__all__ = ["STOPPED", "Clock", "seconds_of", "whole_rounds"]

STOPPED = "stopped"
"""The name under which a race keeps that its time was spent."""
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


class Clock:
    """Runs from now on for `seconds`, or for ever."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not (
            isinstance(seconds, numbers.Real) and not isinstance(seconds, bool) and 0 < float(seconds) < math.inf
        ):
            raise RaceError(
                f"race: wall_clock must be a finite number of seconds > 0, or None; got {seconds!r}.", bad_input=True
            )
        self.seconds = None if seconds is None else float(seconds)
        self._end = math.inf if seconds is None else time.monotonic() + float(seconds)

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self._end


def seconds_of(text: str) -> float:
    """Seconds from a text such as `2h`, `90m`, `1h30m` or `45s`.

    Raises:
        RaceError: if it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.strip().lower())
    whole = re.fullmatch(r"(?:\d+(?:\.\d+)?\s*(?:s|m|min|h|d)\s*)+", text.strip().lower())
    if whole is None:
        raise RaceError(f"race: --wall-clock must be a time such as 2h, 1h30m or 45s; got {text!r}.", bad_input=True)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def whole_rounds(plan: Plan, records: Mapping[str, Record | Any], workload: str) -> int:
    """How many seeds every method has run on a workload, counted from the first."""
    rounds = 0
    while all(f"{workload}/{m.label}/seed/{rounds:03d}" in records for m in plan.methods):
        rounds += 1
    return rounds
