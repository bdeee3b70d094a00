"""Budgets: time, the estimate before a race, and the place that a race takes on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from downslope import make
from downslope.referee import RaceError, Workload
from downslope.referee.clock import Clock, seconds_of, whole_rounds
from downslope.referee.estimate import Estimate, estimate, first_points, probe
from downslope.referee.store import Store
from downslope.referee.thinning import POINTS, thinned
from downslope.referee.trial import Point
from tests.referee.test_store import plan, record, trials_only


def test_times_are_read():
    assert seconds_of("2h") == 7200
    assert seconds_of("1h30m") == seconds_of("90 min") == 5400
    assert seconds_of(" 0.5d ") == 43_200
    assert seconds_of("45s") == 45
    for bad in ("", "2", "h", "2 hours", "-1h", "1h-", "nan"):
        with pytest.raises(RaceError, match=r"--wall-clock must be a time such as 2h, 1h30m or 45s; got"):
            seconds_of(bad)


def test_a_clock_runs_out(monkeypatch: pytest.MonkeyPatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr("downslope.referee.clock.time.monotonic", lambda: now.time)
    clock, endless = Clock(60), Clock(None)
    assert not clock.over
    now.time = 160.0
    assert clock.over
    assert not endless.over
    for bad in (0, -1, float("nan"), float("inf"), True, "2h"):
        with pytest.raises(RaceError, match="wall_clock must be a finite number of seconds > 0, or None; got"):
            Clock(bad)  # type: ignore[arg-type]


def test_whole_rounds_are_those_of_the_method_that_has_fewest():
    from downslope import _registry
    from downslope.referee.recipe import entrants

    race = plan(methods=tuple(entrants(["sgd", "adamw"], _registry, tuned=True)), seeds=5)
    ran = {f"toy/{label}/seed/{i:03d}": None for label, count in (("sgd", 4), ("adamw", 3)) for i in range(count)}
    assert whole_rounds(race, ran, "toy") == 3
    del ran["toy/adamw/seed/001"]  # a later seed does not stand in for an earlier one
    assert whole_rounds(race, ran, "toy") == 1
    assert whole_rounds(race, {}, "toy") == 0


def test_an_estimate_is_steps_and_evaluations_of_what_is_left():
    race = plan()  # 100 steps, evaluated every 10: 11 evaluations; two tuning trials and one seed
    found = {"toy": {"evaluation": 1.0, "step": {"sgd": 0.5}}}
    whole = estimate(race, race.tasks(), found, jobs=2)
    assert whole == Estimate(3, 100 * 0.5 + 11 * 1.0, 2)
    assert whole is not None
    assert whole.seconds == pytest.approx(3 * 61 / 2)
    assert str(whole).startswith("about 3 trials x 1 min = 2 min with 2 jobs at most: a trial ends at its target")
    assert estimate(race, [], found, jobs=1) is None
    assert estimate(race, race.tasks(), {"toy": {"evaluation": 1.0, "step": {}}}, jobs=1) is None
    (one,) = [estimate(race, race.tasks()[:1], found, jobs=4)]
    assert one is not None
    assert one.jobs == 1  # a trial cannot be done by several


def test_a_method_that_was_not_timed_counts_as_the_slowest_that_was():
    from downslope import _registry
    from downslope.referee.recipe import entrants

    race = plan(methods=tuple(entrants(["sgd", "adamw"], _registry, tuned=True)))
    found = {"toy": {"evaluation": 0.0, "step": {"sgd": 0.5}}}
    assert estimate(race, race.tasks(), found, jobs=1) == Estimate(6, 50.0, 1)


def test_a_probe_times_real_steps_and_leaves_out_what_breaks(toy: Workload):
    taken: list[str] = []

    def maker(label: str) -> Any:
        def build(model: Any) -> Any:
            opt = make("sgd", model, lr=0.1)
            opt.register_step_post_hook(lambda *_: taken.append(label))
            return opt

        return build

    def broken(model: Any) -> Any:
        raise ValueError("it cannot")

    found = probe(toy, {"a": maker("a"), "c": broken, "b": maker("b")})
    assert set(found["step"]) == {"a", "b"}
    assert min(found["evaluation"], *found["step"].values()) > 0
    assert taken == ["a"] * 4 + ["b"] * 4


def test_a_probe_takes_the_first_point_of_every_method():
    race = plan()
    assert first_points(race) == [("sgd", "sgd", race.tasks()[0].hyper)]


def test_a_long_curve_is_thinned_without_its_ends_its_best_and_its_arrival():
    points = [Point(0, None, 0.5, 0.0)]
    points += [Point(2 * i, 1.0 / i, 0.5 + 0.1 * (i == 701), float(i)) for i in range(1, 5001)]
    points[1403] = Point(2806, 1 / 1403, 0.55, 1403.0)
    long = replace(record(2806), budget=10_000, steps=10_000, curve=tuple(points))
    short = thinned(long, goal="max")
    steps = [p.step for p in short.curve]
    assert len(short.curve) <= POINTS
    assert len(short.curve) > POINTS - 3
    assert steps == sorted(set(steps))
    assert {0, 1402, 2806, 10_000} <= set(steps)
    assert max(p.metric for p in short.curve) == 0.6
    assert max(b - a for a, b in zip(steps, steps[1:], strict=False)) <= 2 * 11
    # Every step's loss is in the mean of exactly one point.
    whole = sum(2 * p.loss for p in points[1:] if p.loss is not None)
    before = [0, *steps]
    kept = sum((b - a) * p.loss for p, a, b in zip(short.curve, before, steps, strict=False) if p.loss is not None)
    assert kept == pytest.approx(whole)
    assert short.curve[0] == points[0]
    few = record(curve=tuple(points[:POINTS]))
    assert thinned(few, goal="max") is few


def test_what_a_race_keeps_of_a_trial_is_bounded(tmp_path: Path):
    long = tuple(Point(10 * i, 0.5, 0.1, 0.0) for i in range(5 * POINTS))
    with Store(tmp_path, plan()) as store:
        while claim := store.claim(trials_only):
            store.finish(claim, replace(record(), curve=long, manifest="every parameter"))
        found = store.records()
    assert all(POINTS - 2 <= len(r.curve) <= POINTS for r in found.values())
    assert [r.manifest for r in found.values()] == [None, None, "every parameter"]
    sizes = [path.stat().st_size for path in tmp_path.glob("trials/*/*/*/*.json")]
    assert len(sizes) == 3
    assert max(sizes) < 150 * POINTS
