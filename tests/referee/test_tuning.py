"""Where tuning trials are placed and which are ended early: the same in every run of a race, alike for every method."""

from __future__ import annotations

import contextlib
import json
import math
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import Mock

import optuna
import pytest

from downslope import _registry
from downslope.referee import RaceError, Recipe, Workload, race, worker
from downslope.referee import tuning as tuning_module
from downslope.referee.board import _line
from downslope.referee.plan import Entry, Plan, Task
from downslope.referee.recipe import candidates, entrants, known_beforehand
from downslope.referee.standing import standings
from downslope.referee.store import Store
from downslope.referee.translate import score
from downslope.referee.trial import Point, Record, run_trial
from downslope.referee.tuning import bars, cost, in_any_order, propose, refuse_idle_pruner, waits_for
from downslope.referee.worker import _never_ran

SPACE = {
    "lr": ("log", 1e-4, 1.0),
    "momentum": ("uniform", 0.0, 0.9),
    "window": ("int", 1, 4),
    "betas": ("choice", (0.9, 0.99), (0.9, 0.999)),
}
TOY = Path(__file__).parent / "toy_workload.py"
STEPS, EVERY = 90, 5


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})


TWICE = (Recipe("sgd", space=SPACE), Recipe("sgd", space=SPACE))


def plan(methods: Any = TWICE, **changes: Any) -> Plan:
    entry = Entry(
        name="toy", source="", digest="", metric_name="acc", goal="max", target=0.9, steps=STEPS, evaluate_every=EVERY
    )
    settings: dict[str, Any] = {
        "workloads": (entry,), "methods": tuple(entrants(methods, _registry, tuned=True)), "trials": 12, "seeds": 2,
        "budget": 1.0, "seed": 0, "version": "1", "threads": 1,
    }  # fmt: skip
    return Plan(**settings | changes)


def ran(metrics: list[float], hyper: dict[str, Any] | None = None, **changes: Any) -> Record:
    """A trial with a metric per evaluation; it has reached the target if its last is 0.9 or more."""
    curve = tuple(Point(i * EVERY, None, m, 0.0) for i, m in enumerate(metrics))
    last = (len(metrics) - 1) * EVERY
    settings: dict[str, Any] = {
        "hyper": hyper or {}, "seed": 0, "budget": STEPS, "steps": last, "best_metric": max(metrics, default=None),
        "steps_to_target": last if metrics and metrics[-1] >= 0.9 else None, "seconds": 0.0, "curve": curve,
    }  # fmt: skip
    return Record(**settings | changes)


def keyed(records: list[Record], label: str = "sgd") -> dict[str, Record]:
    return {f"toy/{label}/tune/{i:03d}": r for i, r in enumerate(records)}


def task(p: Plan, index: int, label: str = "sgd") -> Task:
    return next(t for t in p.tasks() if (t.label, t.phase, t.index) == (label, "tune", index))


# ------------------------------------------------------------------------------ samplers


def test_random_points_are_decided_by_the_seed_and_are_not_even():
    first = candidates(SPACE, 64, 3, even=False)
    assert first == candidates(dict(reversed(SPACE.items())), 64, 3, even=False)
    assert first[:8] == candidates(SPACE, 8, 3, even=False)
    assert first != candidates(SPACE, 64, 4, even=False)
    assert all(1e-4 <= p["lr"] <= 1.0 and p["window"] in (1, 2, 3, 4) for p in first)
    cells = [int((math.log10(p["lr"]) + 4) / 4 * 64) for p in first]
    assert len(set(cells)) < 55  # about 40 of 64 cells are hit by chance, all of them by the Sobol sequence


@pytest.mark.parametrize("sampler", ["quasi-random", "random", "tpe", "gp"])
def test_points_and_seeds_of_tuning_do_not_depend_on_the_method(sampler: str):
    p = plan(sampler=sampler)
    for i in range(p.trials):
        one, two = task(p, i), task(p, i, "sgd (2)")
        assert (one.hyper, one.seed) == (two.hyper, two.seed)
        assert (one.hyper is None) == (sampler in ("tpe", "gp") and i >= 6)


def test_a_learning_sampler_opens_with_at_most_ten_points_and_one_at_least():
    assert [known_beforehand("tpe", k, SPACE) for k in (1, 2, 7, 50)] == [1, 1, 4, 10]
    assert known_beforehand("gp", 7, {}) == 7  # nothing to learn where nothing is tuned
    assert known_beforehand("random", 50, SPACE) == 50


def test_trials_wait_for_what_decides_them_and_for_nothing_else():
    p = plan(sampler="tpe")
    tries = [f"toy/sgd/tune/{i:03d}" for i in range(12)]
    assert waits_for(p, task(p, 5)) == []
    assert waits_for(p, task(p, 7)) == tries[:7]
    assert waits_for(p, next(t for t in p.tasks() if t.phase == "seed")) == tries
    assert waits_for(plan(), task(plan(), 7)) == []
    halving = plan(pruner="halving")
    assert waits_for(halving, task(halving, 7)) == tries[:7]


def scored(p: Plan, lr: float, index: int) -> Record:
    """Quadratic in log lr with its best at 0.01: reaches the target there, and misses by more the further away."""
    hyper = {"lr": lr, "momentum": 0.5, "window": 1 + index % 4, "betas": SPACE["betas"][1 + index % 2]}
    return ran([0.0, 0.9 - 0.1 * math.log10(lr / 0.01) ** 2 - 0.01], hyper)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_learning_sampler_learns_and_gives_the_same_point_every_time(sampler: str):
    if sampler == "gp":
        pytest.importorskip("scipy", reason="Optuna's GP sampler needs SciPy")
    p = plan(sampler=sampler, trials=40)
    lrs = [10 ** (-4 * (i * 0.618 % 1)) for i in range(40)]
    records = keyed([scored(p, lr, i) for i, lr in enumerate(lrs)])
    found = [propose(p, records, task(p, i)) for i in range(28, 40, 2)]
    assert found == [propose(p, records, task(p, i)) for i in range(28, 40, 2)]
    assert len({point["lr"] for point in found}) > 1
    distance = [abs(math.log10(point["lr"] / 0.01)) for point in found]
    assert median(distance) < 0.5  # 1 for points that are spread evenly over four decades
    for point in found:
        assert point.keys() == SPACE.keys()
        assert point["betas"] in SPACE["betas"][1:]
        assert isinstance(point["window"], int)
        assert float(f"{point['lr']:.3g}") == point["lr"]
    two = {key.replace("sgd", "sgd (2)"): r for key, r in records.items()}
    assert propose(p, two, task(p, 30, "sgd (2)")) == propose(p, records, task(p, 30))
    assert propose(replace(p, seed=1), records, task(p, 30)) != propose(p, records, task(p, 30))


def test_misses_breaks_and_cuts_are_told_as_their_scores(monkeypatch: pytest.MonkeyPatch):
    p = plan(sampler="tpe", trials=8)
    point = {"lr": 0.1, "momentum": 0.5, "window": 1, "betas": (0.9, 0.99)}
    records = [
        ran([0.1, 0.9], point),
        ran([0.1, 0.45], point),
        ran([0.1, 0.2], point, cause="step 7: it broke"),
        ran([0.0, 0.0], point, cut=5),
        _never_ran(point, 0, p.workloads[0], "it was given up"),
    ]
    told: list[optuna.trial.FrozenTrial] = []
    monkeypatch.setattr(optuna.study.Study, "add_trial", lambda self, trial: told.append(trial))
    propose(p, keyed(records), task(p, 5))
    assert [t.value for t in told] == [5.0, STEPS * (1 + 0.5 / 1.5), 2.0 * STEPS, STEPS * 1.5, 2.0 * STEPS]
    assert [t.value for t in told] == [score(r, target=0.9, goal="max") for r in records]


def test_the_gp_sampler_without_scipy_is_refused(
    toy: Workload, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    found = tuning_module.importlib.util.find_spec
    monkeypatch.setattr(
        tuning_module.importlib.util, "find_spec", lambda name: None if name == "scipy" else found(name)
    )
    with pytest.raises(RaceError, match=r"sampler 'gp' needs SciPy; install it with `pip install 'downslope\[gp\]'`"):
        race(toy, folder=tmp_path / "race", sampler="gp", **small)
    assert not (tmp_path / "race").exists()


# ------------------------------------------------------------------------------ pruners


def curves(count: int, seed: int) -> list[list[float]]:
    """Rising metrics that stay below the target, one per evaluation."""
    draw = random.Random(seed)
    shapes = [(draw.uniform(0.1, 0.8), draw.uniform(2, 9)) for _ in range(count)]
    return [[height * (1 - math.exp(-i / slow)) for i in range(STEPS // EVERY + 1)] for height, slow in shapes]


def cut_at(p: Plan, records: list[Record], whole: list[float]) -> int | None:
    """Where the next trial would be cut if it went on like `whole`."""
    demands = bars(p, keyed(records), task(p, len(records)))
    return next((s for s, bar in sorted(demands.items()) if max(whole[: s // EVERY + 1]) < bar), None)


def play(p: Plan, series: list[list[float]]) -> list[Record]:
    """Tune with these curves one after the other."""
    records: list[Record] = []
    for whole in series:
        cut = cut_at(p, records, whole)
        records.append(ran(whole if cut is None else whole[: cut // EVERY + 1], cut=cut))
    return records


@pytest.mark.parametrize("seed", range(3))
def test_the_median_demanded_is_optunas_where_no_trial_was_cut(seed: int):
    p = plan(pruner="median")
    *before, last = curves(9, seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=STEPS // 9)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for whole in before:
        values = {i * EVERY: m for i, m in enumerate(whole)}
        study.add_trial(optuna.trial.create_trial(value=max(whole), intermediate_values=values))
    trial, expected = study.ask(), None
    for i, metric in enumerate(last[:-1]):
        trial.report(metric, i * EVERY)
        if trial.should_prune() and expected is None:
            expected = i * EVERY
    assert cut_at(p, [ran(whole) for whole in before], last) == expected


@pytest.mark.parametrize("seed", range(3))
def test_halving_decides_as_optuna_does_when_its_trials_run_one_after_the_other(seed: int):
    p = plan(pruner="halving", trials=40)
    series = curves(40, seed)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=3)  # rungs at 10 and 30 steps
    study = optuna.create_study(direction="maximize", pruner=pruner)
    expected: list[int | None] = []
    for whole in series:
        trial, cut = study.ask(), None
        for step in (10, 30):
            trial.report(whole[step // EVERY], step)
            if trial.should_prune():
                cut = step
                break
        study.tell(trial, whole[-1] if cut is None else None, optuna.trial.TrialState.PRUNED if cut else None)
        expected.append(cut)
    assert [r.cut for r in play(p, series)] == expected
    assert 20 < sum(cut is not None for cut in expected) < 40


def test_hyperband_deals_trials_to_brackets_and_compares_within_one():
    p = plan(pruner="hyperband", trials=34)
    series = curves(34, 1)
    records = play(p, series)
    groups = {
        i: tuple(sorted(bars(p, keyed([ran([9.0] * 19)] * i), task(p, i)))) for i in range(3, 20)
    }  # rungs show once a bracket has a trial
    assert sorted(list(groups.values()).count(rungs) for rungs in ((10, 30), (30,), ())) == [3, 5, 9]
    assert list(groups.values()).count((10, 30)) == 9
    for i in range(17, 34):
        same = [j for j in range(i) if groups[3 + (j - 3) % 17] == groups[3 + (i - 3) % 17]]
        assert waits_for(p, task(p, i)) == [f"toy/sgd/tune/{j:03d}" for j in same]
        expected = None
        for step in groups[3 + (i - 3) % 17]:
            rivals = [max(series[j][: step // EVERY + 1]) for j in same if (records[j].cut or STEPS) >= step]
            mine = max(series[i][: step // EVERY + 1])
            if sum(r > mine for r in rivals) >= max(1, (len(rivals) + 1) // 3):
                expected = step
                break
        assert records[i].cut == expected


def test_at_equal_step_the_arrived_lead_and_the_broken_come_last():
    p = plan(pruner="halving")
    arrived = ran([0.0, 0.9])
    broken = ran([0.0, 0.8], cause="step 8: it broke", steps=8)
    assert bars(p, keyed([arrived]), task(p, 1)) == {10: 0.9, 30: 0.9}  # nothing on its way can be better
    assert bars(p, keyed([broken]), task(p, 1)) == {}
    assert bars(p, keyed([broken] * 3 + [ran([0.0, 0.5, 0.2, 0.3] * 5)] * 2), task(p, 5)) == {10: 0.5, 30: 0.5}
    median_of = plan(pruner="median")
    four = [broken, broken, ran([0.0, 0.4, 0.2] * 6), arrived]
    assert bars(median_of, keyed([broken, broken, broken, arrived]), task(median_of, 4)) == {}
    assert bars(median_of, keyed([*four, arrived]), task(median_of, 5))[85] == 0.4
    assert min(bars(median_of, keyed([arrived] * 4), task(median_of, 4))) == 10
    assert bars(median_of, keyed([arrived] * 3), task(median_of, 3)) == {}


def test_bars_of_a_metric_that_falls_are_upper_ones():
    p = plan(pruner="halving")
    p = replace(p, workloads=(replace(p.workloads[0], goal="min", target=0.01),))
    assert bars(p, keyed([ran([0.8, 0.7, 0.6, 0.65] * 5)]), task(p, 1)) == {10: 0.6, 30: 0.6}


@pytest.mark.parametrize(
    ("pruner", "trials", "every"),
    [("median", 4, EVERY), ("halving", 1, EVERY), ("hyperband", 2, EVERY), ("halving", 9, STEPS)],
)
def test_a_pruner_that_could_never_cut_is_refused(pruner: str, trials: int, every: int):
    p = plan(pruner=pruner, trials=trials)
    p = replace(p, workloads=(replace(p.workloads[0], evaluate_every=every),))
    with pytest.raises(RaceError, match=f"pruner '{pruner}' can cut none of {trials} trials on workload 'toy'"):
        refuse_idle_pruner(p)
    refuse_idle_pruner(plan(pruner=pruner, trials=5))
    refuse_idle_pruner(replace(p, pruner="none"))
    base, rough = plan().workloads[0], replace(p.workloads[0], name="rough", variant_of="toy", evaluate_every=STEPS)
    refuse_idle_pruner(plan(pruner=pruner, trials=5, workloads=(base, rough)))  # a variant is not tuned itself


def test_ranges_given_as_lists_are_those_that_records_have():
    p = plan(methods=[Recipe("sgd", space={"betas": ("choice", [0.9, 0.99], [0.9, 0.999])})], sampler="tpe", trials=4)
    records = [ran([0.1, 0.2 + i / 10], json.loads(json.dumps(task(p, i).hyper))) for i in range(2)]
    read = [Record.from_json(r.to_json()) for r in records]
    assert propose(p, keyed(read), task(p, 2))["betas"] in ((0.9, 0.99), (0.9, 0.999))


def store_trials(store: Store) -> None:
    while claim := store.claim(lambda key, done: key in store.tasks):
        store.finish(claim, ran([0.1, 0.2], store.tasks[claim.task].hyper))
    assert len(store.records()) == len(store.tasks) == 8


def test_what_optuna_refuses_is_told_once_and_the_race_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optuna.study.Study, "add_trial", Mock(side_effect=ValueError("not so\nat all")))
    refused = r"Optuna's tables get no further trials \(ValueError: not so\); the verdict does not read them"
    with Store(tmp_path, plan(trials=2)) as store, pytest.warns(UserWarning, match=refused) as told:
        store_trials(store)
    assert len(told) == 1


def test_the_tables_of_another_version_of_optuna_are_left_alone(tmp_path: Path):
    Store(tmp_path, plan(trials=2)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "race.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.warns(UserWarning, match=r"RuntimeError: The runtime optuna version .*, and the race goes on"):
        store = Store(tmp_path, plan(trials=2))
    with store:
        store_trials(store)


def test_a_trial_below_its_bar_is_cut_there(toy: Workload):
    def run(**changes: Any) -> Record:
        make: Any = lambda model, **hyper: _registry.make("sgd", model, **hyper)  # noqa: E731
        settings: dict[str, Any] = {"seed": 1, "steps": 30, "target": 0.99, "goal": "max"}
        return run_trial(toy, make, {"lr": 0.01}, **settings | changes)

    whole = run()
    at_nine = max(point.metric for point in whole.curve if point.step <= 9)
    assert (whole.cut, whole.steps) == (None, 30)
    assert run(bars={9: at_nine}).cut is None
    cut = run(bars={9: at_nine + 1e-9, 3: 0.0})
    assert (cut.cut, cut.steps, cut.cause, cut.steps_to_target) == (9, 9, None, None)
    assert [p.metric for p in cut.curve] == [p.metric for p in whole.curve[:4]]
    assert run(bars={9: 2.0}, target=at_nine).cut is None  # it is at the target by then
    assert Record.from_json(json.loads(json.dumps(cut.to_json()))) == cut


def test_people_are_told_that_a_trial_was_cut():
    p = plan()
    assert _line(task(p, 3), ran([0.1, 0.2], cut=5)) == "toy sgd tuning trial 4: cut at step 5, best 0.2 (0.0 s)"


def test_what_tuning_cost_is_counted():
    records = [ran([0.1] * 19), ran([0.1, 0.2, 0.9]), ran([0.1, 0.1, 0.1], cut=10), ran([0.1] * 7, cut=30)]
    assert cost(records) == {"trials": 4, "steps": 90 + 10 + 10 + 30, "cut": 2, "saved": 80 + 60}


# ------------------------------------------------------------------------------ races


ADAPTIVE: dict[str, Any] = {"methods": ["adamw", "adamw"], "trials": 8, "seeds": 1, "quiet": True}


def trials(folder: Path) -> dict[str, Any]:
    """What each trial did, apart from the clock."""
    found = {}
    for path in folder.glob("trials/*/*/*/*.json"):
        record = json.loads(path.read_text())["record"]
        curve = [(point["step"], point["metric"]) for point in record["curve"]]
        found[str(path.relative_to(folder))] = (record["hyper"], record["seed"], record["cut"], record["cause"], curve)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A race with a sampler that learns and a pruner, of a method against itself, in one go; not to be changed."""
    folder = tmp_path_factory.mktemp("tuned") / "race"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})
        race(str(TOY), folder=folder, sampler="tpe", pruner="halving", **ADAPTIVE)
    return folder


def test_a_method_against_itself_is_tuned_alike_and_cut_alike(whole: Path):
    found = trials(whole)
    for i in range(8):
        assert found[f"trials/toy/adamw/tune/{i:03d}.json"] == found[f"trials/toy/adamw (2)/tune/{i:03d}.json"]
    content = json.loads((whole / "results.json").read_text())
    one, two = content["workloads"][0]["standings"]
    assert one["tuned"] == two["tuned"]
    assert one["tuning_cost"] == two["tuning_cost"]
    assert one["tuning_cost"]["cut"] == sum(
        found[f"trials/toy/adamw/tune/{i:03d}.json"][2] is not None for i in range(8)
    )
    assert 0 < one["tuning_cost"]["cut"] < 8
    assert all(t[2] is None for key, t in found.items() if "/seed/" in key)  # judging runs are never cut
    points = [found[f"trials/toy/adamw/tune/{i:03d}.json"][0]["lr"] for i in range(8)]
    assert points[:4] == [p["lr"] for p in candidates(_registry.card("adamw").tuning, 4, 0)]
    assert points[4:] != [p["lr"] for p in candidates(_registry.card("adamw").tuning, 8, 0)][4:]


def test_stopped_resumed_or_shared_it_is_the_same_race(whole: Path, tmp_path: Path):
    folder = tmp_path / "race"
    options = ["--methods", "adamw,adamw", "--trials", "8", "--seeds", "1", "--sampler", "tpe", "--pruner", "halving"]
    command = [sys.executable, "-m", "tests.referee.hasty", "race", str(TOY), *options, "--folder", str(folder)]
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": Path(__file__).parents[2],
    }  # fmt: skip
    one, two = subprocess.Popen(command, **quiet), subprocess.Popen(command, **quiet)
    try:
        deadline = time.monotonic() + 240
        while len(list(folder.glob("trials/*/*/tune/*.json"))) < 7:
            assert one.poll() is None, "the race ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        one.send_signal(signal.SIGKILL)
        assert two.wait(timeout=240) == 0
    finally:
        for process in (one, two):
            process.kill()
            process.wait()
    assert trials(folder) == trials(whole)


def test_best_after_k_is_the_running_best_where_order_means_something():
    p = plan(methods=["sgd"], trials=3, seeds=1)
    records = keyed([ran([0.0] * 9 + [0.9]), ran([0.0] * 3 + [0.9]), ran([0.0] * 5 + [0.9])])
    records["toy/sgd/seed/000"] = ran([0.9])

    def after(**changes: Any) -> list[Any]:
        (found,) = standings(replace(p, **changes), records, p.workloads[0], {}, {})
        assert found.tuning == (45.0, 15.0, 25.0)
        return [estimate.value for estimate in found.best_after]

    assert after(sampler="tpe") == after(pruner="median") == [45.0, 15.0, 15.0]
    assert after() == after(sampler="random") == [25.0, 15.0, 15.0]  # over all orders
    assert in_any_order("quasi-random", "none")
    assert not in_any_order("gp", "none")
    assert not in_any_order("random", "median")


def test_the_spelling_of_before_is_refused(toy: Workload, small: dict[str, Any]):
    with pytest.raises(TypeError, match="protocol"):
        race(toy, protocol="self", **small)
