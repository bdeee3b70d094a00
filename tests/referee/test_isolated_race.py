"""Races whose trials run in processes of their own: limits, several at once, and nothing left behind."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from downslope.referee import RaceError, Recipe, Workload, isolation, race, way, worker
from downslope.referee.plan import derive_seed
from downslope.referee.way import size

HERE = Path(__file__).parent
ABUSER = HERE / "abuser.py"
ROOT = HERE.parents[1]

pytestmark = pytest.mark.skipif(not isolation.supported(), reason="this system cannot hand sockets to a process")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})


@pytest.fixture
def deed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABUSER", str(tmp_path / "deed"))
    return tmp_path / "deed"


def causes(folder: Path) -> dict[str, str | None]:
    trials = json.loads((folder / "results.json").read_text())["workloads"][0]["trials"]
    return {t["task"]: t["cause"] for t in trials}


def test_trials_that_break_are_records_and_the_race_goes_on(deed: Path, tmp_path: Path):
    deed.write_text("say something and die")
    result = race(str(ABUSER), methods=["sgd"], self_tuning=True, seeds=2, folder=tmp_path / "race", quiet=True)
    cause = "step 3: its process ended with exit code 3; the last that it printed: the last words"
    assert causes(result.folder) == {"abuser/sgd/seed/000": cause, "abuser/sgd/seed/001": cause}
    assert (result.folder / "trials/abuser/sgd/seed/001.log").read_text() == "the last words\n"
    assert cause in result.report.read_text()
    trial = result.content["workloads"][0]["trials"][0]
    assert (trial["steps"], trial["best_metric"]) == (2, 0.5)


def test_peak_memory_that_cannot_be_measured_is_missing_for_that_method_alone(
    toy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ask, told = isolation.Household.ask, []

    def refuse(self: isolation.Household, source: str, request: dict[str, Any], *rest: Any, **limits: Any) -> Any:
        if request["do"] == "memory" and request["label"] in ("sgd", "a"):
            raise RaceError("it broke")
        return ask(self, source, request, *rest, **limits)

    def memory(*methods: str) -> Any:
        recipes = [Recipe("sgd", label) for label in methods]
        folder = tmp_path / methods[0]
        race(str(toy_file), methods=recipes, self_tuning=True, seeds=1, folder=folder, quiet=True, events=told.append)
        path = folder / "measured/memory-toy.json"
        return json.loads(path.read_text()) if path.exists() else None

    monkeypatch.setattr(isolation.Household, "ask", refuse)
    found = memory("sgd", "b")
    assert found["sgd"] is None
    assert found["b"] > 0
    assert memory("a") is None
    notes = [e["text"] for e in told if e["event"] == "note"]
    assert "toy: peak memory of 2 methods in fresh processes" in notes
    assert notes.count("no peak memory of sgd: it broke") == 1


def test_the_peak_memory_of_an_object_is_not_announced(toy: Workload, tmp_path: Path, small: dict[str, Any]):
    told: list[dict[str, Any]] = []
    race(toy, folder=tmp_path / "race", events=told.append, **small | {"trials": 1, "seeds": 1})
    notes = [e["text"] for e in told if e["event"] == "note"]
    assert "toy: timing 2 methods in turns" in notes
    assert not [text for text in notes if "memory" in text]


def test_a_trial_that_ends_what_started_it_is_tried_again_once(deed: Path, tmp_path: Path):
    deed.write_text("kill the nursery")
    result = race(str(ABUSER), methods=["sgd"], self_tuning=True, seeds=1, folder=tmp_path / "race", quiet=True)
    assert causes(result.folder) == {"abuser/sgd/seed/000": "step 3: the process that loads the workload ended"}


def test_a_trial_beside_one_that_ends_what_started_both_is_run_as_ever(
    deed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(way, "cores", lambda: 2)
    monkeypatch.setenv("ABUSER_SEED", str(derive_seed(0, "abuser", "sgd", 0)))
    deed.write_text("kill the nursery from one seed")
    options: dict[str, Any] = {"self_tuning": True, "seeds": 1, "jobs": 2, "quiet": True}
    result = race(str(ABUSER), methods=["sgd", "adamw"], folder=tmp_path / "race", **options)
    cause = "step 3: the process that loads the workload ended"
    assert causes(result.folder) == {"abuser/sgd/seed/000": cause, "abuser/adamw/seed/000": None}


def test_limits_reach_the_trials(deed: Path, tmp_path: Path):
    deed.write_text("loop")
    result = race(
        str(ABUSER),
        methods=["sgd"],
        self_tuning=True,
        seeds=1,
        trial_seconds=0.3,
        trial_memory=10**12,
        folder=tmp_path / "race",
        quiet=True,
    )
    assert causes(result.folder) == {"abuser/sgd/seed/000": "step 3: it was ended at its limit of 0.3 s"}


def test_two_jobs_find_what_one_finds_and_measure_when_both_are_done(
    toy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, Any]
):
    monkeypatch.setattr(way, "cores", lambda: 2)
    told: list[dict[str, Any]] = []
    one = race(str(toy_file), folder=tmp_path / "one", **small | {"trials": 1})
    two = race(str(toy_file), folder=tmp_path / "two", jobs=2, loggers=[told.append], **small | {"trials": 1})

    def found(result: Any) -> dict[str, Any]:
        trials = result.content["workloads"][0]["trials"]
        return {t["task"]: [t["hyper"], t["steps"], [(p["loss"], p["metric"]) for p in t["curve"]]] for t in trials}

    assert found(one) == found(two)
    names = [e["event"] for e in told if e["event"] != "trial_progress"]
    change = {"trial_started": 1, "trial_finished": -1}
    assert max(itertools.accumulate(change.get(name, 0) for name in names)) == 2
    timing = next(i for i, e in enumerate(told) if e["event"] == "note" and "timing" in e["text"])
    last = max(i for i, e in enumerate(told) if e["event"] == "trial_finished")
    assert last < timing


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_behind(deed: Path, tmp_path: Path, number: signal.Signals):
    deed.write_text("breed and hang")
    command = [sys.executable, "-m", "tests.referee.hasty", "race", str(ABUSER), "--methods", "sgd"]
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path / "race")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    _wait_for(deed.with_name("begun").exists, process)
    # The nursery, the trial, its two children and theirs, whose parents may be gone already.
    nursery = _wait_for(lambda: psutil.Process(process.pid).children(), process)[0]
    family = [nursery, *_wait_for(lambda: _all_of(nursery, 3), process)]
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -number)
    _, left = psutil.wait_procs(family, timeout=30)
    assert left == []


def _all_of(nursery: psutil.Process, least: int) -> list[psutil.Process]:
    found = nursery.children(recursive=True)
    return found if len(found) >= least else []


def _wait_for(condition: Callable[[], Any], process: subprocess.Popen[Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert process.poll() is None, "the race ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"jobs": 0}, r"race: jobs must be a whole number from 1 to the number of cores \(2\); got 0\."),
        ({"jobs": 3}, r"race: jobs must be a whole number from 1 to the number of cores \(2\); got 3\."),
        ({"jobs": True}, "race: jobs must be a whole number"),
        ({"trial_seconds": 0}, "race: trial_seconds must be a finite number > 0, or None; got 0"),
        ({"trial_memory": 1.5}, "race: trial_memory must be a whole number of bytes > 0, or None; got 1.5"),
        ({"jobs": 2}, r"race: jobs takes workloads given by name or file, .* workload 'toy', given as an object"),
        ({"trial_seconds": 9.0}, "race: trial_seconds takes workloads given by name or file"),
        ({"trial_memory": 9, "catalogue": object()}, "another catalogue than the package's own runs in the caller's"),
    ],
)
def test_bad_requests_are_refused(
    toy: Workload,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: dict[str, Any],
    changes: dict[str, Any],
    sentence: str,
):
    monkeypatch.setattr(way, "cores", lambda: 2)
    if "catalogue" in changes:
        from downslope import _registry

        changes = {**changes, "catalogue": _registry}
    with pytest.raises(RaceError, match=sentence) as error:
        race(toy, folder=tmp_path / "race", **small | changes)
    assert error.value.bad_input


def test_a_race_of_more_threads_is_not_crowded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(way, "cores", lambda: 4)
    way.refuse_crowding(2, 2)
    with pytest.raises(RaceError, match="jobs must be at most 1 here: this race was begun with 3 threads a trial"):
        way.refuse_crowding(2, 3)


def test_jobs_that_fill_the_machine_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(way.os, "sched_getaffinity", lambda pid: {3, 5, 7, 8}, raising=False)
    assert [way.own_cores(slot, 2, 2) for slot in range(2)] == [[3, 5], [7, 8]]
    assert way.own_cores(0, 3, 1) == []  # another race may be here: the system knows best
    assert way.own_cores(0, 1, 4) == []


@pytest.mark.parametrize(
    ("text", "bytes_"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("2GiB", 2**31), ("1.5GB", 15 * 10**8), ("7", 7)]
)
def test_sizes(text: str, bytes_: int):
    assert size(text) == bytes_


@pytest.mark.parametrize("text", ["", "4 apples", "-1GB", "GB", "4B4"])
def test_what_is_no_size(text: str):
    with pytest.raises(RaceError, match="race: trial_memory must be a size such as 4GB or 500MB; got"):
        size(text)
