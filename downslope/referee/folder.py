"""A race in a folder: SQLite, JSON files, and locks that the kernel frees when a process dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy import Connection

from downslope.referee.address import sqlite_address
from downslope.referee.errors import RaceError
from downslope.referee.files import guard, make_folder, uninterrupted
from downslope.referee.home import Files, agree, record_text
from downslope.referee.mirror import Mirror
from downslope.referee.plan import Plan, Task
from downslope.referee.schema import REPORT, TASKS, insert_rows, read_claims, rows
from downslope.referee.trial import Record

__all__ = ["FolderHome"]

T = TypeVar("T")

WAIT = 60.0
"""Seconds to wait for another process that writes."""


class _Draft(sqlite3.Connection):
    """A connection that does not wait for the disk."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous = OFF")


class FolderHome:
    """A race's folder, opened by one worker."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Open the folder for a plan: make it, join it, or refuse one that holds a different race."""
        self.folder = folder
        self.worker = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with guard(folder):
            make_folder(folder)
            (folder / ".workers").mkdir(exist_ok=True)
            self._alive = FileLock(str(folder / ".workers" / self.worker))
            self._alive.acquire(timeout=0)
            try:
                with FileLock(str(folder / ".workers" / "opening"), timeout=WAIT):
                    self.plan = agree(folder, plan)
                    self._files = Files(folder, self.plan.digest)
                    if not (folder / "race.db").exists():
                        self._create()
            except Timeout:
                raise RaceError(f"{folder} stayed locked by another process; run the same command again.") from None
            except BaseException:
                self._alive.release()
                raise
            try:
                self._mirror = self._connect(folder / "race.db")
                self._check()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let go of the folder."""
        if hasattr(self, "_mirror"):
            with contextlib.suppress(Exception):
                self._mirror.forget()
        self._alive.release()
        with contextlib.suppress(OSError):
            (self.folder / ".workers" / self.worker).unlink()

    def _connect(self, path: Path, *, draft: bool = False) -> Mirror:
        """Open a database; a draft does not wait for the disk at every change: it counts only once it is whole."""
        arguments: dict[str, Any] = {"timeout": WAIT}
        if draft:
            arguments["factory"] = _Draft
        return Mirror(sqlite_address(path), self.plan, connect=arguments)

    def _create(self) -> None:
        """Make the database under another name with every task in it, then rename it: it is there whole or not at all.

        Trials that an earlier database of the same race had stored as files are taken over.
        """
        path, temporary = self.folder / "race.db", self.folder / ".race.db.new"
        for leftover in self.folder.glob(".race.db.new*"):
            leftover.unlink()
        mirror = self._connect(temporary, draft=True)
        tasks = {task.key: task for task in self.plan.tasks()}
        found = {key: record for key in tasks if (record := self._files.read(key)) is not None}
        with mirror.engine.begin() as connection:
            TASKS.create(connection)
            texts = {key: record_text(record) for key, record in found.items()}
            insert_rows(connection, rows(self.plan.digest, [*tasks, *self.plan.look_keys(), REPORT], texts))
        for key, record in found.items():
            mirror.add(tasks[key], record)
        mirror.forget()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def _check(self) -> None:
        """Is the database whole, and the one of this race?"""
        with self._mirror.engine.connect() as connection:
            verdict = connection.execute(sqlalchemy.text("PRAGMA quick_check(1)")).scalar()
            known = set()
            if TASKS.name in sqlalchemy.inspect(connection).get_table_names():
                known = {claim.task for claim in read_claims(connection, self.plan.digest)}
        if verdict != "ok" or not {task.key for task in self.plan.tasks()} <= known:
            what = "it lacks trials of this race" if verdict == "ok" else verdict
            raise RaceError(
                f"{self.folder / 'race.db'} is damaged ({what}); move it away and run the same command: "
                f"trials stored under {self.folder / 'trials'} are taken over."
            )

    def transact(self, action: Callable[[Connection], T]) -> T:
        """One transaction of SQLite."""
        with uninterrupted(), guard(self.folder), self._mirror.engine.begin() as connection:
            return action(connection)

    def is_gone(self, owner: str) -> bool:
        """Whether a worker has ended: the kernel frees its lock however it died."""
        if owner == self.worker:
            return False
        path = self.folder / ".workers" / owner
        if not path.exists():
            return True
        probe = FileLock(str(path))
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return False
        probe.release()
        with contextlib.suppress(OSError):
            path.unlink()
        return True

    def stored(self, task: Task) -> Record | None:
        """The record in a task's file, written just before its process died."""
        return self._files.read(task.key)

    def storing(self, task: Task, record: Record) -> None:
        """Write the record's file too; if that fails, nothing is stored."""
        self._files.write(task.key, record)

    def mirror(self, task: Task, record: Record) -> None:
        """Show a stored trial in Optuna's tables."""
        with uninterrupted(), guard(self.folder):
            self._mirror.add(task, record)

    def keep(self, connection: Connection, name: str, content: Any) -> None:
        """Store a measurement as a file."""
        self._files.keep(name, content)

    def kept(self, name: str) -> Any | None:
        """A measurement stored by `keep`."""
        return self._files.kept(name)

    def copy_out(self, records: Mapping[str, Record]) -> None:
        """Write the files that somebody has deleted; measurements are files already."""
        with guard(self.folder):
            for key, record in records.items():
                if self._files.read(key) is None:
                    self._files.write(key, record)
