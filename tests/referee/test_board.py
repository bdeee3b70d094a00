"""What people see while a race runs, on terminals of several widths and where there is none."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from downslope.referee.board import Board
from downslope.referee.plan import Entry, Plan, Task
from downslope.referee.recipe import Recipe
from downslope.referee.store import REPORT, Claim
from downslope.referee.trial import Record

METHODS = ("adamw", "a-method-with-a-long-name")
RECORD = Record(
    hyper={}, seed=0, budget=550, steps=320, steps_to_target=320, best_metric=0.379, seconds=2.5, curve=()
)  # fmt: skip


def claim(task: str, state: str, step: int) -> Claim:
    return Claim(task=task, state=state, owner="me" if state == "running" else None, claims=1, step=step)


class Source:
    """A store of two workloads, two methods, two trials and three seeds each, so many of them done."""

    def __init__(self, done: int, plan_of: int = 2, methods: Sequence[str] = METHODS) -> None:
        entries = tuple(
            Entry(
                name=f"workload-{i}", source="", digest="", metric_name="cross entropy (nats)", goal="min", target=0.39,
                steps=550, evaluate_every=20,
            )
            for i in range(plan_of)
        )  # fmt: skip
        self.plan = Plan(
            workloads=entries, methods=tuple(Recipe(m, m) for m in methods), trials=2, seeds=3,
            budget=1.0, seed=0, version="0", threads=1,
        )  # fmt: skip
        self.tasks: dict[str, Task] = {t.key: t for t in self.plan.tasks()}
        self.done = done

    def claims(self) -> list[Claim]:
        states = ["done"] * self.done + ["running"] + ["waiting"] * len(self.tasks)
        claims = [claim(key, states[i], 40) for i, key in enumerate(self.tasks)]
        return [*claims, claim(REPORT, "waiting", 0)]

    def records(self) -> dict[str, Record]:
        missed = replace(RECORD, steps_to_target=None, best_metric=0.41, steps=550)
        return {key: (missed if "long" in key else RECORD) for key in list(self.tasks)[: self.done]}


def drawn(source: Source, width: int, height: int = 30) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    board = Board(source, console)
    board._look()
    running = list(source.tasks.values())[source.done]
    board.step(running, 120, 550)
    console.print(board._drawn())
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 70, 80, 120])
def test_nothing_that_matters_is_lost_at_any_width(width: int):
    lines = drawn(Source(done=7), width)
    assert max(map(len, lines)) <= width
    adamw = next(line for line in lines if line.startswith("adamw"))
    assert "4/5" in adamw  # done
    assert "320 (320–320)" in adamw  # the seeds so far with their interval
    other = next(line for line in lines if line.startswith("a-method"))
    assert "(0.41)" in other  # its best trial missed
    assert "seed 2: 120/550" in other
    assert any("7 of 20 trials" in line for line in lines)


def test_what_is_not_running_is_one_line_where_the_terminal_is_low():
    lines = drawn(Source(done=7, plan_of=6), 80, height=20)
    assert len(lines) <= 17
    assert sum(line.startswith("workload-") for line in lines) == 6
    assert sum(line.startswith("adamw") for line in lines) == 1


def test_of_more_methods_than_lines_those_that_matter_are_shown():
    methods = [f"m{i:02d}" for i in range(30)]
    source = Source(done=72, plan_of=1, methods=methods)  # the third seed of m12 runs
    fast = replace(RECORD, steps_to_target=100)
    records = {key: fast if "/m21/" in key else record for key, record in source.records().items()}
    source.records = lambda: records  # type: ignore[method-assign]
    lines = drawn(source, 100, height=16)
    assert len(lines) <= 16
    shown = [line.split()[0] for line in lines if re.match(r"m\d", line)]
    assert {"m00", "m12", "m21"} < set(shown)
    assert shown == sorted(shown)
    assert lines[-1] == f"and {30 - len(shown)} more"
    assert len([line for line in drawn(source, 100, height=60) if re.match(r"m\d", line)]) == 30


def test_time_left_is_the_work_left_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch):
    source, clock = Source(done=10), [100.0]
    monkeypatch.setattr("downslope.referee.board.time.monotonic", lambda: clock[0])
    board = Board(source, Console(file=io.StringIO(), width=80))
    board._look()
    assert board._left() == "time left not known yet"
    clock[0] += 5.0  # one trial of 2.5 s of training took 5 s by the clock; ten such are left
    board.finished(next(iter(source.tasks.values())), RECORD)
    assert board._left() == "about 50 s left"


def test_plain_lines_where_there_is_no_terminal():
    source, out = Source(done=0), io.StringIO()
    with Board(source, Console(file=out, width=80)) as board:
        source.done = 1
        task = next(iter(source.tasks.values()))
        board.step(task, 20, 550)
        board.finished(task, replace(RECORD, steps_to_target=None, cause="step 3: the loss became nan."))
        board.note("timing")
    assert out.getvalue().splitlines() == [
        "20 trials, 20 to run; stop with Ctrl-C, the same command goes on.",
        "[1/20] workload-0 adamw tuning trial 1: broke at step 3: the loss became nan; about 0 s left",
        "timing",
    ]
