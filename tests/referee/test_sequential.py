"""Races that add seeds until the verdict is reached."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from downslope.referee import RaceError, Recipe, Workload, race, worker
from downslope.referee.looking import awaited, look, stand
from downslope.referee.plan import Plan, read_plan
from downslope.referee.sequential import looks
from downslope.referee.store import Store
from downslope.referee.stored import rebuild

ROOT = Path(__file__).parents[2]
GOOD = Recipe("adamw", "adamw", fixed={"lr": 0.05})
NEVER = Recipe("sgd", "never", space={"lr": ("log", 1e-9, 1e-8)})
STAGED: dict[str, Any] = {"trials": 1, "seeds": 5, "until_decided": True, "max_seeds": 8, "quiet": True}


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """Measure time and memory in no time, and find all methods equally dear."""
    with pytest.MonkeyPatch.context() as patch:

        def turns(workload: Workload, runners: Sequence[Any], **settings: float) -> dict[str, Any]:
            return {"turns": {r.label: [0.01] * 9 for r in runners}, "step_alone": {}, "first_step": {}}

        patch.setattr(worker, "measure_seconds", turns)
        yield


def states(folder: Path) -> dict[str, str]:
    rows = sqlite3.connect(folder / "race.db").execute("SELECT task, state FROM downslope_tasks")
    return dict(rows.fetchall())


@pytest.mark.parametrize(("seeds", "most"), [(5, 20), (5, 5), (3, 20), (1, 50), (5, 6), (8, 40)])
def test_looks_grow_and_spend_the_whole_level(seeds: int, most: int):
    found = looks(seeds, most)
    assert found[0].seeds == seeds
    assert found[-1].seeds == most
    assert len(found) <= 4
    assert sum(each.share for each in found) == pytest.approx(1)
    assert all(later.seeds > sooner.seeds for sooner, later in zip(found, found[1:], strict=False))
    assert all(each.share > 0 for each in found)


def test_the_looks_of_the_defaults():
    assert [(each.seeds, each.share) for each in looks(5, 20)] == [(5, 0.25), (8, 0.15), (13, 0.25), (20, 0.35)]


@pytest.fixture(scope="module")
def decided(hasty: None, tmp_path_factory: pytest.TempPathFactory, toy: Workload) -> Path:
    """A race whose verdict is plain after the first look; not to be changed."""
    folder = tmp_path_factory.mktemp("races") / "decided"
    race(toy, methods=[GOOD, NEVER], folder=folder, **STAGED)
    return folder


def test_a_plain_difference_needs_no_more_seeds(decided: Path, toy: Workload):
    content = json.loads((decided / "results.json").read_text())
    assert content["sequential"] == {
        "looks": [5, 8],
        "spent": [0.625, 1.0],
        "stopped": "toy stopped after 5 of at most 8 seeds: decided",
    }
    (w,) = content["workloads"]
    assert [c["word"] for c in w["judgement"]["against_fastest"] if c["measure"] == "time"] == ["worse"]
    assert w["judgement"]["level"] == pytest.approx(0.04 * 0.625)
    assert all(len(s["arrivals"]) == 5 for s in w["standings"])
    assert content["verdict"].endswith("It took 5 of at most 8 seeds; the level is divided among 2 looks.")
    found = states(decided)
    late = {f"toy/{m}/seed/{i:03d}" for m in ("adamw", "never") for i in (5, 6, 7)}
    assert {key for key, state in found.items() if state == "skipped"} == late
    assert {t["task"] for t in w["trials"]}.isdisjoint(late)
    assert found["look/1"] == found["report"] == "done"
    again = race(toy, methods=[GOOD, NEVER], folder=decided, **STAGED)
    assert again.content == content


def test_a_method_against_itself_goes_on_to_the_last_seed(toy: Workload, tmp_path: Path):
    result = race(toy, methods=[GOOD, GOOD], folder=tmp_path / "race", **STAGED)
    assert result.content["sequential"]["stopped"] == (
        "toy stopped after 8 of at most 8 seeds: the most allowed, and not everything is decided"
    )
    assert not result.decided
    assert set(states(tmp_path / "race").values()) == {"done"}
    (w,) = result.content["workloads"]
    assert w["judgement"]["level"] == pytest.approx(0.04 * 0.375)  # only what the first look has left
    assert [len(s["arrivals"]) for s in w["standings"]] == [8, 8]


def test_workloads_stop_each_for_itself(toy: Workload, tmp_path: Path):
    easy = replace(toy, name="easy", target=0.5)
    hard = replace(toy, name="hard", target=0.999, steps=9)
    result = race([easy, hard], methods=[GOOD, NEVER], folder=tmp_path / "race", **STAGED)
    assert result.content["sequential"]["stopped"].startswith("easy stopped after 5 of at most 8 seeds: decided; hard ")
    assert [len(w["standings"][0]["arrivals"]) for w in result.content["workloads"]] == [5, 8]


def test_a_workload_may_be_called_as_looks_are(toy: Workload, tmp_path: Path):
    result = race(replace(toy, name="look"), methods=[GOOD, NEVER], folder=tmp_path / "race", **STAGED)
    assert result.content["sequential"]["stopped"] == "look stopped after 5 of at most 8 seeds: decided"


def test_a_timing_that_failed_at_a_look_is_made_again(toy: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    measure, found = worker.measure_seconds, []

    def fails_once(workload: Workload, runners: Sequence[Any], **settings: float) -> dict[str, Any]:
        broken = {"turns": {}, "step_alone": {}, "first_step": {}, "broken": dict.fromkeys(("adamw", "adamw-2"), "why")}
        found.append(measure(workload, runners, **settings) if found else broken)
        return found[-1]

    monkeypatch.setattr(worker, "measure_seconds", fails_once)
    content = race(toy, methods=[GOOD, GOOD], folder=tmp_path / "race", **STAGED).content
    assert len(found) == 2
    timing = content["workloads"][0]["timing"]
    assert {name: timing[name] for name in found[1]} == found[1]


def test_more_looks_than_the_race_has_are_one_sentence(decided: Path, tmp_path: Path):
    folder = tmp_path / "race"
    shutil.copytree(decided, folder)
    for number in (1, 2):
        unsettled = {"toy": {"seeds": 5, "settled": False, "pairs": []}}
        (folder / "measured" / f"look-{number}.json").write_text(json.dumps(unsettled))
    with pytest.raises(RaceError, match="holds more looks at toy than this race has"):
        rebuild(folder)


def test_a_look_waits_for_its_seeds_and_later_seeds_wait_for_it(decided: Path):
    plan = read_plan(decided)
    tasks = {task.key: task for task in plan.tasks()}
    tuning = {"toy/never/tune/000"}
    assert awaited(plan, tasks, "toy/never/tune/000") == set()
    assert awaited(plan, tasks, "toy/never/seed/004") == tuning
    assert awaited(plan, tasks, "toy/never/seed/005") == {*tuning, "look/1"}
    before = awaited(plan, tasks, "look/1")
    assert "toy/adamw/seed/004" in before
    assert "toy/adamw/tune/000" in before
    assert "toy/adamw/seed/005" not in before
    assert awaited(plan, tasks, "report") == {*tasks, "look/1"}


def test_a_look_that_was_cut_off_is_finished_as_it_began(decided: Path, toy: Workload, tmp_path: Path):
    """Its process died after it had kept what it found, before the seeds were let go."""
    folder = tmp_path / "race"
    shutil.copytree(decided, folder)
    connection = sqlite3.connect(folder / "race.db")
    connection.execute("UPDATE downslope_tasks SET state = 'running', owner = 'dead' WHERE task = 'look/1'")
    connection.execute("UPDATE downslope_tasks SET state = 'waiting' WHERE state = 'skipped' OR task = 'report'")
    connection.commit()
    connection.close()
    race(toy, methods=[GOOD, NEVER], folder=folder, **STAGED)
    assert states(folder) == states(decided)
    assert json.loads((folder / "results.json").read_text()) == json.loads((decided / "results.json").read_text())


def test_an_earlier_word_stands(decided: Path, tmp_path: Path):
    plan: Plan = read_plan(decided)
    with Store(decided, plan) as store:
        look(store, "look/1")  # looking again changes nothing
        at = stand(store, "toy")
    assert (at.look, at.seeds, at.settled) == (1, 5, True)


def test_two_processes_share_a_sequential_race(tmp_path: Path, toy_file: Path):
    command = [sys.executable, "-m", "tests.referee.hasty", "race", str(toy_file), "--methods", "adamw,sgd"]
    command += [
        "--trials",
        "1",
        "--seeds",
        "2",
        "--until-decided",
        "--max-seeds",
        "4",
        "--folder",
        str(tmp_path / "race"),
    ]
    pair = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    said = [p.communicate(timeout=400) for p in pair]
    assert [p.returncode for p in pair] == [0, 0], said
    assert said[0][0] == said[1][0]
    content = json.loads((tmp_path / "race" / "results.json").read_text())
    assert content["sequential"]["looks"] == [2, 3, 4]
    rows = sqlite3.connect(tmp_path / "race" / "race.db").execute("SELECT task, claims, state FROM downslope_tasks")
    assert {(claims, state) for _, claims, state in rows} == {(1, "done")}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_seeds": 4}, r"race: max_seeds must be a whole number, not less than seeds \(5\); got 4\."),
        ({"max_seeds": 7.5}, r"race: max_seeds must be a whole number.*; got 7\.5\."),
        ({"until_decided": False}, "race: max_seeds is for until_decided; got max_seeds=8 without it"),
        ({"until_decided": 1}, "race: until_decided must be True or False; got 1"),
        ({"methods": ["adamw"]}, "race: until_decided needs a second method"),
        ({"margin": 0}, r"race: margin must be a number above 0 and at most 1 \(0\.05 is 5 %\); got 0\."),
        ({"margin": float("nan")}, "race: margin must be a number above 0"),
    ],
)
def test_bad_requests_are_refused(toy: Workload, tmp_path: Path, changes: dict[str, Any], sentence: str):
    with pytest.raises(RaceError, match=sentence):
        race(toy, folder=tmp_path / "race", **{"methods": ["adamw", "sgd"], **STAGED, **changes})
    assert not (tmp_path / "race").exists()
