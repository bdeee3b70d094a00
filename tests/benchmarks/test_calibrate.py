"""The calibration's bookkeeping: what counts as wrong, and what a record keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.calibrate import merged, row, wilson
from benchmarks.simulated import Setting, race, wrong
from downslope.referee.statistics import Estimate
from downslope.referee.verdict import Comparison


def comparison(word: str, label: str = "m0", against: str = "m1") -> Comparison:
    return Comparison(
        label=label, against=against, measure="steps", word=word, test="", level=0.05, p=0.01, adjusted=0.01, first=1.0,
        runs=(5, 5), ratio=Estimate(None, 0.0, None, 0.95),
    )  # fmt: skip


def test_a_word_is_wrong_where_the_truth_is_another():
    alike, slower = Setting(name="", ratios=(1.0, 1.0)), Setting(name="", ratios=(1.2, 1.0), margin=0.2)
    assert [wrong(alike, comparison(w)) for w in ("better", "worse", "equivalent", "no evidence")] == [1, 1, 0, 0]
    assert [wrong(slower, comparison(w)) for w in ("better", "worse", "equivalent", "no evidence")] == [1, 0, 1, 0]
    assert not wrong(slower, comparison("better", "m1", "m0"))
    assert not wrong(Setting(name="", ratios=(1.1, 1.0), margin=0.2), comparison("equivalent"))


def test_wilson_s_interval_is_the_published_one():
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=2e-4)
    assert wilson(0, 50)[0] == 0.0


def test_rows_count_races_with_any_wrong_word_and_results_are_merged(tmp_path: Path):
    far = Setting(name="far", ratios=(1.0, 3.0), timed=False)
    found = row(far, (race(far, np.random.default_rng(i)) for i in range(5)))
    assert (found["races"], found["wrong"], found["words"]["better"]) == (5, 0, 5)
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"level": 0.05, "alike": [found | {"setting": {"name": "old"}}], "power": [found]}))
    everything = merged(path, {"power": [found | {"races": 7}]})
    assert [each["races"] for each in everything["power"]] == [7]
    assert [each["setting"]["name"] for each in everything["alike"]] == ["old"]


def test_a_sequential_race_stops_when_it_is_decided():
    plain = Setting(name="", ratios=(1.0, 3.0), seeds=5, max_seeds=20, timed=False)
    assert race(plain, np.random.default_rng(0))[1] == 5
    alike = Setting(name="", ratios=(1.0, 1.0), seeds=5, max_seeds=20, timed=False)
    assert race(alike, np.random.default_rng(0))[1] == 20
