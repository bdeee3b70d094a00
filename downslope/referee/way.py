"""Way: how the trials of a race are run on this machine, and the loading of workloads that follows from it."""

from __future__ import annotations

import math
import numbers
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downslope.referee.check import check_methods, check_workload
from downslope.referee.errors import RaceError, refuse
from downslope.referee.isolation import Household
from downslope.referee.plan import Plan
from downslope.referee.recipe import Catalogue
from downslope.referee.workload import Workload, load_workload, split_variant
from downslope.referee.workloads import BUILT_IN

__all__ = ["Card", "Way", "check", "cores", "file_of", "load", "own_cores", "refuse_crowding", "size"]


UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Way:
    """How trials are run here: how many at once, within which limits, and whether in processes of their own."""

    jobs: int
    seconds: float | None
    memory: int | None
    isolated: bool

    def __post_init__(self) -> None:
        if isinstance(self.jobs, bool) or not isinstance(self.jobs, int) or not 1 <= self.jobs <= cores():
            refuse(f"jobs must be a whole number from 1 to the number of cores ({cores()}); got {self.jobs!r}.")
        seconds, memory = self.seconds, self.memory
        real = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
        if seconds is not None and (not real or not 0 < float(seconds) < math.inf):
            refuse(f"trial_seconds must be a finite number > 0, or None; got {seconds!r}.")
        if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int) or memory < 1):
            refuse(f"trial_memory must be a whole number of bytes > 0, or None; got {memory!r}.")
        if not self.isolated:
            self.refuse_here("another catalogue than the package's own")

    def refuse_here(self, what: str) -> None:
        """Refuse what only trials in processes of their own can have."""
        asked = {"trial_seconds": self.seconds is not None, "trial_memory": self.memory is not None}
        for name in [name for name, given in {"jobs": self.jobs > 1, **asked}.items() if given]:
            refuse(
                f"{name} takes workloads given by name or file, which run in processes of their own; {what} "
                f"runs in the caller's process, so leave {name} out."
            )


@dataclass(frozen=True, kw_only=True)
class Card:
    """A workload that is loaded elsewhere: the name or file that loads it, and its fields that are no code."""

    source: str
    name: str
    metric_name: str
    goal: str
    target: float
    steps: int
    evaluate_every: int
    processes: int
    variant_of: str
    description: str
    data: str
    licence: str
    target_origin: str


def load(item: Any, household: Household, way: Way) -> tuple[Any, str]:
    """A workload, or its card where it is loaded by another process, and where it came from."""
    if not isinstance(item, str | Path):
        if not isinstance(item, Workload):
            refuse(f"a workload must be a Workload, or the name or file of one; got {item!r:.80}.")
        way.refuse_here(f"workload {item.name!r}, given as an object,")
        if getattr(item, "processes", 1) > 1:
            refuse(
                f"a workload that trains on {item.processes} processes must be given by name or file, so that "
                f"each of them can load it; got {item.name!r} as an object."
            )
        return item, ""
    source, path = str(item), file_of(item)
    if path is not None:
        _, variant = split_variant(item)
        source = f"{path.resolve()}@{variant}" if variant else str(path.resolve())
    if way.isolated:
        found = household.ask(source, {"do": "card"}, "loaded", threads=1)
        return Card(source=source, **found), source
    try:
        return load_workload(source), source
    except ValueError as error:  # WorkloadError
        raise RaceError(str(error), bad_input=True) from error


def file_of(source: str | Path) -> Path | None:
    """The file that a workload comes from, by the rule of `load_workload`; None for a built-in one."""
    base, _ = split_variant(source)
    return Path(base) if base not in BUILT_IN and Path(base).is_file() else None


def check(item: Any, source: str, plan: Plan, known: Catalogue, household: Household) -> None:
    """Refuse a workload that does not train, and methods that cannot be built for it."""
    if isinstance(item, Card):
        request = {"do": "check", "plan": plan.to_json()}
        household.ask(source, request, "checked", threads=plan.threads)
    else:
        entry = plan.entry(item.name)
        check_methods(plan, known, item.name, check_workload(item, entry.target, entry.goal))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_cores(slot: int, jobs: int, threads: int) -> list[int]:
    """The cores of one of several jobs that fill the machine; none in particular where there is room to spare."""
    if jobs == 1 or jobs * threads != cores() or not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[slot * threads : (slot + 1) * threads]


def refuse_crowding(jobs: int, threads: int) -> None:
    """Refuse more threads than there are cores: every trial would wait for the others."""
    if jobs > 1 and jobs * threads > cores():
        refuse(
            f"jobs must be at most {max(1, cores() // threads)} here: this race was begun with {threads} "
            f"threads a trial, and there are {cores()} cores; got {jobs}."
        )


def size(text: str) -> int:
    """Bytes from a text such as `4GB`, `500 MB` or `2GiB`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", text, re.IGNORECASE)
    unit = found[2].upper() if found else None
    if found is None or unit not in UNITS:
        refuse(f"trial_memory must be a size such as 4GB or 500MB; got {text!r}.")
    return int(float(found[1]) * UNITS[unit])
