"""Probe: what a few real steps of every method and one evaluation take, before a race."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from downslope.referee.trial import Trainable, train_step, unchanged

__all__ = ["probe"]

STEPS = 3
"""Steps that are timed for each method, after one that loads and builds what it needs."""
SECONDS = 20.0
"""A probe ends early after this long: methods that were not timed count as the slowest one that was."""


def probe(workload: Trainable, makers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Time one evaluation and a few steps of every method on a model that is thrown away.

    Args:
        workload: model, batches, loss and metric.
        makers: `makers[label](model)` gives a method's optimizer.

    Returns:
        `{"evaluation": seconds, "step": {label: seconds of a step}}`; a method that breaks is not in it.
    """
    steps: dict[str, float] = {}
    evaluation, begun = 0.0, time.perf_counter()
    with unchanged():
        torch.manual_seed(0)
        batches = list(itertools.islice(iter(workload.train), STEPS + 1))
        for label, make in makers.items():
            if time.perf_counter() - begun > SECONDS and steps:
                break
            model = workload.model()
            if not steps:
                evaluation = _evaluation(workload, model)
            try:
                opt = make(model)
                train_step(workload, model, opt, batches[0])
                start = time.perf_counter()
                for batch in batches[1:]:
                    train_step(workload, model, opt, batch)
                steps[label] = (time.perf_counter() - start) / max(1, len(batches) - 1)
            except Exception:  # what it breaks on, its trials will tell
                continue
    return {"evaluation": evaluation, "step": steps}


def _evaluation(workload: Trainable, model: Any) -> float:
    model.eval()
    start = time.perf_counter()
    with torch.no_grad():
        workload.metric(model, workload.validation)
    model.train()
    return time.perf_counter() - start
