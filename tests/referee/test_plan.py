from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from downslope import UnknownMethod, _registry
from downslope.referee import RaceError, Recipe
from downslope.referee.isolation import Household
from downslope.referee.plan import Entry, Plan
from downslope.referee.protocol import _entries, _folder_name
from downslope.referee.recipe import candidates, entrants, refuse_unmet_needs
from downslope.referee.store import Store
from downslope.referee.way import Way, file_of, load

SPACE = {
    "lr": ("log", 1e-4, 1.0),
    "momentum": ("uniform", 0.0, 0.9),
    "rank": ("int", 1, 4),
    "betas": ("choice", (0.9, 0.99), (0.9, 0.999)),
}


def plan(**changes: Any) -> Plan:
    entry = Entry(
        name="toy", source="", digest="", metric_name="acc", goal="max", target=0.5, steps=10, evaluate_every=1
    )
    methods = tuple(entrants(["adamw", "sgd"], _registry, tuned=True))
    settings: dict[str, Any] = {
        "workloads": (entry,), "methods": methods, "trials": 4, "seeds": 2, "budget": 1.0,
        "seed": 0, "version": "1", "threads": 1,
    }  # fmt: skip
    return Plan(**settings | changes)


def test_candidates_depend_on_space_count_and_seed_alone():
    first = candidates(SPACE, 16, 3)
    assert first == candidates(dict(reversed(SPACE.items())), 16, 3)
    assert first != candidates(SPACE, 16, 4)
    for point in first:
        assert 1e-4 <= point["lr"] <= 1.0
        assert 0.0 <= point["momentum"] <= 0.9
        assert point["rank"] in (1, 2, 3, 4)
        assert point["betas"] in ((0.9, 0.99), (0.9, 0.999))
    assert candidates({}, 3, 0) == [{}, {}, {}]


def test_candidates_fill_the_space_evenly():
    """What makes them quasi-random: with 8 points, one in each eighth of every range."""
    points = candidates({"lr": ("log", 1e-4, 1.0), "momentum": ("uniform", 0.0, 0.8)}, 8, 0)
    from math import log10

    assert sorted(int((log10(p["lr"]) + 4) / 4 * 8) for p in points) == list(range(8))
    assert sorted(int(p["momentum"] / 0.8 * 8) for p in points) == list(range(8))


def test_a_method_named_twice_races_against_itself_at_the_same_points_with_its_own_seeds():
    methods = tuple(entrants(["adamw", "adamw"], _registry, tuned=True))
    assert [m.label for m in methods] == ["adamw", "adamw (2)"]
    tasks = {t.key: t for t in plan(methods=methods).tasks()}
    for i in range(4):
        one, two = tasks[f"toy/adamw/tune/{i:03d}"], tasks[f"toy/adamw (2)/tune/{i:03d}"]
        assert (one.hyper, one.seed) == (two.hyper, two.seed)
    assert tasks["toy/adamw/seed/000"].seed != tasks["toy/adamw (2)/seed/000"].seed


def test_every_run_of_the_plan_has_its_place_and_seed():
    tasks = plan().tasks()
    assert len(tasks) == 2 * (4 + 2)
    assert len({t.key for t in tasks}) == len(tasks)
    assert len({t.seed for t in tasks if t.phase == "seed"}) == 4
    assert not {t.seed for t in tasks if t.phase == "tune"} & {t.seed for t in tasks if t.phase == "seed"}
    assert tasks == plan().tasks()


def test_fixed_hyperparameters_are_not_tuned():
    recipe = Recipe("adamw", "mine", {"weight_decay": 0.5})
    (found,) = entrants([recipe], _registry, tuned=True)
    assert "weight_decay" not in found.space
    assert all(t.hyper["weight_decay"] == 0.5 for t in plan(methods=(found,)).tasks() if t.hyper)


def test_the_difference_of_two_plans_is_named():
    assert plan().difference(plan(threads=8)) is None
    assert plan().difference(plan(trials=8)) == "trials 4 there and 8 here"
    assert plan().difference(plan(sampler="tpe")) == "sampler quasi-random there and tpe here"
    assert plan().difference(plan(pruner="median")) == "pruner none there and median here"
    assert plan().difference(plan(version="2")) == "version 1 there and 2 here"
    others = tuple(entrants(["adamw", "lion"], _registry, tuned=True))
    assert plan().difference(plan(methods=others)) == "methods adamw, sgd there and adamw, lion here"
    space = tuple(entrants([Recipe("adamw", space={"lr": ("log", 1e-3, 1.0)}), "sgd"], _registry, tuned=True))
    assert "space of 'adamw'" in (plan().difference(plan(methods=space)) or "")
    moved = (replace(plan().workloads[0], source="/elsewhere/toy.py"),)
    assert plan().difference(plan(workloads=moved)) is None
    assert plan().digest == plan(workloads=moved, threads=8).digest
    changed = (replace(plan().workloads[0], digest="abc"),)
    assert plan().difference(plan(workloads=changed)) == "the file of 'toy' has changed since"
    assert plan().difference(plan(workloads=(replace(plan().workloads[0], target=0.6),))) == (
        "target of 'toy' (0.5 there and 0.6 here)"
    )


def test_bad_entrants_are_refused():
    with pytest.raises(UnknownMethod, match="did you mean 'adamw'"):
        entrants(["adamww"], _registry, tuned=True)
    with pytest.raises(RaceError, match="cannot be raced by itself"):
        entrants([next(c.key for c in _registry.find() if not c.ready)], _registry, tuned=True)
    with pytest.raises(RaceError, match="at least one method"):
        entrants([], _registry, tuned=True)
    with pytest.raises(RaceError, match=r"search space of lr must be .*got \('log', 0, 1\)"):
        entrants([Recipe("sgd", space={"lr": ("log", 0, 1)})], _registry, tuned=True)
    with pytest.raises(RaceError, match="without slashes"):
        entrants([Recipe("sgd", "a/b")], _registry, tuned=True)


def test_a_need_that_the_workload_cannot_meet_is_refused_naming_both():
    catalogue: Any = SimpleNamespace(card=lambda key: SimpleNamespace(key=key, needs=("layer_io", "loss")))
    with pytest.raises(RaceError, match="method 'kfac' needs layer_io, which workload 'toy' does not supply"):
        refuse_unmet_needs([Recipe("kfac")], catalogue, "toy")


ODD = ["a%20b", "a#b", "{a}", *(["a?b"] if os.name == "posix" else [])]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_have_any_name(tmp_path: Path, name: str):
    with Store(tmp_path / name, plan()) as store:
        assert len(store.claims()) == 13
    assert (tmp_path / name / "race.db").is_file()
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_a_default_folder_is_named_by_many_workloads_as_far_as_there_is_room():
    toy = plan().workloads[0]
    many = plan(workloads=tuple(replace(toy, name=f"tö{i}") for i in range(200)))
    name = _folder_name(many)
    assert name.startswith("tö0+tö1+")
    assert name.endswith(f"-{many.digest[:6]}")
    assert len(name.encode()) < 255
    assert _folder_name(plan()) == f"toy-{plan().digest[:6]}"


def test_a_workload_file_is_known_by_its_content_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_file: Path
):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "fashion-mlp"):  # the second is the built-in one, as for `load_workload`
        shutil.copy(toy_file, name)
    assert [file_of(source) for source in ("mine@wide", "mine", "fashion-mlp", "")] == [Path("mine")] * 2 + [None] * 2
    with Household([]) as household:
        loaded = load("mine", household, Way(jobs=1, seconds=None, memory=None, isolated=False))
    (entry,) = _entries([loaded], 1.0, None)
    assert Path(entry.source) == tmp_path / "mine"
    assert entry.digest == hashlib.sha256(toy_file.read_bytes()).hexdigest()[:12]


def test_lists_are_taken_as_the_tuples_that_a_resumed_race_reads():
    recipe = Recipe("adamw", fixed={"eps": [1, [2]]}, space={"betas": ["choice", [0.9, 0.99], [0.8, 0.95]]})
    (found,) = entrants([recipe], _registry, tuned=True)
    assert (found.fixed, found.space) == ({"eps": (1, (2,))}, {"betas": ("choice", (0.9, 0.99), (0.8, 0.95))})
