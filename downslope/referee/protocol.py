"""Race: tune every method alike, run fresh seeds at the tuned point, measure time apart, and judge.

A race is a folder. The plan in it decides every trial beforehand, so any process that opens the folder with the same
plan can take any free trial; a race that was killed goes on, and a second process helps.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from downslope.referee import results
from downslope.referee.board import Board
from downslope.referee.clock import Clock
from downslope.referee.errors import refuse
from downslope.referee.events import Events, Listener
from downslope.referee.files import guard
from downslope.referee.isolation import Household, supported
from downslope.referee.loggers import open_events, open_loggers
from downslope.referee.plan import COMPARE, Entry, Plan
from downslope.referee.recipe import PRUNERS, SAMPLERS, Catalogue, Recipe, entrants
from downslope.referee.results import Result
from downslope.referee.store import Store
from downslope.referee.trial import unchanged
from downslope.referee.tuning import refuse_idle_pruner, refuse_missing_sampler
from downslope.referee.verdict import MARGIN
from downslope.referee.way import Way, check, cores, file_of, load, refuse_crowding
from downslope.referee.worker import Worker

__all__ = ["race"]

TRIALS, MAX_SEEDS = 8, 20
LONGEST = 100
"""Bytes of workloads' names in the name of a folder, which may have 255."""


def race(
    workload: Any,
    *,
    methods: Sequence[str | Recipe],
    trials: int | None = None,
    seeds: int = 5,
    until_decided: bool = False,
    max_seeds: int | None = None,
    compare: str = "pairs",
    margin: float = MARGIN,
    budget: float = 1.0,
    self_tuning: bool = False,
    sampler: str = "quasi-random",
    pruner: str = "none",
    target: float | Mapping[str, float] | None = None,
    folder: str | Path | None = None,
    storage: str | None = None,
    wall_clock: float | None = None,
    seed: int = 0,
    quiet: bool = False,
    catalogue: Catalogue | None = None,
    loggers: Sequence[Any] = (),
    events: Listener | str | Path | None = None,
    jobs: int = 1,
    trial_seconds: float | None = None,
    trial_memory: int | None = None,
) -> Result:
    """Race methods on one or several workloads and say which reaches the target first.

    Args:
        workload: a `Workload`, the name of a built-in one, the path of a file that returns one, or a list of these.
        methods: keys of methods, or `Recipe`s; the first is the baseline that the others are compared with.
        trials: tuning trials of each method in its own search space, each of at most the workload's steps; 8 if
            not given.
        seeds: fresh runs at the tuned point, from which the verdict comes.
        until_decided: add seeds in stages until every comparison with the fastest and the baseline is decided.
        max_seeds: the most seeds that `until_decided` may come to; 20 if not given.
        compare: `pairs` compares all methods with each other. `baseline` compares each with the first one alone: fewer
            comparisons are corrected for, so that fewer seeds suffice in a race of many methods.
        margin: methods whose ratio is shown to differ by less are `equivalent`; 0.05 is 5 %.
        budget: factor on the workload's number of steps.
        self_tuning: take the cards' defaults instead of tuning.
        sampler: places the tuning trials: `quasi-random`, `random`, `tpe`, or `gp` (needs SciPy).
        pruner: ends tuning trials that fall behind: `none`, `median`, `halving` or `hyperband`; what it saves is
            reported, and not given back (see `downslope.referee.tuning`).
        target: the metric to reach instead of the workload's own; for several workloads, by their
            names. A variant has its base's.
        folder: where the race is kept; by default `races/<workloads>-<fingerprint>`. The same call resumes it.
        storage: `postgresql://user@host/database`, where the race is kept for the workers of several machines; the
            folder then holds this machine's copy of the report. By default everything is in the folder.
        wall_clock: seconds after which this call begins no new trial; the race is then judged on the seeds that every
            method has run. The same call goes on from there. If other processes go on, the report is left to them.
        seed: changes every random number of the race.
        quiet: show nothing while it runs.
        catalogue: another registry of methods than the package's own.
        loggers: who is told what happens: `"tensorboard"`, `"csv"`, `"jsonl"`, `"wandb"`, `"mlflow"` (they write below
            the race's folder where they write files), one of `downslope.referee.loggers`, or any function of an event
            (`downslope.referee.events`). One that fails is dropped with one line; the race goes on.
        events: one more function of an event, or the path of a file that gets each as a line of JSON.
        jobs: trials at once on this machine, each with its share of the cores. Time and memory are measured when all
            of them are done.
        trial_seconds: limit on the seconds of one trial. By default a trial goes on as long as it shows progress: it
            is ended after 30 minutes without a step.
        trial_memory: limit on the bytes that the processes of one trial hold together; none by default.

    A workload given by name or file is loaded, checked and trained in processes of its own (see `docs/referee.md`). One
    given as an object cannot be loaded elsewhere, nor can another catalogue: then everything runs in the caller's
    process, one trial at a time and without limits; what a trial changes there the next one sees, but for random
    numbers and torch's settings (default dtype and device, threads, gradient mode, deterministic algorithms).

    Returns:
        The verdict and all numbers behind it; the folder then holds `report.html`, `results.json` and `results.csv`.

    Raises:
        RaceError: in one sentence; what was stored before is kept. `LeftToOthers` if the report is left to others.

    Example:
        >>> result = ds.race("fashion-mlp", methods=["adamw", "lion"], trials=4, seeds=5)
        >>> print(result)
    """
    tries = TRIALS if trials is None else trials
    _check_numbers(trials=tries, seeds=seeds, budget=budget, seed=seed)
    _check_tuning(self_tuning, trials, sampler, pruner)
    clock = Clock(wall_clock)
    listeners = [*open_loggers(loggers), *([] if events is None else [open_events(events)])]
    known = catalogue or _registry()
    recipes = tuple(entrants(methods, known, tuned=not self_tuning))
    most = _check_judging(seeds, until_decided, max_seeds, compare, margin, len(recipes))
    way = Way(jobs=jobs, seconds=trial_seconds, memory=trial_memory, isolated=catalogue is None and supported())
    with Household([recipe.method for recipe in recipes]) as household:
        items = workload if isinstance(workload, list | tuple) else [workload]
        loaded = [load(item, household, way) for item in items]
        plan = Plan(
            workloads=_entries(loaded, budget, target),
            methods=recipes,
            self_tuning=self_tuning,
            trials=0 if self_tuning else tries,
            sampler=sampler,
            pruner=pruner,
            seeds=seeds,
            budget=float(budget),
            seed=seed,
            version=_version(),
            threads=min(torch.get_num_threads(), max(1, cores() // jobs)),
            margin=float(margin),
            max_seeds=most,
            compare=compare,
        )
        refuse_idle_pruner(plan)
        for item, source in loaded:
            check(item, source, plan, known, household)
        where = Path(folder) if folder is not None else Path("races") / _folder_name(plan)
        with unchanged(), Store(where, plan, storage) as store, Board(store, quiet=quiet) as board:
            refuse_crowding(jobs, store.plan.threads)
            torch.set_num_threads(store.plan.threads)
            with Events(listeners, warnings.warn if quiet else board.say) as told:
                told.race_started(store)
                found = {item.name: item for item, _ in loaded}
                Worker(store, found, known, board, told, household, way, clock).work()
                store.copy_out()
                result = results.load(store) if storage is None else results.write(store)
                told.verdict(result)
            return result


def _folder_name(plan: Plan) -> str:
    """The workloads, as far as there is room for them, and the fingerprint, which alone tells races apart."""
    names = "+".join(w.name for w in plan.workloads).encode()
    return f"{names[:LONGEST].decode(errors='ignore')}-{plan.digest[:6]}"


def _entries(
    loaded: Sequence[tuple[Any, str]], budget: float, target: float | Mapping[str, float] | None
) -> tuple[Entry, ...]:
    if not loaded:
        refuse("name at least one workload; `downslope workloads` lists the built-in ones.")
    targets = _targets([item.name for item, _ in loaded], target)
    found: list[Entry] = []
    for item, source in loaded:
        if item.name in {e.name for e in found}:
            refuse(f"workload {item.name!r} is named twice; name it once.")
        path = file_of(source)
        with guard(Path(source)):
            digest = "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        variant_of = getattr(item, "variant_of", "")
        given = targets.get(item.name, targets.get(variant_of))
        found.append(
            Entry(
                name=item.name,
                source=source,
                digest=digest,
                metric_name=item.metric_name,
                goal=item.goal,
                target=float(item.target) if given is None else given,
                steps=max(1, math.ceil(item.steps * budget)),
                evaluate_every=item.evaluate_every,
                description=item.description,
                data=item.data,
                licence=item.licence,
                target_origin=item.target_origin if given is None else "given for this race",
                variant_of=variant_of,
            )
        )
    return tuple(found)


def _targets(names: Sequence[str], target: float | Mapping[str, float] | None) -> dict[str, float]:
    """The targets that were given, by workload."""
    if target is None:
        return {}
    if not isinstance(target, Mapping) and len(names) > 1:
        refuse(f"with {len(names)} workloads a target needs the name of its own, such as {names[0]}={target}.")
    given = target if isinstance(target, Mapping) else {names[0]: target}
    for name, value in given.items():
        if name not in names:
            refuse(f"target names {name!r}, which is not raced; the workloads are {', '.join(names)}.")
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            refuse(f"target must be a finite number; got {value!r} for {name}.")
    return {name: float(value) for name, value in given.items()}


def _check_numbers(*, trials: int, seeds: int, budget: float, seed: int) -> None:
    for name, value, least in (("trials", trials, 1), ("seeds", seeds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            refuse(f"{name} must be a whole number >= {least}; got {value!r}.")
        if value >= 2**63:
            refuse(f"{name} must be a whole number below 2^63; got {value!r}.")
    if isinstance(budget, bool) or not isinstance(budget, numbers.Real) or not 0 < float(budget) < math.inf:
        refuse(f"budget must be a finite number > 0 (a factor on the workload's steps); got {budget!r}.")


def _check_tuning(self_tuning: bool, trials: int | None, sampler: str, pruner: str) -> None:
    if not isinstance(self_tuning, bool):
        refuse(f"self_tuning must be True or False; got {self_tuning!r}.")
    for name, value, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in known:
            one_of = ", ".join(map(repr, known))
            refuse(f"{name} must be one of {one_of}; got {value!r}.")
        if self_tuning and value != known[0]:
            refuse(f"{name} {value!r} is for tuning; leave it out with self_tuning, or leave out self_tuning.")
    if self_tuning and trials is not None:
        refuse(f"trials is for tuning; leave it out with self_tuning, or leave out self_tuning; got {trials!r}.")
    refuse_missing_sampler(sampler)


def _check_judging(
    seeds: Any, until_decided: Any, max_seeds: Any, compare: Any, margin: Any, methods: int
) -> int | None:
    """The most seeds of a sequential race, or None for a race of as many seeds as are given."""

    if compare not in COMPARE:
        refuse(f"compare must be one of {', '.join(map(repr, COMPARE))}; got {compare!r}.")
    if isinstance(margin, bool) or not isinstance(margin, numbers.Real) or not 0 < float(margin) <= 1:
        refuse(f"margin must be a number above 0 and at most 1 (0.05 is 5 %); got {margin!r}.")
    if not isinstance(until_decided, bool):
        refuse(f"until_decided must be True or False; got {until_decided!r}.")
    if not until_decided:
        if max_seeds is not None:
            refuse(f"max_seeds is for until_decided; got max_seeds={max_seeds!r} without it.")
        return None
    most = MAX_SEEDS if max_seeds is None else max_seeds
    whole = isinstance(most, int) and not isinstance(most, bool)
    if not whole or (isinstance(seeds, int) and most < seeds):
        refuse(f"max_seeds must be a whole number, not less than seeds ({seeds!r}); got {most!r}.")
    if methods < 2:
        refuse("until_decided needs a second method to compare with; name it, or leave until_decided out.")
    return int(most)


def _registry() -> Catalogue:
    from downslope import _registry as registry

    return cast(Catalogue, registry)


def _version() -> str:
    from downslope import __version__

    return __version__
