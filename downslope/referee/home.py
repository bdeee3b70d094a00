"""Home: where a race is kept. A folder on this machine, or a server that several machines reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from downslope.referee.errors import RaceError
from downslope.referee.files import read_json, write_json
from downslope.referee.plan import Plan, Task, plan_from, read_plan
from downslope.referee.trial import Record
from downslope.referee.trust import check_fields

__all__ = ["Files", "Home", "agree", "record_text"]

T = TypeVar("T")


class Home(Protocol):
    """What a `Store` asks of the place that keeps a race."""

    plan: Plan
    worker: str

    def transact(self, action: Callable[[Connection], T]) -> T:
        """Run `action` as one transaction: all of it, or a `RaceError` and nothing."""
        ...

    def is_gone(self, owner: str) -> bool:
        """Whether a worker has ended."""
        ...

    def stored(self, task: Task) -> Record | None:
        """The record of a task that is not done in the database, but was stored all the same."""
        ...

    def storing(self, task: Task, record: Record) -> None:
        """Called inside the transaction that stores a record, once it is sure that this worker may."""
        ...

    def mirror(self, task: Task, record: Record) -> None:
        """Show a stored trial in Optuna's tables, unless it is there."""
        ...

    def keep(self, connection: Connection, name: str, content: Any) -> None:
        """Store a measurement that is no trial, inside a transaction."""
        ...

    def kept(self, name: str) -> Any | None:
        """A measurement stored by `keep`."""
        ...

    def copy_out(self, records: Mapping[str, Record]) -> None:
        """See to it that the folder holds all trials and measurements as files."""
        ...

    def close(self) -> None:
        """Let go: this worker is gone."""
        ...


class Files:
    """The trials and measurements of a race as JSON files in its folder, for people and for `downslope report`."""

    def __init__(self, folder: Path, race: str) -> None:
        self.folder, self.race = folder, race

    def trial(self, key: str) -> Path:
        """The file of a trial."""
        *where, index = key.split("/")
        return self.folder.joinpath("trials", *where, f"{index}.json")

    def measured(self, name: str) -> Path:
        """The file of a measurement.

        Raises:
            RaceError: if its name, which may come from a shared database, leads elsewhere.
        """
        path = self.folder / "measured" / f"{name}.json"
        if path.name != f"{name}.json":
            raise RaceError(
                f"a measurement of this race is named {name!r:.60}, which leads out of its folder; delete it where the "
                f"race is kept."
            )
        return path

    def write(self, key: str, record: Record) -> None:
        """Write a trial's file."""
        write_json(self.trial(key), {"race": self.race, "task": key, "record": record.to_json()})

    def read(self, key: str) -> Record | None:
        """The trial of a file, or None where there is none of this race that can be read."""
        path = self.trial(key)
        if not path.is_file():
            return None
        try:
            content = read_json(path)
            if content["race"] != self.race:
                return None
            record = Record.from_json(content["record"])
            for part in (record, *record.curve):
                check_fields(part)
        except (RaceError, KeyError, TypeError, AttributeError, ValueError):
            return None
        return record

    def keep(self, name: str, content: Any) -> None:
        """Write a measurement's file."""
        write_json(self.measured(name), content)

    def kept(self, name: str) -> Any | None:
        """The content of a measurement's file."""
        path = self.measured(name)
        return read_json(path) if path.is_file() else None


def agree(folder: Path, plan: Plan) -> Plan:
    """The plan kept in a folder, which must be the same race as `plan`; it is written where there is none."""
    if not (folder / "race.json").exists():
        _refuse_unreadable(plan)
        write_json(folder / "race.json", plan.to_json())
        return plan
    stored = read_plan(folder)
    difference = stored.difference(plan)
    if difference:
        raise RaceError(
            f"{folder} holds a different race: {difference}; give the same options to resume it, or name "
            f"another folder with --folder.",
            bad_input=True,
        )
    return stored.located(plan)


def _refuse_unreadable(plan: Plan) -> None:
    """What `read_plan` would refuse when the race is resumed is refused before it begins."""
    try:
        plan_from(json.loads(json.dumps(plan.to_json())))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RaceError(f"race: its plan could not be read again ({error}); change that.", bad_input=True) from error


def record_text(record: Record) -> str:
    """A record as it stands in the table of tasks."""
    return json.dumps(record.to_json(), allow_nan=False)
