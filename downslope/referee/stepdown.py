"""Which pairs differ, when the pair to look at was chosen by looking: a closed family of tests over all methods.

With many methods some pair stands apart by luck: of 15 pairs of five runs each, one in ten races has a pair without any
overlap. So a pair counts as different only if *every* set of methods that contains it is refuted to be all alike. Sets
of all methods, or of all but one, are tested at the full level, smaller ones at 1 - (1 - level)^(size / methods) (Ryan,
Einot & Gabriel, Welsch). The methods fall into sets that are truly alike; a wrong claim needs one of these sets of two
or more to be refuted, their runs are independent, and their levels combine to no more than `level`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from downslope.referee.ratio import Arrivals, common
from downslope.referee.statistics import holm

__all__ = ["Family", "adjust_pairs", "pair_level"]

LARGEST = 10
"""With more methods the sets are too many (2^methods), and Holm's correction over all pairs takes over."""
PERMUTATIONS = 4000
FIRST, PLAIN = 400, 0.25
"""So many permutations are tried first; where more than this share of them is as extreme, they suffice."""


@dataclass(frozen=True)
class Family:
    """The pairs of methods whose comparisons share one level: all of them, or those with the `baseline` alone."""

    methods: tuple[str, ...]
    baseline: str | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs, in the order of the methods."""
        every = itertools.combinations(self.methods, 2)
        return [pair for pair in every if self.baseline is None or self.baseline in pair]

    def adjust(
        self, groups: Mapping[str, Arrivals], pair_p: Mapping[tuple[str, str], float], until: float = 1.0
    ) -> dict[tuple[str, str], float]:
        """Adjusted p of every pair (`adjust_pairs`); with a baseline, Holm's."""
        if self.baseline is None:
            return adjust_pairs(groups, pair_p, until)
        return dict(zip(pair_p, holm(list(pair_p.values())), strict=True))

    def alone(self, level: float) -> float:
        """What the p of a single pair must not exceed, whatever the other methods do."""
        return pair_level(level, len(self.methods)) if self.baseline is None else level / max(1, len(self.methods) - 1)


def adjust_pairs(
    groups: Mapping[str, Arrivals], pair_p: Mapping[tuple[str, str], float], until: float = 1.0
) -> dict[tuple[str, str], float]:
    """Adjusted p of every pair: at most the level only if the family allows to call the pair different.

    Args:
        groups: the runs' arrivals by method.
        pair_p: the p of each pair's own test.
        until: adjusted p above this need not be exact: sets whose pairs have all passed it are not tested.
    """
    if len(groups) > LARGEST:
        return dict(zip(pair_p, holm(list(pair_p.values())), strict=True))
    adjusted = dict(pair_p)
    for size in range(2, len(groups) + 1):
        for members in itertools.combinations(groups, size):
            pairs = [pair for pair in pair_p if set(pair) <= set(members)]
            if all(adjusted[pair] > until for pair in pairs):
                continue
            p = pair_p[pairs[0]] if size == 2 else _all_alike([groups[m] for m in members])
            scaled = p if size >= len(groups) - 1 else 1 - (1 - p) ** (len(groups) / size)
            for pair in pairs:
                adjusted[pair] = max(adjusted[pair], scaled)
    return adjusted


def pair_level(level: float, methods: int) -> float:
    """What the p of a single pair must not exceed, whatever the other methods do."""
    if methods <= 3:
        return level
    return level / math.comb(methods, 2) if methods > LARGEST else 1 - (1 - level) ** (2 / methods)


def _all_alike(groups: Sequence[Arrivals]) -> float:
    """The p of a permutation test (Kruskal-Wallis statistic on ranks) that several groups of runs are all alike."""
    runs = common(groups)
    values = np.concatenate([np.asarray(each) for each in runs])
    ordered = np.sort(values)
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
    edges = np.cumsum([0, *(len(each) for each in runs)])
    sizes = np.diff(edges)

    def statistic(rows: np.ndarray) -> np.ndarray:
        sums = np.add.reduceat(rows, edges[:-1], axis=-1)
        return np.asarray((sums**2 / sizes).sum(-1))

    larger, drawn, observed = 0, 0, statistic(ranks) - 1e-9
    for orders in _orders(len(values)):
        larger += int(np.sum(statistic(ranks[orders]) >= observed))
        drawn += len(orders)
        if larger > PLAIN * drawn:
            break
    return (1 + larger) / (1 + drawn)


@functools.lru_cache(maxsize=64)
def _orders(count: int) -> tuple[np.ndarray, ...]:
    """The permutations that are tried, the same ones every time: a few first, all where they leave it open."""
    rng = np.random.default_rng(count)
    every = rng.permuted(np.tile(np.arange(count, dtype=np.int16), (PERMUTATIONS, 1)), axis=1)
    return every[:FIRST], every[FIRST:]
