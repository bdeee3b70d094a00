"""Clock: a budget in time. When it is spent no more trials begin, and what every method has is judged.

A race that ends so is judged on whole rounds: the seeds that every method of a workload has run, never more of one
than of another. A workload without a whole round is not judged.
"""

from __future__ import annotations

import math
import numbers
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from downslope.referee.board import duration
from downslope.referee.errors import RaceError, refuse
from downslope.referee.plan import Entry, Plan, task_key
from downslope.referee.schema import Claim

__all__ = ["STOPPED", "Clock", "Ending", "cut_short", "judged", "seconds_of", "whole_rounds"]

STOPPED = "stopped"
"""The name under which a race keeps that its time was spent."""
QUIET = 3
"""Times in a row that nobody must be seen to run anything: between two trials a worker runs nothing for a moment."""
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


class Clock:
    """Runs from now on for `seconds`, or for ever."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not (
            isinstance(seconds, numbers.Real) and not isinstance(seconds, bool) and 0 < float(seconds) < math.inf
        ):
            refuse(f"wall_clock must be a finite number of seconds > 0, or None; got {seconds!r}.")
        self.seconds = None if seconds is None else float(seconds)
        self._end = math.inf if seconds is None else time.monotonic() + float(seconds)

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return time.monotonic() >= self._end


class Ending:
    """Tells a worker whose time is spent, each time that it asks, to wait, to judge, or to leave that to others."""

    def __init__(self, busy: Callable[[], Sequence[Claim]]) -> None:
        self._busy = busy
        self._seen: set[tuple[str, int]] | None = None
        self._quiet = 0

    def due(self) -> Literal["wait", "judge", "leave"]:
        """To wait for what the others ran at the first time; to leave if they then go on; to judge if all is quiet."""
        now = {(claim.task, claim.claims) for claim in self._busy()}
        self._seen = now if self._seen is None else self._seen
        self._quiet = 0 if now else self._quiet + 1
        if not now <= self._seen:
            return "leave"
        return "judge" if self._quiet >= QUIET else "wait"


def seconds_of(text: str) -> float:
    """Seconds from a text such as `2h`, `90m`, `1h30m` or `45s`.

    Raises:
        RaceError: if it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text.strip().lower())
    whole = re.fullmatch(r"(?:\d+(?:\.\d+)?\s*(?:s|m|min|h|d)\s*)+", text.strip().lower())
    if whole is None:
        refuse(f"--wall-clock must be a time such as 2h, 1h30m or 45s; got {text!r}.")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def whole_rounds(plan: Plan, records: Mapping[str, Any], workload: str) -> int:
    """How many seeds every method has run on a workload, counted from the first."""
    rounds = 0
    while all(task_key(workload, m.label, "seed", rounds) in records for m in plan.methods):
        rounds += 1
    return rounds


def judged(plan: Plan, records: Mapping[str, Any]) -> list[Entry]:
    """The workloads that have a whole round."""
    return [entry for entry in plan.workloads if whole_rounds(plan, records, entry.name)]


def cut_short(plan: Plan, records: Mapping[str, Any], spent: Mapping[str, Any]) -> dict[str, Any]:
    """What the results tell of a race whose time was spent before its trials were done.

    Raises:
        RaceError: if no workload has a whole round.
    """
    seeds = {entry.name: whole_rounds(plan, records, entry.name) for entry in judged(plan, records)}
    if not seeds:
        raise RaceError(
            f"the time of {duration(spent['seconds'])} was spent before every method had run one seed; {len(records)} "
            f"trials are stored, and the same command goes on."
        )
    most = plan.max_seeds or plan.seeds
    parts = [f"{name} by {n} of {most} seeds" for name, n in seeds.items() if n < most]
    left_out = [entry.name for entry in plan.workloads if entry.name not in seeds]
    text = f"The time of {duration(spent['seconds'])} was spent"
    text += f"; judged {', '.join(parts)}" if parts else ""
    text += f"; not judged: {', '.join(left_out)}" if left_out else ""
    return {
        "seconds": spent["seconds"],
        "trials": len(records),
        "seeds": seeds,
        "left_out": left_out,
        "text": f"{text}.",
    }
