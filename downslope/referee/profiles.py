"""Profile: one score per method over several workloads, as AlgoPerf defines it (Dahl et al. 2023, arXiv:2306.07179).

    r[s, w]  = t[s, w] / min over s of t[s, w]                          time relative to the fastest; a miss is infinite
    ρ_s(τ)   = share of the workloads with r[s, w] <= τ                 performance profile (Dolan and Moré 2002)
    score[s] = 1 / (τmax - 1) · integral of ρ_s from 1 to τmax          τmax = 4; between 0 and 1

The profile is a step function, so the integral is a sum: the mean over workloads of max(0, τmax - r) / (τmax - 1).
AlgoPerf's scoring code takes the trapezoid rule on 100 points instead (`points=100`); scores differ by less than 0.0051
(half a cell of the grid), and by at most 0.0015 on its leaderboards.

A held-out variant of a workload does not score, it qualifies (rules of the AlgoPerf competition, v0.5): a submission
that misses a variant, or needs more than τmax times the fastest on it, has missed its base workload; one that misses
the base sets no pace on its variant. Later rules (v0.6) have no variants.

A score depends on who else is in the table: a new submission that is the fastest somewhere lowers the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downslope.referee.errors import RaceError
from downslope.referee.times import read_times

__all__ = ["Profile", "profile"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Performance profiles and scores of the submissions of a table, in the table's order.

    Attributes:
        workloads: the workloads that score; variants are not among them.
        ratios: time relative to the fastest by submission and workload, after the rules; a miss is infinite.
        tau: where the profiles are given: wherever one of them steps, with both ends; or the grid of `points`.
        share: ρ at every `tau`, by submission; it holds up to the next one.
        score: the normalised integral, by submission.
        speedup: geometric mean of the baseline's time over the submission's (above 1 is faster), or None where no
            workload can be compared.
        compared: how many workloads that mean is over.
        baseline: whose time is the numerator.
        absent: pairs of submission and workload that the table lacks; they count as misses.
    """

    workloads: tuple[str, ...]
    ratios: dict[str, dict[str, float]]
    tau: tuple[float, ...]
    share: dict[str, tuple[float, ...]]
    score: dict[str, float]
    speedup: dict[str, float | None]
    compared: dict[str, int]
    baseline: str
    absent: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The profile as plain lists and numbers; a ratio that is a miss is None."""
        return {
            "workloads": list(self.workloads),
            "tau": list(self.tau),
            "share": {s: list(v) for s, v in self.share.items()},
            "score": dict(self.score),
            "speedup": dict(self.speedup),
            "compared": dict(self.compared),
            "baseline": self.baseline,
            "ratios": {s: {w: r if r < math.inf else None for w, r in v.items()} for s, v in self.ratios.items()},
            "absent": [list(pair) for pair in self.absent],
        }


def profile(
    table: Any,
    *,
    tau: float = 4.0,
    held_out: Sequence[str] | Mapping[str, str] = (),
    baseline: str | None = None,
    budgets: Mapping[str, float] | None = None,
    points: int | None = None,
    best_trial: str = "time",
) -> Profile:
    """Performance profiles, scores and speed-ups from a table of times to target.

    Args:
        table: times with misses, in any of the shapes that `read_times` takes: CSV path, dict of dicts, list of rows,
            DataFrame. Several trials and studies in a long table: best trial of each study, median over studies.
        tau: where the profile ends, as a multiple of the fastest time; > 1.
        held_out: the workloads that are variants; each belongs to the longest other workload whose name it begins with,
            or give `{variant: base}`.
        baseline: the submission whose time is divided by the others' in `speedup`; the first one if not given.
        budgets: the time that a run was given, by workload, in the table's unit. With it, a miss counts in `speedup` as
            a run of that length (so the mean is a bound, not an estimate); without it, a workload that one of the two
            missed is left out of that pair's mean (which flatters whoever misses the slow ones: see `compared`).
        points: integrate by the trapezoid rule on so many points, as AlgoPerf's code does with 100; exact if None.
        best_trial: "time" or "evaluation"; see `read_times`.

    Raises:
        RaceError: a table or an argument that cannot be read, in one sentence.
    """
    times = read_times(table, best_trial=best_trial)
    bases = _bases(held_out, times.workloads)
    scoring = tuple(w for w in times.workloads if w not in bases)
    _check(tau, points, baseline, budgets, times.value, scoring)
    ratios = _ratios(_qualified(times.value, bases, tau), scoring)
    grid = _steps(ratios, tau) if points is None else tuple(1 + (tau - 1) * i / (points - 1) for i in range(points))
    share = {s: tuple(sum(r <= x for r in mine.values()) / len(scoring) for x in grid) for s, mine in ratios.items()}
    if points is None:
        score = {s: sum(max(0.0, tau - r) for r in mine.values()) / len(scoring) for s, mine in ratios.items()}
    else:
        score = {s: _trapezoid(grid, mine) for s, mine in share.items()}
    against = baseline if baseline is not None else next(iter(times.value))
    pairs = {s: _speedup(times.value[against], mine, scoring, budgets) for s, mine in times.value.items()}
    return Profile(
        workloads=scoring,
        ratios=ratios,
        tau=grid,
        share=share,
        score={s: total / (tau - 1) for s, total in score.items()},
        speedup={s: value for s, (value, _) in pairs.items()},
        compared={s: count for s, (_, count) in pairs.items()},
        baseline=against,
        absent=times.absent,
    )


def _bad(sentence: str) -> RaceError:
    return RaceError(f"profile: {sentence}", bad_input=True)


def _bases(held_out: Sequence[str] | Mapping[str, str], workloads: Sequence[str]) -> dict[str, str]:
    """The base workload of every variant."""
    if isinstance(held_out, str) or not isinstance(held_out, Collection):
        raise _bad(f"held_out must be a list of workloads or a mapping from variants to bases; got {held_out!r}.")
    given = dict(held_out) if isinstance(held_out, Mapping) else None
    found: dict[str, str] = {}
    for variant in held_out:
        if given is not None:
            base = given[variant]
        else:
            others = [w for w in workloads if w != variant and variant.startswith(w) and w not in held_out]
            base = max(others, key=len, default="")
        for name in (variant, base):
            if not name:
                raise _bad(f"held_out: no other workload's name begins {variant!r}; give {{variant: base}}.")
            if name not in workloads:
                raise _bad(f"held_out: {name!r} is not in the table, which has {', '.join(workloads)}.")
        if base in held_out:
            raise _bad(f"held_out: the base of {variant!r} must not be a variant itself; got {base!r}.")
        found[variant] = base
    return found


def _check(
    tau: float,
    points: int | None,
    baseline: str | None,
    budgets: Mapping[str, float] | None,
    times: Mapping[str, Mapping[str, float]],
    scoring: Sequence[str],
) -> None:
    if not (isinstance(tau, int | float) and 1 < tau < math.inf):
        raise _bad(f"tau must be a finite number > 1; got {tau!r}.")
    if points is not None and not (isinstance(points, int) and points >= 2):
        raise _bad(f"points must be a whole number >= 2, or None for the exact integral; got {points!r}.")
    if baseline is not None and baseline not in times:
        raise _bad(f"baseline must be one of {', '.join(times)}; got {baseline!r}.")
    if budgets is None:
        return
    if not isinstance(budgets, Mapping):
        raise _bad(f"budgets must be a mapping from workloads to times; got {budgets!r}.")
    for w in scoring:
        if w not in budgets:
            raise _bad(f"budgets must have every workload; {w!r} is missing.")
        if not (isinstance(budgets[w], int | float) and 0 < budgets[w] < math.inf):
            raise _bad(f"budgets: the time for {w!r} must be a finite number > 0; got {budgets[w]!r}.")
        for s, mine in times.items():
            if budgets[w] < mine[w] < math.inf:
                raise _bad(f"budgets: {s!r} took {mine[w]:g} on {w!r}, which is more than its budget {budgets[w]:g}.")


def _qualified(
    times: Mapping[str, Mapping[str, float]], bases: Mapping[str, str], tau: float
) -> dict[str, dict[str, float]]:
    """The times with a miss for every base whose variant was missed; a variant of a missed base sets no pace."""
    found = {s: dict(mine) for s, mine in times.items()}
    for variant, base in bases.items():
        for mine in found.values():
            if math.isinf(mine[base]):
                mine[variant] = math.inf
    limits = {variant: tau * min(mine[variant] for mine in found.values()) for variant in bases}
    for variant, base in bases.items():
        for mine in found.values():
            if math.isinf(mine[variant]) or mine[variant] > limits[variant]:
                mine[base] = math.inf
    return found


def _ratios(times: Mapping[str, Mapping[str, float]], workloads: Sequence[str]) -> dict[str, dict[str, float]]:
    best = {w: min(mine[w] for mine in times.values()) for w in workloads}
    return {
        s: {w: mine[w] / best[w] if mine[w] < math.inf else math.inf for w in workloads} for s, mine in times.items()
    }


def _steps(ratios: Mapping[str, Mapping[str, float]], tau: float) -> tuple[float, ...]:
    """Wherever a profile steps, from 1 to tau."""
    return tuple(sorted({1.0, float(tau), *(r for mine in ratios.values() for r in mine.values() if r <= tau)}))


def _trapezoid(x: Sequence[float], y: Sequence[float]) -> float:
    return sum((b - a) * (p + q) / 2 for a, b, p, q in zip(x, x[1:], y, y[1:], strict=False))


def _speedup(
    reference: Mapping[str, float],
    mine: Mapping[str, float],
    workloads: Sequence[str],
    budgets: Mapping[str, float] | None,
) -> tuple[float | None, int]:
    """Geometric mean of the reference's time over mine, and over how many workloads."""

    def filled(times: Mapping[str, float], w: str) -> float:
        return budgets[w] if budgets is not None and math.isinf(times[w]) else times[w]

    pairs = [(filled(reference, w), filled(mine, w)) for w in workloads]
    logs = [math.log(a / b) for a, b in pairs if a < math.inf and b < math.inf]
    return (math.exp(sum(logs) / len(logs)), len(logs)) if logs else (None, 0)
