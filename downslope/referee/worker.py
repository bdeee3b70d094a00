"""Worker: one process that takes a race's trials, has each done in a process of its own, and writes the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from downslope.referee import results
from downslope.referee.board import Board, duration
from downslope.referee.clock import STOPPED, Clock, Ending, judged
from downslope.referee.errors import LeftToOthers, RaceError
from downslope.referee.estimate import estimate, first_points
from downslope.referee.events import Events
from downslope.referee.isolation import Errand, Household
from downslope.referee.looking import awaited, look
from downslope.referee.machine import machine_facts
from downslope.referee.plan import Entry, Plan, Task
from downslope.referee.probe import probe
from downslope.referee.recipe import Catalogue
from downslope.referee.standing import chosen
from downslope.referee.store import DEATHS, REPORT, Claim, Store, TakenOver
from downslope.referee.timing import Runner, measure_seconds
from downslope.referee.trial import Point, Record, run_trial
from downslope.referee.tuning import bars, propose, waits_for
from downslope.referee.way import Card, Way, own_cores

__all__ = ["Worker"]

POLL = 0.3
TIMING: dict[str, Any] = {"seconds": 8.0}
"""How long the seconds per step are measured for each workload."""
LANE = 4
"""Limits of a trial that one method may take of an errand for several, where trials have a limit."""


class Worker:
    """One process that takes trials until there are none left; the last one to finish writes the report."""

    def __init__(
        self,
        store: Store,
        workloads: Mapping[str, Any],
        catalogue: Catalogue,
        board: Board,
        events: Events,
        household: Household,
        way: Way,
        clock: Clock,
    ) -> None:
        self.store, self.workloads, self.catalogue = store, workloads, catalogue
        self.board, self.events = board, events
        self.household, self.way, self.plan, self.clock = household, way, store.plan, clock
        self.running: dict[Errand, _Job] = {}
        self.lost: set[str] = set()

    def work(self) -> None:
        """Take what is free until everything is done.

        Raises:
            LeftToOthers: if the time is spent and other workers go on.
        """
        if self.store.kept("machine") is None:
            started = time.strftime("%Y-%m-%d %H:%M %z")
            self.store.keep("machine", {"started": started, **machine_facts(), "threads": self.plan.threads})
        self._foresee()
        waiting, ending = False, Ending(self.store.busy)
        try:
            while True:
                claim = self.store.claim(self._ready) if len(self.running) < self.way.jobs else None
                if claim is not None:
                    self._take(claim)
                elif self.running:
                    self._gather()
                elif all(c.over for c in self.store.claims()):
                    return
                elif self.clock.over and (due := ending.due()) != "wait":
                    return self._stop_early(due)
                else:
                    if not waiting and (waiting := bool(self.store.busy())):
                        self._note("waiting for another process to finish its part")
                    time.sleep(POLL)
                    continue
                waiting = False
        except BaseException:
            for job in self.running.values():
                self.store.release(job.claim)
            raise

    def _take(self, claim: Claim) -> None:
        try:
            if claim.task == REPORT:
                self._conclude(claim)
            elif claim.task in self.plan.look_keys():
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
        if self.clock.over and task != REPORT:
            return False
        return done.issuperset(awaited(self.plan, self.store.tasks, task))

    def _foresee(self) -> None:
        """Say how long the trials that are left take at most."""
        waiting = {c.task for c in self.store.claims() if c.state != "done"}
        left = [task for key, task in self.store.tasks.items() if key in waiting]
        for name in dict.fromkeys(task.workload for task in left):
            if self.store.kept(f"probe-{name}") is None:
                self.store.keep(f"probe-{name}", self._probe(name))
        probes = {entry.name: self.store.kept(f"probe-{entry.name}") or {"step": {}} for entry in self.plan.workloads}
        found = estimate(self.plan, left, probes, self.way.jobs)
        if found is not None:
            self.board.say(f"{found}.")
            self.events.emit("estimate", trials=found.trials, seconds=round(found.seconds, 1), text=str(found))

    def _probe(self, name: str) -> dict[str, Any]:
        workload, points = self.workloads[name], first_points(self.plan)
        if not isinstance(workload, Card):
            return probe(workload, {label: self._timed(method, hyper) for label, method, hyper in points})
        if workload.processes > 1:
            return {"evaluation": 0.0, "step": {}}
        methods = [{"label": label, "method": method, "hyper": hyper} for label, method, hyper in points]
        try:
            request = {"do": "probe", "methods": methods}
            found: dict[str, Any] = self.household.ask(
                workload.source, request, "probed", threads=self.plan.threads, seconds=self._limit(methods)
            )
        except RaceError:  # what it breaks on, its trials will tell
            return {"evaluation": 0.0, "step": {}}
        return found

    def _stop_early(self, due: Literal["judge", "leave"]) -> None:
        """The time is spent: judge what every method has, unless others go on."""
        spent = f"the time of {duration(self.clock.seconds or 0)} is spent"
        claim = self.store.claim(lambda task, done: task == REPORT) if due == "judge" else None
        if claim is None:
            raise LeftToOthers(f"{spent}; other processes go on with the race and write its report.")
        try:
            self.store.keep(STOPPED, {"seconds": self.clock.seconds})
            self._note(f"{spent}; judging what every method has")
            self._measure(judged(self.plan, self.store.records()))
            results.write(self.store)
        finally:
            self.store.release(claim)

    def _run(self, claim: Claim) -> None:
        alone = claim.task in self.lost
        if alone:
            self._gather_all()
        task, entry = self.store.tasks[claim.task], self.plan.entry(self.store.tasks[claim.task].workload)
        hyper, records = task.hyper, self.store.records() if waits_for(self.plan, task) else {}
        if hyper is None and task.phase == "tune":
            hyper = propose(self.plan, records, task)
        elif hyper is None:
            hyper = chosen(self.plan, records, task.workload, task.label)
        record = None if hyper is None else self.store.started(claim)
        if record is None and hyper is None:
            record = _never_ran({}, task.seed, entry, "it was not run: every tuning trial broke")
        elif record is None and claim.claims > DEATHS:
            cause = f"it was given up: its process died {DEATHS} times while running it"
            record = _never_ran(hyper or {}, task.seed, entry, cause)
        if record is not None:
            self._finish(claim, task, record)
            return
        self.events.trial_started(task, hyper or {})
        workload, settings = self.workloads[task.workload], _settings(self.plan, records, task)
        if isinstance(workload, Card):
            self._start(claim, task, workload, hyper or {}, settings)
            if alone:
                self._gather_all()
        else:
            make, progress = self._maker(self.plan.recipe(task.label).method), self._progress(claim, task, entry)
            self._finish(claim, task, run_trial(workload, make, hyper or {}, **settings, progress=progress))

    def _finish(self, claim: Claim, task: Task, record: Record) -> None:
        self.store.finish(claim, record)
        self.board.finished(task, record)
        self.events.trial_finished(task, record)

    def _progress(self, claim: Claim, task: Task, entry: Entry) -> Callable[[int, Point | None], None]:
        def progress(step: int, point: Point | None) -> None:
            self.board.step(task, step, entry.steps)
            if point is not None:
                self.events.point(task, point)
            self.store.progress(claim, step)

        return progress

    def _start(self, claim: Claim, task: Task, workload: Card, hyper: dict[str, Any], settings: dict[str, Any]) -> None:
        """Begin a trial in a process of its own."""
        slot = min(set(range(self.way.jobs)) - {job.slot for job in self.running.values()})
        request = {"do": "trial", "method": self.plan.recipe(task.label).method, "hyper": hyper, "settings": settings}
        errand = self.household.start(
            workload.source,
            request,
            threads=self.plan.threads,
            cores=own_cores(slot, self.way.jobs, self.plan.threads),
            seconds=self.way.seconds,
            memory=self.way.memory,
        )
        self.running[errand] = _Job(claim, task, hyper, slot)
        progress = self._progress(claim, task, self.plan.entry(task.workload))

        def told(step: int, point: Point | None) -> None:
            try:
                progress(step, point)
            except TakenOver as error:
                self._note(str(error))
                errand.stop()

        errand.told = told

    def _gather_all(self) -> None:
        """Wait until no trial runs."""
        while self.running:
            self._gather()

    def _gather(self) -> None:
        """Wait for a trial to end, and store what came out."""
        for errand in self.household.wait(POLL):
            job = self.running.pop(errand)
            if errand.stopped:
                continue
            if errand.lost and job.task.key not in self.lost:  # with it, those beside it: each is tried again alone
                self.lost.add(job.task.key)
                self.store.release(job.claim)
                continue
            self.store.keep_output(job.claim, errand.output.text())
            entry = self.plan.entry(job.task.workload)
            record = Record.from_json(errand.answer) if errand.cause is None else _broken(errand, job, entry)
            try:
                self._finish(job.claim, job.task, record)
            except TakenOver as error:
                self._note(str(error))

    def _maker(self, method: str) -> Callable[..., Any]:
        return lambda model, **hyper: self.catalogue.make(method, model, **hyper)

    def _look(self, claim: Claim) -> None:
        """Judge the race on the way; nothing else runs meanwhile, so seconds per step can be measured."""
        for entry in self.plan.workloads:
            self._measure_time(entry)
        look(self.store, claim.task)
        self.store.finish(claim, None)

    def _tuned(self, entry: Entry) -> list[dict[str, Any]]:
        """The methods that have a tuned point, with it: label, method and hyper."""
        records = self.store.records()
        points = [(m, chosen(self.plan, records, entry.name, m.label)) for m in self.plan.methods]
        return [{"label": m.label, "method": m.method, "hyper": point} for m, point in points if point is not None]

    def _measure_time(self, entry: Entry) -> None:
        if not (self.store.kept(f"timing-{entry.name}") or {}).get("turns"):
            methods = self._tuned(entry)
            self.events.settle()
            self._note(f"{entry.name}: timing {len(methods)} methods in turns")
            self.store.keep(f"timing-{entry.name}", {**self._time(entry, methods), "machine": machine_facts()})

    def _conclude(self, claim: Claim) -> None:
        """Measure time and memory with nothing else running, and write the report."""
        self._measure(self.plan.workloads)
        results.write(self.store)
        self.store.finish(claim, None)

    def _measure(self, workloads: Sequence[Entry]) -> None:
        for entry in workloads:
            self._measure_time(entry)
            workload = self.workloads[entry.name]
            alone = isinstance(workload, Card) and workload.processes == 1  # nothing else is in its process
            if alone and self.store.kept(f"memory-{entry.name}") is None:
                methods = self._tuned(entry)
                self._note(f"{entry.name}: peak memory of {len(methods)} methods in fresh processes")
                found = {m["label"]: self._memory(workload.source, m) for m in methods}
                if any(size is not None for size in found.values()):
                    self.store.keep(f"memory-{entry.name}", found)

    def _memory(self, source: str, method: Mapping[str, Any]) -> int | None:
        """Bytes that training with a method adds; None, and a note, where they cannot be measured."""
        request, limit = {"do": "memory", **method}, self._limit([method])
        try:
            found = self.household.ask(source, request, "measured", threads=self.plan.threads, seconds=limit)
        except RaceError as error:
            self._note(f"no peak memory of {method['label']}: {error}")
            return None
        return int(found["bytes"])

    def _time(self, entry: Entry, methods: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Seconds per step, in one process of its own where that can be."""
        workload = self.workloads[entry.name]
        if not isinstance(workload, Card):
            runners = [Runner(m["label"], self._timed(m["method"], m["hyper"])) for m in methods]
            return measure_seconds(workload, runners, **TIMING)
        why = f"not measured: this workload trains on {workload.processes} processes"
        if workload.processes == 1:
            request = {"do": "timing", "methods": methods, "settings": TIMING}
            limit = self._limit(methods)
            try:
                found: dict[str, Any] = self.household.ask(
                    workload.source, request, "timed", threads=self.plan.threads, seconds=limit
                )
                return found
            except RaceError as error:
                why = str(error)
        return {"turns": {}, "step_alone": {}, "first_step": {}, "broken": {m["label"]: why for m in methods}}

    def _limit(self, methods: Sequence[object]) -> float | None:
        """Of an errand in which these methods take a few steps each, where trials have a limit."""
        return self.way.seconds and TIMING["seconds"] + LANE * self.way.seconds * len(methods)

    def _timed(self, method: str, hyper: Mapping[str, Any]) -> Callable[[Any], Any]:
        return lambda model: self.catalogue.make(method, model, **hyper)


@dataclass(frozen=True)
class _Job:
    """A trial that runs in a process of its own; `slot` numbers its place on the machine."""

    claim: Claim
    task: Task
    hyper: dict[str, Any]
    slot: int


def _settings(plan: Plan, records: Mapping[str, Record], task: Task) -> dict[str, Any]:
    entry = plan.entry(task.workload)
    settings = {"seed": task.seed, "steps": entry.steps, "target": entry.target, "goal": entry.goal}
    return {**settings, "bars": bars(plan, records, task)}


def _broken(errand: Errand, job: _Job, entry: Entry) -> Record:
    """The record of a trial whose process did not bring one back."""
    metrics = [point.metric for point in errand.points]
    return Record(
        hyper=job.hyper,
        seed=job.task.seed,
        budget=entry.steps,
        steps=max(errand.step, 0),
        steps_to_target=None,
        best_metric=(max(metrics) if entry.goal == "max" else min(metrics)) if metrics else None,
        seconds=errand.points[-1].seconds if errand.points else 0.0,
        curve=tuple(errand.points),
        cause=f"step {errand.step + 1}: {errand.cause}",
    )


def _never_ran(hyper: dict[str, Any], seed: int, entry: Entry, cause: str) -> Record:
    return Record(
        hyper=hyper,
        seed=seed,
        budget=entry.steps,
        steps=0,
        steps_to_target=None,
        best_metric=None,
        seconds=0.0,
        curve=(),
        cause=cause,
    )
