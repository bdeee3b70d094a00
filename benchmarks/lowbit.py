"""8-bit and 4-bit state of AdamW: size, step time, and the loss on the text workload.

By default embeddings and tensors under 4,096 elements keep full precision. Size and time are of one large tensor, and
the text model, which is small, stores all of its state in low bits: nothing hides behind tensors that were left out.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

from benchmarks.clock import Spread, ratio, take_turns
from benchmarks.low_bit_loss import SEEDS, WORKLOAD, train
from benchmarks.rivals import ours
from benchmarks.sets import SETS, Tensors, tensors
from downslope.referee import load_workload

__all__ = ["FORMS", "by_default", "measure", "measure_loss", "measure_steps"]

FORMS = ("8bit", "4bit")


def measure(*, scale: float, execution: str, seconds: float) -> dict[str, Any]:
    """The task: steps and loss. A scale below one shortens the runs of the text workload too."""
    steps = None if scale == 1.0 else 20
    return {
        "steps": measure_steps(tensors(SETS["one"].scaled(scale)), execution=execution, seconds=seconds),
        "by_default": by_default(tensors(SETS["gpt2"].scaled(scale)), execution=execution),
        "loss": measure_loss(execution=execution, steps=steps),
    }


def by_default(shared: Tensors, *, execution: str) -> dict[str, float]:
    """Bytes of state per number by form, with embeddings and small tensors in full precision, as by default."""
    found = {}
    for form in FORMS:
        lane = ours("adamw", shared.parameters, execution=execution, state_dtype=form)
        lane.variants["downslope"]()
        found[form] = lane.state_bytes / shared.numel
        del lane
    return found


def measure_steps(shared: Tensors, *, execution: str, seconds: float) -> list[dict[str, Any]]:
    """One row a form: seconds per step beside float32 in the same rounds, and bytes of state per number."""
    plain, rows = ours("adamw", shared.parameters, execution=execution), []
    for form in FORMS:
        low = ours("adamw", shared.parameters, execution=execution, **_everywhere(form))
        calls = {"float32": plain.variants["downslope"], form: low.variants["downslope"]}
        for call in (*calls.values(), *calls.values()):
            call()
        found = take_turns(calls, shared.restore, seconds=seconds)
        rows.append(
            {
                "form": form,
                "seconds": dataclasses.asdict(Spread.of(found[form])),
                "float32": dataclasses.asdict(Spread.of(found["float32"])),
                "over_float32": dataclasses.asdict(ratio(found[form], found["float32"])),
                "state_per_number": low.state_bytes / shared.numel,
            }
        )
        del low, calls
    return rows


def _everywhere(form: str) -> dict[str, Any]:
    """The keyword that stores all state in a form, also of embeddings and small tensors."""
    return {"state_dtype": lambda info: form}


def measure_loss(*, execution: str, steps: int | None = None) -> list[dict[str, Any]]:
    """One row a form: the final metric of each seed, and how much larger its mean is than float32's.

    Args:
        execution: the executor.
        steps: of each run; the workload's budget if None.
    """
    workload = load_workload(WORKLOAD)
    workload = dataclasses.replace(workload, evaluate_every=steps or workload.steps)
    rows: list[dict[str, Any]] = []
    for form, variant in (("float32", "float32"), *((form, f"all {form}") for form in FORMS)):
        runs = [train(workload, variant, seed, execution=execution, steps=steps) for seed in range(SEEDS)]
        found = [float("nan") if run.cause else run.curve[-1].metric for run in runs]
        mean = statistics.fmean(found)
        above = mean / rows[0]["mean"] - 1 if rows else 0.0
        rows.append({"form": form, "metric": workload.metric_name, "seeds": found, "mean": mean, "above": above})
    return rows
