"""Checks before a race: does the workload train, and can every method be built for it? Nothing is stored before."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, nn

from downslope.referee.errors import RaceError
from downslope.referee.plan import Plan
from downslope.referee.recipe import Catalogue, refuse_unmet_needs
from downslope.referee.trial import agreed, unchanged

__all__ = ["check_methods", "check_workload"]


def check_workload(workload: Any, target: float, goal: str) -> nn.Module:
    """Build the model, take one batch, one loss and one metric; returns the model.

    Raises:
        RaceError: in one sentence, with file and line where the workload's own code raised.
    """
    name = workload.name
    with unchanged():
        torch.manual_seed(0)
        model = _attempt(name, "model", workload.model)
        if not isinstance(model, nn.Module):
            raise _wrong(name, "model() must return a torch.nn.Module", model)
        if not any(p.requires_grad for p in model.parameters()):
            raise _wrong(name, "model() must have parameters to train", model)
        batch = _attempt(name, "train", lambda: next(iter(workload.train), None))
        if batch is None:
            raise _wrong(name, "train must yield batches", "none")
        loss = _attempt(name, "loss", lambda: workload.loss(model, batch))
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise _wrong(name, "loss(model, batch) must return a scalar tensor that can be differentiated", loss)
        model.eval()
        with torch.no_grad():
            metric = _attempt(name, "metric", lambda: workload.metric(model, workload.validation))
        model.train()
        rule = "metric(model, batches) must return a number"
        if isinstance(metric, str):
            raise _wrong(name, rule, repr(metric))
        try:
            value = agreed(float(metric))
        except (TypeError, ValueError):
            raise _wrong(name, rule, metric) from None
        if value >= target if goal == "max" else value <= target:
            raise RaceError(
                f"workload {name!r}: the untrained model is already at the target ({workload.metric_name} {value:.4g}, "
                f"target {target:g}); set a harder one.",
                bad_input=True,
            )
    return model


def check_methods(plan: Plan, catalogue: Catalogue, workload: str, model: nn.Module) -> None:
    """Build every method for the model with its first candidate, and refuse what it refuses."""
    refuse_unmet_needs(plan.methods, catalogue, workload)
    for recipe in plan.methods:
        first = plan.points(recipe)[0] if plan.trials else {}
        try:
            opt = catalogue.make(recipe.method, model, **recipe.fixed, **first)
        except (ValueError, TypeError) as error:
            raise RaceError(
                f"{recipe.label} cannot train workload {workload!r}: {str(error).splitlines()[0]}", bad_input=True
            ) from error
        # Without an estimate of the curvature such a method would quietly be another one.
        if "curvature" in getattr(opt, "needs", ()) and not getattr(opt, "needs_graph", False):
            raise RaceError(
                f"method {recipe.method!r} needs the curvature of labels drawn from the model's output "
                f"(observe_curvature), which workload {workload!r} does not supply; leave it out of --methods.",
                bad_input=True,
            )


def _attempt(name: str, part: str, action: Any) -> Any:
    try:
        return action()
    except RaceError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename and f.filename != __file__]
        at = f" at {own[-1].filename}, line {own[-1].lineno}" if own else ""
        text = (str(error).strip().splitlines() or ["no message"])[0]
        raise RaceError(
            f"workload {name!r}: its {part} raised {type(error).__name__}{at}: {text}", bad_input=True
        ) from error


def _wrong(name: str, rule: str, got: Any) -> RaceError:
    shown = got if isinstance(got, str) else _describe(got)
    return RaceError(f"workload {name!r}: {rule}; got {shown}.", bad_input=True)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        graph = "" if value.requires_grad else " without a graph"
        return f"a tensor of shape {tuple(value.shape)}{graph}"
    return f"{type(value).__name__} {str(value)[:60]!r}"
