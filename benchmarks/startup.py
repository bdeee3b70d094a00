"""Cold build and warm start, in fresh processes: the time from an imported package to the end of the first step.

The set is the tiny one, so that the first step is the engine's work (tracing, building or finding the kernel, loading
it) and not the allocation of state. An optimizer of torch has stepped before, as torch imports parts of itself then,
whoever's optimizer comes first. Cold has an empty cache of kernels; warm finds what the cold run has built.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
from typing import Any

import torch

from benchmarks.clock import first_call
from benchmarks.fresh import TaskError, run
from benchmarks.rivals import executor, ours
from benchmarks.sets import SETS, tensors
from downslope import card

__all__ = ["first_step", "measure_startup"]

CACHE = "DOWNSLOPE_CACHE"
WARM_RUNS = 3


def measure_startup(keys: list[str], execution: str) -> tuple[list[dict[str, Any]], list[str]]:
    """One row a method: seconds of the first step cold and warm (median of a few)."""
    rows, notes = [], []
    for key in keys:
        try:
            with tempfile.TemporaryDirectory() as folder:
                calls = [
                    run("startup:first_step", environment={CACHE: folder}, key=key, execution=execution)
                    for _ in range(1 + WARM_RUNS)
                ]
        except TaskError as error:
            notes.append(f"start of {key} left out: {error}")
            continue
        warm = statistics.median(call["first"] for call in calls[1:])
        rows.append({"method": key, "executor": calls[0]["executor"], "cold": calls[0]["first"], "warm": warm})
    return rows, notes


def first_step(key: str, execution: str) -> dict[str, Any]:
    """The task: seconds to build the optimizer and take its first step on the tiny set."""
    shared = tensors(SETS["tiny"])
    importlib.import_module(card(key).module)
    torch.optim.SGD(shared.parameters.values(), lr=0.0).step()
    made = []

    def begin() -> None:
        lane = ours(key, shared.parameters, execution=execution)
        made.append(lane.optimizer)
        lane.variants["downslope"]()

    first = first_call(begin)
    return {"first": first, "executor": executor(made[0])}
