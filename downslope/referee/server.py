"""A race on a PostgreSQL server, shared by the workers of several machines.

All that counts is in the database; the folder on each machine holds a copy of the plan, and at the end of the trials
and of the report. A worker proves that it is alive by a beat in the database, from a thread with a connection of its
own. All times are the server's, so the machines' clocks do not matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, create_engine, delete, func, insert, literal, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from downslope.referee.address import Address
from downslope.referee.errors import RaceError, refuse
from downslope.referee.files import guard, make_folder, uninterrupted
from downslope.referee.home import Files, agree, record_text
from downslope.referee.mirror import Mirror
from downslope.referee.plan import Plan, Task, plan_from
from downslope.referee.schema import KEPT, RACES, REPORT, SHARED, TASKS, WORKERS, insert_rows, rows
from downslope.referee.trial import Record

__all__ = ["LEASE", "PATIENCE", "ServerHome"]

T = TypeVar("T")

LEASE = 60.0
"""Seconds without a beat after which a worker counts as dead; the environment variable DOWNSLOPE_LEASE changes it."""
BEATS = 4
"""Beats within a lease."""
PATIENCE = 120.0
"""Seconds for which an operation is tried again while the server does not answer."""
_LOCK = 0x646F776E
"""Of the one worker that makes tables: the number of an advisory lock."""


class ServerHome:
    """A race on a server, opened by one worker."""

    def __init__(self, folder: Path, plan: Plan, storage: str) -> None:
        """Join the race of this plan on a server, or begin it there.

        Raises:
            RaceError: if the address is wrong, the server cannot be reached, or the folder holds a different race.
        """
        self._lease = _lease()
        self._address = Address(storage)
        _need_driver()
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._heart: _Heart | None = None
        self._patience = PATIENCE
        self._engine = self._new_engine()
        try:
            self._reach()
            with guard(folder):
                make_folder(folder)
                self._files = Files(folder, plan.digest)
                plan = agree(folder, plan)
            self.plan, self._mirror = self._patiently(lambda: self._join(plan))
            self._heart = _Heart(self._new_engine(pool_size=1), self._beat, self._lease / BEATS)
            self._heart.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop beating, and say so."""
        if self._heart is not None:
            self._heart.stop()
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.begin() as connection:
                connection.execute(delete(WORKERS).where(WORKERS.c.worker == self.worker))
        if hasattr(self, "_mirror"):
            with contextlib.suppress(Exception):
                self._mirror.forget()
        self._engine.dispose()

    def _new_engine(self, **options: Any) -> sqlalchemy.Engine:
        return create_engine(self._address.url, connect_args=self._address.arguments(), hide_parameters=True, **options)

    def _reach(self) -> None:
        try:
            self._engine.connect().close()
        except Exception as error:
            reason = self._address.reason(error)
        else:
            return
        refuse(f"the database {self._address} cannot be reached ({reason}).")

    # ------------------------------------------------------------- opening

    def _join(self, plan: Plan) -> tuple[Plan, Mirror]:
        """The plan of the race there, after making whatever is missing: one worker at a time, all of it or nothing."""
        with self._engine.begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            url = self._address.url.render_as_string(hide_password=False)
            mirror = Mirror(url, plan, prefix=f"{plan.digest}/", connect=self._address.arguments())
            SHARED.create_all(connection)
            TASKS.create(connection, checkfirst=True)
            old = WORKERS.c.beat < func.clock_timestamp() - text("interval '1 day'")
            connection.execute(delete(WORKERS).where(WORKERS.c.race == plan.digest, old))
            self._beat(connection, plan.digest)
            there = connection.execute(select(RACES.c.plan).where(RACES.c.race == plan.digest)).scalar_one_or_none()
            if there is not None:
                return plan_from(json.loads(there)).located(plan), mirror
            connection.execute(insert(RACES).values(race=plan.digest, plan=json.dumps(plan.to_json())))
            keys = [task.key for task in plan.tasks()]
            found = {key: record_text(record) for key in keys if (record := self._files.read(key)) is not None}
            insert_rows(connection, rows(plan.digest, [*keys, *plan.look_keys(), REPORT], found))
            return plan, mirror

    # ------------------------------------------------------------- being alive

    def _beat(self, connection: Connection, race: str | None = None) -> None:
        now = func.clock_timestamp()
        row = {"worker": self.worker, "race": race or self.plan.digest, "lease": self._lease, "beat": now}
        statement = upsert(WORKERS).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["worker"], set_={"beat": now}))

    def is_gone(self, owner: str) -> bool:
        """Whether a worker's lease has ended. A server that was down gives everybody a whole lease to beat again."""
        if owner == self.worker:
            return False
        alive_at = func.greatest(WORKERS.c.beat, func.pg_postmaster_start_time())
        ended = func.clock_timestamp() > alive_at + WORKERS.c.lease * text("interval '1 second'")
        query = select(ended).where(WORKERS.c.worker == literal(owner))
        answer = self.transact(lambda connection: connection.execute(query).scalar_one_or_none())
        return answer is None or bool(answer)

    # ------------------------------------------------------------- operations

    def transact(self, action: Callable[[Connection], T]) -> T:
        """One transaction, tried again while the server does not answer."""

        def attempt() -> T:
            with self._engine.begin() as connection:
                return action(connection)

        return self._patiently(attempt)

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try until it works or `PATIENCE` is over; whatever is tried may be done twice without harm.

        Once it is over the worker stops, and what it still asks on its way out is tried once.
        """
        end, pause = time.monotonic() + self._patience, 0.05
        while True:
            try:
                with uninterrupted():
                    return attempt()
            except (sqlalchemy.exc.SQLAlchemyError, _optuna_error()) as error:
                if _answered(error):
                    sentence = f"the database {self._address} refused a statement ({self._address.reason(error)})"
                elif time.monotonic() + pause > end:
                    self._patience = 0.0
                    reason = self._address.reason(error)
                    sentence = f"the database {self._address} has not answered for {PATIENCE:.0f} s ({reason})"
                else:
                    sentence = None
            if sentence is not None:
                raise RaceError(f"{sentence}; what is stored is kept, and the same command goes on.")
            self._engine.dispose()
            if hasattr(self, "_mirror"):
                with contextlib.suppress(Exception):
                    self._mirror.forget()
            time.sleep(pause)
            pause = min(2 * pause, 5.0)

    def stored(self, task: Task) -> Record | None:
        """Nothing: what is stored is done."""
        return None

    def storing(self, task: Task, record: Record) -> None:
        """Nothing more than the row in the table of tasks."""

    def mirror(self, task: Task, record: Record) -> None:
        """Show a stored trial in Optuna's tables."""
        self._patiently(lambda: self._mirror.add(task, record))

    def keep(self, connection: Connection, name: str, content: Any) -> None:
        """Store a measurement in the database."""
        row = {"race": self.plan.digest, "name": name, "content": json.dumps(content, allow_nan=False)}
        statement = upsert(KEPT).values(row)
        statement = statement.on_conflict_do_update(index_elements=["race", "name"], set_={"content": row["content"]})
        connection.execute(statement)

    def kept(self, name: str) -> Any | None:
        """A measurement stored by `keep`."""
        query = select(KEPT.c.content).where(KEPT.c.race == self.plan.digest, KEPT.c.name == name)
        found = self.transact(lambda connection: connection.execute(query).scalar_one_or_none())
        return None if found is None else json.loads(found)

    def copy_out(self, records: Mapping[str, Record]) -> None:
        """Write trials and measurements into the folder, so that `downslope report` needs no server."""
        query = select(KEPT.c.name, KEPT.c.content).where(KEPT.c.race == self.plan.digest)
        measured = self.transact(lambda connection: connection.execute(query).all())
        with guard(self._files.folder):
            for key, record in records.items():
                if self._files.read(key) != record:
                    self._files.write(key, record)
            for name, content in measured:
                self._files.keep(name, json.loads(content))


class _Heart(threading.Thread):
    """Beats until it is stopped; a beat that fails is tried again soon."""

    def __init__(self, engine: sqlalchemy.Engine, beat: Callable[[Connection], None], pause: float) -> None:
        super().__init__(name="downslope-heart", daemon=True)
        self._engine, self._beat, self._pause = engine, beat, pause
        self._end = threading.Event()

    def run(self) -> None:
        pause = self._pause
        while not self._end.wait(pause):
            try:
                with self._engine.begin() as connection:
                    self._beat(connection)
                pause = self._pause
            except sqlalchemy.exc.SQLAlchemyError:
                self._engine.dispose()
                pause = min(self._pause, 1.0)

    def stop(self) -> None:
        """End the thread and its connection."""
        self._end.set()
        if self.is_alive():
            self.join()
        self._engine.dispose()


def _lease() -> float:
    text = os.environ.get("DOWNSLOPE_LEASE", "")
    try:
        value = float(text) if text else LEASE
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 86_400:
        raise RaceError(f"DOWNSLOPE_LEASE must be seconds between 0.5 and 86400; got {text!r}.", bad_input=True)
    return value


def _need_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise RaceError(
            "race: --storage postgresql://… needs the driver psycopg; install it with `pip install "
            "'downslope[postgres]'`.",
            bad_input=True,
        ) from None


def _optuna_error() -> type[Exception]:
    import optuna

    error: type[Exception] = optuna.exceptions.StorageInternalError
    return error


def _answered(error: BaseException | None) -> bool:
    """Whether the server is there and has said no; otherwise it was not reached, or fell silent on the way."""
    import psycopg

    while error is not None:
        lost = psycopg.OperationalError | psycopg.InterfaceError | sqlalchemy.exc.PendingRollbackError
        if isinstance(error, lost) or isinstance(getattr(error, "orig", None), lost):
            return False
        error = error.__cause__ or error.__context__
    return True
