"""Budgets: time, the estimate before a race, and the place that a race takes on the disk."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from downslope import make
from downslope.cli import app
from downslope.referee import LeftToOthers, RaceError, Recipe, Workload, race, worker
from downslope.referee.clock import QUIET, Clock, Ending, seconds_of, whole_rounds
from downslope.referee.estimate import Estimate, estimate, first_points
from downslope.referee.plan import read_plan
from downslope.referee.probe import probe
from downslope.referee.series import seed_runs
from downslope.referee.store import Claim, Store
from downslope.referee.stored import rebuild
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


# ------------------------------------------------------------- a race whose time is spent


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the time of a race be spent after so many trials; and measure time in no time."""
    from downslope.referee.timing import measure_seconds

    monkeypatch.setattr(worker, "measure_seconds", lambda w, r, **_: measure_seconds(w, r, seconds=0.0, least_turns=2))

    def stop(trials: int) -> None:
        ran: list[object] = []
        finish = Store.finish

        def counted(store: Store, claim: Any, record: Any) -> None:
            finish(store, claim, record)
            ran.append(claim.task)

        monkeypatch.setattr(Store, "finish", counted)
        monkeypatch.setattr(Clock, "over", property(lambda clock: clock.seconds is not None and len(ran) >= trials))

    return stop


def test_a_race_whose_time_is_spent_is_judged_on_whole_rounds_and_goes_on(
    toy: Workload, tmp_path: Path, after: Callable[[int], None], capsys: pytest.CaptureFixture[str]
):
    told: list[dict[str, Any]] = []
    options: dict[str, Any] = {"methods": ["adamw", "sgd"], "trials": 1, "seeds": 4, "folder": tmp_path / "race"}
    after(2 + 5)  # tuning, two whole rounds, and one method's run of the third
    first = race(toy, wall_clock=90.0, events=told.append, **options)
    (w,) = first.content["workloads"]
    assert {s["label"]: len(s["arrivals"]) for s in w["standings"]} == {"adamw": 2, "sgd": 2}
    phases = Counter((t["task"].split("/")[2], t["judged"]) for t in w["trials"])
    assert phases == {("tune", False): 2, ("seed", True): 4, ("seed", False): 1}  # the odd run is stored, not judged
    assert first.content["stopped"]["seeds"] == {"toy": 2}
    assert first.sentence.endswith("The time of 2 min was spent; judged toy by 2 of 4 seeds.")
    assert "was spent; judged toy by" in first.report.read_text()
    assert "about 10 trials x " in capsys.readouterr().err
    (foreseen,) = [e for e in told if e["event"] == "estimate"]
    assert foreseen["trials"] == 10
    assert foreseen["seconds"] > 0
    rebuilt = rebuild(tmp_path / "race")
    assert rebuilt.content == first.content

    whole = race(toy, quiet=True, **options)
    assert whole.content["stopped"] is None
    assert "was spent" not in whole.sentence
    assert {len(s["arrivals"]) for s in whole.content["workloads"][0]["standings"]} == {4}
    kept = {t["task"]: t for t in whole.content["workloads"][0]["trials"]}
    ran = [t | {"judged": kept[t["task"]]["judged"]} for t in w["trials"]]
    assert all(kept[t["task"]] == t for t in ran)  # nothing was run again
    assert sum(t["judged"] for t in kept.values()) == 8


def test_a_race_whose_time_is_spent_in_tuning_says_so_and_goes_on(
    toy: Workload, tmp_path: Path, after: Callable[[int], None]
):
    options: dict[str, Any] = {"methods": ["adamw", "sgd"], "trials": 2, "seeds": 1, "folder": tmp_path / "race"}
    after(3)
    with pytest.raises(RaceError, match="the time of 1 s was spent before every method had run one seed; 3 "):
        race(toy, wall_clock=1.0, quiet=True, **options)
    assert race(toy, quiet=True, **options).content["stopped"] is None


def test_time_may_be_spent_between_two_looks(toy: Workload, tmp_path: Path, after: Callable[[int], None]):
    alike = [Recipe("adamw", "a", fixed={"lr": 0.02}), Recipe("adamw", "b", fixed={"lr": 0.02})]
    staged: dict[str, Any] = {"trials": 1, "seeds": 4, "until_decided": True, "max_seeds": 6, "quiet": True}
    after(2 + 8 + 1 + 3)  # tuning, four rounds, the first look, a fifth round and one run of the sixth
    first = race(toy, methods=alike, folder=tmp_path / "race", wall_clock=1.0, **staged)
    (w,) = first.content["workloads"]
    assert {len(s["arrivals"]) for s in w["standings"]} == {5}
    assert w["judgement"]["level"] == pytest.approx(0.04 / 3)  # the second look has two of six seeds
    assert "It took 5 of at most 6 seeds" in w["verdict"]
    assert "judged toy by 5 of 6 seeds" in w["verdict"]
    went_on = race(toy, methods=alike, folder=tmp_path / "race", **staged).content["workloads"][0]
    at_once = race(toy, methods=alike, folder=tmp_path / "other", **staged).content["workloads"][0]
    arrivals = [{s["label"]: s["arrivals"] for s in each["standings"]} for each in (went_on, at_once)]
    assert arrivals[0] == arrivals[1]
    assert {len(runs) for runs in arrivals[0].values()} == {6}


def test_time_may_be_spent_before_a_workload_of_a_race_in_stages_has_a_whole_round(
    toy: Workload, tmp_path: Path, after: Callable[[int], None]
):
    staged: dict[str, Any] = {"trials": 1, "seeds": 4, "until_decided": True, "max_seeds": 6, "quiet": True}
    after(2 + 4)  # tuning and two whole rounds on the first, nothing on the second
    found = race([toy, replace(toy, name="toy-2")], methods=["adamw", "sgd"], folder=tmp_path, wall_clock=1.0, **staged)
    assert [w["name"] for w in found.content["workloads"]] == ["toy"]
    assert found.content["sequential"]["stopped"] == (
        "toy stopped after 2 of at most 6 seeds: the time was spent, and not everything is decided"
    )


def test_only_what_was_judged_is_drawn_and_marked(toy: Workload, tmp_path: Path, after: Callable[[int], None]):
    after(2 + 5)
    found = race(toy, methods=["adamw", "sgd"], trials=1, seeds=4, folder=tmp_path, quiet=True, wall_clock=1.0)
    (w,) = found.content["workloads"]
    assert [len(seed_runs(w, label)) for label in ("adamw", "sgd")] == [2, 2]
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["phase"] == "seed" for row in rows) == 5
    assert [row["judged"] for row in rows if row["phase"] == "seed"].count("1") == 4
    assert {row["judged"] for row in rows if row["phase"] == "tune"} == {"0"}


def test_a_workload_without_a_whole_round_is_left_out(toy: Workload, tmp_path: Path, after: Callable[[int], None]):
    second = replace(toy, name="toy-2")
    after(4 + 2)
    found = race(
        [toy, second], methods=["adamw", "sgd"], trials=1, seeds=2, folder=tmp_path, quiet=True, wall_clock=1.0
    )
    assert [w["name"] for w in found.content["workloads"]] == ["toy"]
    assert found.sentence.endswith("The time of 1 s was spent; not judged: toy-2.")


def test_a_worker_whose_time_is_spent_waits_for_what_runs_and_not_for_what_begins_then():
    def claim(task: str, claims: int = 1) -> Claim:
        return Claim(task, "running", "other", claims, 0)

    busy = [claim("a"), claim("b")]
    ending = Ending(lambda: busy)
    assert ending.due() == "wait"
    busy.clear()
    assert [ending.due() for _ in range(QUIET - 1)] == ["wait"] * (QUIET - 1)
    busy.append(claim("b"))
    assert ending.due() == "wait"  # it was no end, and counts anew
    busy.clear()
    assert [ending.due() for _ in range(QUIET)][-2:] == ["wait", "judge"]
    busy.append(claim("c"))
    assert ending.due() == "leave"


def test_a_worker_whose_time_is_spent_leaves_the_report_to_those_who_go_on(
    toy: Workload, tmp_path: Path, after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    after(2 + 2)  # tuning and a whole round
    beside: list[Store] = []

    def go_on(seconds: float) -> None:
        """Another process, which was between two trials, begins its next one."""
        beside.append(Store(tmp_path, read_plan(tmp_path)))
        assert beside[-1].claim(trials_only)

    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=go_on, strftime=time.strftime))
    with pytest.raises(LeftToOthers, match="the time of 1 s is spent; other processes go on with the race and write"):
        race(toy, methods=["adamw", "sgd"], trials=1, seeds=2, folder=tmp_path, quiet=True, wall_clock=1.0)
    assert not list(tmp_path.glob("measured/timing-*"))  # it would have been measured beside that trial
    beside[0].close()


def test_leaving_the_report_to_others_is_no_fault_of_the_command(toy_file: Path, monkeypatch: pytest.MonkeyPatch):
    def left(*_: Any, **__: Any) -> None:
        raise LeftToOthers("the time is spent; others go on.")

    monkeypatch.setattr("downslope.referee.race", left)
    done = CliRunner().invoke(app, ["race", str(toy_file), "--methods", "sgd"])
    assert (done.exit_code, done.stderr) == (0, "downslope: the time is spent; others go on.\n")


def test_a_wrong_time_is_refused_before_anything_is_stored(toy: Workload, tmp_path: Path):
    with pytest.raises(RaceError, match="wall_clock must be a finite number of seconds > 0"):
        race(toy, methods=["sgd"], wall_clock=-1, folder=tmp_path / "race")
    assert not (tmp_path / "race").exists()
