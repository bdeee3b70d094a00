"""Mirror: the finished trials of a race as Optuna's, for its dashboards and samplers.

One study per workload, method and phase, in the race's own database. The verdict never reads it: what counts stands in
the table of tasks. So whatever Optuna objects to is told once, and the race goes on without it.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from downslope.referee.plan import Plan, Task
from downslope.referee.translate import distribution, plain, score, state_of
from downslope.referee.trial import Record

__all__ = ["Mirror"]

LOST = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError, sqlalchemy.exc.PendingRollbackError)
"""Errors of the database as such, which the race's own tables would meet as well."""


class Mirror:
    """Optuna's tables beside those of the race; `prefix` tells the studies of several races in one database apart."""

    def __init__(self, url: str, plan: Plan, *, prefix: str = "", connect: dict[str, Any] | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = {"connect_args": connect or {}, "hide_parameters": True}
        self._off = False
        try:
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
        except RuntimeError as error:  # the tables are those of another version of Optuna
            self._give_up(error)
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=options, skip_compatibility_check=True)
        self._plan, self._prefix = plan, prefix
        self._studies: dict[str, optuna.Study] = {}

    @property
    def engine(self) -> sqlalchemy.Engine:
        """The database."""
        engine: sqlalchemy.Engine = self._storage.engine
        return engine

    def add(self, task: Task, record: Record) -> None:
        """Add a finished trial, unless it is there; nothing any more once Optuna has refused one."""
        if self._off:
            return
        try:
            study = self._study(task)
            if all(trial.user_attrs.get("task") != task.key for trial in study.get_trials(deepcopy=False)):
                study.add_trial(self._trial(task, record))
        except Exception as error:
            if _is_lost(error):
                raise
            self._give_up(error)

    def forget(self) -> None:
        """Let go of all connections; the next use opens new ones."""
        self._studies.clear()
        self._storage.remove_session()
        self.engine.dispose()

    def _give_up(self, error: Exception) -> None:
        self._off = True
        reason = next(iter(str(error.__cause__ or error).strip().splitlines()), "no message")
        warnings.warn(
            f"race: Optuna's tables get no further trials ({type(error).__name__}: {reason[:300]}); the verdict does "
            "not read them, and the race goes on.",
            stacklevel=2,
        )

    def _study(self, task: Task) -> optuna.Study:
        name = self._prefix + task.key.rsplit("/", 1)[0]
        if name not in self._studies:
            self._studies[name] = optuna.create_study(
                storage=self._storage, study_name=name, direction="minimize", load_if_exists=True
            )
        return self._studies[name]

    def _trial(self, task: Task, record: Record) -> FrozenTrial:
        entry = self._plan.entry(task.workload)
        space = self._plan.recipe(task.label).space or {}
        tuned = {k: v for k, v in record.hyper.items() if k in space}
        state = state_of(record)
        done = state == TrialState.COMPLETE
        return optuna.trial.create_trial(
            state=state,
            value=score(record, target=entry.target, goal=entry.goal) if done else None,
            params={k: plain(v) for k, v in tuned.items()},
            distributions={k: distribution(space[k]) for k in tuned},
            user_attrs={"task": task.key, "seed": record.seed, **({"cause": record.cause} if record.cause else {})},
        )


def _is_lost(error: BaseException | None) -> bool:
    """Whether an error of the database is behind an error."""
    while error is not None and not isinstance(error, LOST):
        error = error.__cause__ or error.__context__
    return error is not None
