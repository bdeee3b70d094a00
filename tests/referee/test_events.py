"""What listeners are told of a race, and that none of them can end it or hold it up."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from downslope.cli import app
from downslope.referee import RaceError, Workload, events, race, worker
from downslope.referee.events import Event, Events
from downslope.referee.loggers import CSV, JSONLines, open_loggers

SMALL: dict[str, Any] = {"methods": ["adamw", "sgd"], "trials": 1, "seeds": 1}


TRIAL = {"trial", "workload", "method", "phase", "index"}
TRIALS = ("trial_started", "point", "trial_finished")


def _documented() -> dict[str, set[str]]:
    """The keys of each event as the table in docs/referee.md has them."""
    text = (Path(__file__).parents[2] / "docs" / "referee.md").read_text()
    table = text[text.index("| `event` | more keys |") :].split("\n\n")[0]
    rows = [row.strip("| ").split("|", 1) for row in table.splitlines()[2:]]
    return {event.strip(" `"): set(re.findall(r"`(\w+)`", keys)) for event, keys in rows}


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TIMING", {"seconds": 0.0, "least_turns": 2})


def test_a_race_tells_its_story_in_order(toy: Workload, tmp_path: Path):
    told: list[Event] = []
    result = race(toy, **SMALL, quiet=True, folder=tmp_path / "r", loggers=[told.append])
    names = [e["event"] for e in told]
    assert names[0] == "race_started"
    assert names[-1] == "verdict"
    assert told[0]["total"] == 4
    assert told[0]["workloads"][0]["metric_name"] == "accuracy"
    assert told[-1]["verdict"] == result.sentence
    by_task = {t["task"]: t for t in result.content["workloads"][0]["trials"]}
    assert {e["trial"] for e in told if e["event"] == "trial_finished"} == set(by_task)
    for trial, facts in by_task.items():
        mine = [e for e in told if e.get("trial") == trial]
        assert [e["event"] for e in mine] == ["trial_started", *["point"] * (len(mine) - 2), "trial_finished"]
        points = [{k: e[k] for k in facts["curve"][0]} for e in mine if e["event"] == "point"]
        assert points == facts["curve"]
        assert mine[0]["hyper"] == mine[-1]["hyper"] == facts["hyper"]
        assert mine[-1]["curve"] == facts["curve"]
    assert all(json.loads(json.dumps(e)) == e for e in told)
    documented = _documented()
    for e in told:
        keys = set(e) - {"event", "time"}
        assert documented[e["event"]] == (keys - TRIAL if e["event"] in TRIALS else keys), e["event"]


def test_trials_in_processes_of_their_own_tell_every_point(toy_file: Path, tmp_path: Path):
    told: list[Event] = []
    result = race(str(toy_file), **SMALL, quiet=True, folder=tmp_path / "r", loggers=[told.append])
    for facts in result.content["workloads"][0]["trials"]:
        mine = [e for e in told if e.get("trial") == facts["task"]]
        points = [{k: e[k] for k in facts["curve"][0]} for e in mine if e["event"] == "point"]
        assert points == facts["curve"]


def test_a_race_that_is_over_tells_its_verdict_again_and_no_trial(toy: Workload, tmp_path: Path):
    race(toy, **SMALL, quiet=True, folder=tmp_path / "r")
    told: list[Event] = []
    race(toy, **SMALL, quiet=True, folder=tmp_path / "r", loggers=[told.append])
    assert [e["event"] for e in told] == ["race_started", "verdict"]
    assert told[0]["done"] == 4


def test_a_listener_that_raises_is_dropped_in_one_line_without_the_password(toy: Workload, tmp_path: Path):
    def broken(event: Event) -> None:
        seen.append(event["event"])
        raise OSError("no route to https://me:hunter2@server/api\nsecond line")

    seen: list[str] = []
    told: list[Event] = []
    with pytest.warns(UserWarning, match="logger broken raised OSError: no route to") as caught:
        result = race(toy, **SMALL, quiet=True, folder=tmp_path / "r", loggers=[broken, told.append])
    assert len(caught) == 1
    assert "hunter2" not in str(caught[0].message)
    assert "second line" not in str(caught[0].message)
    assert seen == ["race_started"]
    assert told[-1]["verdict"] == result.sentence


def test_the_line_about_a_broken_listener_is_seen_by_people(
    toy: Workload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def broken(event: Event) -> None:
        raise OSError(28, "No space left on device")

    race(toy, **SMALL, folder=tmp_path / "r", loggers=[broken])
    assert capsys.readouterr().err.count("logger broken raised OSError: [Errno 28] No space left on device; it is") == 1


def test_a_listener_that_hangs_delays_the_end_by_no_more_than_the_patience():
    hang, said = threading.Event(), []
    told: list[Event] = []
    with Events([lambda event: hang.wait(), told.append], said.append) as stream:
        for i in range(5):
            stream.emit("note", text=str(i))
        stream.settle(0.01)
        stream.close(0.01)
    hang.set()
    assert [e["text"] for e in told] == list("01234")
    assert len(said) == 1
    assert "did not finish in time (" in said[0]


def test_a_listener_that_cannot_keep_up_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "ROOM", 3)
    hang, said, told = threading.Event(), [], []

    def slow(event: Event) -> None:
        hang.wait()
        told.append(event)

    with Events([slow], said.append) as stream:
        for _ in range(10):
            stream.emit("note", text="")
        hang.set()
    assert len(said) == 1
    assert "logger slow cannot keep up" in said[0]
    assert len(told) <= 1


def test_listeners_are_closed_and_what_close_raises_is_said():
    class Closing:
        name = "closing"

        def __call__(self, event: Event) -> None: ...

        def close(self) -> None:
            raise ValueError("not now")

    said: list[str] = []
    with Events([Closing()], said.append):
        pass
    assert said == ["logger closing raised ValueError: not now; it is told nothing more, and the race goes on."]


def test_settle_waits_until_all_is_told():
    told: list[Event] = []
    with Events([told.append]) as stream:
        for i in range(200):
            stream.emit("note", text=str(i))
        stream.settle()
        assert len(told) == 200


def test_files_go_on_where_they_stopped_and_heal_a_line_that_was_cut(toy: Workload, tmp_path: Path):
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "events.jsonl").write_text('{"event": "no')
    result = race(toy, **SMALL, quiet=True, folder=folder, loggers=["jsonl", "csv"])
    race(toy, **SMALL, quiet=True, folder=folder, loggers=["jsonl", "csv"])
    first, *lines = (folder / "events.jsonl").read_text().splitlines()
    assert first == '{"event": "no'
    found = [json.loads(line)["event"] for line in lines]
    assert found.count("race_started") == found.count("verdict") == 2
    assert found.count("trial_finished") == 4
    rows = (folder / "points.csv").read_text().splitlines()
    assert rows[0] == "workload,method,phase,index,seed,step,loss,metric,seconds"
    curves = [t["curve"] for t in result.content["workloads"][0]["trials"]]
    assert len(rows) == 1 + sum(len(c) for c in curves)
    last = next(t for t in result.content["workloads"][0]["trials"] if t["task"] == "toy/sgd/seed/000")
    mine = [row.split(",") for row in rows if row.startswith("toy,sgd,seed,0,")]
    assert [(int(r[5]), float(r[7])) for r in mine] == [(p["step"], p["metric"]) for p in last["curve"]]


def test_files_can_be_put_elsewhere(tmp_path: Path):
    for logger in (JSONLines(tmp_path / "deep" / "e.jsonl"), CSV(tmp_path / "p.csv")):
        with Events([logger], pytest.fail) as stream:
            stream.emit("note", text="hello")
    assert json.loads((tmp_path / "deep" / "e.jsonl").read_text())["text"] == "hello"
    assert (tmp_path / "p.csv").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("loggers", "sentence"),
    [
        (["tensorbord"], "there is no logger 'tensorbord'; did you mean 'tensorboard'?"),
        (["x"], "there is no logger 'x'; the names are tensorboard, csv, jsonl, wandb, mlflow."),
        ("csv", r"loggers must be a list of loggers; got 'csv', write \['csv'\]"),
        ([3], "a logger must be one of tensorboard, .* or an object that can be called with an event; got 3"),
        ([CSV], "a logger must be one of"),
    ],
)
def test_what_is_no_logger_is_refused_before_anything_runs(toy: Workload, tmp_path: Path, loggers: Any, sentence: str):
    with pytest.raises(RaceError, match=sentence) as refused:
        race(toy, **SMALL, folder=tmp_path / "r", loggers=loggers)
    assert refused.value.bad_input
    assert not (tmp_path / "r").exists()


def test_a_logger_whose_package_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "mlflow.tracking", None)
    with pytest.raises(RaceError, match=r"logger 'mlflow' needs a package .*; pip install 'downslope\[mlflow\]'"):
        open_loggers(["mlflow"])


def test_events_may_be_a_file_and_tell_what_goes_on_besides_trials(toy: Workload, tmp_path: Path):
    path = tmp_path / "events.jsonl"
    race(toy, **SMALL, quiet=True, folder=tmp_path / "r", events=path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["event"] for e in lines][:: len(lines) - 1] == ["race_started", "verdict"]
    assert any(e["event"] == "note" and "timing" in e["text"] for e in lines)


def test_what_stops_a_race_is_an_event_too(toy: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: Any) -> Any:
        raise RaceError("the disk is full.")

    told: list[Event] = []
    monkeypatch.setattr(worker.Store, "claim", full)
    with pytest.raises(RaceError, match="disk is full"):
        race(toy, **SMALL, quiet=True, folder=tmp_path / "r", events=told.append)
    assert [e["event"] for e in told] == ["race_started", "estimate", "race_stopped"]
    assert told[-1]["reason"] == "the disk is full."


@pytest.mark.parametrize("sink", [3, "no-such-folder/events.jsonl", ".", dict])
def test_bad_events_are_refused_before_anything_runs(sink: Any, toy: Workload, tmp_path: Path):
    with pytest.raises(RaceError, match="events must be a f"):
        race(toy, **SMALL, folder=tmp_path / "r", events=sink)
    assert not (tmp_path / "r").exists()


def test_json_is_all_that_stdout_gets(toy_file: Path, tmp_path: Path):
    line = ["race", str(toy_file), "--methods", "sgd", "--trials", "1", "--seeds", "1", "--folder", str(tmp_path)]
    done = CliRunner().invoke(app, [*line, "--json"])
    assert done.exit_code == 0
    assert done.stderr == ""
    names = [json.loads(text)["event"] for text in done.stdout.splitlines()]
    assert names[0] == "race_started"
    assert names[-1] == "verdict"
