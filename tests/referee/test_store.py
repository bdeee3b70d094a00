"""A race on disk: claims, crashes, damage. Nothing that was stored may be lost, and every refusal is one sentence."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from filelock import FileLock

from downslope import _registry
from downslope.referee import RaceError
from downslope.referee.plan import Entry, Plan
from downslope.referee.recipe import entrants
from downslope.referee.store import REPORT, Claim, Store, TakenOver
from downslope.referee.translate import score
from downslope.referee.trial import Point, Record


def plan(**changes: Any) -> Plan:
    entry = Entry(
        name="toy", source="", digest="", metric_name="acc", goal="max", target=0.5, steps=100, evaluate_every=10
    )
    settings: dict[str, Any] = {
        "workloads": (entry,), "methods": tuple(entrants(["sgd"], _registry, tuned=True)), 
        "trials": 2, "seeds": 1, "budget": 1.0, "seed": 0, "version": "1", "threads": 1,
    }  # fmt: skip
    return Plan(**settings | changes)


def record(steps: int | None = 30, **changes: Any) -> Record:
    settings: dict[str, Any] = {
        "hyper": {"lr": 0.1, "betas": (0.9, 0.99)}, "seed": 1, "budget": 100, "steps": 30, "steps_to_target": steps,
        "best_metric": 0.6, "seconds": 0.5, "curve": (Point(0, None, 0.1, 0.0), Point(30, 0.7, 0.6, 0.5)),
    }  # fmt: skip
    return Record(**settings | changes)


def trials_only(task: str, done: frozenset[str]) -> bool:
    return task != REPORT


def run_all(store: Store) -> None:
    while claim := store.claim(trials_only):
        store.started(claim)
        store.finish(claim, record())


def taken(store: Store, seen: Claim) -> Claim:
    return replace(seen, state="running", owner=store.worker, claims=seen.claims + 1)


def die(store: Store) -> None:
    """What the kernel does when a process dies."""
    store._home._alive.release()


def tasks_done(store: Store) -> int:
    return sum(c.state == "done" for c in store.claims())


def test_a_task_is_claimed_once_and_seen_by_the_other_process(tmp_path: Path):
    with Store(tmp_path, plan()) as one, Store(tmp_path, plan()) as two:
        first, second, third = one.claim(trials_only), two.claim(trials_only), one.claim(trials_only)
        assert [c.task for c in (first, second, third) if c] == list(one.tasks)
        assert two.claim(trials_only) is None
        assert first is not None
        one.progress(first, 7)
        assert two.claims()[0].step == 7
        one.finish(first, record())
        assert list(two.records()) == [first.task]
        assert two.records()[first.task] == record()


def test_two_processes_that_saw_the_same_free_task_do_not_both_get_it(tmp_path: Path):
    with Store(tmp_path, plan()) as one, Store(tmp_path, plan()) as two:
        seen = one.claims()[0]
        assert one._swap(seen, taken(one, seen))
        assert not two._swap(seen, taken(two, seen))
        assert one._swap(seen, taken(one, seen))  # asked again because the first answer was lost on the way
        # The same holds for a task taken over from the dead: both saw the dead owner, one gets it.
        dead = one.claims()[0]
        assert two._swap(dead, taken(two, dead))
        assert not one._swap(dead, taken(one, dead))


def test_the_task_of_a_dead_process_is_taken_over_once(tmp_path: Path):
    died = Store(tmp_path, plan())
    lost = died.claim(trials_only)
    assert lost is not None
    died.started(lost)
    with Store(tmp_path, plan()) as one, Store(tmp_path, plan()) as two:
        other = one.claim(trials_only)
        assert other is not None
        assert other.task != lost.task  # its owner is alive
        die(died)
        again = two.claim(trials_only)
        assert again is not None
        assert (again.task, again.claims) == (lost.task, 2)
        third = one.claim(trials_only)
        assert third is None or third.task != lost.task
        assert two.started(again) is None
        # It was only asleep: awake again it learns at its next step, or at the latest with its result, that it is late.
        with pytest.raises(TakenOver):
            died.progress(lost, 50)
        with pytest.raises(TakenOver, match="taken over by another process"):
            died.finish(lost, record(90))
        assert not two.records()
        assert not list(tmp_path.glob("trials/**/*.json"))
        two.finish(again, record())
        with pytest.raises(TakenOver):
            died.finish(lost, record(90))
        assert two.records()[lost.task].steps_to_target == 30
        assert '"steps_to_target": 30' in (tmp_path / "trials" / f"{lost.task}.json").read_text()


def test_a_result_stored_just_before_a_crash_is_not_run_again(tmp_path: Path):
    died = Store(tmp_path, plan())
    claim = died.claim(trials_only)
    assert claim is not None
    died.started(claim)
    died._home.storing(died.tasks[claim.task], record())
    die(died)
    with Store(tmp_path, plan()) as store:
        again = store.claim(trials_only)
        assert again is not None
        assert again.task == claim.task
        assert store.started(again) == record()


def test_what_is_given_back_counts_as_never_claimed(tmp_path: Path):
    with Store(tmp_path, plan()) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.release(claim)
        assert store.claims()[0] == Claim(claim.task, "waiting", None, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_change(tmp_path: Path, number: int):
    ended: list[str] = []

    def interrupted(connection: sqlalchemy.Connection) -> None:
        signal.raise_signal(number)
        ended.append("whole")
        if len(ended) == 2:
            raise ValueError("a change that fails loses no signal either")

    before = signal.signal(number, signal.default_int_handler)
    try:
        with Store(tmp_path, plan()) as store:
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    store._home.transact(interrupted)
    finally:
        signal.signal(number, before)
    assert ended == ["whole", "whole"]


def test_trials_are_optuna_trials(tmp_path: Path):
    import optuna

    with Store(tmp_path, plan()) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.started(claim)
        store.finish(claim, record())
        broken = store.claim(trials_only)
        assert broken is not None
        store.started(broken)
        store.finish(broken, record(None, cause="step 3: the loss became nan"))
    study = optuna.load_study(study_name="toy/sgd/tune", storage=f"sqlite:///{tmp_path / 'race.db'}")
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL"]
    assert study.best_value == 30
    assert study.trials[0].params["lr"] > 0


def test_scores_order_hits_by_steps_then_misses_by_metric_then_failures():
    def value(**changes: Any) -> float:
        return score(record(**changes), target=0.8, goal="max")

    hit, late = value(steps=30), value(steps=100)
    near, far = value(steps=None, best_metric=0.79), value(steps=None, best_metric=0.1)
    broken = value(steps=None, cause="nan")
    assert hit < late < near < far < broken


def test_another_plan_in_the_folder_is_refused_naming_the_difference(tmp_path: Path):
    Store(tmp_path, plan()).close()
    with pytest.raises(
        RaceError, match="holds a different race: trials 2 there and 9 here; give the same options"
    ) as e:
        Store(tmp_path, plan(trials=9))
    assert e.value.bad_input


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 500)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_truncate, damage_overwrite, damage_empty])
def test_a_damaged_database_is_one_sentence_and_its_trials_come_back(tmp_path: Path, damage: Callable[[Path], None]):
    with Store(tmp_path, plan()) as store:
        run_all(store)
        before = store.records()
        assert len(before) == 3
    damage(tmp_path / "race.db")
    with pytest.raises(RaceError, match=r"race\.db is damaged .*move it away and run the same command") as error:
        Store(tmp_path, plan())
    assert "\n" not in str(error.value)
    (tmp_path / "race.db").rename(tmp_path / "damaged.db")
    with Store(tmp_path, plan()) as store:
        assert store.records() == before
        assert tasks_done(store) == 3


def test_a_damaged_trial_file_is_run_again_when_the_database_is_rebuilt(tmp_path: Path):
    with Store(tmp_path, plan()) as store:
        run_all(store)
    (tmp_path / "race.db").unlink()
    damage_truncate(tmp_path / "trials/toy/sgd/tune/000.json")
    with Store(tmp_path, plan()) as store:
        assert tasks_done(store) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', '{"format": 1}', "\x00"])
def test_a_damaged_plan_is_one_sentence(tmp_path: Path, content: str):
    Store(tmp_path, plan()).close()
    (tmp_path / "race.json").write_text(content)
    with pytest.raises(RaceError, match=r"race\.json is (damaged|not the plan of a race) .*stored trials are kept"):
        Store(tmp_path, plan())
    (tmp_path / "race.json").unlink()
    Store(tmp_path, plan()).close()


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RaceError, match=r"cannot write in .*taken.*name another folder with --folder") as error:
        Store(tmp_path / "taken" / "race", plan())
    assert error.value.bad_input


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RaceError, match="Permission denied"):
        Store(tmp_path, plan())


def test_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(RaceError, match=r"cannot write in .* \(Read-only file system\)"):
        Store(tmp_path / "race", plan())


def test_a_full_disk_while_a_result_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Store(tmp_path, plan()) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        store.started(claim)
        store.finish(claim, record())
        second = store.claim(trials_only)
        assert second is not None

        def full(fd: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RaceError, match=r"the disk that holds .* is full; free some space and run the same"):
                store.finish(second, record())
        store.release(second)
        assert list(store.records()) == [claim.task]
        assert not list(tmp_path.rglob(".0*.json*"))  # no half-written file stays
        run_all(store)
        assert tasks_done(store) == 3


def test_a_full_disk_under_the_database(tmp_path: Path):
    with Store(tmp_path, plan()) as store:
        claim = store.claim(trials_only)
        assert claim is not None
        pages = sqlite3.connect(tmp_path / "race.db").execute("PRAGMA page_count").fetchone()[0]

        @sqlalchemy.event.listens_for(store._home._mirror.engine, "connect")
        def limit(connection: Any, _: Any) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        store._home._mirror.forget()
        long = record(curve=tuple(Point(i, 0.1, 0.2, 0.3) for i in range(20_000)))
        with pytest.raises(RaceError, match="is full; free some space"):
            store.finish(claim, long)
    with Store(tmp_path, plan()) as store:
        run_all(store)  # the task whose result could not be stored is free again
        assert tasks_done(store) == 3


def test_a_kill_while_the_database_is_made_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path, plan())
    assert not (tmp_path / "race.db").exists()
    with Store(tmp_path, plan()) as store:
        run_all(store)
        assert tasks_done(store) == 3


def test_the_lock_of_a_living_opener_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("downslope.referee.folder.WAIT", 0.2)
    (tmp_path / ".workers").mkdir()
    with (
        FileLock(str(tmp_path / ".workers" / "opening")),
        pytest.raises(RaceError, match="stayed locked by another process"),
    ):
        Store(tmp_path, plan())


def test_trial_files_can_be_read_by_people(tmp_path: Path):
    with Store(tmp_path, plan()) as store:
        run_all(store)
    content = json.loads((tmp_path / "trials/toy/sgd/seed/000.json").read_text())
    assert content["task"] == "toy/sgd/seed/000"
    assert content["record"]["steps_to_target"] == 30
