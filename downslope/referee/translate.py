"""In Optuna's words: a record as the value and state of a trial, a card's range as a distribution."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState

from downslope.referee.trial import Record

__all__ = ["distribution", "plain", "score", "state_of"]


def score(record: Record, *, target: float, goal: str) -> float:
    """One number per trial, lower is better: steps to the target; for misses the budget and how far they fell short."""
    if record.steps_to_target is not None:
        return float(record.steps_to_target)
    if record.cause is not None or record.best_metric is None:
        return 2.0 * record.budget
    gap = (target - record.best_metric) if goal == "max" else (record.best_metric - target)
    gap = max(gap, 0.0) / max(abs(target), 1e-12)
    return record.budget * (1.0 + gap / (1.0 + gap))


def state_of(record: Record) -> TrialState:
    """In Optuna's words a trial that broke has failed, and one that was ended early is pruned."""
    if record.cause is not None:
        return TrialState.FAIL
    return TrialState.COMPLETE if record.cut is None else TrialState.PRUNED


def plain(value: Any) -> Any:
    """Optuna's categories are numbers and texts."""
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def distribution(spread: Any) -> optuna.distributions.BaseDistribution:
    """A range of a card as Optuna's distribution."""
    kind, *values = spread
    if kind == "choice":
        return optuna.distributions.CategoricalDistribution([plain(v) for v in values])
    if kind == "int":
        return optuna.distributions.IntDistribution(values[0], values[1])
    return optuna.distributions.FloatDistribution(values[0], values[1], log=kind == "log")
