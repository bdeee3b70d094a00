"""Mirror: the finished trials of a race as Optuna's, for its dashboards and samplers.

One study per workload, method and phase, in the race's own database. The verdict never reads it: what counts stands in
the table of tasks.
"""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from downslope.referee.plan import Plan, Task
from downslope.referee.translate import distribution, plain, score, state_of
from downslope.referee.trial import Record

__all__ = ["Mirror"]


class Mirror:
    """Optuna's tables beside those of the race; `prefix` tells the studies of several races in one database apart."""

    def __init__(self, url: str, plan: Plan, *, prefix: str = "", connect: dict[str, Any] | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        options = {"connect_args": connect or {}, "hide_parameters": True}
        self._storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
        self._plan, self._prefix = plan, prefix
        self._studies: dict[str, optuna.Study] = {}

    @property
    def engine(self) -> sqlalchemy.Engine:
        """The database."""
        engine: sqlalchemy.Engine = self._storage.engine
        return engine

    def add(self, task: Task, record: Record) -> None:
        """Add a finished trial, unless it is there."""
        study = self._study(task)
        if all(trial.user_attrs.get("task") != task.key for trial in study.get_trials(deepcopy=False)):
            study.add_trial(self._trial(task, record))

    def forget(self) -> None:
        """Let go of all connections; the next use opens new ones."""
        self._studies.clear()
        self._storage.remove_session()
        self.engine.dispose()

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
