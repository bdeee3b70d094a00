"""A finished race of made-up trials, built by the referee's own code but trained by nobody."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from downslope.referee import Recipe, results
from downslope.referee.plan import Entry, Plan, Task
from downslope.referee.trial import Point, Record

SPACES: dict[str, dict[str, Any]] = {
    "adamw": {"lr": ("log", 1e-4, 1e-1), "weight_decay": ("choice", 0.0, 1e-3, 1e-1)},
    "lion": {"lr": ("log", 1e-5, 1e-2), "betas": ("choice", (0.9, 0.99), (0.95, 0.98))},
    "sgd": {"lr": ("log", 1e-3, 1e1), "nesterov": ("choice", True, False), "momentum": ("uniform", 0.5, 0.99)},
}
STEPS = 400


class FinishedRace:
    """What a report asks of a store, with records that follow from the names alone."""

    def __init__(self, workloads: list[str], labels: dict[str, str], text: str = "made up") -> None:
        entries = tuple(
            Entry(
                name=name, source="", digest="", metric_name=text, goal="min", target=0.4, steps=STEPS,
                evaluate_every=20, description=text, data=text, licence=text, target_origin=text,
            )
            for name in workloads
        )  # fmt: skip
        methods = tuple(Recipe(m, label, {}, SPACES[m]) for label, m in labels.items())
        self.folder, self.text = Path("race"), text
        self.plan = Plan(
            workloads=entries, methods=methods, trials=5, seeds=6, budget=1.0, seed=0, version="0",
            threads=1,
        )  # fmt: skip
        self.tasks = {t.key: t for t in self.plan.tasks()}

    def records(self) -> dict[str, Record]:
        return {key: self._record(task) for key, task in self.tasks.items()}

    def kept(self, name: str) -> Any:
        labels = [m.label for m in self.plan.methods]
        if name.startswith("timing"):
            turns = {label: [0.01 + 0.002 * i + 1e-5 * k for k in range(9)] for i, label in enumerate(labels)}
            alone = {label: [0.001] for label in labels}
            found = {"turns": turns, "step_alone": alone, "first_step": dict.fromkeys(labels, 0.5), "broken": {}}
            elsewhere = {"processor": f"another {self.text}", "cores": 3}
            return found | {"build": dict.fromkeys(labels, 2.5), "others": 0.7, "machine": elsewhere}
        if name.startswith("memory"):
            return {label: 10_000_000 * (i + 1) for i, label in enumerate(labels)}
        return {"started": "2026-01-01 00:00 +0000", "processor": self.text} if name == "machine" else None

    def _record(self, task: Task) -> Record:
        chance = random.Random(task.key.rpartition("/")[0].rpartition("/")[2] + str(task.index) + task.phase)
        kind = [m.label for m in self.plan.methods].index(task.label)
        pace = (0.012, 0.02, 0.004)[kind % 3] * chance.uniform(0.8, 1.3)
        curve = [
            Point(step, None if step == 0 else value - 0.02, value, step * 0.01)
            for step in range(0, STEPS + 1, 20)
            for value in [0.3 + 2.0 * 2.718281828 ** (-pace * step)]
        ]
        reached = next((p.step for p in curve if p.metric <= 0.4), None)
        curve = [p for p in curve if reached is None or p.step <= reached]
        broke = task.phase == "tune" and kind == 2 and task.index == 1
        cause = f"step 3: the loss became nan; {self.text}" if broke else None
        tuned = self._record_hyper(task)
        return Record(
            hyper=tuned,
            seed=task.seed,
            budget=STEPS,
            steps=curve[-1].step,
            steps_to_target=None if broke else reached,
            best_metric=None if broke else curve[-1].metric,
            seconds=3.0,
            curve=() if broke else tuple(curve),
            cause=cause,
            state_bytes=1_000_000 * (kind + 1),
            manifest=f"manifest of {task.label}",
        )

    def _record_hyper(self, task: Task) -> dict[str, Any]:
        if task.hyper is not None:
            return task.hyper
        return self.tasks[f"{task.workload}/{task.label}/tune/000"].hyper or {}


def content(workloads: list[str], labels: dict[str, str], text: str = "made up") -> dict[str, Any]:
    """`results.json` of such a race; `labels` gives the method behind each label."""
    found: dict[str, Any] = json.loads(json.dumps(results.build(FinishedRace(workloads, labels, text))))  # type: ignore[arg-type]
    return found
