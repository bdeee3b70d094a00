"""Race: tune every method alike, run fresh seeds at the tuned point, measure time apart, and judge.

A race is a folder. The plan in it decides every trial beforehand, so any process that opens the folder with the same
plan can take any free trial; a race that was killed goes on, and a second process helps.
"""

from __future__ import annotations

import hashlib
import math
import numbers
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from downslope.referee import results
from downslope.referee.board import Board
from downslope.referee.check import check_methods, check_workload
from downslope.referee.errors import RaceError
from downslope.referee.events import Events, Listener
from downslope.referee.files import guard
from downslope.referee.loggers import open_events, open_loggers
from downslope.referee.looking import awaited, look
from downslope.referee.machine import machine_facts
from downslope.referee.memory import measure_memory
from downslope.referee.plan import Entry, Plan
from downslope.referee.recipe import PRUNERS, SAMPLERS, Catalogue, Recipe, entrants
from downslope.referee.results import Result
from downslope.referee.sequential import LOOK
from downslope.referee.standing import chosen
from downslope.referee.store import DEATHS, REPORT, Claim, Store, TakenOver
from downslope.referee.timing import Runner, measure_seconds
from downslope.referee.trial import Record, own_randomness, run_trial
from downslope.referee.tuning import bars, propose, refuse_idle_pruner, refuse_missing_sampler, waits_for
from downslope.referee.verdict import MARGIN

__all__ = ["race"]

POLL = 0.3
MAX_SEEDS = 20


def race(
    workload: Any,
    *,
    methods: Sequence[str | Recipe],
    trials: int = 8,
    seeds: int = 5,
    until_decided: bool = False,
    max_seeds: int | None = None,
    margin: float = MARGIN,
    budget: float = 1.0,
    self_tuning: bool = False,
    sampler: str = "quasi-random",
    pruner: str = "none",
    target: float | None = None,
    folder: str | Path | None = None,
    storage: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    catalogue: Catalogue | None = None,
    loggers: Sequence[Any] = (),
    events: Listener | str | Path | None = None,
) -> Result:
    """Race methods on one or several workloads and say which reaches the target first.

    Args:
        workload: a `Workload`, the name of a built-in one, the path of a file that returns one, or a list of these.
        methods: keys of methods, or `Recipe`s; the first is the baseline that the others are compared with.
        trials: tuning trials of each method in its own search space, each of at most the workload's steps.
        seeds: fresh runs at the tuned point, from which the verdict comes.
        until_decided: add seeds in stages until every comparison with the fastest and the baseline is decided.
        max_seeds: the most seeds that `until_decided` may come to; 20 if not given.
        margin: methods whose ratio is shown to differ by less are `equivalent`; 0.05 is 5 %.
        budget: factor on the workload's number of steps.
        self_tuning: take the cards' defaults instead of tuning.
        sampler: places the tuning trials: `quasi-random`, `random`, `tpe`, or `gp` (needs SciPy).
        pruner: ends tuning trials that fall behind: `none`, `median`, `halving` or `hyperband`; what it saves is
            reported, and not given back (see `downslope.referee.tuning`).
        target: the metric to reach instead of the workload's own; for one workload.
        folder: where the race is kept; by default `races/<workloads>-<fingerprint>`. The same call resumes it.
        storage: `postgresql://user@host/database`, where the race is kept for the workers of several machines; the
            folder then holds this machine's copy of the report. By default everything is in the folder.
        seed: changes every random number of the race.
        quiet: show nothing while it runs.
        catalogue: another registry of methods than the package's own.
        loggers: who is told what happens: `"tensorboard"`, `"csv"`, `"jsonl"`, `"wandb"`, `"mlflow"` (they write below
            the race's folder where they write files), one of `downslope.referee.loggers`, or any function of an event
            (`downslope.referee.events`). One that fails is dropped with one line; the race goes on.
        events: one more function of an event, or the path of a file that gets each as a line of JSON.

    Returns:
        The verdict and all numbers behind it; the folder then holds `report.html`, `results.json` and `results.csv`.

    Raises:
        RaceError: in one sentence; what was stored before is kept.

    Example:
        >>> result = ds.race("fashion-mlp", methods=["adamw", "lion"], trials=4, seeds=5)
        >>> print(result)
    """
    most = _check_judging(seeds, until_decided, max_seeds, margin, len(methods))
    _check_numbers(trials=trials, seeds=seeds, budget=budget, seed=seed)
    _check_tuning(self_tuning, sampler, pruner)
    listeners = [*open_loggers(loggers), *([] if events is None else [open_events(events)])]
    known = catalogue or _registry()
    loaded = [_load(item) for item in (workload if isinstance(workload, list | tuple) else [workload])]
    plan = Plan(
        workloads=_entries(loaded, budget, target),
        methods=tuple(entrants(methods, known, tuned=not self_tuning)),
        self_tuning=self_tuning,
        trials=0 if self_tuning else trials,
        sampler=sampler,
        pruner=pruner,
        seeds=seeds,
        budget=float(budget),
        seed=seed,
        version=_version(),
        threads=torch.get_num_threads(),
        margin=float(margin),
        max_seeds=most,
    )
    refuse_idle_pruner(plan)
    for item, _ in loaded:
        entry = plan.entry(item.name)
        check_methods(plan, known, item.name, check_workload(item, entry.target, entry.goal))
    names = "+".join(w.name for w in plan.workloads)
    where = Path(folder) if folder is not None else Path("races") / f"{names}-{plan.digest[:6]}"
    threads = torch.get_num_threads()
    try:
        with own_randomness(), Store(where, plan, storage) as store, Board(store, quiet=quiet) as board:
            with Events(listeners, warnings.warn if quiet else board.say) as told:
                torch.set_num_threads(store.plan.threads)
                told.race_started(store)
                _Worker(store, {item.name: item for item, _ in loaded}, known, board, told).work()
                store.copy_out()
                result = results.load(store) if storage is None else results.write(store)
                told.verdict(result)
            return result
    finally:
        torch.set_num_threads(threads)


class _Worker:
    """One process that takes trials until there are none left; the last one to finish writes the report."""

    def __init__(
        self, store: Store, workloads: Mapping[str, Any], catalogue: Catalogue, board: Board, events: Events
    ) -> None:
        self.store, self.workloads, self.catalogue, self.board, self.events = store, workloads, catalogue, board, events
        self.plan = store.plan

    def work(self) -> None:
        """Take what is free until everything is done."""
        if self.store.kept("machine") is None:
            started = time.strftime("%Y-%m-%d %H:%M %z")
            self.store.keep("machine", {"started": started, **machine_facts(), "threads": self.plan.threads})
        waiting = False
        while True:
            claim = self.store.claim(self._ready)
            if claim is None:
                if all(c.over for c in self.store.claims()):
                    return
                if not waiting:
                    self._note("waiting for another process to finish its part")
                waiting = True
                time.sleep(POLL)
                continue
            waiting = False
            try:
                if claim.task == REPORT:
                    self._conclude(claim)
                elif claim.task.startswith(LOOK):
                    self._look(claim)
                else:
                    self._run(claim)
            except TakenOver as error:
                self._note(str(error))
            except BaseException:
                self.store.release(claim)
                raise

    def _note(self, text: str) -> None:
        self.board.note(text)
        self.events.note(text)

    def _ready(self, task: str, done: frozenset[str]) -> bool:
        """A trial runs when those that decide it are over, and the look before it; the report when all are."""
        return done.issuperset(awaited(self.plan, self.store.tasks, task))

    def _run(self, claim: Claim) -> None:
        task, entry = self.store.tasks[claim.task], self.plan.entry(self.store.tasks[claim.task].workload)
        hyper, records = task.hyper, self.store.records() if waits_for(self.plan, task) else {}
        if hyper is None and task.phase == "tune":
            hyper = propose(self.plan, records, task)
        elif hyper is None:
            hyper = chosen(self.plan, records, task.workload, task.label)
        record = None if hyper is None else self.store.started(claim)
        if record is None and hyper is None:
            record = _never_ran(task.seed, entry, "it was not run: every tuning trial broke")
        elif record is None and claim.claims > DEATHS:
            record = _never_ran(task.seed, entry, f"it was given up: its process died {DEATHS} times while running it")
        if record is None:
            method = next(m.method for m in self.plan.methods if m.label == task.label)

            def progress(step: int, metric: float | None) -> None:
                self.board.step(task, step, entry.steps)
                if metric is not None:
                    self.events.point(task, step, metric)
                self.store.progress(claim, step)

            self.events.trial_started(task, hyper or {})
            record = run_trial(
                self.workloads[task.workload],
                self._maker(method),
                hyper or {},
                seed=task.seed,
                steps=entry.steps,
                target=entry.target,
                goal=entry.goal,
                bars=bars(self.plan, records, task),
                progress=progress,
            )
        self.store.finish(claim, record)
        self.board.finished(task, record)
        self.events.trial_finished(task, record)

    def _maker(self, method: str) -> Callable[..., Any]:
        return lambda model, **hyper: self.catalogue.make(method, model, **hyper)

    def _look(self, claim: Claim) -> None:
        """Judge the race on the way; nothing else runs meanwhile, so seconds per step can be measured."""
        for entry in self.plan.workloads:
            self._measure_time(entry)
        look(self.store, claim.task)
        self.store.finish(claim, None)

    def _tuned(self, entry: Entry) -> dict[str, Any]:
        """The tuned points of the methods that have one."""
        records = self.store.records()
        points = {m.label: chosen(self.plan, records, entry.name, m.label) for m in self.plan.methods}
        return {label: point for label, point in points.items() if point is not None}

    def _measure_time(self, entry: Entry) -> None:
        if self.store.kept(f"timing-{entry.name}") is not None:
            return
        points = self._tuned(entry)
        self.board.note(f"{entry.name}: timing {len(points)} methods in turns")
        ran = [m for m in self.plan.methods if m.label in points]
        runners = [Runner(m.label, self._timed(m.method, points[m.label])) for m in ran]
        self.store.keep(f"timing-{entry.name}", measure_seconds(self.workloads[entry.name], runners))

    def _conclude(self, claim: Claim) -> None:
        """Measure time and memory with nothing else running, and write the report."""
        self.events.settle()
        for entry in self.plan.workloads:
            self._measure_time(entry)
            if self.store.kept(f"memory-{entry.name}") is None:
                points = self._tuned(entry)
                self.board.note(f"{entry.name}: peak memory of {len(points)} methods in fresh processes")
                ran = [m for m in self.plan.methods if m.label in points]
                jobs = [{"label": m.label, "method": m.method, "hyper": points[m.label]} for m in ran]
                self.store.keep(f"memory-{entry.name}", measure_memory(entry.source, jobs, threads=self.plan.threads))
        results.write(self.store)
        self.store.finish(claim, None)

    def _timed(self, method: str, hyper: Mapping[str, Any]) -> Callable[[Any], Any]:
        return lambda model: self.catalogue.make(method, model, **hyper)


def _never_ran(seed: int, entry: Entry, cause: str) -> Record:
    return Record(
        hyper={},
        seed=seed,
        budget=entry.steps,
        steps=0,
        steps_to_target=None,
        best_metric=None,
        seconds=0.0,
        curve=(),
        cause=cause,
    )


def _load(item: Any) -> tuple[Any, str]:
    """A workload and where it came from."""
    if not isinstance(item, str | Path):
        return item, ""
    from downslope.referee.workload import load_workload

    try:
        return load_workload(str(item)), str(item)
    except ValueError as error:  # WorkloadError
        raise RaceError(str(error), bad_input=True) from error


def _entries(loaded: Sequence[tuple[Any, str]], budget: float, target: float | None) -> tuple[Entry, ...]:
    if not loaded:
        raise RaceError(
            "race: name at least one workload; `downslope workloads` lists the built-in ones.", bad_input=True
        )
    if target is not None and len(loaded) > 1:
        raise RaceError("race: --target is for one workload; leave it out where there are several.", bad_input=True)
    if target is not None and not math.isfinite(target):
        raise RaceError(f"race: target must be a finite number; got {target}.", bad_input=True)
    from downslope.referee.workload import split_variant

    found: list[Entry] = []
    for item, source in loaded:
        if item.name in {e.name for e in found}:
            raise RaceError(f"race: workload {item.name!r} is named twice; name it once.", bad_input=True)
        base, variant = split_variant(source)
        path = Path(base)
        is_file = bool(source) and path.suffix == ".py" and path.is_file()
        with guard(path):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if is_file else ""
        found.append(
            Entry(
                name=item.name,
                source=f"{path.resolve()}{variant and '@'}{variant}" if is_file else source,
                digest=digest,
                metric_name=item.metric_name,
                goal=item.goal,
                target=float(item.target if target is None else target),
                steps=max(1, math.ceil(item.steps * budget)),
                evaluate_every=item.evaluate_every,
                description=item.description,
                data=item.data,
                licence=item.licence,
                target_origin=item.target_origin if target is None else "given on the command line",
                variant_of=getattr(item, "variant_of", ""),
            )
        )
    return tuple(found)


def _check_numbers(*, trials: int, seeds: int, budget: float, seed: int) -> None:
    def refuse(name: str, rule: str, got: object) -> None:
        raise RaceError(f"race: {name} must be {rule}; got {got!r}.", bad_input=True)

    for name, value, least in (("trials", trials, 1), ("seeds", seeds, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            refuse(name, f"a whole number >= {least}", value)
    if isinstance(budget, bool) or not isinstance(budget, numbers.Real) or not 0 < float(budget) < math.inf:
        refuse("budget", "a finite number > 0 (a factor on the workload's steps)", budget)


def _check_tuning(self_tuning: bool, sampler: str, pruner: str) -> None:
    if not isinstance(self_tuning, bool):
        raise RaceError(f"race: self_tuning must be True or False; got {self_tuning!r}.", bad_input=True)
    for name, value, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if value not in known:
            one_of = ", ".join(map(repr, known))
            raise RaceError(f"race: {name} must be one of {one_of}; got {value!r}.", bad_input=True)
        if self_tuning and value != known[0]:
            raise RaceError(
                f"race: {name} {value!r} is for tuning; leave it out with self_tuning, or leave out self_tuning.",
                bad_input=True,
            )
    refuse_missing_sampler(sampler)


def _check_judging(seeds: Any, until_decided: Any, max_seeds: Any, margin: Any, methods: int) -> int | None:
    """The most seeds of a sequential race, or None for a race of as many seeds as are given."""

    def refuse(sentence: str) -> None:
        raise RaceError(f"race: {sentence}", bad_input=True)

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
