"""Errands: what a race has done in a process of its own. Each takes a workload and a request, and gives JSON.

Where an errand runs, and what ends it, is the business of `downslope.referee.child` and `downslope.referee.isolation`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from downslope import _registry
from downslope.referee.check import check_methods, check_workload
from downslope.referee.memory import peak_memory
from downslope.referee.plan import plan_from
from downslope.referee.probe import probe
from downslope.referee.recipe import tuples
from downslope.referee.timing import Runner, measure_seconds
from downslope.referee.trial import Progress, Trainable, run_trial, train_step
from downslope.referee.workload import Workload

__all__ = ["ERRANDS", "run", "warm_up"]

CARD = ("name", "metric_name", "goal", "target", "steps", "evaluate_every", "processes")
TEXTS = ("variant_of", "description", "data", "licence", "target_origin")


def run(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Do what a request asks for."""
    return ERRANDS[request["do"]](workload, request, progress)


def _card(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The workload's fields that are no code."""
    return {name: getattr(workload, name) for name in CARD + TEXTS}


def _check(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Does the workload train, and can every method of the plan be built for it?"""
    plan = plan_from(request["plan"])
    entry = plan.entry(workload.name)
    check_methods(plan, _registry, workload.name, check_workload(workload, entry.target, entry.goal))
    return {}


def _trial(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Train; the record."""
    settings = dict(request["settings"])
    settings["bars"] = {int(step): bar for step, bar in (settings.get("bars") or {}).items()}  # JSON's keys are texts
    record = run_trial(workload, _maker(request["method"]), tuples(request["hyper"]), **settings, progress=progress)
    return record.to_json()


def _timing(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Seconds per step of several methods in turns."""
    runners = [Runner(m["label"], _with(m["method"], m["hyper"])) for m in request["methods"]]
    return measure_seconds(_telling(workload, progress), runners, **request["settings"])


def _memory(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Bytes that training with a method adds to the process."""
    return {"bytes": peak_memory(_telling(workload, progress), _with(request["method"], request["hyper"]))}


def _telling(workload: Workload, progress: Progress) -> Workload:
    """The workload, with every step as a sign of life."""
    steps = itertools.count(1)

    def loss(model: nn.Module, batch: Any) -> Any:
        progress(next(steps), None)
        return workload.loss(model, batch)

    return dataclasses.replace(workload, loss=loss)


def _probe(workload: Workload, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Seconds of an evaluation and of a few steps of every method."""
    return probe(workload, {m["label"]: _with(m["method"], m["hyper"]) for m in request["methods"]})


ERRANDS: dict[str, Callable[[Workload, Mapping[str, Any], Progress], dict[str, Any]]] = {
    "card": _card,
    "check": _check,
    "trial": _trial,
    "timing": _timing,
    "memory": _memory,
    "probe": _probe,
}


def _maker(method: str) -> Callable[..., Any]:
    return lambda model, **hyper: _registry.make(method, model, **hyper)


def _with(method: str, hyper: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda model: _registry.make(method, model, **tuples(hyper))


def warm_up(method: str) -> None:
    """One step of a method on a model of one weight: loads and builds what its first step needs."""
    model = nn.Linear(1, 1, bias=False)
    batch = model.weight.new_ones(1, 1)
    train_step(cast(Trainable, _OneWeight), model, _registry.make(method, model), batch)


class _OneWeight:
    """The least that `train_step` asks of a workload."""

    @staticmethod
    def loss(model: nn.Module, batch: Any) -> Any:
        return model(batch).square().mean()
