"""Scores over several workloads: worked by hand, by brute force, and against AlgoPerf's published leaderboards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import downslope as ds
from downslope.referee import RaceError, Recipe, profile
from downslope.referee.raceprofile import race_profile
from downslope.referee.results import _overall
from downslope.referee.times import read_times
from tests.referee.test_plan import plan

RECORD = Path(__file__).parents[2] / "records" / "algoperf-scores"
PUBLISHED = json.loads((RECORD / "published.json").read_text(encoding="utf-8"))

TABLE = {
    "a": {"mnist": 10.0, "wmt": 40.0, "ogbg": math.inf},
    "b": {"mnist": 20.0, "wmt": 20.0, "ogbg": 90.0},
    "c": {"mnist": None, "wmt": 100.0, "ogbg": 30.0},
}


def test_a_table_worked_by_hand():
    found = ds.referee.profile(TABLE)
    assert found.ratios["c"] == {"mnist": math.inf, "wmt": 5.0, "ogbg": 1.0}
    assert found.tau == (1.0, 2.0, 3.0, 4.0)
    assert found.share["a"] == pytest.approx((1 / 3, 2 / 3, 2 / 3, 2 / 3))
    assert found.share["b"] == pytest.approx((1 / 3, 2 / 3, 1, 1))
    assert found.share["c"] == pytest.approx((1 / 3, 1 / 3, 1 / 3, 1 / 3))
    assert found.score == pytest.approx({"a": (1 + 2 / 3) / 3, "b": (1 + 2 / 3 + 1 / 3) / 3, "c": 1 / 3})
    assert found.speedup == pytest.approx({"a": 1, "b": 1, "c": 0.4})  # sqrt(1/2 * 2); 40/100
    assert found.compared == {"a": 2, "b": 2, "c": 1}
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["ratios"]["a"]["ogbg"] is None


def test_the_exact_score_is_the_integral_and_the_grid_is_close_to_it():
    rng = np.random.default_rng(0)
    for _ in range(4):
        times = np.exp(rng.normal(size=(5, 7)))
        times[rng.random(times.shape) < 0.25] = np.inf
        times[0] = np.exp(rng.normal(size=7))  # someone reaches every target
        table = {f"s{i}": {f"w{j}": t for j, t in enumerate(row)} for i, row in enumerate(times.tolist())}
        ratios = times / times.min(axis=0)
        middles = 1 + 3 * (np.arange(30_000) + 0.5) / 30_000
        brute = (ratios[:, :, None] <= middles).mean(axis=(1, 2))
        assert list(profile(table).score.values()) == pytest.approx(brute, abs=2e-5)
        assert list(profile(table, points=100).score.values()) == pytest.approx(brute, abs=0.5 / 99 + 2e-5)


@pytest.mark.parametrize("board", sorted(PUBLISHED["boards"]))
def test_published_algoperf_scores_are_reproduced(board: str):
    """All 19 scores of the three leaderboards: to the last printed digit on AlgoPerf's grid, within 0.005 exactly."""
    published = PUBLISHED["boards"][board]
    arguments = {"held_out": published["held_out"], "best_trial": "evaluation"}
    table = RECORD / f"{board}.csv"
    on_grid, exact = profile(table, points=100, **arguments), profile(table, **arguments)
    assert len(on_grid.workloads) == 8
    assert set(on_grid.score) == set(published["scores"])
    for submission, score in published["scores"].items():
        assert on_grid.score[submission] == pytest.approx(score, abs=5.1e-5), submission
        assert exact.score[submission] == pytest.approx(score, abs=0.005), submission


def test_published_speedups_are_reproduced():
    """The competition's paper gives 28 % less time for Distributed Shampoo and 8 % for Schedule-Free AdamW."""
    budgets = PUBLISHED["budgets"]
    for board, submission, less, factor in (
        ("v05-external", "shampoo_submission", 0.28, 1),
        ("v05-self", "schedule_free_adamw", 0.08, 3),
    ):
        found = profile(
            RECORD / f"{board}.csv",
            held_out=PUBLISHED["boards"][board]["held_out"],
            baseline="baseline",
            budgets={w: factor * t + 1 for w, t in budgets.items()},
            best_trial="evaluation",
        )
        assert round(1 - 1 / found.speedup[submission], 2) == less
        assert found.compared[submission] == 8


def test_a_miss_on_a_variant_is_a_miss_on_its_base():
    table = {
        "a": {"mnist": 10, "mnist_wide": 10, "wmt": 10},
        "b": {"mnist": 10, "mnist_wide": None, "wmt": 10},
        "c": {"mnist": 10, "mnist_wide": 41, "wmt": 10},  # slower than 4 times the fastest
        "d": {"mnist": None, "mnist_wide": 1, "wmt": 10},  # has missed the base: sets no pace on the variant
    }
    found = profile(table, held_out=["mnist_wide"])
    assert found.workloads == ("mnist", "wmt")
    assert found.score == {"a": 1, "b": 0.5, "c": 0.5, "d": 0.5}
    assert profile(table, held_out={"mnist_wide": "wmt"}).score == pytest.approx(
        {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    )
    assert profile(table).workloads == ("mnist", "mnist_wide", "wmt")


def test_scores_do_not_depend_on_units_and_a_hopeless_submission_changes_nothing():
    before = profile(TABLE)
    scaled = {s: {w: None if t is None else 60 * t for w, t in mine.items()} for s, mine in TABLE.items()}
    hopeless = profile(scaled | {"frozen": dict.fromkeys(TABLE["a"])})
    assert hopeless.score == pytest.approx(before.score | {"frozen": 0})
    assert hopeless.speedup["frozen"] is None


def test_one_workload_is_enough():
    found = profile({"a": {"w": 10}, "b": {"w": 25}, "c": {"w": None}})
    assert found.score == pytest.approx({"a": 1, "b": 0.5, "c": 0})


def test_nobody_reaches_the_target():
    found = profile({"a": {"v": None, "w": 3}, "b": {"v": None, "w": 3}})
    assert found.score == {"a": 0.5, "b": 0.5}


class Frame:
    """As much of a DataFrame as is read, for where pandas is not installed."""

    def __init__(self, columns, records):
        self.columns, self.records = columns, records

    def to_dict(self, how):
        assert how == "records"
        return self.records


def test_all_shapes_of_a_table_read_alike(tmp_path: Path):
    wanted = read_times(TABLE)
    wide = [{"submission": s} | mine for s, mine in TABLE.items()]
    long = [{"Method": s, "workload": w, "time": t} for s, mine in TABLE.items() for w, t in mine.items()]
    with_reached = [r | {"time": r["time"] or 7, "reached": r["time"] not in (None, math.inf)} for r in long]
    (tmp_path / "wide.csv").write_text(
        "who;mnist;wmt;ogbg\na;10;40;inf\nb;20;20;90\n\nc;;100;30\n", encoding="utf-8-sig"
    )
    (tmp_path / "long.csv").write_text(
        "workload,submission,time\nmnist,a,10\nwmt,a,40\nogbg,a,\nmnist,b,20\nwmt,b,20\nogbg,b,90\n"
        "mnist,c,miss\nwmt,c,100\nogbg,c,30\n",
        encoding="utf-8",
    )
    tables = [wide, long, with_reached, tmp_path / "wide.csv", str(tmp_path / "long.csv"), Frame(list(long[0]), long)]
    for table in tables:
        assert read_times(table) == wanted


def test_a_real_data_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; a stand-in is tested")
    frame = pandas.DataFrame(TABLE).T
    assert read_times(frame) == read_times(TABLE)
    assert read_times(frame.rename_axis("submission").reset_index()) == read_times(TABLE)


def test_studies_and_trials():
    """The best trial of each study, the median over studies; by time, or by evaluations and then time."""
    rows = [
        {"submission": "a", "workload": "w", "study": s, "trial": t, "time": x, "evaluation": e}
        for s, t, x, e in [(0, 1, 9, 3), (0, 2, 5, 4), (1, 1, 7, 2), (1, 2, 6, 2), (2, 1, None, None), (2, 2, 8, 1)]
    ]
    assert read_times(rows).value["a"]["w"] == 6  # of 5, 6, 8
    assert read_times(rows, best_trial="evaluation").value["a"]["w"] == 8  # of 9, 6, 8
    missed = rows[:2] + [r | {"time": None} for r in rows[2:]]
    assert read_times(missed).value["a"]["w"] == math.inf  # of 5 and two misses


def test_what_a_table_does_not_say_is_told():
    rows = [{"submission": s, "workload": w, "time": 1} for s, w in (("a", "v"), ("a", "w"), ("b", "w"))]
    found = profile(rows)
    assert found.absent == (("b", "v"),)
    assert found.score["b"] == 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("submission,w\na,fast\n", "t.csv, line 2, column w: must be a number, or empty for a miss; got 'fast'."),
        ("submission,w\na,1\na,2\n", "t.csv, line 3: 'a' has a row already"),
        ("submission,w\na,0\n", "t.csv, line 2, column w: a time must be > 0 (empty for a miss); got '0'."),
        ("submission,w\na,1,2\n", "t.csv, line 2: 3 cells under 2 columns"),
        ("submission,w,w\na,1,2\n", "the column 'w' stands twice"),
        ("submission,w\n,1\n", "t.csv, line 2, column submission: the cell is empty"),
        ("submission\na\n", "this one has no workloads"),
        ("", "the table has no times"),
        ("workload,a,b\nw,1,2\n", "a long table needs the columns submission, workload and time"),
        ("submission,workload,seconds\na,w,1\n", "this one lacks time."),
        ("submission,workload,time\na,w,1\na,w,2\n", "tell repeated runs apart by a column trial."),
        ("submission,workload,time,trial\na,w,1,1\na,w,2,1\n", "tell repeated runs apart by a column study."),
        ("submission,workload,time,reached\na,w,1,perhaps\n", "column reached: must be true or false; got 'perhaps'."),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RaceError) as error:
        profile(path)
    assert sentence in str(error.value)
    assert error.value.bad_input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tau": 1}, "tau must be a finite number > 1; got 1."),
        ({"points": 1}, "points must be a whole number >= 2"),
        ({"baseline": "z"}, "baseline must be one of a, b, c; got 'z'."),
        ({"held_out": "wmt"}, "held_out must be a list"),
        ({"held_out": 3}, "held_out must be a list"),
        ({"budgets": 3}, "budgets must be a mapping from workloads to times; got 3."),
        ({"budgets": dict.fromkeys(("mnist", "wmt", "ogbg"))}, "budgets: the time for 'mnist' must be a finite number"),
        ({"held_out": ["wmt"]}, "no other workload's name begins 'wmt'; give {variant: base}."),
        ({"held_out": {"wmt_glu": "wmt"}}, "'wmt_glu' is not in the table"),
        ({"held_out": {"wmt": "mnis"}}, "'mnis' is not in the table, which has mnist, wmt, ogbg."),
        ({"budgets": {"mnist": 30, "wmt": 100}}, "'ogbg' is missing"),
        ({"budgets": {"mnist": 30, "wmt": 50, "ogbg": 90}}, "'c' took 100 on 'wmt', which is more than its budget 50."),
        ({"best_trial": "evaluation"}, "this one is wide."),
        ({"best_trial": "last"}, "best_trial must be 'time' or 'evaluation'; got 'last'."),
    ],
)
def test_a_bad_argument_is_one_sentence(arguments, sentence: str):
    with pytest.raises(RaceError) as error:
        profile(TABLE, **arguments)
    assert sentence in str(error.value)


@pytest.mark.parametrize("table", [3, {}, [], {"a": 1}, [1, 2], Path("nowhere.csv")])
def test_what_is_no_table_is_refused(table):
    with pytest.raises(RaceError):
        profile(table)


def workload(name: str, measure: str, *standings: tuple[str, float | None, float | None]):
    """A workload of a race's results with a budget of 100 steps: label, steps to target, seconds per step."""
    told = [
        {
            "label": label,
            "budget": 100,
            "steps": {"value": steps},
            "seconds": None if second is None else {"value": second},
            "time": None if second is None else {"value": None if steps is None else steps * second},
        }
        for label, steps, second in standings
    ]
    about = {"variant_of": name.partition("@")[0] if "@" in name else ""}
    return {"name": name, "workload": about, "judgement": {"measure": measure}, "standings": told}


def test_the_profile_of_a_race():
    workloads = [
        workload("v", "time", ("lion", 40, 2.0), ("adamw", 50, 1.0), ("sgd", None, 0.5)),
        workload("w", "steps", ("adamw", 90, None), ("lion", 30, None), ("sgd", None, None)),
        workload("x", "time", ("adamw", None, 1.0), ("lion", None, 1.0), ("sgd", 80, 1.0)),
    ]
    found = race_profile(["adamw", "lion", "sgd"], workloads)
    assert found["score"] == pytest.approx({"adamw": (1 + 1 / 3) / 3, "lion": (2.4 / 3 + 1) / 3, "sgd": 1 / 3})
    assert found["measure"] == {"v": "time", "w": "steps", "x": "time"}
    assert found["baseline"] == "adamw"
    # A miss is a whole run: 100 steps of 0.5 s for sgd on v, 100 steps on w, 100 s of adamw on x.
    sgd = (50 / 50 * 90 / 100 * 100 / 80) ** (1 / 3)
    assert found["speedup"] == pytest.approx({"adamw": 1, "lion": (50 / 80 * 90 / 30) ** 0.5, "sgd": sgd})
    assert found["compared"] == {"adamw": 2, "lion": 2, "sgd": 3}


def test_a_method_that_never_ran_has_no_speedup():
    found = race_profile(["adamw", "broken"], [workload("w", "time", ("adamw", 50, 1.0), ("broken", None, None))])
    assert found["score"] == {"adamw": 1, "broken": 0}
    assert found["speedup"] == {"adamw": 1, "broken": None}


def test_a_target_that_is_reached_before_the_first_step():
    at_once = [workload("w", "steps", ("adamw", 0, None), ("lion", 0, None), ("sgd", 10, None))]
    found = race_profile(["adamw", "lion", "sgd"], at_once)
    assert found["score"] == {"adamw": 1, "lion": 1, "sgd": 0}
    assert found["speedup"] == {"adamw": None, "lion": None, "sgd": None}


def test_variants_in_a_race_qualify_and_do_not_score():
    workloads = [
        workload("v", "time", ("adamw", 50, 1.0), ("lion", 40, 1.0)),
        workload("v@wide", "time", ("adamw", 50, 1.0), ("lion", None, 1.0)),
        workload("w@noisy", "time", ("adamw", 50, 1.0), ("lion", 50, 1.0)),  # w itself is not raced
    ]
    found = race_profile(["adamw", "lion"], workloads)
    assert found["held_out"] == {"v@wide": "v"}
    assert found["workloads"] == ["v", "w@noisy"]
    assert found["score"] == {"adamw": 1, "lion": 0.5}
    assert found["speedup"]["lion"] == pytest.approx((50 / 40) ** 0.5)
    ranked = [Recipe("adamw", "adamw", {}, {}), Recipe("lion", "lion", {}, {})]
    scored = [w for w in workloads if w["name"] in found["workloads"]]
    placed = _overall(replace(plan(), methods=tuple(ranked)), scored, found["ratios"])
    assert placed == [("adamw", 2, 1.0), ("lion", 1, 1.0)], "what missed the variant has missed its base"
    chain = [workload("v", "steps", ("adamw", 5, None)), workload("v@a", "steps", ("adamw", 5, None))]
    chain.append(workload("v@a@b", "steps", ("adamw", 5, None)) | {"workload": {"variant_of": "v@a"}})
    assert race_profile(["adamw"], chain)["held_out"] == {"v@a": "v"}
