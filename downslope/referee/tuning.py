"""Tuning: where the trials of a sampler that learns are placed, and which trials a pruner ends early.

Every method gets the same number of trials on a workload, each with the same cap of steps. Both what a sampler proposes
and what a pruner demands of trial i are functions of the plan and of the trials before i alone, so trial i waits for
those, and the race is the same race however many processes run it and however often it was stopped. (Optuna's
asynchronous pruners and samplers decide by who came first.) Methods advance side by side; none waits for another.

A pruner only takes: what it saves is reported and not given back as further trials. How much is cut depends on the
method that is tuned, so giving it back would give one side more draws than the other, and the best of more draws is
better by luck alone.

"Better at equal step" compares the best metric up to that step. A trial that ended there or before, at its target or
cut, keeps its last: one that has reached the target is thus ahead of all that have not. One that broke comes last.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from functools import cache
from statistics import median
from typing import Any

import optuna

from downslope.referee.errors import refuse
from downslope.referee.plan import Entry, Plan, Task, derive_seed, task_key
from downslope.referee.recipe import Range, rounded, tuples
from downslope.referee.translate import distribution, plain, score
from downslope.referee.trial import Record
from downslope.search.hyperband import brackets

__all__ = ["bars", "cost", "in_any_order", "propose", "refuse_idle_pruner", "refuse_missing_sampler", "waits_for"]

ETA = 3
"""A rung keeps the best third."""
ROUNDS = brackets(ETA**2, ETA)
"""Hyperband's brackets with a ninth of a workload's steps as the shortest trial; `halving` uses the first one alone."""
RUN_OUT = 4
"""The first trials of a method, which the pruner `median` never cuts."""


def waits_for(plan: Plan, task: Task) -> list[str]:
    """The runs that must be done before a run may start."""
    tries = [task_key(plan.tuned_on(task.workload), task.label, "tune", i) for i in range(plan.trials)]
    if task.phase == "seed":
        return tries
    if task.hyper is None:
        return tries[: task.index]
    return [tries[i] for i in _rivals(plan.pruner, task.index)]


def in_any_order(sampler: str, pruner: str) -> bool:
    """Whether the order of a method's tuning trials means nothing: none was placed or cut by what came before it."""
    return pruner == "none" and sampler in ("quasi-random", "random")


def cost(tries: Sequence[Record]) -> dict[str, int]:
    """What the tuning of a method took: trials, steps, trials cut, and steps that they had left."""
    cut = [r for r in tries if r.cut is not None]
    return {
        "trials": len(tries),
        "steps": sum(r.steps for r in tries),
        "cut": len(cut),
        "saved": sum(r.budget - r.steps for r in cut),
    }


# ----------------------------------------------------------------- samplers


def refuse_missing_sampler(sampler: str) -> None:
    """Refuse `gp` where SciPy is not installed, which Optuna needs for it."""
    if sampler == "gp" and importlib.util.find_spec("scipy") is None:
        refuse("sampler 'gp' needs SciPy; install it with `pip install 'downslope[gp]'`, or take sampler 'tpe'.")


def propose(plan: Plan, records: Mapping[str, Record], task: Task) -> dict[str, Any]:
    """The hyperparameters of a trial that its sampler places by what the trials before it scored.

    The sampler is made anew for each trial, from a seed of the race, the workload and the trial: it remembers nothing
    that the records do not say. A trial that missed, broke or was cut is told to it as its score.
    """
    recipe, entry = plan.recipe(task.label), plan.entry(task.workload)
    space = tuples(dict(recipe.space or {}))
    ranges = {name: distribution(space[name]) for name in sorted(space)}
    study = optuna.create_study(sampler=_sampler(plan, task))
    for key in waits_for(plan, task):
        record = records[key]
        study.add_trial(
            optuna.trial.create_trial(
                params={name: plain(record.hyper[name]) for name in ranges},
                distributions=ranges,
                value=score(record, target=entry.target, goal=entry.goal),
            )
        )
    found = study.ask(ranges).params
    return {**recipe.fixed, **{name: _value(space[name], found[name]) for name in ranges}}


def _sampler(plan: Plan, task: Task) -> optuna.samplers.BaseSampler:
    seed = derive_seed(plan.seed, plan.sampler, task.workload, task.index)
    made = optuna.samplers.GPSampler if plan.sampler == "gp" else optuna.samplers.TPESampler
    return made(seed=seed, n_startup_trials=1)  # the quasi-random trials before stand for its random ones


def _value(spread: Range, proposed: Any) -> Any:
    """What the sampler proposed, as the method takes it."""
    kind, *values = spread
    if kind == "choice":
        return next(v for v in values if plain(v) == proposed)
    return proposed if kind == "int" else rounded(proposed, *values)


# ----------------------------------------------------------------- pruners


def refuse_idle_pruner(plan: Plan) -> None:
    """Refuse a pruner that could never cut a trial, before anything runs."""
    tuned = [entry for entry in plan.workloads if plan.tuned_on(entry.name) == entry.name]
    for entry in tuned:
        if plan.pruner != "none" and not any(_may_be_cut(plan, entry, i) for i in range(plan.trials)):
            refuse(
                f"pruner {plan.pruner!r} can cut none of {plan.trials} trials on workload {entry.name!r}, which "
                f"is evaluated every {entry.evaluate_every} of {entry.steps} steps; give more trials, evaluate more "
                f"often, or leave it out."
            )


def _may_be_cut(plan: Plan, entry: Entry, index: int) -> bool:
    rivals = len(_rivals(plan.pruner, index))
    enough = rivals >= (RUN_OUT if plan.pruner == "median" else 1)
    return enough and bool(_rungs(plan.pruner, index, entry.steps, entry.evaluate_every))


def bars(plan: Plan, records: Mapping[str, Record], task: Task) -> dict[int, float]:
    """By evaluation step, the metric that a tuning trial must have had by then in order to go on.

    `median`: from a ninth of the steps on, the median of all earlier trials. `halving`: at a ninth and at a third of
    the steps, the best third of the trials that got there, this one among them. `hyperband`: the same in the brackets
    of `downslope.search.hyperband`, to which trials are dealt by index: 9 of 17 to the one with both rungs, 5 to the
    one with the rung at a third alone, and 3 run out.
    """
    if task.phase != "tune" or plan.pruner == "none":
        return {}
    entry = plan.entry(task.workload)
    sign = 1.0 if entry.goal == "max" else -1.0
    earlier = [records[task_key(task.workload, task.label, "tune", i)] for i in _rivals(plan.pruner, task.index)]
    found: dict[int, float] = {}
    for step in _rungs(plan.pruner, task.index, entry.steps, entry.evaluate_every):
        here = [r for r in earlier if plan.pruner == "median" or r.cut is None or r.cut >= step]
        values = sorted((_by(r, step, sign) for r in here), reverse=True)
        if plan.pruner == "median":
            bar = median(values) if len(values) >= RUN_OUT else -math.inf
        else:
            kept = max(1, (len(values) + 1) // ETA)
            bar = values[kept - 1] if kept <= len(values) else -math.inf
        if math.isfinite(bar):
            found[step] = sign * bar
    return found


def _by(record: Record, step: int, sign: float) -> float:
    """The best metric of a trial up to a step, larger is better."""
    if record.cause is not None and record.steps <= step:
        return -math.inf
    return max((sign * point.metric for point in record.curve if point.step <= step), default=-math.inf)


def _rungs(pruner: str, index: int, steps: int, every: int) -> list[int]:
    """The evaluations at which a trial may be cut, the last one excepted."""
    evaluations = range(every, steps, every)
    if pruner == "median":
        return [step for step in evaluations if step * ETA**2 >= steps]
    rounds = ROUNDS[_bracket(index) if pruner == "hyperband" else 0]
    shares = [resource / ETA**2 for _, resource in rounds[:-1]]
    return sorted({step for share in shares for step in evaluations if step - every < share * steps <= step})


def _rivals(pruner: str, index: int) -> list[int]:
    """The earlier trials that a trial is compared with."""
    if pruner == "none":
        return []
    if pruner == "hyperband":
        return [i for i in range(index) if _bracket(i) == _bracket(index)]
    return list(range(index))


@cache
def _bracket(index: int) -> int:
    """The bracket of a trial: dealt one by one, always to the one furthest behind its share."""
    sizes = [rounds[0][0] for rounds in ROUNDS]
    dealt = [0] * len(sizes)
    for i in range(index + 1):
        place = max(range(len(sizes)), key=lambda b: (sizes[b] * (i + 1) - dealt[b] * sum(sizes), -b))
        dealt[place] += 1
    return place
