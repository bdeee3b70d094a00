"""Store: who runs which trial of a race, and what came out. The same for a race in a folder and one on a server.

A claim is one compare-and-swap statement, so two workers never run the same trial; a claim whose worker is gone is
taken over exactly once; and a result is stored in the one transaction that checks that the claim still holds.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from downslope.referee.errors import RaceError
from downslope.referee.files import guard, write_text
from downslope.referee.folder import FolderHome
from downslope.referee.home import Home, record_text
from downslope.referee.plan import Plan, Task
from downslope.referee.schema import REPORT, TASKS, Claim, may_begin, note, read_claims, swap
from downslope.referee.thinning import thinned
from downslope.referee.trial import Record

__all__ = ["DEATHS", "REPORT", "Claim", "Store", "TakenOver"]

DEATHS = 5
"""A trial whose process died this often is given up, with that as its cause: something in it kills processes."""
PULSE = 1.0
"""Seconds between two notes of how far a task is."""
CHUNK = 100
"""Records to ask the database for at once."""


class TakenOver(RaceError):
    """Another worker has taken this one's task, because this one gave no sign of life; what it has is not stored."""


class Store:
    """A race, opened by one worker. Use as a context manager."""

    def __init__(self, folder: Path, plan: Plan, storage: str | None = None) -> None:
        """Open a race: make it, join it, or refuse a folder that holds a different one.

        Args:
            folder: where this machine keeps the race, or its copy of the report.
            plan: the race.
            storage: the address of a PostgreSQL database, if the race is shared by several machines.
        """
        self.folder = folder
        self._home: Home = _open(folder, plan, storage)
        self.plan, self.worker = self._home.plan, self._home.worker
        self.tasks = {task.key: task for task in self.plan.tasks()}
        self._race = self.plan.digest
        self._records: dict[str, Record] = {}
        self._pulses: dict[str, float] = {}
        self._measuring: Claim | None = None  # the look or the report that this worker took last

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the race, and of whatever task was still claimed."""
        with contextlib.suppress(Exception):
            for claim in self.claims():
                if claim.state == "running" and claim.owner == self.worker:
                    self.release(claim)
        self._home.close()

    # ------------------------------------------------------------- claims

    def claims(self) -> list[Claim]:
        """All tasks in order, as they stand now."""
        return self._home.transact(lambda connection: read_claims(connection, self._race))

    def claim(self, ready: Callable[[str, frozenset[str]], bool]) -> Claim | None:
        """Take the first task that is ready and free, or whose worker is gone; None if there is none now.

        `ready(task, done)` says whether a task may start, given those that are over: done, or not needed. While a
        worker has the report nobody takes another task, nor the report while a worker has another.
        """
        if any(claim.task == REPORT for claim in self.busy()):
            return None
        claims = self.claims()
        done = frozenset(c.task for c in claims if c.over)
        for claim in claims:
            if claim.state == "waiting" and ready(claim.task, done):
                mine = replace(claim, state="running", owner=self.worker, claims=claim.claims + 1, step=0)
                if self._begin(claim, mine):
                    self._pulses[claim.task] = 0.0
                    self._measuring = None if claim.task in self.tasks else mine
                    return mine
        return None

    def _begin(self, seen: Claim, mine: Claim) -> bool:
        def begin(connection: Connection) -> bool:
            return may_begin(connection, self._race, mine.task) and swap(connection, self._race, seen, mine)

        return self._home.transact(begin)

    def skip(self, keys: Collection[str]) -> None:
        """Mark trials that are not needed, so that nobody runs them."""
        for claim in self.claims():
            if claim.task in keys and claim.state == "waiting":
                self._swap(claim, replace(claim, state="skipped"))

    def busy(self) -> list[Claim]:
        """The tasks that workers have who are alive, this one included; what the others had is free again."""
        running = self._home.transact(
            lambda connection: read_claims(connection, self._race, TASKS.c.state == "running")
        )
        gone = {owner for owner in {c.owner for c in running} if owner and self._home.is_gone(owner)}
        for claim in running:
            if claim.owner in gone:
                self._swap(claim, replace(claim, state="waiting", owner=None))
        return [c for c in running if c.owner not in gone]

    def release(self, claim: Claim) -> None:
        """Give a task back unfinished, as if it had never been claimed."""
        with contextlib.suppress(RaceError):
            self._swap(claim, replace(claim, state="waiting", owner=None, claims=claim.claims - 1))

    def progress(self, claim: Claim, step: int) -> None:
        """Note how far a task is, at most about once a second; other workers show it.

        Raises:
            TakenOver: if the task is no longer this worker's.
        """
        if time.monotonic() - self._pulses.get(claim.task, 0.0) < PULSE:
            return
        self._pulses[claim.task] = time.monotonic()
        if not self._home.transact(lambda connection: note(connection, self._race, claim, step)):
            raise _taken(claim)

    def _swap(self, seen: Claim, new: Claim) -> bool:
        return self._home.transact(lambda connection: swap(connection, self._race, seen, new))

    # ------------------------------------------------------------- records

    def started(self, claim: Claim) -> Record | None:
        """The record of a claimed trial if an earlier worker had stored it before it died, otherwise None: run it."""
        return self._home.stored(self.tasks[claim.task]) if claim.claims > 1 else None

    def finish(self, claim: Claim, record: Record | None) -> None:
        """Store what came out and mark the task done, in one transaction; `record` is None for the report.

        Raises:
            TakenOver: if the task is no longer this worker's; nothing is stored then.
        """
        task = self.tasks.get(claim.task)
        if task is not None and record is not None:
            record = self._bounded(task, record)
        text = None if record is None else record_text(record)

        def store(connection: Connection) -> bool:
            mine = swap(connection, self._race, claim, replace(claim, state="done"), text)
            if mine and task is not None and record is not None:
                self._home.storing(task, record)
            return mine

        if not self._home.transact(store):
            raise _taken(claim)
        if task is not None and record is not None:
            self._home.mirror(task, record)
        elif record is None:
            self._complete_mirror()

    def _bounded(self, task: Task, record: Record) -> Record:
        """What is kept of a record: a curve of bounded length; the manifest, which is long, once for each seed."""
        kept = thinned(record, goal=self.plan.entry(task.workload).goal)
        return kept if task.phase == "seed" else replace(kept, manifest=None)

    def keep_output(self, claim: Claim, text: str) -> None:
        """Store what a trial has printed, as a file beside its record; nothing where it printed nothing."""
        if text:
            with guard(self.folder):
                write_text(self.folder.joinpath("trials", f"{claim.task}.log"), text)

    def _complete_mirror(self) -> None:
        """A worker that died just after it had stored a trial has not shown it in Optuna's tables."""
        for key, record in self.records().items():
            self._home.mirror(self.tasks[key], record)

    def records(self) -> dict[str, Record]:
        """Every finished trial by its task's key."""
        done = [c.task for c in self.claims() if c.state == "done"]
        missing = [key for key in done if key in self.tasks and key not in self._records]
        for start in range(0, len(missing), CHUNK):
            self._records |= self._read(missing[start : start + CHUNK])
        return {key: self._records[key] for key in self.tasks if key in self._records}

    def _read(self, keys: list[str]) -> dict[str, Record]:
        query = select(TASKS.c.task, TASKS.c.record).where(
            TASKS.c.race == self._race, TASKS.c.task.in_(keys), TASKS.c.record.is_not(None)
        )
        found = self._home.transact(lambda connection: connection.execute(query).all())
        return {key: Record.from_json(json.loads(text)) for key, text in found}

    def copy_out(self) -> None:
        """See to it that the folder holds all trials and measurements as files, for `downslope report`."""
        self._home.copy_out(self.records())

    def keep(self, name: str, content: Any) -> None:
        """Store a measurement that is no trial.

        Raises:
            TakenOver: if it was made under a look or the report, and that is no longer this worker's.
        """
        claim = self._measuring

        def store(connection: Connection) -> None:
            if claim is not None and not note(connection, self._race, claim, 0):
                raise _taken(claim)
            self._home.keep(connection, name, content)

        self._home.transact(store)

    def kept(self, name: str) -> Any | None:
        """A measurement stored by `keep`."""
        return self._home.kept(name)


def _taken(claim: Claim) -> TakenOver:
    return TakenOver(f"{claim.task} was taken over by another process; its result there counts.")


def _open(folder: Path, plan: Plan, storage: str | None) -> Home:
    if storage is None:
        return FolderHome(folder, plan)
    from downslope.referee.server import ServerHome

    return ServerHome(folder, plan, storage)
