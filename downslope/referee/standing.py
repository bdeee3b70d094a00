"""Standing: what one method did on one workload, in numbers with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median
from typing import Any

from downslope.referee.plan import Entry, Plan, task_key
from downslope.referee.statistics import Estimate, best_after
from downslope.referee.survival import median_interval, restricted_mean
from downslope.referee.timing import seconds_per_step
from downslope.referee.translate import score
from downslope.referee.trial import Record
from downslope.referee.tuning import cost, in_any_order

__all__ = ["Standing", "chosen", "standings"]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One method on one workload.

    `arrivals` are the steps to the target of the judging runs, infinite for a miss; the target was looked for every
    `grid` steps. `mean_steps` is their restricted mean, in which a miss counts as the whole budget. `tuned` is None
    where every tuning trial broke, so that there was nothing to run. `build` are the seconds that compiling its kernels
    took, once on that machine. `best_after` holds the median of the best steps to target found after 1, 2, … trials,
    with its interval; where trials were placed or cut by those before them, the best so far in their order. `failures`
    has why runs broke, `broken` how many of the judging runs did.
    """

    label: str
    method: str
    tuned: dict[str, Any] | None
    arrivals: tuple[float, ...]
    budget: int
    steps: Estimate
    mean_steps: float
    seconds: Estimate | None = None
    step_alone: float | None = None
    first_step: float | None = None
    build: float | None = None
    time: Estimate | None = None
    best_metric: float | None = None
    memory: int | None = None
    state_bytes: int | None = None
    tuning: tuple[float, ...] = ()
    best_after: tuple[Estimate, ...] = ()
    failures: tuple[str, ...] = ()
    broken: int = 0
    manifest: str | None = None
    grid: int = 1
    tuning_cost: dict[str, int] = field(default_factory=dict)

    @property
    def hits(self) -> int:
        """How many judging runs reached the target."""
        return sum(math.isfinite(t) for t in self.arrivals)

    def rank(self, goal: str, *, by_time: bool) -> tuple[float, ...]:
        """Sorts methods: those that mostly reach the target by their median, then the others by hits and metric."""
        middle = self.time if by_time else self.steps
        worst = math.inf if self.best_metric is None else self.best_metric * (-1 if goal == "max" else 1)
        if middle is None or middle.value is None:
            return (1.0, -self.hits, self.mean_steps, worst)
        pace = self.seconds.value or 1.0 if by_time and self.seconds else 1.0
        return (0.0, middle.value, self.mean_steps * pace, worst)


def chosen(plan: Plan, records: Mapping[str, Record], workload: str, label: str) -> dict[str, Any] | None:
    """The hyperparameters that tuning has decided on, or None if every tuning trial broke.

    The best trial is the one that reached the target in the fewest steps; among those that took equally many, and
    among those that missed it, the one with the best validation metric; then the earlier one. Of a variant that is
    raced beside its base, they are those of the base.
    """
    recipe = plan.recipe(label)
    if not plan.trials:
        return dict(recipe.fixed)
    workload = plan.tuned_on(workload)
    entry = plan.entry(workload)
    sign = -1 if entry.goal == "max" else 1
    best: tuple[float, float, int] | None = None
    for i in range(plan.trials):
        record = records[task_key(workload, label, "tune", i)]
        if record.cause is None and record.best_metric is not None:
            key = (score(record, target=entry.target, goal=entry.goal), sign * record.best_metric, i)
            best = key if best is None else min(best, key)
    return None if best is None else records[task_key(workload, label, "tune", best[2])].hyper


def standings(
    plan: Plan,
    records: Mapping[str, Record],
    entry: Entry,
    timing: Mapping[str, Any],
    memory: Mapping[str, Any],
    *,
    seeds: int | None = None,
) -> list[Standing]:
    """Every method of a workload, the fastest first; by its first `seeds` judging runs, or all of the plan."""
    count = plan.seeds if seeds is None else seeds
    found = [_standing(plan, records, entry, m.label, m.method, timing, memory, count) for m in plan.methods]
    by_time = all(s.time is not None for s in found if s.tuned is not None)
    return sorted(found, key=lambda s: s.rank(entry.goal, by_time=by_time))


def _standing(
    plan: Plan,
    records: Mapping[str, Record],
    entry: Entry,
    label: str,
    method: str,
    timing: Mapping[str, Any],
    memory: Mapping[str, Any],
    seeds: int,
) -> Standing:
    runs = [records[task_key(entry.name, label, "seed", i)] for i in range(seeds)]
    tuned = plan.trials if plan.tuned_on(entry.name) == entry.name else 0
    tries = [records[task_key(entry.name, label, "tune", i)] for i in range(tuned)]
    arrivals = [float(r.steps_to_target) if r.steps_to_target is not None else math.inf for r in runs]
    capped, reached = [min(t, entry.steps) for t in arrivals], [math.isfinite(t) for t in arrivals]
    steps = median_interval(capped, reached)
    turns = timing.get("turns", {}).get(label)
    alone = timing.get("step_alone", {}).get(label)
    seconds = seconds_per_step(turns) if turns else None
    scores = [_censored(score(r, target=entry.target, goal=entry.goal), r) for r in tries]
    metrics = [r.best_metric for r in runs if r.best_metric is not None]
    return Standing(
        label=label,
        method=method,
        tuned=chosen(plan, records, entry.name, label),
        arrivals=tuple(arrivals),
        budget=entry.steps,
        steps=steps,
        mean_steps=restricted_mean(capped, reached, entry.steps),
        seconds=seconds,
        step_alone=median(alone) if alone else None,
        first_step=timing.get("first_step", {}).get(label),
        build=timing.get("build", {}).get(label),
        time=_product(steps, seconds) if seconds else None,
        best_metric=median(metrics) if metrics else None,
        memory=memory.get(label),
        state_bytes=next((r.state_bytes for r in runs if r.state_bytes is not None), None),
        tuning=tuple(scores),
        best_after=tuple(best_after(scores) if in_any_order(plan.sampler, plan.pruner) else _running_best(scores)),
        tuning_cost=cost(tries),
        failures=_failures(entry.name, label, tries, runs),
        broken=sum(r.cause is not None for r in runs),
        manifest=next((r.manifest for r in runs if r.manifest is not None), None),
        grid=entry.evaluate_every,
    )


def _censored(value: float, record: Record) -> float:
    return value if record.steps_to_target is not None else math.inf


def _running_best(scores: Sequence[float]) -> list[Estimate]:
    """The best score after each trial where the order of trials means something: one observation, without interval."""
    return [Estimate(best, best, best, 0.0) for best in accumulate(scores, min)]


def _failures(workload: str, label: str, tries: Sequence[Record], runs: Sequence[Record]) -> tuple[str, ...]:
    named = [(f"tuning trial {i + 1}", r) for i, r in enumerate(tries)] + [
        (f"seed {i + 1}", r) for i, r in enumerate(runs)
    ]
    return tuple(f"{what}: {r.cause}" for what, r in named if r.cause is not None)


def _product(steps: Estimate, seconds: Estimate) -> Estimate:
    """Time to target; from the lower ends to the upper ends, so it covers at least what both intervals cover."""

    def times(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a * b

    coverage = max(0.0, steps.coverage + seconds.coverage - 1)
    return Estimate(
        times(steps.value, seconds.value), times(steps.low, seconds.low), times(steps.high, seconds.high), coverage
    )
