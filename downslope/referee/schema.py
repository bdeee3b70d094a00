"""The tables of a race, the same in its folder's SQLite file and on a PostgreSQL server.

Texts and numbers only: plans, records and measurements are JSON, so reading a database executes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    func,
    insert,
    select,
    update,
)

__all__ = [
    "KEPT",
    "RACES",
    "REPORT",
    "SHARED",
    "TASKS",
    "WORKERS",
    "Claim",
    "insert_rows",
    "may_begin",
    "note",
    "read_claims",
    "rows",
    "swap",
]

REPORT = "report"
"""The last task: measure time and memory, write the report."""

TASKS = Table(
    "downslope_tasks",
    MetaData(),
    Column("race", String(12), primary_key=True),
    Column("task", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("state", String(7), nullable=False),
    Column("owner", Text),
    Column("claims", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("record", Text),
)
"""Who runs what, and what came out; `record` is there exactly for the trials that are done."""


SHARED = MetaData()
"""What a server holds besides, because its workers have no folder in common."""

RACES = Table(
    "downslope_races", SHARED, Column("race", String(12), primary_key=True), Column("plan", Text, nullable=False)
)
KEPT = Table(
    "downslope_kept",
    SHARED,
    Column("race", String(12), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("content", Text, nullable=False),
)
WORKERS = Table(
    "downslope_workers",
    SHARED,
    Column("worker", Text, primary_key=True),
    Column("race", String(12), nullable=False),
    Column("lease", Float, nullable=False),
    Column("beat", DateTime(timezone=True), nullable=False),
)
"""Who is alive: by the server's clock, until `lease` seconds after the last `beat`."""


@dataclass(frozen=True)
class Claim:
    """A row of the table of tasks: `state` is `waiting`, `running`, `done` or `skipped` (not needed);
    `owner` is who had it last.

    `claims` counts how often the task was taken: whoever took it knows its number, and what is stored under an older
    number is refused.
    """

    task: str
    state: str
    owner: str | None
    claims: int
    step: int

    @property
    def over(self) -> bool:
        """Whether nothing is left to do here."""
        return self.state in ("done", "skipped")


def rows(race: str, tasks: Iterable[str], records: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of a new race; those with a record are done."""
    return [
        {
            "race": race,
            "task": task,
            "position": position,
            "state": "done" if task in records else "waiting",
            "owner": None,
            "claims": 0,
            "step": 0,
            "record": records.get(task),
        }
        for position, task in enumerate(tasks)
    ]


def read_claims(connection: Connection, race: str, *only: ColumnElement[bool]) -> list[Claim]:
    """All tasks of a race in order, or those only of which something holds."""
    columns = (TASKS.c.task, TASKS.c.state, TASKS.c.owner, TASKS.c.claims, TASKS.c.step)
    found = connection.execute(select(*columns).where(TASKS.c.race == race, *only).order_by(TASKS.c.position))
    return [Claim(*row) for row in found]


def swap(connection: Connection, race: str, seen: Claim, new: Claim, record: str | None = None) -> bool:
    """Change a task only if it still stands as it was seen: the whole of the concurrency control.

    Asked again after an answer that was lost on the way, it tells that the change had been made.
    """
    here = and_(TASKS.c.race == race, TASKS.c.task == seen.task)
    as_seen = and_(
        TASKS.c.state == seen.state,
        TASKS.c.claims == seen.claims,
        func.coalesce(TASKS.c.owner, "") == (seen.owner or ""),
    )
    values = {"state": new.state, "owner": new.owner, "claims": new.claims, "step": 0, "record": record}
    if connection.execute(update(TASKS).where(here, as_seen).values(values)).rowcount == 1:
        return True
    now = connection.execute(select(TASKS.c.state, TASKS.c.owner, TASKS.c.claims).where(here)).one_or_none()
    return now is not None and new.owner is not None and tuple(now) == (new.state, new.owner, new.claims)


def may_begin(connection: Connection, race: str, task: str) -> bool:
    """Whether a task may begin beside those that run: the report measures time, so it runs alone.

    The row of the report is written, with what stands in it, so that whoever else begins a task at this moment waits
    for this transaction to end.
    """
    report = and_(TASKS.c.race == race, TASKS.c.task == REPORT)
    connection.execute(update(TASKS).where(report).values(step=TASKS.c.step))
    others = select(TASKS.c.task).where(TASKS.c.race == race, TASKS.c.state == "running", TASKS.c.task != task)
    in_the_way = others if task == REPORT else others.where(TASKS.c.task == REPORT)
    return connection.execute(in_the_way).first() is None


def note(connection: Connection, race: str, claim: Claim, step: int) -> bool:
    """Note how far a claimed task is; whether the claim still holds."""
    mine = (TASKS.c.race == race, TASKS.c.task == claim.task, TASKS.c.state == "running")
    counted = (TASKS.c.owner == claim.owner, TASKS.c.claims == claim.claims)
    return connection.execute(update(TASKS).where(*mine, *counted).values(step=step)).rowcount == 1


def insert_rows(connection: Connection, new: list[dict[str, Any]]) -> None:
    """Add the tasks of a new race."""
    connection.execute(insert(TASKS), new)
