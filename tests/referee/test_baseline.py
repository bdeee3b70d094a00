"""Races in which each method is compared with the baseline alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downslope.referee import RaceError, Recipe, Workload, race, worker
from downslope.referee.plan import plan_from
from downslope.referee.ratio import Arrivals
from downslope.referee.standing import Standing
from downslope.referee.stepdown import Family
from downslope.referee.verdict import LEVEL, Judgement, judge
from downslope.referee.words import workload_sentence
from tests.referee.test_plan import plan
from tests.referee.test_verdict import ENTRY, standing

Turns = dict[str, list[float]]


def judged(arrivals: dict[str, list[float]], turns: Turns | None = None) -> tuple[list[Standing], Judgement]:
    turns = turns or {}
    found = [standing(label, runs, turns.get(label)) for label, runs in arrivals.items()]
    found.sort(key=lambda s: s.rank("max", by_time=bool(turns)))
    return found, judge(found, "m0", turns, compare="baseline")


def test_only_pairs_with_the_baseline_are_corrected_for():
    family = Family(("a", "b", "base", "c"), "base")
    assert family.pairs == [("a", "base"), ("b", "base"), ("base", "c")]
    raw = dict(zip(family.pairs, (0.01, 0.04, 0.02), strict=True))
    adjusted = family.adjust({m: Arrivals((1.0,), 10) for m in family.methods}, raw)
    assert adjusted == pytest.approx({("a", "base"): 0.03, ("b", "base"): 0.04, ("base", "c"): 0.04})  # Holm by hand
    assert family.alone(0.06) == pytest.approx(0.02)
    assert len(Family(("a", "b", "base", "c")).pairs) == 6


def test_thirty_methods_can_be_told_from_a_baseline_by_seven_seeds():
    rng = np.random.default_rng(0)
    runs = {f"m{i}": list(rng.normal(150 if i in (1, 2) else 300, 20, 7)) for i in range(31)}
    runs["m3"] = [math.inf] * 7
    found, judgement = judged(runs)
    words = {c.label: c.word for c in judgement.against_baseline}
    assert {label for label, word in words.items() if word == "better"} == {"m1", "m2"}
    assert [label for label, word in words.items() if word == "worse"] == ["m3"]
    assert not judgement.decided
    assert not judgement.settled
    assert len(judgement.tied) == 27
    assert len(judgement.pairs) == 30
    sentence = workload_sentence(ENTRY, found, judgement)
    assert f"Against m0: {found[0].label} and {found[1].label} are better (p ≤ 0.017); m3 is worse (p ≤ 0.0" in sentence
    assert "; no evidence on the 27 others (smallest p = " in sentence
    assert "Exact permutation tests, level 5 % over these comparisons; 7 seeds each, at this spread" in sentence
    everyone = judge(found, "m0", {}, detail=False)  # among all pairs seven seeds can never tell
    assert {c.word for c in everyone.against_baseline} == {"no evidence"}


def test_what_few_seeds_cannot_show_is_said_with_the_number_that_could():
    _, judgement = judged({f"m{i}": [100.0 + 10 * i] * 5 for i in range(31)})
    assert judgement.note == (
        "no evidence possible at this number of seeds: the smallest p of 5 against 5 runs is 0.0079, above the "
        "0.17 % allowed to the test (in a family of 31 methods); it takes 7 seeds"
    )


def test_where_time_leaves_it_open_the_sentence_tells_what_steps_decide():
    turns = {"m0": [0.010] * 10, "m1": [0.021] * 10, "m2": [0.010] * 10}
    found, judgement = judged(
        {"m0": [200, 210, 220, 230, 240], "m1": [95, 100, 105, 110, 115], "m2": [450.0] * 5}, turns
    )
    sentence = workload_sentence(ENTRY, found, judgement)
    assert judgement.measure == "time"
    assert "Against m0: m2 is worse (p ≤ 0.016); no evidence on m1 (smallest p = " in sentence
    assert "; fewer steps were enough for m1 (p ≤ 0.016)." in sentence


def test_a_decided_race_says_so():
    found, judgement = judged({"m0": [300.0] * 6, "m1": [200.0] * 6})
    assert judgement.decided
    assert judgement.settled
    assert "Against m0: m1 is better (p ≤ 0.0022). Exact" in workload_sentence(ENTRY, found, judgement)


@pytest.mark.parametrize(("methods", "seeds", "spread"), [(4, 5, 0.1), (9, 6, 0.1), (17, 7, 0.5)])
def test_alike_methods_are_rarely_told_apart(methods: int, seeds: int, spread: float):
    rng, races = np.random.default_rng(methods), 200
    wrong = 0
    for _ in range(races):
        runs = np.ceil(200 * np.exp(spread * rng.standard_normal((methods, seeds))) / 10) * 10
        found = [standing(f"m{i}", list(each), None) for i, each in enumerate(runs)]
        judgement = judge(found, "m0", {}, compare="baseline", detail=False)
        wrong += any(c.word in ("better", "worse") for c in judgement.pairs)
    assert wrong / races <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / races)


def test_a_race_from_its_plan_to_its_page(toy: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def turns(workload: Workload, runners: list[Any], **settings: float) -> dict[str, Any]:
        return {"turns": {r.label: [0.01] * 9 for r in runners}, "step_alone": {}, "first_step": {}}

    monkeypatch.setattr(worker, "measure_seconds", turns)
    methods = [Recipe("adamw", f"adamw-{i}", fixed={"lr": 0.05}) for i in range(2)]
    methods.append(Recipe("sgd", "never", fixed={"lr": 1e-9}))
    settings: dict[str, Any] = {"methods": methods, "trials": 1, "seeds": 5, "quiet": True}
    result = race(toy, folder=tmp_path / "race", compare="baseline", **settings)
    (w,) = result.content["workloads"]
    assert {c["against"] for c in w["judgement"]["against_baseline"]} == {"adamw-0"}
    assert len(w["judgement"]["pairs"]) == 4  # two by steps, two by time
    assert "never is worse (p ≤ " in w["verdict"]
    page = (tmp_path / "race" / "report.html").read_text(encoding="utf-8")
    assert "corrected for all these comparisons" in page
    assert "the baseline, named first" in page
    assert "the fastest here" not in page
    again = race(toy, folder=tmp_path / "race", compare="baseline", **settings)
    assert again.content == result.content
    with pytest.raises(RaceError, match="holds a different race: compare baseline there and pairs here"):
        race(toy, folder=tmp_path / "race", **settings)


def test_another_comparison_is_refused(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    with pytest.raises(RaceError, match="race: compare must be one of 'pairs', 'baseline'; got 'fastest'") as error:
        race(toy, folder=tmp_path / "race", compare="fastest", **small)
    assert error.value.bad_input
    content = replace(plan(), compare="<b>").to_json()
    with pytest.raises(ValueError, match="compare '<b>'"):
        plan_from(content)
