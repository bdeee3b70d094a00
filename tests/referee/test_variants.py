"""A variant raced beside its base runs at the base's tuned points; alone, it is tuned like any workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from downslope.referee import race

FILE = """import dataclasses
from torch import nn
from downslope.referee import load_workload
VARIANTS = {{"wide": {{"width": 64}}}}
def workload(width=8):
    model = lambda: nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))
    return dataclasses.replace(load_workload({toy!r}), name="mine", model=model)
"""


@pytest.fixture
def mine(tmp_path: Path, toy_file: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(toy=str(toy_file)), encoding="utf-8")
    return str(path)


def tasks(content: dict[str, Any], name: str, phase: str) -> list[dict[str, Any]]:
    found = next(w for w in content["workloads"] if w["name"] == name)
    return [t for t in found["trials"] if t["task"].split("/")[-2] == phase]


def test_beside_its_base_a_variant_has_the_points_that_were_tuned_there(
    mine: str, tmp_path: Path, small: dict[str, Any]
) -> None:
    result = race([f"{mine}@wide", mine], folder=tmp_path / "race", **small)
    content = result.content
    assert [w["name"] for w in content["workloads"]] == ["mine@wide", "mine"]
    variant, base = content["workloads"]
    assert not tasks(content, "mine@wide", "tune")
    assert len(tasks(content, "mine", "tune")) == small["trials"] * len(small["methods"])
    tuned = {s["label"]: s["tuned"] for s in base["standings"]}
    assert {s["label"]: s["tuned"] for s in variant["standings"]} == tuned
    assert tuned["adamw"] in [t["hyper"] for t in tasks(content, "mine", "tune")]
    for trial in tasks(content, "mine@wide", "seed"):
        assert trial["hyper"] == tuned[trial["task"].split("/")[1]]
    assert all(s["best_after"] == [] for s in variant["standings"])
    page = (tmp_path / "race" / "report.html").read_text(encoding="utf-8")
    assert "none here, its runs have what was tuned on mine" in page
    assert variant["judgement"]["against_fastest"], "a variant has a verdict of its own"
    assert race([f"{mine}@wide", mine], folder=tmp_path / "race", **small).content == content, "the race is found again"


def test_alone_a_variant_is_tuned_itself(mine: str, tmp_path: Path, small: dict[str, Any]) -> None:
    result = race(f"{mine}@wide", folder=tmp_path / "race", **small)
    assert len(tasks(result.content, "mine@wide", "tune")) == small["trials"] * len(small["methods"])
    entry = result.content["workloads"][0]["workload"]
    assert (entry["name"], entry["variant_of"]) == ("mine@wide", "mine")
    assert entry["source"] == f"{Path(mine).resolve()}@wide"
    assert entry["digest"], "a changed file is another race"
