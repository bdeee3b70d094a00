"""What the referee costs: a trial of a race against a bare training loop of the same model on the same batches.

The trial is the race's own (`run_trial`: seeds, checks that loss and gradients are finite, the record); the metric is
free, as evaluation is no part of training. Both take turns of `STEPS` steps, whole wall-clock time, models built alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch

import downslope as ds
from benchmarks.clock import Spread, ratio, take_turns
from downslope.referee import load_workload
from downslope.referee.trial import run_trial

__all__ = ["measure"]

STEPS = 200


def measure(
    workloads: tuple[str, ...] = ("fashion-mlp", "sotu-gpt"), steps: int = STEPS, seconds: float = 6.0
) -> list[dict[str, Any]]:
    """One row a workload: seconds per step of both, and the trial's over the bare loop's."""
    return [_row(name, steps, seconds) for name in workloads]


def _row(name: str, steps: int, seconds: float) -> dict[str, Any]:
    full = load_workload(name)
    workload = dataclasses.replace(full, metric=lambda model, batches: 0.0, evaluate_every=steps)

    def trial() -> None:
        run_trial(workload, ds.AdamW, {"lr": 1e-3}, seed=0, steps=steps, target=-1.0, goal="min")

    def bare() -> None:
        torch.manual_seed(0)
        model = workload.model()
        opt = ds.AdamW(model, lr=1e-3)
        batches = itertools.chain.from_iterable(itertools.repeat(workload.train))
        for batch in itertools.islice(batches, steps):
            opt.zero_grad()
            workload.loss(model, batch).backward()
            opt.step()

    trial()
    bare()
    found = take_turns({"trial": trial, "bare": bare}, lambda: None, seconds=seconds, least=7, most=21)
    over = ratio(found["trial"], found["bare"])
    alone = {label: Spread.of([x / steps for x in values]).median for label, values in found.items()}
    return {"workload": name, **alone, "over": dataclasses.asdict(over)}
