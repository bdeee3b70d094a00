"""Races from start to end: the result, what resuming and helping do to it, and what users can do wrong."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from downslope import SGD, LinearDecay, make
from downslope._registry import card
from downslope.referee import RaceError, Recipe, Result, Workload, race, worker
from downslope.referee.isolation import Household
from downslope.referee.trial import run_trial

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-m", "downslope.cli", "race"]
HASTY = [sys.executable, "-m", "tests.referee.hasty", "race"]
ROOT = HERE.parents[1]  # where both are found, installed or not
OPTIONS = ["--methods", "adamw,sgd", "--trials", "2", "--seeds", "3"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure time in no time; the race `finished` is a command of its own and measures in earnest."""
    monkeypatch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})


def outcome(folder: Path) -> dict[str, Any]:
    """All of a race's trials as far as they do not depend on the clock."""
    content = json.loads((folder / "results.json").read_text())
    trials = {}
    for w in content["workloads"]:
        for t in w["trials"]:
            curve = [(p["step"], p["loss"], p["metric"]) for p in t["curve"]]
            trials[t["task"]] = (t["hyper"], t["seed"], t["steps_to_target"], t["cause"], curve)
    return trials


def claims(folder: Path) -> dict[str, int]:
    rows = sqlite3.connect(folder / "race.db").execute("SELECT task, claims FROM downslope_tasks")
    return dict(rows.fetchall())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy: Workload) -> Path:
    """A whole race of the command in one process; not to be changed."""
    folder = tmp_path_factory.mktemp("races") / "whole"
    path = HERE / "toy_workload.py"
    done = subprocess.run(
        [*COMMAND, str(path), *OPTIONS, "--folder", str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"Report: {folder / 'report.html'}")
    assert "about" in done.stderr  # one line per trial, with the time left, where there is no terminal
    assert done.stderr.count("\n") < 25
    return folder


def test_a_race_names_its_winner_and_writes_its_report(finished: Path):
    content = json.loads((finished / "results.json").read_text())
    assert content["winner"] in ("adamw", "sgd")
    assert content["winner"] in content["verdict"]
    assert "no evidence possible at this number of seeds" in content["verdict"]
    assert {p.name for p in finished.iterdir()} >= {
        "report.html",
        "results.json",
        "results.csv",
        "curves.svg",
        "race.db",
    }
    (w,) = content["workloads"]
    for s in w["standings"]:
        assert s["hits"] == sum(a is not None for a in s["arrivals"])
        assert s["tuned"].keys() == card(s["method"]).tuning.keys()
        assert s["seconds"]["low"] <= s["seconds"]["value"] <= s["seconds"]["high"]
        assert s["memory"] is not None
        assert s["state_bytes"] > 0 or s["method"] == "sgd"
        assert f"{s['tuned']['lr']!r}" in s["use"]
    assert content["machine"]["threads"] == content["plan"]["threads"]
    first = w["standings"][0]["label"]
    assert content["profile"]["score"][first] == (1 if w["standings"][0]["time"]["value"] else 0)
    assert content["profile"]["speedup"]["adamw"] in (1, None)


def test_each_trial_ran_once_and_the_winner_of_tuning_was_used(finished: Path):
    assert set(claims(finished).values()) == {1}
    content = json.loads((finished / "results.json").read_text())
    by_task = {t["task"]: t for t in content["workloads"][0]["trials"]}
    for method in ("adamw", "sgd"):
        tries = [by_task[f"toy/{method}/tune/{i:03d}"] for i in range(2)]
        best = min(tries, key=lambda t: (t["steps_to_target"] or math.inf, -t["best_metric"]))
        assert all(by_task[f"toy/{method}/seed/{i:03d}"]["hyper"] == best["hyper"] for i in range(3))


def test_the_same_command_again_runs_nothing(finished: Path, toy_file: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "copy")
    before = claims(tmp_path / "copy")
    result = race(str(toy_file), methods=["adamw", "sgd"], trials=2, seeds=3, folder=tmp_path / "copy", quiet=True)
    assert isinstance(result, Result)
    assert claims(tmp_path / "copy") == before
    assert result.content == json.loads((finished / "results.json").read_text())


def test_a_race_killed_and_resumed_ends_as_if_nothing_had_happened(finished: Path, toy_file: Path, tmp_path: Path):
    folder = tmp_path / "race"
    process = subprocess.Popen(
        [*HASTY, str(toy_file), *OPTIONS, "--folder", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    _wait_for(lambda: len(list(folder.glob("trials/*/*/*/*.json"))) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = outcome_files(folder)
    assert 3 <= len(stored) < 10
    race(str(toy_file), methods=["adamw", "sgd"], trials=2, seeds=3, folder=folder, quiet=True)
    assert outcome(folder) == outcome(finished)
    assert stored.items() <= outcome_files(folder).items()  # nothing that was stored was run or written again
    counts = claims(folder)
    assert sorted(counts.values())[:-1] == [1] * (len(counts) - 1)  # at most the running trial was run twice
    assert max(counts.values()) <= 2


def outcome_files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.glob("trials/*/*/*/*.json")}


def test_two_processes_share_a_race(finished: Path, toy_file: Path, tmp_path: Path):
    folder = tmp_path / "race"
    command = [*HASTY, str(toy_file), *OPTIONS, "--folder", str(folder)]
    pair = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    said = [p.communicate(timeout=120) for p in pair]
    assert [p.returncode for p in pair] == [0, 0], said
    assert said[0][0] == said[1][0]  # both end with the same verdict and the same report
    assert set(claims(folder).values()) == {1}
    assert outcome(folder) == outcome(finished)


def test_ctrl_c_gives_the_running_trial_back(toy_file: Path, tmp_path: Path):
    folder = tmp_path / "race"
    process = subprocess.Popen(
        [*HASTY, str(toy_file), *OPTIONS, "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    _wait_for(lambda: len(list(folder.glob("trials/*/*/*/*.json"))) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().endswith("downslope: stopped; finished trials are stored, and the same command goes on.")
    assert "Traceback" not in error
    assert set(claims(folder).values()) <= {0, 1}
    running = sqlite3.connect(folder / "race.db").execute("SELECT 1 FROM downslope_tasks WHERE state = 'running'")
    assert running.fetchall() == []


def _wait_for(condition: Any, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the race ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_trial_that_kills_its_process_again_and_again_is_given_up(
    toy: Workload, tmp_path: Path, small: dict[str, Any]
):
    from downslope.referee.store import DEATHS

    folder = tmp_path / "race"
    race(toy, folder=folder, **small | {"seeds": 1, "trials": 1})
    key = "toy/sgd/seed/000"
    connection = sqlite3.connect(folder / "race.db")
    connection.execute(
        "UPDATE downslope_tasks SET state = 'running', owner = 'dead', claims = ? WHERE task = ?", (DEATHS, key)
    )
    connection.execute("UPDATE downslope_tasks SET state = 'waiting' WHERE task = 'report'")
    connection.commit()
    connection.close()
    (folder / "trials" / f"{key}.json").unlink()
    result = race(toy, folder=folder, **small | {"seeds": 1, "trials": 1})
    failures = {s["label"]: s["failures"] for s in result.content["workloads"][0]["standings"]}
    assert failures == {"adamw": [], "sgd": ["seed 1: it was given up: its process died 5 times while running it"]}


def test_a_method_that_diverges_loses_and_the_race_goes_on(toy: Workload, tmp_path: Path):
    wild = Recipe("sgd", "wild", space={"lr": ("uniform", 1e37, 1e38)})
    result = race(toy, methods=["adamw", wild], trials=2, seeds=2, folder=tmp_path / "race", quiet=True)
    first, last = result.content["workloads"][0]["standings"]
    assert (first["label"], last["label"]) == ("adamw", "wild")
    assert last["tuned"] is None
    assert last["hits"] == 0
    assert [f.split(":")[0] for f in last["failures"]] == ["tuning trial 1", "tuning trial 2", "seed 1", "seed 2"]
    assert "the loss became" in last["failures"][0]
    assert last["failures"][3] == "seed 2: it was not run: every tuning trial broke"
    page = result.report.read_text()
    assert "Trials that broke" in page
    assert "every tuning trial broke" in page


def test_self_tuning_takes_the_defaults_of_the_cards(toy: Workload, tmp_path: Path):
    slow = replace(toy, target=0.5)
    result = race(slow, methods=["adamw", "sgd"], seeds=2, self_tuning=True, folder=tmp_path / "race", quiet=True)
    tasks = {t["task"]: t for t in result.content["workloads"][0]["trials"]}
    assert len(tasks) == 4
    assert all(t["hyper"] == {} for t in tasks.values())


def test_several_workloads_one_winner(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    second = replace(toy, name="toy-2", target=0.7)
    result = race([toy, second], folder=tmp_path / "race", **small | {"seeds": 2, "trials": 1})
    assert result.sentence.startswith("Over toy and toy-2, ")
    assert result.winner in result.sentence
    assert str(result).count("\n") == 3
    assert len(result.content["order"]) == 2


def test_a_race_leaves_threads_and_random_numbers_alone(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    race(toy, folder=tmp_path / "race", **small | {"seeds": 1, "trials": 1})
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_what_a_trial_sets_for_torch_is_gone_with_it(toy: Workload):
    def settings() -> list[Any]:
        strict, grads = torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
        return [torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), strict, grads]

    def meddling() -> torch.nn.Module:
        model = toy.model()
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
        return model

    before = settings()
    record = run_trial(replace(toy, model=meddling), SGD, {"lr": 0.1}, seed=0, steps=2, target=1.0, goal="max")
    assert record.cause is not None  # it has done all that, and could not train
    assert settings() == before


def test_another_catalogue_may_be_raced(toy: Workload, tmp_path: Path):
    class Torch:
        """torch.optim under the referee, without any of this package's methods."""

        @staticmethod
        def card(key: str) -> Any:
            return replace(card("sgd"), key=key, tuning={"lr": ("log", 0.05, 0.5)})

        @staticmethod
        def make(key: str, model: torch.nn.Module, **hyper: Any) -> torch.optim.Optimizer:
            return getattr(torch.optim, key)(model.parameters(), **hyper)

    result = race(
        toy, methods=["Adam", "Adagrad"], trials=2, seeds=2, folder=tmp_path / "r", quiet=True, catalogue=Torch()
    )
    assert {s["method"] for s in result.content["workloads"][0]["standings"]} == {"Adam", "Adagrad"}


def test_budget_and_target_change_the_plan(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    result = race(toy, folder=tmp_path / "race", budget=0.1, target=0.99, **small | {"seeds": 1, "trials": 1})
    assert result.winner is None
    assert result.sentence.startswith("No method reached accuracy ≥ 0.99 on toy within 12 steps; ")
    with pytest.raises(RaceError, match=r"holds a different race: target of 'toy' \(0\.99 there and 0\.8 here\)"):
        race(toy, folder=tmp_path / "race", budget=0.1, **small | {"seeds": 1, "trials": 1})


def test_targets_of_several_workloads_are_given_by_name(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    others = [replace(toy, name="b"), replace(toy, name="toy@wide", variant_of="toy")]
    few = small | {"seeds": 1, "trials": 1}
    result = race([toy, *others], folder=tmp_path / "race", target={"toy": 0.7}, **few)
    found = {w["name"]: (w["workload"]["target"], w["workload"]["target_origin"]) for w in result.content["workloads"]}
    given = (0.7, "given for this race")
    assert found == {"toy": given, "b": (toy.target, toy.target_origin), "toy@wide": given}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trials": 0}, r"race: trials must be a whole number >= 1; got 0\."),
        ({"seeds": 2.5}, r"race: seeds must be a whole number >= 1; got 2\.5\."),
        ({"budget": math.nan}, r"race: budget must be a finite number > 0 .*; got nan\."),
        ({"budget": -1}, r"race: budget must be a finite number > 0"),
        ({"self_tuning": "yes"}, "race: self_tuning must be True or False; got 'yes'"),
        ({"sampler": "sobol"}, "race: sampler must be one of 'quasi-random', 'random', 'tpe', 'gp'; got 'sobol'"),
        ({"pruner": "asha"}, "race: pruner must be one of 'none', 'median', 'halving', 'hyperband'; got 'asha'"),
        ({"self_tuning": True, "pruner": "median"}, "race: pruner 'median' is for tuning; leave it out with self_tun"),
        ({"target": math.inf}, r"race: target must be a finite number; got inf for toy\."),
        ({"target": {"toy": "high"}}, r"race: target must be a finite number; got 'high' for toy\."),
        ({"target": {"tyo": 0.5}}, r"race: target names 'tyo', which is not raced; the workloads are toy\."),
        ({"methods": []}, "race: methods must name at least one method"),
        ({"methods": "adamw"}, r"race: methods must be a list of keys of methods, or of Recipes; write \['adamw'\]"),
        ({"methods": None}, "race: methods must be a list of keys of methods, or of Recipes; got None"),
        ({"methods": [torch.optim.Adam]}, "race: methods must hold keys of methods, such as 'adamw', or Recipes"),
        ({"methods": [Recipe("adamw", label=5)]}, "race: methods must hold keys of methods"),  # type: ignore[arg-type]
        ({"methods": [Recipe("adamw", fixed={"lr": LinearDecay(0.1, total=9)})]}, "keeps its hyperparameters as JSON"),
        ({"methods": [Recipe("adamw", space={"lr": 0.1})]}, r"space of lr must be .*; got \(0\.1,\)"),  # type: ignore[dict-item]
        ({"seed": 10**20}, "race: seed must be a whole number below 2"),
        (
            {"methods": ["sophia"]},
            "method 'sophia' needs the curvature of labels drawn .* workload 'toy' does not supply",
        ),
        ({"methods": [Recipe("adamw", fixed={"lrr": 1})]}, "adamw cannot train workload 'toy': .*did you mean 'lr'"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_stored(
    toy: Workload, tmp_path: Path, small: dict[str, Any], changes: dict[str, Any], sentence: str
):
    with pytest.raises(RaceError, match=sentence) as error:
        race(toy, folder=tmp_path / "race", **small | changes)
    assert error.value.bad_input
    assert not (tmp_path / "race").exists()


def test_bad_workloads_are_refused_with_the_place(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    def lines(**changes: Any) -> str:
        with pytest.raises(RaceError) as error:
            race(replace(toy, **changes), folder=tmp_path / "race", **small)
        return str(error.value)

    def explode(*_: Any) -> Any:
        raise IndexError("no column 7")

    assert lines(loss=explode).endswith(": no column 7")
    assert "its loss raised IndexError at " in lines(loss=explode)
    assert "test_race.py, line " in lines(loss=explode)
    assert "its model raised IndexError" in lines(model=explode)
    assert "its metric raised IndexError" in lines(metric=explode)
    assert "loss(model, batch) must return a scalar tensor" in lines(loss=lambda m, b: m(b[0]))
    assert "model() must return a torch.nn.Module; got int '3'" in lines(model=lambda: 3)
    assert "metric(model, batches) must return a number" in lines(metric=lambda m, b: "high")
    assert "metric(model, batches) must return a number; got '0.9'" in lines(metric=lambda m, b: "0.9")
    assert "the untrained model is already at the target (accuracy 0.9, target 0.8)" in lines(metric=lambda m, b: 0.9)
    assert not (tmp_path / "race").exists()
    with pytest.raises(RaceError, match="is named twice"):
        race([toy, toy], folder=tmp_path / "race", **small)
    with pytest.raises(RaceError, match=r"with 2 workloads a target needs the name of its own, such as toy=0\.5"):
        race([toy, replace(toy, name="b")], folder=tmp_path / "race", target=0.5, **small)
    with pytest.raises(RaceError, match="name at least one workload"):
        race([], folder=tmp_path / "race", **small)


def test_the_file_of_a_workload_may_move_but_not_change(finished: Path, toy_file: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "race")
    moved = tmp_path / "elsewhere.py"
    moved.write_text(toy_file.read_text())
    settings: dict[str, Any] = {"methods": ["adamw", "sgd"], "trials": 2, "seeds": 3, "quiet": True}
    race(str(moved), folder=tmp_path / "race", **settings)
    moved.write_text(toy_file.read_text() + "\n# another day, another file\n")
    with pytest.raises(RaceError, match="the file of 'toy' has changed since"):
        race(str(moved), folder=tmp_path / "race", **settings)


def test_the_default_folder_is_the_same_for_the_same_race(
    toy: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
):
    monkeypatch.chdir(tmp_path)
    quick = small | {"seeds": 1, "trials": 1, "methods": ["sgd"]}
    first, again = race(toy, **quick), race(toy, **quick)
    other = race(toy, seed=1, **quick)
    assert first.folder == again.folder != other.folder
    assert first.folder.parent == Path("races")
    assert first.folder.name.startswith("toy-")


def test_peak_memory_tells_state_from_no_state(tmp_path: Path):
    path = tmp_path / "wide.py"
    path.write_text(
        "import os\n"
        "import torch\n"
        "from torch import nn\n"
        "from downslope.referee import Workload\n"
        "DATA = torch.ones(500_000).exp()\n"  # computed while it is loaded
        "pieces = [torch.ones(n * 100_000) for n in range(1, 20)]\n"
        "del pieces[::2]\n"  # the heap has gaps
        "def loss(model, batch):\n"
        "    os.write(1, b'\\xff')\n"
        "    return model(batch).square().mean() + 0 * DATA.sum()\n"
        "def workload():\n"
        "    return Workload(name='wide', model=lambda: nn.Linear(1000, 1000), train=[torch.ones(1, 1000)],\n"
        "        validation=[0], loss=loss, metric=lambda m, b: 0.0, metric_name='none',\n"
        "        goal='max', target=1.0, steps=1, evaluate_every=1)\n"
    )
    with Household() as household:

        def measured(method: str, **hyper: float) -> int:
            request = {"do": "memory", "method": method, "hyper": hyper}
            found: int = household.ask(str(path), request, "measured", threads=2)["bytes"]
            return found

        weights = 1000 * 1000 * 4
        assert (
            1.9 * weights <= measured("sgd") <= 3.5 * weights
        )  # weights, gradients, and what backward holds meanwhile
        assert 3.8 * weights <= measured("adamw") <= 5.5 * weights  # and two tensors of state
        with pytest.raises(RaceError, match="lr"):
            measured("adamw", lr=-1.0)


def test_where_the_model_is_on_a_gpu_its_memory_counts(toy: Workload, monkeypatch: pytest.MonkeyPatch):
    from downslope.referee import memory

    held = iter([1000, 5000])
    gpu = SimpleNamespace(
        memory_allocated=lambda place: next(held),
        reset_peak_memory_stats=lambda place: None,
        max_memory_allocated=lambda place: next(held),
    )
    train = memory._train
    monkeypatch.setattr(memory, "_train", lambda *given: (train(*given), torch.device("cuda", 0))[1])
    monkeypatch.setattr(torch, "get_device_module", {torch.device("cuda", 0): gpu}.__getitem__)
    assert memory.peak_memory(toy, SGD) == 4000


def test_timing_takes_turns(toy: Workload):
    from downslope.referee.timing import TURN, Runner, measure_seconds, ratio_interval, seconds_per_step

    order: list[str] = []

    def maker(label: str) -> Any:
        def build(model: torch.nn.Module) -> Any:
            opt = make("sgd", model, lr=0.01)
            opt.register_step_post_hook(lambda *_: order.append(label))
            return opt

        return build

    def broken(model: torch.nn.Module) -> Any:
        raise ValueError("it cannot")

    runners = [Runner("a", maker("a")), Runner("b", maker("b")), Runner("c", broken)]
    found = measure_seconds(toy, runners, seconds=0.0, least_turns=4)
    assert found["broken"] == {"c": "ValueError: it cannot"}
    assert order[-4 * 2 * TURN :] == (["a"] * TURN + ["b"] * TURN + ["b"] * TURN + ["a"] * TURN) * 2
    assert {label: len(turns) for label, turns in found["turns"].items()} == {"a": 4, "b": 4}
    assert all(0 < alone < whole for alone, whole in zip(found["step_alone"]["a"], found["turns"]["a"], strict=True))
    assert set(found["build"]) == set(found["first_step"]) == {"a", "b"}
    assert found["build"]["a"] == found["build"]["b"]  # the same kernels, whoever had them built, and when
    assert found["others"] >= 0
    estimate = seconds_per_step([0.1, 0.2, 0.3, 0.2, 0.2])
    assert estimate.value == 0.2
    low, high = ratio_interval({"a": [0.2] * 9, "b": [0.1] * 9}, "a", "b", pairs=1, floor=0.03)
    assert (low, high) == pytest.approx((2 / 1.03, 2 * 1.03))
    assert len(measure_seconds(toy, runners[:2], seconds=0.0)["turns"]["a"]) == 8  # 2 / 2^8 < 1 %


@pytest.mark.parametrize(("pairs", "turns"), [(1, 8), (1, 40), (45, 14)])
def test_intervals_of_seconds_per_step_hold_for_all_pairs_at_once(pairs: int, turns: int):
    from downslope.referee.timing import TIMING_SHARE, ratio_interval

    rng, missed, races = np.random.default_rng(turns), 0, 600
    for _ in range(races):
        for _ in range(pairs if pairs == 1 else 5):
            noise = rng.lognormal(0.0, 0.3, (2, turns))
            low, high = ratio_interval({"a": list(noise[0]), "b": list(noise[1])}, "a", "b", pairs=pairs, floor=0.0)
            missed += not low <= 1.0 <= high
    share = TIMING_SHARE if pairs == 1 else 5 * TIMING_SHARE / pairs
    assert missed / races <= share + 3 * math.sqrt(share / races)


@pytest.mark.parametrize("workload", [42, torch.nn.Linear(1, 1), None])
def test_what_is_no_workload_is_refused(workload: Any, tmp_path: Path):
    with pytest.raises(RaceError, match="race: a workload must be a Workload, or the name or file of one; got ") as no:
        race(workload, methods=["adamw"], folder=tmp_path / "race")
    assert no.value.bad_input
    assert not (tmp_path / "race").exists()
