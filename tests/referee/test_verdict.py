"""Verdicts on simulated races: what the referee says must be true as often as it claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from downslope.referee.plan import Entry
from downslope.referee.standing import Standing, _product
from downslope.referee.statistics import Estimate
from downslope.referee.survival import median_interval, restricted_mean
from downslope.referee.verdict import LEVEL, Judgement, judge, least_seeds
from downslope.referee.words import Place, number, overall_sentence, percent, seconds_text, workload_sentence

BUDGET = 500
ENTRY = Entry(
    name="toy", source="", digest="", metric_name="accuracy", goal="max", target=0.8, steps=BUDGET, evaluate_every=10
)


def standing(label: str, arrivals: Sequence[float], turns: Sequence[float] | None) -> Standing:
    arrivals = [t if t <= BUDGET else math.inf for t in arrivals]
    capped, reached = [min(t, BUDGET) for t in arrivals], [math.isfinite(t) for t in arrivals]
    steps = median_interval(capped, reached)
    seconds = Estimate(float(np.median(turns)), min(turns), max(turns), 0.95) if turns else None
    return Standing(
        label=label,
        method=label,
        tuned={},
        arrivals=tuple(arrivals),
        budget=BUDGET,
        steps=steps,
        mean_steps=restricted_mean(capped, reached, BUDGET),
        seconds=seconds,
        time=_product(steps, seconds) if seconds else None,
        best_metric=0.7,
        grid=ENTRY.evaluate_every,
    )


def simulated(rng: np.random.Generator, means: Sequence[float], seeds: int) -> tuple[list[Standing], Judgement]:
    """A race of methods with these mean steps: 10% spread, evaluated every 10 steps, on a machine with 5% noise."""
    found, turns = [], {}
    for i, mean in enumerate(means):
        label = f"m{i}"
        arrivals = np.ceil(rng.normal(mean, 0.1 * mean, seeds) / 10) * 10
        drift = 1 + 0.01 * rng.standard_normal()  # where the process happened to put things
        turns[label] = list(0.01 * drift * (1 + 0.05 * np.abs(rng.standard_normal(8))))
        found.append(standing(label, list(arrivals), turns[label]))
    found.sort(key=lambda s: s.rank("max", by_time=True))
    return found, judge(found, "m0", turns, detail=False)


def share_of_false_claims(means: Sequence[float], seeds: int, races: int) -> float:
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(races):
        _, judgement = simulated(rng, means, seeds)
        wrong += any(
            (c.word == "better" and means[int(c.label[1:])] >= means[int(c.against[1:])])
            or (c.word == "worse" and means[int(c.label[1:])] <= means[int(c.against[1:])])
            for c in (*judgement.against_fastest, *judgement.against_baseline)
            if c.measure == "time"
        )
    return wrong / races


@pytest.mark.parametrize(("means", "seeds"), [((300, 300), 5), ((480, 480), 6), ((200, 200, 200), 5)])
def test_a_method_raced_against_itself_is_rarely_called_different(means: tuple[float, ...], seeds: int):
    races = 250
    share = share_of_false_claims(means, seeds, races)
    assert share <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / races)


def test_a_large_difference_is_found():
    rng = np.random.default_rng(3)
    judgements = [simulated(rng, (400, 250), 5)[1] for _ in range(40)]
    assert np.mean([j.decided and j.fastest == "m1" for j in judgements]) >= 0.9


def test_equal_steps_and_a_hair_of_timing_are_no_evidence():
    """All seeds of both arrive at the same step; 1% of timing must not become a difference in all of them."""
    turns = {"a": [0.0100, 0.0101] * 10, "b": [0.0101, 0.0102] * 10}
    found = [standing("a", [300] * 8, turns["a"]), standing("b", [300] * 8, turns["b"])]
    judgement = judge(found, "a", turns)
    words = {c.measure: c.word for c in judgement.against_fastest}
    assert words == {"steps": "equivalent", "time": "no evidence"}
    note = next(c.note for c in judgement.against_fastest if c.measure == "time")
    assert note.startswith("no number of seeds can show equivalence within 5 % here: evaluations are too far apart, or")


def test_a_method_with_cheaper_steps_wins_by_time_and_not_by_steps():
    turns = {"a": [0.010] * 10, "b": [0.030] * 10}
    found = [standing("a", [300] * 5, turns["a"]), standing("b", [270, 290, 300, 310, 330], turns["b"])]
    judgement = judge(found, "b", turns)
    words = {c.measure: c.word for c in judgement.against_fastest}
    assert words == {"time": "worse", "steps": "no evidence"}
    assert {c.measure: c.word for c in judgement.against_baseline} == {"time": "better", "steps": "no evidence"}
    assert next(c.ratio.value for c in judgement.against_baseline if c.measure == "time") == pytest.approx(1 / 3)


def test_three_seeds_can_never_decide_and_it_says_so():
    found = [standing("a", [100, 110, 120], None), standing("b", [400, 410, 420], None)]
    judgement = judge(found, "a", {})
    assert not judgement.decided
    assert [c.word for c in judgement.against_fastest] == ["no evidence"]
    sentence = workload_sentence(ENTRY, found, judgement)
    assert "no better or worse possible at this number of seeds" in sentence
    assert "3 against 3 runs is 0.1" in sentence
    assert "it takes 4 seeds" in sentence
    assert least_seeds(0.05) == 4
    assert least_seeds(0.01) == 5
    less = judge([standing("a", [100, 110], None), standing("b", [400, 410], None)], "a", {})
    assert less.note.startswith(
        "no evidence possible at this number of seeds: the smallest p of 2 against 2 runs is 0.33"
    )


def test_a_decided_race_names_winner_measure_and_p():
    turns = {"a": [0.01] * 10, "b": [0.01] * 10}
    found = [standing("a", [100, 110, 120, 130, 140], turns["a"]), standing("b", [math.inf] * 5, turns["b"])]
    judgement = judge(found, "b", turns)
    assert judgement.decided
    assert workload_sentence(ENTRY, found, judgement) == (
        "a is the fastest to accuracy ≥ 0.8 on toy: a median of 120 steps, 1.2 s (5 of 5 seeds), while b, the next, "
        "reached it in 0 of 5 seeds; better than b (p ≤ 0.00794). Exact permutation tests, level 4 % over all pairs, "
        "1 % more for seconds per step; 5 seeds each, at this spread, show a difference of 20 % with a chance of 18 %, "
        "one of 46.3 % with 80 %."
    )


def test_where_time_decides_nothing_the_sentence_tells_what_steps_decide():
    turns = {"a": [0.010] * 10, "b": [0.021] * 10, "c": [0.010] * 10}
    found = [
        standing("a", [200, 210, 220, 230, 240], turns["a"]),
        standing("b", [95, 100, 105, 110, 115], turns["b"]),
        standing("c", [math.inf] * 5, turns["c"]),
    ]
    judgement = judge(found, "a", turns)
    assert judgement.tied == ("b",)
    sentence = workload_sentence(ENTRY, found, judgement)
    assert "; but no evidence that it differs from b (p = " in sentence
    assert "; fewer steps were enough for b (p ≤ 0.0" in sentence
    assert "; it is better than c (p ≤ 0.0" in sentence


def test_nobody_arrives():
    found = [standing("a", [math.inf] * 4, None), standing("b", [math.inf] * 4, None)]
    judgement = judge(found, "a", {})
    assert judgement.fastest is None
    assert workload_sentence(ENTRY, found, judgement) == (
        "No method reached accuracy ≥ 0.8 on toy within 500 steps; a came nearest with 0.7. Runs that all missed "
        "cannot be told apart."
    )


def test_a_single_method_has_nothing_to_be_compared_with():
    found = [standing("a", [100, 110, 120], None)]
    assert "nothing to compare it with" in workload_sentence(ENTRY, found, judge(found, "a", {}))


def test_those_that_arrive_more_often_come_first():
    seldom, often = standing("seldom", [50, math.inf, math.inf], None), standing("often", [400, 410, math.inf], None)
    never = standing("never", [math.inf] * 3, None)
    ranked = sorted([never, seldom, often], key=lambda s: s.rank("max", by_time=False))
    assert [s.label for s in ranked] == ["often", "seldom", "never"]


def test_the_verdict_over_workloads_says_no_more_than_it_knows():
    names = ["a", "b"]

    def over(x: tuple[int, float | None], y: tuple[int, float | None], **settings: Any) -> str:
        rules = {"variants": 0, "measure": "time", "proved": False} | settings
        return overall_sentence(rules.pop("names", names), [Place("x", *x), Place("y", *y)], **rules)

    first = over((2, 1.0), (2, 1.2), proved=True)
    assert first == (
        "Over a and b, x comes first: it reached all 2 targets, ahead on each; y follows (all, in 1.2 times the time). "
        "On each of them it is proved to be the fastest."
    )
    assert over((2, 1.0), (2, 1.2)).endswith(" This order itself was not tested; see each verdict.")
    assert over((1, 1.0), (1, 1.0)) == "Over a and b, x and y are level: each reached 1 of 2 targets."
    part = over((1, 1.0), (1, 1.5), measure="steps")
    assert "x comes first: it reached 1 of 2 targets, ahead there; y follows (1 of 2, in 1.5 times the steps)" in part
    mixed = over((2, 1.1), (2, 1.3))
    assert "in 1.1 times the time of the fastest method there (geometric mean)" in mixed
    alone = over((1, 1.0), (1, 1.5), names=["a"], variants=2)
    assert "Over a and its variants, x comes first: it reached its target, ahead there; y follows (its tar" in alone
    none = over((0, None), (0, None), variants=1)
    assert none == "Over a and b (variants held out), no method reached a target in more than half of its runs."


def test_a_method_that_never_ran_takes_no_word_from_the_others():
    """Whatever seconds a step takes: what has no pace of its own is not watched for a shorter time than the others."""
    for pace in (0.01, 3.0):
        turns = {"a": [pace] * 10, "b": [pace] * 10}
        never = replace(standing("never", [math.inf] * 8, None), tuned=None)
        found = [
            standing("a", [200, 210, 220, 230, 240, 250, 260, 270], turns["a"]),
            standing("b", [400, 410, 420, 430, 440, 450, 460, 470], turns["b"]),
            never,
        ]
        judgement = judge(found, "a", turns)
        assert [c.word for c in judgement.deciding] == ["worse", "worse"], pace


def test_what_beats_the_first_by_all_its_runs_is_named():
    brittle = [*range(100, 180, 10), *[math.inf] * 5]
    steady = [90] * 4 + [178] * 9
    found = [standing("brittle", brittle, None), standing("steady", steady, None)]
    judgement = judge(found, "brittle", {})
    judgement = replace(judgement, against_fastest=tuple(replace(c, word="better") for c in judgement.against_fastest))
    sentence = workload_sentence(ENTRY, found, replace(judgement, decided=True, tied=()))
    assert "brittle was ahead to accuracy ≥ 0.8 on toy" in sentence
    assert "; worse than steady (p ≤ " in sentence


def test_only_who_is_better_than_each_is_the_fastest():
    found = [
        standing("a", [300, 300, 310, 300, 310, 300, 310, 300], None),
        standing("b", [310, 300, 310, 310, 300, 300, 300, 310], None),
        standing("c", [450] * 8, None),
    ]
    judgement = judge(found, "a", {}, margin=0.1)
    assert [c.word for c in judgement.deciding] == ["equivalent", "worse"]
    sentence = workload_sentence(ENTRY, found, judgement)
    assert "a was ahead" in sentence
    assert "better than c (p ≤ " in sentence
    assert "equivalent to b within 10 %" in sentence


def test_equivalence_can_be_shown_of_methods_whose_paces_differ():
    turns = {"a": [0.02] * 10, "b": [0.01] * 10}
    few, many = standing("a", [100] * 5, turns["a"]), standing("b", [200] * 5, turns["b"])
    assert not any("no number of seeds" in c.note for c in judge([few, many], "a", turns, margin=0.25).pairs)
    assert any("no number of seeds" in c.note for c in judge([few, many], "a", turns, margin=0.05).pairs)


def test_equivalent_is_a_word_of_its_own():
    near = [standing("a", [300, 300, 310, 300, 310, 300], None), standing("b", [310, 300, 310, 310, 300, 300], None)]
    judgement = judge(near, "a", {}, margin=0.1)
    assert judgement.decided
    assert judgement.settled
    (c,) = judgement.against_fastest
    assert (c.word, c.test) == ("equivalent", "two one-sided exact permutation tests, margin 10 %")
    assert 1 / 1.1 < c.ratio.low <= c.ratio.high < 1.1
    sentence = workload_sentence(ENTRY, near, judgement)
    assert "equivalent to b within 10 % (p ≤ 0.00108)" in sentence
    assert "Exact permutation tests, level 5 % over all pairs" in sentence
    assert judge(near, "a", {}, margin=0.02).against_fastest[0].word == "no evidence"


def test_both_tables_share_one_level():
    """Two pairs, each alike, the baseline among those behind: the second table is no second chance to err."""
    rng = np.random.default_rng(0)
    ahead = [standing(x, rng.permutation(range(100, 180, 10)), None) for x in ("c", "d")]
    behind = [standing("a", [300, 310, 320, 330, 340, 350, 370, 390], None)]
    behind.append(standing("b", [335, 345, 365, 375, 380, 385, 395, 400], None))
    judgement = judge([*ahead, *behind], "a", {})
    words = {(c.label, c.against): c for c in judgement.pairs}
    assert {words[pair].word for pair in (("c", "a"), ("c", "b"), ("d", "a"), ("d", "b"))} == {"better"}
    assert 0.0253 < words["a", "b"].p < 0.05  # enough for two methods, not for one pair of four
    assert [c.word for c in judgement.against_baseline if c.label == "b"] == ["no evidence"]


def test_the_word_of_an_earlier_look_stands():
    first = [standing("a", [100, 110, 120, 130, 140], None), standing("b", [200, 210, 220, 230, 240], None)]
    early = judge(first, "a", {}, share=0.25)
    assert early.against_fastest[0].level == pytest.approx(0.0125)
    a, b = [*range(100, 150, 10), *[300] * 5], [*range(200, 250, 10), *[50] * 5]
    later = [standing("b", b, None), standing("a", a, None)]
    words = judge(later, "a", {}, share=0.15, earlier=early.pairs)
    assert [(c.label, c.word, c.note) for c in words.against_fastest] == [("a", "better", "decided with 5 seeds")]
    assert words.against_fastest[0].runs == (10, 10)
    assert words.against_fastest[0].p == early.against_fastest[0].p
    assert "; 10 seeds each, " in workload_sentence(ENTRY, later, words)
    assert judge(later, "a", {}, share=0.15).against_fastest[0].word == "no evidence"


def test_a_verdict_names_the_target_as_it_was_given():
    found = [standing("a", [math.inf], None), standing("b", [math.inf], None)]
    for target, shown in ((0.9999, "0.9999"), (0.123456789, "0.123456789"), (2.0, "2"), (1e-7, "1e-07")):
        sentence = workload_sentence(replace(ENTRY, target=target), found, judge(found, "a", {}))
        assert f"accuracy ≥ {shown} on toy" in sentence


def test_where_all_judging_runs_broke_nothing_is_said_of_the_target():
    why = ("seed 1: ValueError: it cannot.",)
    found = [replace(standing(label, [math.inf], None), failures=why, broken=1) for label in ("a", "b")]
    assert workload_sentence(ENTRY, found, judge(found, "a", {})) == (
        "Nothing can be said of toy: every judging run broke (seed 1: ValueError: it cannot)."
    )


def test_numbers_are_rounded_before_their_form_is_chosen():
    assert [number(x) for x in (999.4, 999.6, 1234, 0.12345, 0)] == ["999", "1 000", "1 234", "0.123", "0"]
    assert [number(x, 2) for x in (99.4, 99.6)] == ["99", "100"]
    assert percent(9.996) == "1 000 %"
    assert [seconds_text(x) for x in (9.996e-4, 0.9996, 12.34, 119.4)] == ["1 ms", "1 s", "12.3 s", "119 s"]
