"""Set the targets of the built-in workloads: tune three standard methods, repeat the best, take the median.

    OMP_NUM_THREADS=1 python records/workload-targets/set_targets.py insteval umls

For each named workload (all, if none is named) AdamW, NadamW (NAdam with decoupled weight decay) and SGD with
Nesterov's momentum get 50 quasi-random points each, and train for three quarters of the workload's budget at a constant
learning rate. The point with the best metric, of whichever method, is repeated from ten fresh seeds; the median of the
ten best metrics is the target, before rounding. Every run adds a row to `runs/WORKLOAD.csv` here as soon as it ends; a
stopped command goes on where it was. With `--table` nothing is run: what is there is shown as the record's table.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from downslope import _registry as registry
from downslope.referee.plan import derive_seed
from downslope.referee.recipe import Recipe, candidates, entrants
from downslope.referee.trial import Record, run_trial
from downslope.referee.workload import Workload, load_workload
from downslope.referee.workloads import BUILT_IN

SHARE = 0.75
"""Of the budget, so that slower methods than the one that set the target have a chance; AlgoPerf's share too."""

ADAPTIVE = {"lr": ("log", 1e-4, 3e-2), "weight_decay": ("log", 1e-3, 3e-1)}
METHODS = (
    Recipe("adamw", space=ADAPTIVE),
    Recipe("nadam", "nadamw", fixed={"decoupled_weight_decay": True}, space=ADAPTIVE),
    Recipe("sgd", "nesterov"),
)
COLUMNS = (
    "workload",
    "method",
    "phase",
    "index",
    "seed",
    "steps",
    "hyper",
    "best_metric",
    "best_step",
    "last_metric",
    "cause",
    "processor_seconds",
)
Row = dict[str, str]


class Runs:
    """The rows of one workload's file: tuning runs by method and index, repeated ones by method, index and point."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open(newline="") if path.exists() else _empty() as file:
            self.rows = {_key(row): row for row in csv.DictReader(file)}

    def add(self, row: Row) -> None:
        """Keep one more row, in memory and in the file."""
        new = not self.path.exists()
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows[_key(row)] = row

    def best(self, goal: str, method: str = "") -> Row | None:
        """The tuning run with the best metric, of one method or of all; of equal ones, the first."""
        sign = -1.0 if goal == "max" else 1.0
        tuned = [r for r in self.rows.values() if r["phase"] == "tune" and method in ("", r["method"])]
        whole = [r for r in tuned if not r["cause"] and r["best_metric"]]
        return min(whole, key=lambda r: sign * float(r["best_metric"]), default=None)

    def repeated(self, best: Row) -> list[float]:
        """The best metrics of the runs that repeat a point; a run that broke has none."""
        same = [r for r in self.rows.values() if r["phase"] == "seed" and not r["cause"]]
        return [float(r["best_metric"]) for r in same if (r["method"], r["hyper"]) == (best["method"], best["hyper"])]


def _key(row: Row) -> tuple[str, str, int]:
    return row["method"], row["hyper"] if row["phase"] == "seed" else "", int(row["index"])


class _empty:
    """A file without lines, for a workload that has no runs yet."""

    def __enter__(self) -> Iterator[str]:
        return iter(())

    def __exit__(self, *_: object) -> None:
        return None


def run(workload: Workload, recipe: Recipe, phase: str, index: int, hyper: dict[str, Any]) -> Row:
    """Train once, for the share of the budget, and say how far it came."""
    seed = derive_seed("target", workload.name, phase, index)
    start = time.process_time()
    record = run_trial(
        workload,
        maker(recipe.method),
        {**recipe.fixed, **hyper},
        seed=seed,
        steps=math.ceil(SHARE * workload.steps),
        target=math.inf if workload.goal == "max" else -math.inf,
        goal=workload.goal,
        stop_at_target=False,
    )
    shown = {
        "workload": workload.name,
        "method": recipe.label,
        "phase": phase,
        "index": index,
        "seed": seed,
        "steps": record.budget,
        "hyper": json.dumps(hyper),
        "best_metric": record.best_metric,
        "best_step": _best_step(record),
        "last_metric": record.curve[-1].metric if record.curve else None,
        "cause": record.cause,
        "processor_seconds": round(time.process_time() - start, 1),
    }
    return {k: "" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in shown.items()}


def maker(method: str) -> Callable[..., Any]:
    """How to make an optimizer of a method."""
    return lambda model, **hyper: registry.make(method, model, **hyper)


def _best_step(record: Record) -> int | None:
    return next((p.step for p in record.curve if p.metric == record.best_metric), None)


def set_target(name: str, *, trials: int, seeds: int) -> None:
    """Do what is missing of one workload, all methods in turn, and print where it stands."""
    workload = load_workload(name)
    runs = Runs(Path(__file__).parent / "runs" / f"{name}.csv")
    steps = str(math.ceil(SHARE * workload.steps))
    if any(row["steps"] != steps for row in runs.rows.values()):
        raise SystemExit(f"{runs.path} has runs of another length than {steps} steps; move it away.")
    recipes = entrants(METHODS, registry, tuned=True)
    points = {r.label: candidates(r.space or {}, trials, 0) for r in recipes}
    for index in range(trials):
        for recipe in recipes:
            if (recipe.label, "", index) not in runs.rows:
                runs.add(run(workload, recipe, "tune", index, points[recipe.label][index]))
    best = runs.best(workload.goal)
    if best is None:
        raise SystemExit(f"{name}: every run broke.")
    for index in range(seeds):
        if (best["method"], best["hyper"], index) not in runs.rows:
            recipe = next(r for r in recipes if r.label == best["method"])
            runs.add(run(workload, recipe, "seed", index, json.loads(best["hyper"])))
    found = runs.repeated(best)
    sys.stdout.write(
        f"{name}: {best['method']} {best['hyper']} reached {best['best_metric']} at step {best['best_step']} of "
        f"{steps}; median of {len(found)} seeds {statistics.median(found):.6g}; the card says {workload.target}\n"
    )


def table() -> str:
    """What the runs say, a line for each workload that has some."""
    heads = (
        "workload",
        "points",
        "best: method, point",
        "its metric",
        "median of seeds",
        "target",
        "points that reach it",
    )
    labels = [recipe.label or recipe.method for recipe in METHODS]
    lines = [heads, tuple("---" for _ in heads)]
    for name, card in BUILT_IN.items():
        runs = Runs(Path(__file__).parent / "runs" / f"{name}.csv")
        if (best := runs.best(card.goal)) is None:
            continue
        tune = [row for row in runs.rows.values() if row["phase"] == "tune"]
        sign = -1.0 if card.goal == "max" else 1.0
        reached = [
            r["method"] for r in tune if r["best_metric"] and sign * float(r["best_metric"]) <= sign * card.target
        ]
        found = runs.repeated(best)
        lines.append(
            (
                name,
                " + ".join(str(sum(r["method"] == label for r in tune)) for label in labels),
                f"{best['method']}, "
                + ", ".join(f"{k} {v:g}" for k, v in json.loads(best["hyper"]).items() if v is not True),
                f"{float(best['best_metric']):.4g} at step {best['best_step']} of {best['steps']}",
                f"{statistics.median(found):.4g} of {len(found)}" if found else "",
                f"{card.target:g}",
                " + ".join(str(reached.count(label)) for label in labels),
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Set the targets of the named workloads, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="names of built-in workloads (default: all)")
    parser.add_argument("--trials", type=int, default=50, help="points per method (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=10, help="runs of the best point (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="show what is there and run nothing")
    chosen = parser.parse_args()
    if chosen.table:
        sys.stdout.write(table())
        return
    torch.set_num_threads(1)
    for name in chosen.workloads or BUILT_IN:
        set_target(name, trials=chosen.trials, seeds=chosen.seeds)


if __name__ == "__main__":
    main()
