"""What may be said from a few runs: exact tests, corrections for several of them, and the cost of tuning.

Everything here is exact or states its method; nothing assumes a normal distribution. Only NumPy is needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Estimate",
    "Test",
    "best_after",
    "binomial_below",
    "bootstrap",
    "holm",
    "separation_test",
    "smallest_p",
    "two_sided_p",
]

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `None` means "beyond the budget"; `coverage` is what the interval really covers."""

    value: float | None
    low: float | None
    high: float | None
    coverage: float


@dataclass(frozen=True)
class Test:
    """A two-sided exact permutation test of two groups of runs.

    `first` is the share of pairs (one run of each group) in which the first group's run arrived first, ties counting
    half: 0.5 is no difference, 1 is "always first". `runs` counts the runs of both groups. `earlier` and `later` are
    the p of the one-sided tests that the first group arrived earlier, or later.
    """

    __test__ = False  # for pytest: not a test class

    p: float
    first: float
    runs: tuple[int, int]
    earlier: float = 1.0
    later: float = 1.0

    @property
    def least(self) -> float:
        """The smallest p that groups of these sizes can give."""
        return smallest_p(*self.runs)

    def swapped(self) -> Test:
        """The same test seen from the other group."""
        return Test(self.p, 1 - self.first, (self.runs[1], self.runs[0]), self.later, self.earlier)


def bootstrap(rows: int, statistic: Callable[[np.ndarray], np.ndarray], level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval; the same numbers every time.

    `statistic` gets one resample of row numbers per line and gives one value per line.
    """
    draws = np.random.default_rng(20240229).integers(0, rows, (RESAMPLES, rows))
    low, high = np.quantile(statistic(draws), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def binomial_below(n: int, k: int, p: float = 0.5) -> float:
    """The chance of fewer than k of n."""
    return float(sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n + 1))))


def _doubled_midranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value; ties share the mean of their ranks, so that twice the rank is a whole number."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for i, v in enumerate(ordered):
        first.setdefault(v, i)
        count[v] = count.get(v, 0) + 1
    return [2 * first[v] + count[v] + 1 for v in values]


def separation_test(a: Sequence[float], b: Sequence[float]) -> Test:
    """Did the runs of `a` arrive earlier or later than those of `b`? Misses are given as infinity.

    Gehan's generalisation of the rank-sum test, with all censoring at one budget: the runs are ranked, misses tied in
    the last place, and the rank sum of `a` is compared with that of *every* way to deal the runs into two groups of
    these sizes. The count is exact, by dynamic programming, for any number of runs and any ties.
    """
    n, m = len(a), len(b)
    if not n or not m:
        raise ValueError("separation_test: both groups must have at least one run.")
    ranks = _doubled_midranks([*a, *b])
    ways, every = _ways(tuple(sorted(ranks)), n), math.comb(n + m, n)
    observed = sum(ranks[:n])
    wins = sum((x < y) + 0.5 * (x == y) for x in a for y in b) / (n * m)
    return Test(
        p=float(two_sided_p(ranks, n)[observed]),
        first=wins,
        runs=(n, m),
        earlier=int(ways[: observed + 1].sum()) / every,
        later=int(ways[observed:].sum()) / every,
    )


def two_sided_p(ranks: Sequence[int], n: int) -> np.ndarray:
    """The two-sided p of every sum of n of these whole numbers: how many of all choices lie as far from the mean."""
    ways = _ways(tuple(sorted(ranks)), n)
    sums = np.arange(len(ways))
    # |sum - mean| times the number of ranks, to stay in whole numbers.
    distance = np.abs(sums * len(ranks) - n * sum(ranks))
    order = np.argsort(-distance, kind="stable")
    tail = np.cumsum(ways[order])
    last = np.searchsorted(-distance[order], -distance, "right") - 1
    return np.asarray(tail[last] / math.comb(len(ranks), n), dtype=float)


@functools.lru_cache(maxsize=4096)
def _ways(ranks: tuple[int, ...], n: int) -> np.ndarray:
    """In how many ways n of the ranks have each sum."""
    exact_in_int64 = math.comb(len(ranks), n) < 2**62
    ways = np.zeros((n + 1, sum(ranks) + 1), dtype=np.int64 if exact_in_int64 else object)
    ways[0, 0] = 1
    for rank in ranks:
        with_it = ways[:-1, : ways.shape[1] - rank].copy()
        ways[1:, rank:] += with_it
    found: np.ndarray = ways[n]
    return found


def smallest_p(n: int, m: int) -> float:
    """The smallest two-sided p that an exact permutation test of n against m runs can give."""
    return min(1.0, 2 / math.comb(n + m, n))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p for several tests at once: rejecting those <= level errs anywhere with at most that chance."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    adjusted, running = [0.0] * len(ps), 0.0
    for position, i in enumerate(order):
        running = max(running, min(1.0, (len(ps) - position) * ps[i]))
        adjusted[i] = running
    return adjusted


def best_after(scores: Sequence[float], share: float = 0.5, level: float = 0.95) -> list[Estimate]:
    """The best (lowest) score found after 1, 2, … K trials, each with an interval over trials.

    The value is the quantile `share` over all orders of the K trials: the best of k out of K has rank r with
    probability C(K-r, k-1) / C(K, k). The interval is the percentile bootstrap over trials, not drawn but counted: the
    r-th lowest of K trials drawn anew is at most the j-th lowest one with probability P(Binomial(K, j/K) >= r).
    `coverage` is the chance that such an interval holds the value that endless trials would give, which is exact for
    independent trials of any continuous distribution and far below `level` where k comes near K: nobody has seen how
    good the best of 16 can be who has seen 16 trials. (Quasi-random trials spread better than independent ones.)
    """
    ordered, n = sorted(scores), len(scores)
    found = []
    for k in range(1, n + 1):
        rank = _rank_of_best(n, k, share)
        at_most = [1 - binomial_below(n, rank, j / n) for j in range(1, n + 1)]
        low = next(j for j, p in enumerate(at_most) if p >= (1 - level) / 2 - 1e-12)
        high = next(j for j, p in enumerate(at_most) if p >= (1 + level) / 2 - 1e-12)
        below = 1 - (1 - share) ** (1 / k)  # the best of k lies at this quantile of single trials
        coverage = max(0.0, binomial_below(n, high + 1, below) - binomial_below(n, low + 1, below))
        found.append(Estimate(ordered[rank - 1], ordered[low], ordered[high], coverage))
    return found


def _rank_of_best(n: int, k: int, share: float) -> int:
    cumulated = 0.0
    for rank in range(1, n + 1):
        cumulated += math.comb(n - rank, k - 1) / math.comb(n, k)
        if cumulated >= share - 1e-12:
            return rank
    return n
