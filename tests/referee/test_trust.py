"""A race's folder from a stranger: its report executes nothing and leaves nothing elsewhere; forgeries are refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from downslope.cli import app
from downslope.referee import RaceError
from downslope.referee.home import Files
from downslope.referee.plan import read_plan
from downslope.referee.store import Store
from downslope.referee.stored import StoredRace, rebuild
from tests.referee.test_store import plan, record, run_all, trials_only

WATCHED: list[tuple[str, tuple[Any, ...]]] | None = None


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED is not None:
        WATCHED.append((event, arguments))


sys.addaudithook(watch)  # a hook cannot be taken away: it looks on only while WATCHED is a list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished race."""
    where = tmp_path / "race"
    with Store(where, plan()) as store:
        run_all(store)
        store.keep("timing-toy", {"turns": {"sgd": [0.1, 0.2, 0.3]}, "step_alone": {"sgd": None}, "first_step": {}})
        store.keep("memory-toy", {"sgd": 1000})
    return where


def change(path: Path, *keys: str | int, to: Any) -> None:
    content = json.loads(path.read_text())
    at = content
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    path.write_text(json.dumps(content))


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_report_from_a_booby_trapped_folder_runs_nothing(folder: Path, tmp_path: Path):
    global WATCHED
    marker, outside = tmp_path / "exploded", tmp_path / "outside"
    outside.write_text("untouched")
    trap = folder / "trap.py"
    trap.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    for name in ("sitecustomize", "torch", "toy", "downslope"):
        (folder / f"{name}.py").write_text(trap.read_text())
    bomb = pickle.dumps(Bomb(marker))
    for name in ("race.db", "race.pkl", "trials/toy/sgd/tune/000.pkl", "measured/machine.pkl"):
        (folder / name).write_bytes(bomb)
    (folder / "measured" / "machine.json").symlink_to(outside.with_name("nowhere"))
    for name in ("report.html", "results.json", "results.csv"):
        (folder / name).symlink_to(outside)
    change(folder / "race.json", "workloads", 0, "source", to=str(trap))
    WATCHED = []
    try:
        done = CliRunner().invoke(app, ["report", str(folder)])
        seen = WATCHED
    finally:
        WATCHED = None
    assert done.exit_code == 0, done.output
    assert "<html" in (folder / "report.html").read_text()
    assert not marker.exists()
    assert outside.read_text() == "untouched"
    never = ("pickle.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.", "sqlite3.", "socket.")
    assert not [event for event, _ in seen if event.startswith(never)]
    codes = [arguments[0].co_filename for event, arguments in seen if event == "exec"]
    assert not [name for name in codes if str(folder) in name]
    opened = [(str(a[0]), a[1]) for event, a in seen if event == "open"]
    assert str(folder / "race.json") in {name for name, _ in opened}  # the watch works
    assert not [name for name, _ in opened if name.endswith((".py", ".pkl", ".db")) and str(folder) in name]
    written = [name for name, mode in opened if isinstance(mode, str) and set(mode) & set("wax+")]
    assert written
    places = {Path(name).parent for name in written if name.startswith(str(tmp_path))}
    assert places <= {folder, folder / "figures"}


def test_figures_do_not_leave_the_folder_through_a_link(folder: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "figures").symlink_to(elsewhere)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 2
    assert "is a link" in done.stderr
    assert list(elsewhere.iterdir()) == []


HOSTILE = [
    (("workloads", 0, "name"), "../../etc"),
    (("workloads", 0, "name"), ".."),
    (("workloads", 0, "name"), "a\\b"),
    (("workloads", 0, "name"), "red\u001b[31m"),
    (("workloads", 0, "metric_name"), "red\u001b[31m"),
    (("workloads", 0, "name"), "x" * 5000),
    (("workloads", 0, "name"), 7),
    (("methods", 0, "label"), "../sgd"),
    (("methods", 0, "label"), {}),
    (("trials",), 10**9),
    (("trials",), "2"),
    (("trials",), True),
    (("seeds",), -1),
    (("workloads",), []),
    (("workloads", 0, "steps"), [1]),
    (("workloads", 0, "target"), float("nan")),
    (("methods", 0, "space"), {"lr": 3}),
    (("methods",), "sgd"),
]


@pytest.mark.parametrize(("where", "value"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_forged_plan_is_one_sentence(folder: Path, where: tuple[str | int, ...], value: Any):
    change(folder / "race.json", *where, to=value)
    with pytest.raises(RaceError, match=r"race\.json is not the plan of a race") as error:
        rebuild(folder)
    assert "\n" not in str(error.value)
    assert "\u001b" not in str(error.value)


def test_json_that_is_too_deep_or_a_pipe_in_place_of_a_file_is_one_sentence(folder: Path):
    (folder / "race.json").write_text("[" * 100_000)
    with pytest.raises(RaceError, match=r"race\.json is damaged"):
        read_plan(folder)
    (folder / "race.json").unlink()
    os.mkfifo(folder / "race.json")
    with pytest.raises(RaceError, match="holds no race"):
        rebuild(folder)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("record", "steps"), "30"),
        (("record", "steps_to_target"), float("inf")),
        (("record", "curve", 0, "metric"), None),
        (("record", "curve"), 3),
        (("record", "hyper"), []),
        (("race",), "another"),
    ],
)
def test_a_forged_trial_counts_as_missing(folder: Path, where: tuple[str | int, ...], value: Any):
    change(folder / "trials/toy/sgd/seed/000.json", *where, to=value)
    assert len(StoredRace(folder).records()) == 2
    with pytest.raises(RaceError, match="not finished: 1 of 3 trials"):
        rebuild(folder)


@pytest.mark.parametrize("content", [{"turns": 3}, [1], "x", {"turns": {"sgd": ["a", None, {}]}}])
def test_forged_measurements_are_one_sentence(folder: Path, content: Any):
    (folder / "measured" / "timing-toy.json").write_text(json.dumps(content))
    with pytest.raises(RaceError, match="does not hold the measurements of a race") as error:
        rebuild(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../outside", "/outside", "timing-/x"])
def test_a_measurement_stays_in_its_folder_whatever_its_name(tmp_path: Path, name: str):
    """A shared database gives the names, and whoever may write to it chooses them."""
    files = Files(tmp_path / "race", "race")
    with pytest.raises(RaceError, match="which leads out of its folder"):
        files.keep(f"{tmp_path}{name}" if name[0] == "/" else name, {})
    assert not list(tmp_path.rglob("*.json"))


def test_a_plan_is_read_back_as_it_was_written(folder: Path):
    assert read_plan(folder) == plan()


def test_nothing_of_the_referee_or_of_the_parts_of_optuna_that_it_uses_can_read_a_pickle():
    """Optuna pickles in its journal storage and in its CMA-ES sampler; the referee uses neither.

    The one reader of pickles is for tables of a wheel with a known hash, and takes numbers alone (test_data.py).
    """
    import downslope.referee

    root = Path(downslope.referee.__file__).parent
    words = r"\b(pickle\.|marshal|shelve|joblib|torch\.load\(|JournalStorage|CmaEsSampler|(?<!\.)eval\(|exec\()"
    found = {str(path): re.findall(words, path.read_text()) for path in root.rglob("*.py")}
    assert len(found) > 20
    assert [name for name, words in found.items() if words] == [str(root / "data" / "rtables.py")]


def test_a_plan_that_could_not_be_read_again_is_refused_before_anything_is_stored(tmp_path: Path):
    with pytest.raises(RaceError, match=r"race: its plan could not be read again \('\.\.' is no name\)") as error:
        Store(tmp_path / "race", plan(workloads=(replace(plan().workloads[0], name=".."),)))
    assert error.value.bad_input
    assert not (tmp_path / "race" / "race.json").exists()


def test_a_cause_with_colours_of_a_terminal_is_no_forgery(tmp_path: Path):
    with Store(tmp_path, plan()) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.finish(claim, record(None, cause="step 3: \u001b[31mno column 7\u001b[0m"))
    assert list(StoredRace(tmp_path).records()) == [claim.task]
