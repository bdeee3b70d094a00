from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from downslope.referee.ratio import Arrivals
from downslope.referee.statistics import (
    best_after,
    holm,
    separation_test,
    smallest_p,
)
from downslope.referee.stepdown import adjust_pairs
from downslope.referee.survival import (
    kaplan_meier,
    log_rank,
    median_interval,
    median_time,
    restricted_mean,
    waiting_curve,
)


def test_kaplan_meier_worked_by_hand():
    # Of 6 at risk one arrives at 1; of 5 one at 2, where one is lost; of 3 one at 4; one is lost at 5; the last at 7.
    times, reached = [1, 2, 2, 4, 5, 7], [True, True, False, True, False, True]
    curve = kaplan_meier(times, reached)
    assert [t for t, _ in curve] == [1, 2, 4, 7]
    assert [s for _, s in curve] == pytest.approx([5 / 6, 5 / 6 * 4 / 5, 5 / 6 * 4 / 5 * 2 / 3, 0.0])
    assert median_time(times, reached) == 4
    area = 1 * 1 + 5 / 6 * 1 + 2 / 3 * 2 + 4 / 9 * (6 - 4)
    assert restricted_mean(times, reached, budget=6) == pytest.approx(area)


def test_the_median_of_misses_is_not_a_number():
    assert median_time([10, 20, 50, 50, 50], [True, True, False, False, False]) is None
    assert median_time([10, 20, 30, 50, 50], [True, True, True, False, False]) == 30
    assert median_time([10, 20, 30, 40], [True] * 4) == 25
    assert median_time([50], [False]) is None
    assert median_time([10, 20, 50, 50], [True, True, False, False]) is None, "the upper half never arrived"


def test_restricted_mean_counts_a_miss_as_the_whole_budget():
    times, reached = [10, 20, 50], [True, True, False]
    assert restricted_mean(times, reached, 50) == pytest.approx(80 / 3)


def _by_enumeration(a: list[float], b: list[float]) -> float:
    """The permutation p of the mid-rank sum, by dealing the runs in every way."""
    both = [*a, *b]
    ranks = [sum(y < x for y in both) + (sum(y == x for y in both) + 1) / 2 for x in both]
    expected = len(a) * sum(ranks) / len(both)
    seen = abs(sum(ranks[: len(a)]) - expected)
    deals = list(itertools.combinations(ranks, len(a)))
    return sum(abs(sum(d) - expected) >= seen - 1e-9 for d in deals) / len(deals)


def test_separation_test_equals_enumeration_with_ties_and_misses():
    rng = np.random.default_rng(0)
    for _ in range(60):
        n, m = rng.integers(1, 6, 2)
        pool = [10.0, 20.0, 20.0, 30.0, 40.0, math.inf]
        a, b = (list(rng.choice(pool, size)) for size in (n, m))
        test = separation_test(a, b)
        assert test.p == pytest.approx(_by_enumeration(a, b), abs=1e-12)
        ranks = [sum(y < x for y in (*a, *b)) + [*a, *b].count(x) / 2 for x in (*a, *b)]
        deals = np.array([sum(deal) for deal in itertools.combinations(ranks, n)])
        assert test.earlier == pytest.approx(np.mean(deals <= sum(ranks[:n]) + 1e-9))
        assert test.later == pytest.approx(np.mean(deals >= sum(ranks[:n]) - 1e-9))


def test_separation_test_of_clear_cases():
    apart = separation_test([1, 2, 3, 4, 5], [6, 7, 8, 9, math.inf])
    assert apart.p == pytest.approx(2 / 252)
    assert apart.first == 1.0
    assert apart.swapped().first == 0.0
    assert separation_test([1, 2, 3], [4, 5, 6]).p == pytest.approx(0.1) == smallest_p(3, 3)
    assert separation_test([5] * 4, [5] * 4).p == 1.0
    assert separation_test([math.inf] * 3, [math.inf] * 3).first == 0.5
    with pytest.raises(ValueError, match="at least one run"):
        separation_test([], [1.0])


def test_separation_test_is_exact_for_many_runs():
    a = list(range(40))
    assert separation_test(a, [x + 100 for x in a]).p == pytest.approx(2 / math.comb(80, 40))


def test_separation_test_keeps_its_level():
    rng = np.random.default_rng(1)
    for n in (4, 6):
        ps = [separation_test(list(x[:n]), list(x[n:])).p for x in np.round(rng.exponential(5, (2000, 2 * n)))]
        for level in (0.05, 0.2):
            share = np.mean(np.array(ps) <= level)
            assert share <= level + 3 * math.sqrt(level / len(ps))


def test_holm_worked_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_interval_of_the_median_covers_what_it_says(n: int):
    rng = np.random.default_rng(n)
    hits, coverage = 0, 0.0
    for times in rng.exponential(100, (3000, n)):
        interval = median_interval(list(np.minimum(times, 150)), list(times <= 150))
        low, high = interval.low or math.inf, interval.high or math.inf
        hits += low <= 100 * math.log(2) <= high
        coverage = interval.coverage
    assert coverage == pytest.approx({3: 0.75, 5: 0.9375, 8: 0.9922}[n], abs=1e-3)
    assert hits / 3000 == pytest.approx(coverage, abs=0.025)


def test_best_after_equals_all_orders():
    scores = [30.0, math.inf, 10.0, 20.0]
    for share in (0.25, 0.5, 0.75):
        for k, found in enumerate(best_after(scores, share), start=1):
            best = sorted(min(order[:k]) for order in itertools.permutations(scores))
            assert found.value == best[max(0, math.ceil(share * len(best) - 1e-9) - 1)]


def test_the_interval_of_best_after_is_the_bootstrap_and_covers_what_it_says():
    rng = np.random.default_rng(4)
    scores = list(rng.exponential(100, 7))
    draws = np.sort(rng.choice(scores, (40000, 7)), axis=1)
    values = [each.value for each in best_after(scores)]
    for found in best_after(scores):
        low, high = np.quantile(draws[:, sorted(scores).index(found.value)], [0.025, 0.975])
        assert (found.low, found.high) == (low, high)
    assert values[0] == np.median(scores)
    hits = np.zeros(7)
    for trials in rng.exponential(1, (3000, 7)):
        for k, found in enumerate(best_after(list(trials)), start=1):
            truth = -math.log(0.5) / k  # the median of the least of k exponentials
            hits[k - 1] += found.low <= truth <= found.high
    assert hits / 3000 == pytest.approx([each.coverage for each in best_after(scores)], abs=0.03)
    assert best_after(scores)[0].coverage > 0.85
    assert best_after(scores)[6].coverage < 0.6  # the best of 7, of which only 7 were seen
    assert best_after([math.inf] * 2)[0].high == math.inf


# Remission of leukaemia under 6-mercaptopurine and placebo, in weeks (Freireich et al. 1963).
ARRIVED = [6, 6, 6, 7, 10, 13, 16, 22, 23]
LOST = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_curve_band_and_log_rank_of_a_published_trial():
    times, reached = [*ARRIVED, *LOST], [True] * 9 + [False] * 12
    curve = {t: (share, low, high) for t, share, low, high in waiting_curve(times, reached)}
    # Kalbfleisch & Prentice; the band of survival::survfit(conf.type="log-log").
    assert curve[7] == pytest.approx((0.807, 0.563, 0.923), abs=5e-4)
    assert curve[10] == pytest.approx((0.753, 0.503, 0.889), abs=5e-4)
    assert curve[23] == pytest.approx((0.448, 0.188, 0.680), abs=5e-4)
    test = log_rank([*times, *PLACEBO], [*reached, *[True] * 21], [True] * 21 + [False] * 21)
    assert (test.observed, test.expected, test.chi2) == pytest.approx((9, 19.25, 16.79), abs=5e-3)
    assert test.p == pytest.approx(4.17e-5, rel=0.01)
    assert test.permutation_p < 1e-3


def test_the_band_of_a_race_is_exact():
    curve = waiting_curve([10, 20, 20, 50, 50], [True, True, True, False, False])
    # Clopper and Pearson's tables: 4 of 5 is 0.284 to 0.995, 2 of 5 is 0.053 to 0.853.
    assert curve[0] == pytest.approx((10, 0.8, 0.2836, 0.9949), abs=1e-4)
    assert curve[1] == pytest.approx((20, 0.4, 0.0527, 0.8534), abs=1e-4)
    (last,) = waiting_curve([10] * 3, [True] * 3)
    assert last == pytest.approx((10, 0, 0, 0.7076), abs=1e-4)  # nobody of three is left


def test_log_rank_by_permutation_equals_enumeration():
    times, reached, first = [1, 2, 3, 3, 5, 5, 5], [1, 1, 1, 0, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0]
    groups = [[i in chosen for i in range(7)] for chosen in itertools.combinations(range(7), 3)]
    gaps = [abs(t.observed - t.expected) for t in (log_rank(times, reached, g, permutations=1) for g in groups)]
    seen = log_rank(times, reached, [bool(x) for x in first])
    exact = np.mean(np.array(gaps) >= abs(seen.observed - seen.expected) - 1e-9)
    assert seen.permutation_p == pytest.approx(exact, abs=0.015)
    with pytest.raises(ValueError, match="both groups"):
        log_rank([1, 2], [True, True], [True, True])


def test_pairs_of_two_methods_need_no_correction():
    groups = {"a": Arrivals((1.0, 2, 3), 10), "b": Arrivals((4.0, 5, 6), 10)}
    assert adjust_pairs(groups, {("a", "b"): 0.1}) == {("a", "b"): pytest.approx(0.1)}


def test_pairs_that_stand_apart_are_found_among_five_methods():
    rng = np.random.default_rng(2)
    groups = {name: list(rng.normal(mean, 1, 5)) for name, mean in zip("abcde", (0, 0, 0, 30, 30), strict=True)}
    tests = {(x, y): separation_test(groups[x], groups[y]).p for x, y in itertools.combinations(groups, 2)}
    adjusted = adjust_pairs({name: Arrivals(tuple(g), 100) for name, g in groups.items()}, tests)
    different = {pair for pair, p in adjusted.items() if p <= 0.05}
    assert different == set(itertools.product("abc", "de"))
    assert min(holm(list(tests.values()))) > 0.05  # the plain correction could not have said so with five runs


def test_many_methods_fall_back_to_holm():
    groups = {str(i): Arrivals((float(i),) * 3, 20) for i in range(11)}
    tests = {pair: 0.001 for pair in itertools.combinations(groups, 2)}
    assert adjust_pairs(groups, tests)["0", "1"] == pytest.approx(0.055)
