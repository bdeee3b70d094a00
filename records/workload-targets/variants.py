"""Which variants of the built-in workloads can reach their base's target, at the points that were best on the base.

    OMP_NUM_THREADS=1 python records/workload-targets/variants.py [WORKLOAD ...]

On each variant AdamW, NadamW and SGD with Nesterov's momentum run three seeds each, for the whole budget, with the
hyperparameters of their best run in `runs/`: no tuning, as in a race in which a variant stands beside its base. Every
run adds a row to `variants.csv`; a stopped command goes on. With `--table` nothing is run.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import torch
from set_targets import METHODS, Runs, maker

from downslope.referee.plan import derive_seed
from downslope.referee.trial import run_trial
from downslope.referee.workload import load_workload
from downslope.referee.workloads import BUILT_IN

HERE = Path(__file__).parent
PATH = HERE / "variants.csv"
COLUMNS = ("variant", "method", "index", "hyper", "steps", "steps_to_target", "best_metric", "cause")
SEEDS = 3
Row = dict[str, str]


def read() -> list[Row]:
    """The runs so far."""
    if not PATH.exists():
        return []
    with PATH.open(newline="") as file:
        return list(csv.DictReader(file))


def run(variant: str, done: set[tuple[str, str, int]]) -> None:
    """Run what is missing of one variant."""
    base = variant.partition("@")[0]
    runs = Runs(HERE / "runs" / f"{base}.csv")
    for recipe in METHODS:
        label = recipe.label or recipe.method
        best = runs.best(BUILT_IN[base].goal, label)
        for index in range(SEEDS):
            if best is None or (variant, label, index) in done:
                continue
            workload = load_workload(variant)
            hyper, seed = json.loads(best["hyper"]), derive_seed("variant", variant, index)
            settings = {"seed": seed, "steps": workload.steps, "target": workload.target, "goal": workload.goal}
            record = run_trial(workload, maker(recipe.method), {**recipe.fixed, **hyper}, **settings)
            values = (variant, label, index, best["hyper"], record.steps, record.steps_to_target, record.best_metric)
            with PATH.open("a", newline="") as file:
                csv.writer(file).writerow(["" if v is None else v for v in (*values, record.cause)])


def table(rows: list[Row]) -> str:
    """A line for each variant: how many runs of each method reached the target, and the fewest steps."""
    labels = [recipe.label or recipe.method for recipe in METHODS]
    lines = [f"| variant | {' | '.join(labels)} | fewest steps | best metric, target |", "|---|---|---|---|---|---|"]
    raced = {row["variant"] for row in rows}
    for variant in (f"{name}@{each}" for name, card in BUILT_IN.items() for each in card.variants):
        if variant not in raced:
            continue
        mine = [row for row in rows if row["variant"] == variant]
        base = BUILT_IN[variant.partition("@")[0]]
        counts = [sum(bool(r["steps_to_target"]) for r in mine if r["method"] == label) for label in labels]
        steps = min((int(r["steps_to_target"]) for r in mine if r["steps_to_target"]), default=None)
        metrics = [float(r["best_metric"]) for r in mine if r["best_metric"]]
        best = max(metrics) if base.goal == "max" else min(metrics)
        of = f"{'never' if steps is None else steps} of {load_workload(variant).steps}"
        lines.append(f"| {variant} | {' | '.join(map(str, counts))} | {of} | {best:.4g}, {base.target:g} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the variants of the named workloads, or of all."""
    names = sys.argv[1:]
    if names != ["--table"]:
        torch.set_num_threads(1)
        if not PATH.exists():
            PATH.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        done = {(row["variant"], row["method"], int(row["index"])) for row in read()}
        for name in names or BUILT_IN:
            for variant in BUILT_IN[name].variants:
                run(f"{name}@{variant}", done)
    sys.stdout.write(table(read()))


if __name__ == "__main__":
    main()
