"""Estimate: how long a race will take, told before it starts, from a few real steps of every method.

It is an upper end: it takes every trial to need all its steps, and trials end at the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downslope.referee.board import duration
from downslope.referee.plan import Plan, Task

__all__ = ["Estimate", "estimate", "first_points"]


@dataclass(frozen=True)
class Estimate:
    """At most how long the trials take: `trials` of `each` seconds on average, `jobs` at a time."""

    trials: int
    each: float
    jobs: int

    @property
    def seconds(self) -> float:
        """All of them, without the measurements at the end."""
        return self.trials * self.each / self.jobs

    def __str__(self) -> str:
        beside = f" with {self.jobs} jobs" if self.jobs > 1 else ""
        each = f"{self.each:.1f} s" if self.each < 10 else duration(self.each)
        count = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        return (
            f"about {count} x {each} = {duration(self.seconds)}{beside} at most: a trial ends at its target; "
            f"time and memory are measured after that"
        )


def estimate(plan: Plan, tasks: Iterable[Task], probes: Mapping[str, Mapping[str, Any]], jobs: int) -> Estimate | None:
    """The time for `tasks`, from the probe of each workload; None if nothing is left, or nothing could be timed."""
    counts = Counter((task.workload, task.label) for task in tasks)
    costs = {name: _costs(plan, name, found) for name, found in probes.items()}
    if not counts or any(not costs.get(name) for name, _ in counts):
        return None
    total = sum(count * costs[name].get(label, max(costs[name].values())) for (name, label), count in counts.items())
    trials = sum(counts.values())
    return Estimate(trials, total / trials, min(jobs, trials))


def _costs(plan: Plan, workload: str, found: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a whole trial of every method that was timed."""
    entry = plan.entry(workload)
    evaluations = 1 + -(-entry.steps // entry.evaluate_every)
    return {label: entry.steps * step + evaluations * found["evaluation"] for label, step in found["step"].items()}


def first_points(plan: Plan) -> Sequence[tuple[str, str, dict[str, Any]]]:
    """Label, method and some hyperparameters of every method: its first tuning trial's, or its own."""
    found = {}
    for task in plan.tasks():
        if task.label not in found and task.hyper is not None:
            found[task.label] = task.hyper
    return [(m.label, m.method, found.get(m.label, dict(m.fixed))) for m in plan.methods]
