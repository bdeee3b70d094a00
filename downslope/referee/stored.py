"""A race as its folder has it in JSON files: enough for the report, without opening its database or its workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from downslope.referee.errors import RaceError
from downslope.referee.files import guard
from downslope.referee.home import Files
from downslope.referee.plan import Plan, Task, read_plan
from downslope.referee.trial import Record

__all__ = ["Kept", "StoredRace", "rebuild"]


class Kept(Protocol):
    """What results are made from: a `Store`, or a `StoredRace`."""

    folder: Path
    plan: Plan
    tasks: dict[str, Task]

    def records(self) -> dict[str, Record]: ...
    def kept(self, name: str) -> Any | None: ...


class StoredRace:
    """A race's folder, only read. It may come from a stranger: nothing in it is executed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = read_plan(folder)
        self.tasks = {task.key: task for task in self.plan.tasks()}
        self._files = Files(folder, self.plan.digest)

    def records(self) -> dict[str, Record]:
        """The trials whose files can be read."""
        found = {key: self._files.read(key) for key in self.tasks}
        return {key: record for key, record in found.items() if record is not None}

    def kept(self, name: str) -> Any | None:
        """A measurement."""
        return self._files.kept(name)


def rebuild(folder: Path) -> Any:
    """Write results and report of a race anew from its folder's JSON files; returns the `Result`.

    Raises:
        RaceError: if the folder holds no race, or not all of one.
    """
    from downslope.referee import results

    with guard(folder):
        try:
            return results.write(StoredRace(folder))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
    raise RaceError(
        f"{folder} does not hold the measurements of a race as this version writes them ({reason}); run the command "
        f"that started the race again, or restore the folder from a copy.",
        bad_input=True,
    )
