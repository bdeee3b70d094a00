"""What low-bit state costs in loss: AdamW on a built-in workload with its state in each form, against float32.

`OMP_NUM_THREADS=1 python -m benchmarks.low_bit_loss FOLDER [VARIANT ...] [--seeds N] [--execution native]` trains the
variants (all of them) from N seeds with the best constant learning rate of AdamW on that workload, puts every run into
`FOLDER/results.csv` in place of former runs of the same variant, and prints, for each variant in there, the mean of the
final metrics and its distance to that of float32. One thread on one kind of processor gives the same numbers again.

Variants: `8bit` and so on are `state_dtype=` as users give it, where embeddings and small tensors stay float32; `all
8bit` stores everything that way. `float32, nudged` is float32 from weights that are multiplied by 1 ± 1e-6: how far
two runs come apart that differ in nothing that matters.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import downslope as ds
from downslope.referee.trial import Record, run_trial
from downslope.referee.workload import Workload, load_workload

FORMS = ("bfloat16", "8bit", "4bit")
WORKLOAD, LR, SEEDS = "sotu-gpt", 3e-3, 3
COLUMNS = ("variant", "seed", "final", "best", "steps to target", "state bytes a parameter", "cause")


def nudged(model: nn.Module) -> nn.Module:
    """The model with every weight multiplied by 1 + 1e-6 or 1 - 1e-6 at random."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 1e-6 * (torch.randint(0, 2, p.shape, generator=rng) * 2 - 1))
    return model


def variants(execution: Any) -> dict[str, Callable[..., ds.Optimizer]]:
    """How each variant builds its optimizer from a model."""

    def adamw(state_dtype: Any) -> Callable[..., ds.Optimizer]:
        return lambda model, lr: ds.AdamW(model, lr=lr, execution=execution, state_dtype=state_dtype)

    found = {"float32": adamw("float32"), "float32, nudged": lambda model, lr: adamw("float32")(nudged(model), lr)}
    found |= {form: adamw(form) for form in FORMS}
    return found | {f"all {form}": adamw(lambda info, form=form: form) for form in FORMS}


def train(workload: Workload, variant: str, seed: int, *, execution: str, steps: int | None = None) -> Record:
    """One run over the whole budget, or so many steps."""
    return run_trial(
        workload,
        variants(execution)[variant],
        {"lr": LR},
        seed=seed,
        steps=steps or workload.steps,
        target=workload.target,
        goal=workload.goal,
        stop_at_target=False,
    )


def row(variant: str, seed: int, record: Record, parameters: int) -> list[str]:
    """A run as a row of the table."""
    final = float("nan") if record.cause else record.curve[-1].metric
    size = (record.state_bytes or 0) / parameters
    best, reached = record.best_metric, record.steps_to_target
    shown = ["" if best is None else f"{best:.5f}", "" if reached is None else str(reached)]
    return [variant, str(seed), f"{final:.5f}", *shown, f"{size:.3f}", record.cause or ""]


def summary(rows: list[list[str]]) -> str:
    """The mean of every variant, its distance to float32, and the single runs."""
    finals = {name: [float(row[2]) for row in rows if row[0] == name] for name in variants("auto")}
    base = statistics.mean(finals["float32"]) if finals["float32"] else float("nan")
    lines = [f"{WORKLOAD}, final metric, mean of the seeds and distance to float32"]
    for name, values in ((name, values) for name, values in finals.items() if values):
        mean, each = statistics.mean(values), ", ".join(f"{v:.4f}" for v in values)
        lines.append(f"{name:16} {mean:.4f}  {100 * (mean / base - 1):+.2f}%  ({each})")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train variants and compare all in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("variant", nargs="*")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--execution", default="reference")
    given = parser.parse_args()
    torch.set_num_threads(1)
    workload, path = load_workload(WORKLOAD), given.folder / "results.csv"
    parameters = sum(p.numel() for p in workload.model().parameters())
    names = given.variant or list(variants(given.execution))
    rows = list(csv.reader(path.open(newline="")))[1:] if path.exists() else []
    rows = [each for each in rows if each[0] not in names]
    for variant, seed in itertools.product(names, range(given.seeds)):
        record = train(workload, variant, seed, execution=given.execution)
        rows.append(row(variant, seed, record, parameters))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    sys.stdout.write(summary(rows))


if __name__ == "__main__":
    main()
