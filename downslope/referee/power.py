"""What a comparison could have seen: its power at the observed spread, and the smallest difference within its reach.

The races that might have been are drawn from the runs that were: both methods' runs, each over its own median, smoothed
a little; a run that never arrived stays one that never arrives, and one that would arrive after the budget is missed.
Runs are seen to arrive at the next evaluation, so those between two evaluations are tied, as they were.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from downslope.referee.ratio import Arrivals
from downslope.referee.statistics import two_sided_p
from downslope.referee.survival import median_time

__all__ = ["PLANTED", "Power"]

DRAWS = 1000
PLANTED = 1.2
"""The difference whose power is reported: 20 %."""
WANTED = 0.8
LARGEST = 20.0
"""A difference that takes more than this factor is not looked for."""


class Power:
    """The chance that a comparison of two methods of this spread, this often run, is called `better` or `worse`."""

    def __init__(self, a: Arrivals, b: Arrivals, level: float, *, timing: float = 1.0) -> None:
        """Take the spread from two methods' runs, or from one's where the other's rarely arrived.

        Args:
            a: runs of one method; the other's are as many as `b` has.
            b: runs of the other, from whose median differences are counted.
            level: of the two-sided test, after correction for several comparisons.
            timing: the factor by which seconds per step are uncertain.
        """
        self.runs, self.level, self.timing = (len(a.times), len(b.times)), level, timing
        medians = [(each, middle) for each in (a, b) if (middle := _median(each)) is not None]
        self.known = bool(medians)
        if not self.known:
            return
        middle = min(m for _, m in medians)
        pool = np.array([math.log(t / m) for each, m in medians for t in each.times if t > 0])
        arrived = pool[np.isfinite(pool)]
        # Each median was taken from the runs themselves, so they lie closer to it than new ones would.
        wider = math.sqrt(len(arrived) / max(len(arrived) - 2, 1))
        spread = max(float(arrived.std()) * wider, a.grid / middle / math.sqrt(12))
        rng = np.random.default_rng(20240229)
        drawn = rng.choice(pool, (DRAWS, sum(self.runs))) * wider
        # Drawn from a smoothed sample of the same variance: three quarters from the runs, one quarter normal.
        self._logs = drawn * math.sqrt(0.75) + 0.5 * spread * rng.standard_normal(drawn.shape)
        self._room = min(a.budget, b.budget) / middle
        self._grids = np.repeat([a.grid / middle, b.grid / middle], self.runs)

    def at(self, ratio: float) -> float:
        """The power to see that the first method needs `ratio` times as long as the second."""
        n = self.runs[0]
        times = np.exp(self._logs)
        times[:, :n] *= max(ratio / self.timing, 1.0)
        found = np.isfinite(times) & (self._grids > 0)
        grids = np.broadcast_to(self._grids, times.shape)[found]
        times[found] = np.ceil(times[found] / grids) * grids
        times[times > self._room * (1 + 1e-9)] = math.inf
        missed = np.isinf(times).sum(1)
        before = (times[:, None, :] < times[:, :n, None]).sum(2)
        level = (times[:, None, :] == times[:, :n, None]).sum(2)
        needed = np.array([_critical(*self.runs, int(k), self.level) for k in range(int(missed.max()) + 1)])
        return float(np.mean((before + (level + 1) / 2).sum(1) >= needed[missed] - 1e-9))

    def detectable(self) -> float | None:
        """The smallest ratio that is seen with a chance of 80 %, to 1 %; None if even a factor of 20 is not."""
        low, high = 0.0, math.log(LARGEST)
        if self.at(LARGEST) < WANTED:
            return None
        while high - low > 0.005:
            middle = (low + high) / 2
            low, high = (low, middle) if self.at(math.exp(middle)) >= WANTED else (middle, high)
        return math.exp(high)


def _median(a: Arrivals) -> float | None:
    middle = median_time([min(t, a.budget) for t in a.times], [math.isfinite(t) for t in a.times])
    return middle if middle else None


@functools.lru_cache(maxsize=4096)
def _critical(n: int, m: int, missed: int, level: float) -> float:
    """The smallest rank sum of n of n + m runs, so many of them tied in the last place, that is seen at the level."""
    doubled = [2 * rank for rank in range(1, n + m - missed + 1)] + [2 * (n + m) - missed + 1] * missed
    p = two_sided_p(doubled, n)
    late = np.arange(len(p)) * (n + m) > n * sum(doubled)
    seen = np.flatnonzero(late & (p <= level) & (p > 0))
    return float(seen[0]) / 2 if len(seen) else math.inf
