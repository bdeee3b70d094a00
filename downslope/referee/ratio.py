"""By what factor one method needs longer than another, and whether that factor lies within a margin of one.

Both come from the exact permutation test: if method A needs r times as long as B, then A's runs and r times B's runs
are alike. Runs are compared up to where both were watched: beyond the shorter budget nobody has arrived.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from downslope.referee.statistics import Estimate, Test, separation_test, smallest_p

__all__ = ["Arrivals", "Equivalence", "common", "compare", "equivalence", "ratio"]

DIGITS = 10
"""Times are compared to so many digits, so that 1.05 * 300 equals 315."""


@dataclass(frozen=True)
class Arrivals:
    """When the runs of one method arrived at the target, in steps or seconds.

    Args:
        times: the first evaluation at the target; infinite for a miss.
        budget: until when the runs were watched.
        grid: the distance of evaluations; a run has truly arrived within that distance before its time.
    """

    times: tuple[float, ...]
    budget: float
    grid: float = 0.0

    def scaled(self, factor: float) -> Arrivals:
        """The same runs, had everything taken `factor` times as long."""
        return Arrivals(tuple(t * factor for t in self.times), self.budget * factor, self.grid * factor)

    def early(self) -> Arrivals:
        """The same runs, arrived as early as may be."""
        return Arrivals(tuple(t - self.grid for t in self.times), self.budget)


def common(groups: Sequence[Arrivals]) -> list[list[float]]:
    """The runs' times, up to where the runs of all groups were watched: later ones count as misses."""
    horizon = _rounded(min(each.budget for each in groups))
    return [[t if (t := _rounded(x)) <= horizon else math.inf for x in each.times] for each in groups]


def compare(a: Arrivals, b: Arrivals) -> Test:
    """The exact permutation test of two methods, up to where the runs of both were watched."""
    return separation_test(*common([a, b]))


def _rounded(x: float) -> float:
    return float(f"{x:.{DIGITS}g}")


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests that a ratio lies between 1 / (1 + margin) and 1 + margin; `p` is the larger of theirs.

    `possible` tells whether any number of runs could show it: evaluations must be closer than the margin.
    """

    p: float
    possible: bool


def equivalence(a: Arrivals, b: Arrivals, margin: float, between: tuple[float, float] = (1.0, 1.0)) -> Equivalence:
    """Does `a` need as long as `b`, to within the margin? Each side by the exact one-sided permutation test.

    The first test refutes "a needs at least 1 + margin times as long as b": a's runs, each as late as may be, against
    1 + margin times b's runs, each as early as may be. The second is its mirror image. So a coarse evaluation grid
    makes it harder to be called equivalent, never easier.

    Args:
        a: the runs of one method, in steps.
        b: those of the other.
        margin: the largest difference that does not matter: 0.05 for 5 %.
        between: bounds of the ratio of seconds per step, a's over b's, for a comparison by time.
    """
    low, high = between
    slower = compare(a.scaled(high), b.early().scaled(1 + margin)).earlier
    faster = compare(b, a.early().scaled((1 + margin) * low)).earlier
    arrived = sorted(t for t in (*a.times, *b.times) if math.isfinite(t))
    middle = arrived[len(arrived) // 2] if arrived else 0.0
    grid = max(a.grid, b.grid)
    possible = middle > grid and (1 + margin) * (1 - grid / middle) > math.sqrt(high / low)
    return Equivalence(max(slower, faster), possible)


def ratio(a: Arrivals, b: Arrivals, between: tuple[float, float] = (1.0, 1.0), level: float = 0.95) -> Estimate:
    """How many times as long `a` needs as `b`: the factors that the exact permutation test does not refute.

    The value is the Hodges-Lehmann estimate, the factor at which neither comes first more often, or None where misses
    leave it open. An end is None where any larger factor is possible, and 0 where any smaller one is; as in
    `equivalence`, each is where it would be had one method's runs arrived as early as may be and the other's as late.
    `coverage` is lower than `level` where so few runs cannot refute anything at that level. `between` are bounds of the
    ratio of seconds per step.
    """
    alpha = max(1 - level, smallest_p(len(a.times), len(b.times)))
    low = _turn(a.early(), b, lambda test: test.later > alpha / 2)
    high = _turn(a, b.early(), lambda test: test.earlier <= alpha / 2)
    ends = _turn(a, b, lambda test: test.first > 0.5 - 1e-9), _turn(a, b, lambda test: test.first > 0.5 + 1e-9)
    value = None
    if all(ends):
        value = math.sqrt(between[0] * between[1] * math.prod(end or 0.0 for end in ends))
    return Estimate(value, between[0] * (low or 0.0), None if high is None else between[1] * high, 1 - alpha)


def _turn(a: Arrivals, b: Arrivals, holds: Callable[[Test], bool]) -> float | None:
    """The factor on b from which on something holds of the comparison with a; 0 if it always does, None if never."""
    points = _turning_points(a, b)
    if not points:
        return None
    between = [points[0] / 2, *(math.sqrt(x * y) for x, y in itertools.pairwise(points)), 2 * points[-1]]
    i = bisect.bisect_left(between, True, key=lambda factor: holds(compare(a, b.scaled(factor))))
    return None if i == len(between) else points[i - 1] if i else 0.0


def _turning_points(a: Arrivals, b: Arrivals) -> list[float]:
    """The factors on b at which the comparison with a changes: where runs meet, or reach the other's budget."""
    mine = [t for t in a.times if math.isfinite(t)]
    theirs = [t for t in b.times if math.isfinite(t) and t > 0]
    found = [*(x / y for x in mine for y in theirs), *(a.budget / y for y in theirs), *(x / b.budget for x in mine)]
    return sorted({_rounded(x) for x in found if x > 0})
