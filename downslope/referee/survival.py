"""Steps-to-target of a few runs, some of which never arrived: curves, medians, means and the log-rank test.

A run that misses its target is *censored* at the budget: it is known to need more, not how much more. A run that
diverged never arrives either, so it is censored at the budget too, not at the step at which it broke.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from downslope.referee.statistics import Estimate, binomial_below

__all__ = [
    "LogRank",
    "kaplan_meier",
    "log_rank",
    "median_interval",
    "median_time",
    "restricted_mean",
    "waiting_curve",
]

NORMAL_975 = 1.959963984540054


def kaplan_meier(times: Sequence[float], reached: Sequence[bool]) -> list[tuple[float, float]]:
    """The share of runs still on their way after each time at which one arrived: `[(time, share), …]`."""
    share, at_risk, curve = 1.0, len(times), []
    for time in sorted(set(times)):
        here = [ok for t, ok in zip(times, reached, strict=True) if t == time]
        if any(here):
            share *= 1.0 - sum(here) / at_risk
            curve.append((time, share))
        at_risk -= len(here)
    return curve


def waiting_curve(times: Sequence[float], reached: Sequence[bool]) -> list[tuple[float, float, float, float]]:
    """The Kaplan-Meier curve with a pointwise 95 % band: `[(time, share, low, high), …]`.

    Where nobody was lost before, the number still on its way is binomial, and the band is the exact one of Clopper and
    Pearson (1934), which holds for any number of runs. After a loss it is Greenwood's variance on the log-log scale
    (Kalbfleisch & Prentice 1980), which is an approximation for many runs. A race loses nobody before its budget.
    """
    n, curve = len(times), []
    lost_first = min((t for t, ok in zip(times, reached, strict=True) if not ok), default=math.inf)
    greenwood = 0.0
    for time, share in kaplan_meier(times, reached):
        at_risk = sum(t >= time for t in times)
        here = sum(t == time and ok for t, ok in zip(times, reached, strict=True))
        greenwood += here / (at_risk * (at_risk - here)) if at_risk > here else math.inf
        exact = time <= lost_first
        low, high = _clopper_pearson(round(share * n), n) if exact else _log_log(share, greenwood)
        curve.append((time, share, low, high))
    return curve


def _clopper_pearson(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The shares that k of n do not refute, each tail at half of the rest."""

    def solve(tail: Callable[[float], float]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle) < (1 - level) / 2 else (low, middle)
        return (low + high) / 2

    at_least = 0.0 if k == 0 else solve(lambda p: 1 - binomial_below(n, k, p))
    at_most = 1.0 if k == n else 1 - solve(lambda q: binomial_below(n, k + 1, 1 - q))
    return at_least, at_most


def _log_log(share: float, greenwood: float) -> tuple[float, float]:
    if share <= 0:
        return 0.0, math.nan  # no variance can be told where nobody is left
    if share >= 1:
        return 1.0, 1.0
    width = NORMAL_975 * math.sqrt(greenwood) / abs(math.log(share))
    return float(share ** math.exp(width)), float(share ** math.exp(-width))


def median_time(times: Sequence[float], reached: Sequence[bool]) -> float | None:
    """The Kaplan-Meier median: when half of the runs had arrived, or None if no more than half of them ever did.

    Where the curve stands at exactly one half, the middle of that stretch, as for an even number of complete times;
    where nobody ends it, it has none.
    """
    curve = kaplan_meier(times, reached)
    for i, (time, share) in enumerate(curve):
        if math.isclose(share, 0.5, abs_tol=1e-9):
            return (time + curve[i + 1][0]) / 2 if i + 1 < len(curve) else None
        if share < 0.5:
            return time
    return None


def median_interval(times: Sequence[float], reached: Sequence[bool], level: float = 0.95) -> Estimate:
    """The median with an interval between two of the measured times, which holds for any distribution.

    The interval between the k-th smallest and the k-th largest of n times covers the median with probability
    1 - 2 P(Binomial(n, 1/2) < k). The narrowest one that covers `level` is taken, or the whole range where even that
    covers less (n < 6 for 95%); `coverage` says how much. A missed target counts as larger than any time.
    """
    n = len(times)
    ordered = sorted(t if ok else math.inf for t, ok in zip(times, reached, strict=True))
    k, coverage = 1, 1 - 2 * binomial_below(n, 1)
    while k + 1 <= (n + 1) // 2 and 1 - 2 * binomial_below(n, k + 1) >= level:
        k, coverage = k + 1, 1 - 2 * binomial_below(n, k + 1)
    low, high = ordered[k - 1], ordered[n - k]
    return Estimate(median_time(times, reached), _finite(low), _finite(high), max(coverage, 0.0))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def restricted_mean(times: Sequence[float], reached: Sequence[bool], budget: float) -> float:
    """The mean time on the way to the target, counted up to the budget: the area under the Kaplan-Meier curve."""
    area, last, share = 0.0, 0.0, 1.0
    for time, after in kaplan_meier(times, reached):
        if time >= budget:
            break
        area += share * (time - last)
        last, share = time, after
    return area + share * (budget - last)


@dataclass(frozen=True)
class LogRank:
    """The log-rank test of a first group of runs against a second one.

    `observed` and `expected` are the first group's arrivals and what they would be if both were alike; `chi2` is the
    usual statistic with its asymptotic `p`; `permutation_p` is the share of regroupings of the same runs with a
    difference as large, which needs no large numbers.
    """

    observed: float
    expected: float
    chi2: float
    p: float
    permutation_p: float


def log_rank(
    times: Sequence[float], reached: Sequence[bool], first: Sequence[bool], *, permutations: int = 10000
) -> LogRank:
    """The log-rank test (Mantel 1966; Peto & Peto 1972), for runs that may be lost at any time.

    The referee's verdicts do not use it: see "How the verdict is reached" in `docs/referee.md`.

    Args:
        times: when each run arrived or was lost.
        reached: whether it arrived.
        first: whether it is of the first group.
        permutations: random regroupings for `permutation_p` (from a fixed seed).
    """
    t, arrived, ours = np.asarray(times, float), np.asarray(reached, bool), np.asarray(first, bool)
    if len(ours) < 2 or ours.all() or not ours.any():
        raise ValueError("log_rank: both groups must have at least one run.")
    expected = variance = 0.0
    hazard = np.zeros(len(t))
    for at in np.unique(t[arrived]):
        risk, events = t >= at, int((arrived & (t == at)).sum())
        n, n_first = int(risk.sum()), int((risk & ours).sum())
        expected += events * n_first / n
        if n > 1:
            variance += events * (n_first / n) * (1 - n_first / n) * (n - events) / (n - 1)
        hazard[risk] += events / n
    observed = float((arrived & ours).sum())
    chi2 = (observed - expected) ** 2 / variance if variance > 0 else 0.0
    # Observed minus expected is the sum of the group's scores (arrived or not, minus the hazard it passed).
    scores = arrived - hazard
    drawn = np.random.default_rng(20240229).permuted(np.tile(scores, (permutations, 1)), axis=1)[:, : int(ours.sum())]
    larger = int(np.sum(np.abs(drawn.sum(1)) >= abs(observed - expected) - 1e-9))
    return LogRank(
        observed, float(expected), float(chi2), math.erfc(math.sqrt(chi2 / 2)), (1 + larger) / (1 + permutations)
    )
