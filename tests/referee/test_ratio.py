"""Ratios, equivalence and power against numbers worked by enumeration or simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from downslope.referee.power import Power
from downslope.referee.ratio import Arrivals, compare, equivalence, ratio

T = 100.0


def one_sided(a: list[float], b: list[float]) -> float:
    """The share of all ways to deal the runs in which the first group comes at least as early as `a` did."""
    both = [*a, *b]
    ranks = [sum(y < x for y in both) + both.count(x) / 2 for x in both]
    deals = [sum(d) for d in itertools.combinations(ranks, len(a))]
    return sum(s <= sum(ranks[: len(a)]) + 1e-9 for s in deals) / len(deals)


def cut(times: list[float], horizon: float) -> list[float]:
    return [t if t <= horizon else math.inf for t in times]


def test_the_interval_of_a_ratio_holds_the_factors_that_the_test_does_not_refute():
    rng = np.random.default_rng(0)
    for _ in range(6):
        a = cut(list(rng.normal(60, 15, 4)), T)
        b = cut(list(rng.normal(80, 20, 5)), T)
        found = ratio(Arrivals(tuple(a), T), Arrivals(tuple(b), T))
        kept = []
        for factor in np.exp(np.linspace(math.log(0.05), math.log(20), 400)):
            mine, theirs = cut(a, min(T, factor * T)), cut([factor * t for t in b], min(T, factor * T))
            if min(one_sided(mine, theirs), one_sided(theirs, mine)) > 0.025:
                kept.append(factor)
        assert max(found.low, 0.05) == pytest.approx(min(kept), rel=0.03)
        if found.high is None:
            assert max(kept) > 19
        else:
            assert found.high == pytest.approx(max(kept), rel=0.03)


def test_the_ratio_of_complete_runs_is_the_median_of_all_ratios():
    rng = np.random.default_rng(1)
    for n in (3, 4, 7):
        a, b = rng.lognormal(3, 0.2, n), rng.lognormal(3, 0.2, n)
        found = ratio(Arrivals(tuple(a), 1e9), Arrivals(tuple(b), 1e9))
        every = np.sort(np.divide.outer(a, b).ravel())
        assert every[(len(every) - 1) // 2] * 0.999 <= found.value <= every[len(every) // 2] * 1.001


def test_so_few_runs_have_a_lower_coverage_and_say_so():
    found = ratio(Arrivals((10, 20, 30), T), Arrivals((10, 20, 30), T))
    assert found.coverage == pytest.approx(0.9)
    assert (found.low, found.high) == pytest.approx((1 / 3, 3))


def test_nobody_arrived_and_nothing_is_known():
    missed = Arrivals((math.inf,) * 4, T)
    found = ratio(missed, missed)
    assert (found.value, found.low, found.high) == (None, 0.0, None)
    assert equivalence(missed, missed, 0.5).p == 1.0


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_the_interval_of_a_ratio_covers_the_truth(missing: float):
    rng, truth, hits, races = np.random.default_rng(2), 1.3, 0, 300
    budget = float(np.quantile(60 * np.exp(0.2 * rng.standard_normal(10000)), 1 - missing)) if missing else 1e9
    for _ in range(races):
        a, b = (cut(list(r * 60 * np.exp(0.2 * rng.standard_normal(6))), budget) for r in (truth, 1.0))
        found = ratio(Arrivals(tuple(a), budget), Arrivals(tuple(b), budget))
        hits += (found.low or 0.0) <= truth <= (found.high or math.inf)
    assert hits / races >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / races)


def watched(times: np.ndarray, grid: float) -> Arrivals:
    """Runs that arrived at these times, as seen at evaluations that far apart."""
    return Arrivals(tuple(np.ceil(times / grid) * grid), 1e9, grid)


@pytest.mark.parametrize(("grid", "spread", "truth"), [(10.0, 0.02, 1.05), (25.0, 0.05, 1.2)])
def test_the_interval_of_a_ratio_covers_the_truth_where_evaluations_are_far_apart(
    grid: float, spread: float, truth: float
):
    rng, hits, races = np.random.default_rng(6), 0, 200
    for _ in range(races):
        # Where between two evaluations the runs arrive is as good as random.
        middle = 100 * rng.uniform(1.0, 1.3)
        a, b = (watched(r * middle * np.exp(spread * rng.standard_normal(6)), grid) for r in (truth, 1.0))
        found = ratio(a, b)
        hits += (found.low or 0.0) <= truth <= (found.high or math.inf)
    assert hits / races >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / races)


def test_runs_between_two_evaluations_may_differ_by_as_much_as_these():
    same = Arrivals((100.0,) * 8, 1000, 10.0)
    found = ratio(same, same)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 0.9, 1 / 0.9))


def test_equivalence_is_two_one_sided_tests_with_the_grid_against_it():
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = ([math.ceil(x / 2) * 2.0 for x in rng.normal(60, 2, 4)] for _ in range(2))
        for grid, margin in ((0.0, 0.1), (2.0, 0.1), (2.0, 0.3)):
            found = equivalence(Arrivals(tuple(a), T, grid), Arrivals(tuple(b), T, grid), margin)
            slower = one_sided(a, [(1 + margin) * (t - grid) for t in b])
            faster = one_sided(b, [(1 + margin) * (t - grid) for t in a])
            assert found.p == pytest.approx(max(slower, faster))


def test_evaluations_further_apart_than_the_margin_can_show_no_equivalence():
    same = [Arrivals((100.0,) * 10, 1000, grid) for grid in (1.0, 4.0, 6.0)]
    found = [equivalence(each, each, 0.05) for each in same]
    assert [each.possible for each in found] == [True, True, False]
    assert found[0].p < 1e-4
    assert found[2].p > 0.99
    assert equivalence(same[0], same[0], 0.05, (0.97, 1.03)).possible
    assert not equivalence(same[0], same[0], 0.05, (0.95, 1.05)).possible


@pytest.mark.parametrize(("spread", "grid"), [(0.02, 1), (0.2, 10)])
def test_methods_that_differ_by_the_margin_are_rarely_called_equivalent(spread: float, grid: int):
    rng, wrong, races = np.random.default_rng(4), 0, 400
    for _ in range(races):
        a, b = (tuple(np.ceil(r * 100 * np.exp(spread * rng.standard_normal(8)) / grid) * grid) for r in (1.2, 1.0))
        wrong += equivalence(Arrivals(a, 1e4, grid), Arrivals(b, 1e4, grid), 0.2).p <= 0.05
    assert wrong / races <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / races)


def test_runs_are_compared_as_long_as_both_were_watched():
    """By time, a method with dear steps was watched for longer; what it reached then may not count for it."""
    dear = Arrivals((150.0, 160.0, 170.0), 200)
    cheap = Arrivals((math.inf, math.inf, math.inf), 100)
    assert compare(dear, cheap).p == 1.0
    assert compare(Arrivals((50.0, 60.0, 70.0), 200), cheap).first == 1.0
    assert compare(Arrivals((315.0,) * 3, 900), Arrivals((300.0,) * 3, 900).scaled(1.05)).first == 0.5


@pytest.mark.parametrize(("n", "spread"), [(5, 0.1), (8, 0.2)])
def test_power_is_the_share_of_races_that_see_the_difference(n: int, spread: float):
    rng = np.random.default_rng(5)
    seen = [
        compare(Arrivals(tuple(1.2 * np.exp(spread * z[:n])), 9), Arrivals(tuple(np.exp(spread * z[n:])), 9)).p <= 0.05
        for z in rng.standard_normal((1000, 2 * n))
    ]
    told = []
    for z in rng.standard_normal((60, 2 * n)):
        runs = [Arrivals(tuple(np.exp(spread * part)), 9) for part in (z[:n], z[n:])]
        told.append(Power(*runs, 0.05).at(1.2))
    # A spread estimated from so few runs scatters, and so does the power; on the average it is right.
    assert np.mean(told) == pytest.approx(np.mean(seen), abs=0.1)


@pytest.mark.parametrize(("grid", "spread", "truth"), [(0.1, 0.02, 1.05), (0.25, 0.1, 1.2)])
def test_power_promises_no_more_than_is_seen_where_evaluations_are_far_apart(grid: float, spread: float, truth: float):
    rng, seen, told = np.random.default_rng(7), [], []
    for i, z in enumerate(rng.standard_normal((600, 16))):
        middle = rng.uniform(1.0, 1.3)
        a, b = (watched(r * middle * np.exp(spread * part), grid) for r, part in ((truth, z[:8]), (1.0, z[8:])))
        seen.append(compare(a, b).p <= 0.05)
        if i < 60:
            told.append(Power(a, b, 0.05).at(truth))
    # Within one distance of evaluations nobody knows the spread; what is assumed makes the power low rather than high.
    assert -0.2 <= np.mean(told) - np.mean(seen) <= 0.1


def test_the_detectable_difference_is_the_one_seen_with_80_percent():
    runs = Arrivals(tuple(np.exp(0.1 * np.linspace(-1.3, 1.3, 8))), 9)
    found = Power(runs, runs, 0.05)
    reach = found.detectable()
    assert reach is not None
    assert found.at(reach) == pytest.approx(0.8, abs=0.03)
    assert found.at(reach * 1.1) > found.at(reach) > found.at(reach / 1.1)
    assert Power(runs, runs, 0.05, timing=1.1).detectable() == pytest.approx(1.1 * reach, rel=0.02)
    assert Power(runs, runs, 1e-6).detectable() is None
    assert not Power(Arrivals((math.inf,) * 4, 9), Arrivals((1.0, *[math.inf] * 3), 9), 0.05).known
