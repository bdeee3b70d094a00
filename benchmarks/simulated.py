"""Simulated races: arrivals of known distributions, judged as a race would be, and what was said wrongly of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from downslope.referee.sequential import looks
from downslope.referee.standing import Standing
from downslope.referee.statistics import Estimate
from downslope.referee.survival import median_time
from downslope.referee.timing import turns_needed
from downslope.referee.verdict import MARGIN, Comparison, Judgement, judge

__all__ = ["Setting", "claims", "judge_stages", "race", "wrong"]

STEPS = 300
"""The median number of steps of a method with ratio 1."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the runs of a simulated race arrive.

    `ratios` are the methods' true times to the target, relative to each other; `spread` is the standard deviation
    of their logarithm over seeds; `grid` the steps between evaluations; `missed` the share of a ratio-1 method's
    runs that the budget cuts off; `diverged` the share that never arrives; `step_times` how many times as long as
    usual a method's step takes (it then needs as many fewer steps); `noise` the scatter of timings; `uneven` how
    many times as much all methods but the first scatter; `compare` as in a race.
    """

    name: str
    ratios: tuple[float, ...] = (1.0, 1.0)
    seeds: int = 5
    spread: float = 0.1
    grid: int = 10
    missed: float = 0.0
    diverged: float = 0.0
    step_times: tuple[float, ...] = ()
    max_seeds: int | None = None
    margin: float = MARGIN
    timed: bool = True
    noise: float = 0.05
    uneven: float = 1.0
    compare: str = "pairs"


def race(setting: Setting, rng: np.random.Generator) -> tuple[Judgement, int]:
    """One race from its first seed to its verdict, and how many seeds it ran."""
    arrivals, budget = _arrivals(setting, rng, setting.max_seeds or setting.seeds)
    return judge_stages(setting, arrivals, budget, _turns(setting, rng))


def judge_stages(
    setting: Setting, arrivals: Sequence[np.ndarray], budget: int, turns: dict[str, list[float]]
) -> tuple[Judgement, int]:
    """Judge runs as a race does, look by look where the setting has several, until all is decided."""
    earlier: Sequence[Comparison] = ()
    for look in looks(setting.seeds, setting.max_seeds or setting.seeds):
        found = [_standing(f"m{i}", a[: look.seeds], budget, setting.grid, turns) for i, a in enumerate(arrivals)]
        found.sort(key=lambda s: s.rank("max", by_time=bool(turns)))
        rules: dict[str, Any] = {"compare": setting.compare, "margin": setting.margin, "share": look.share}
        judgement = judge(found, "m0", turns, **rules, earlier=earlier, detail=False)
        if judgement.settled:
            break
        earlier = judgement.pairs
    return judgement, look.seeds


def _arrivals(setting: Setting, rng: np.random.Generator, seeds: int) -> tuple[list[np.ndarray], int]:
    """Steps to the target by method, infinite for a miss, and the budget of steps."""
    z = rng.standard_normal((len(setting.ratios), seeds))
    slow = np.array(setting.step_times or [1.0] * len(setting.ratios))[:, None]
    spread = setting.spread * np.array([1.0] + [setting.uneven] * (len(setting.ratios) - 1))[:, None]
    steps = STEPS * np.array(setting.ratios)[:, None] / slow * np.exp(spread * z)
    steps = np.ceil(steps / setting.grid) * setting.grid
    quantile = float(np.quantile(np.random.default_rng(0).standard_normal(100_000), 1 - setting.missed))
    budget = math.ceil(STEPS * math.exp(setting.spread * quantile)) if setting.missed else 3 * STEPS
    steps[(steps > budget) | (rng.random(steps.shape) < setting.diverged)] = math.inf
    return list(steps), budget


def _turns(setting: Setting, rng: np.random.Generator) -> dict[str, list[float]]:
    """The fewest timings that a race takes: noise that only slows down, and 1 % by where the process put things."""
    if not setting.timed:
        return {}
    slow = setting.step_times or (1.0,) * len(setting.ratios)
    turns = turns_needed(math.comb(len(slow), 2))
    return {
        f"m{i}": list(s * (0.01 + 1e-4 * rng.standard_normal()) * (1 + setting.noise * abs(rng.standard_normal(turns))))
        for i, s in enumerate(slow)
    }


def _standing(label: str, arrivals: np.ndarray, budget: int, grid: int, turns: dict[str, list[float]]) -> Standing:
    times = tuple(float(t) for t in arrivals)
    middle = median_time([min(t, budget) for t in times], [math.isfinite(t) for t in times])
    second = float(np.median(turns[label])) if turns else None
    by_time = None if middle is None or second is None else middle * second
    return Standing(
        label=label,
        method=label,
        tuned={},
        arrivals=times,
        budget=budget,
        steps=Estimate(middle, None, None, 0.0),
        mean_steps=float(np.mean(np.minimum(times, budget))),
        seconds=None if second is None else Estimate(second, second, second, 0.0),
        time=Estimate(by_time, None, None, 0.0) if turns else None,
        best_metric=0.0,
        grid=grid,
    )


def claims(setting: Setting, judgement: Judgement) -> list[Comparison]:
    """The comparisons by the measure in which the setting's ratios are true."""
    return [c for c in judgement.pairs if c.measure == ("time" if setting.timed else "steps")]


def wrong(setting: Setting, c: Comparison) -> bool:
    """Is the word of a comparison untrue?"""
    mine, theirs = (setting.ratios[int(x[1:])] for x in (c.label, c.against))
    if c.word == "equivalent":
        return max(mine / theirs, theirs / mine) > 1 + setting.margin - 1e-9
    return (c.word == "better" and mine >= theirs) or (c.word == "worse" and mine <= theirs)
