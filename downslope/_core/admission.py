"""Admission: what may stand in a param group, what a rule asks of the groups together, and what no step can take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from downslope._checks import ArgumentError, nearest, refuse
from downslope._core.combinators import Partition
from downslope._core.plan import Node, Route
from downslope._core.scheduled import present
from downslope._core.transform import GlobalTransform

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = [
    "check_labels",
    "check_needed",
    "check_together",
    "lr_of",
    "refuse_capture",
    "refuse_sparse",
    "refuse_unknown",
]

# Keys of a param group that are not hyperparameters of a rule: torch's own, its schedulers' and ours.
_OTHER_KEYS = {"params", "param_names", "initial_lr", "base_lr", "max_lr", "min_lr", "swa_lr", "name", "role", "rule"}


def refuse_unknown(owner: str, given: Mapping[str, Any], known: set[str], arguments: Iterable[str]) -> None:
    """Refuse keys that look like a hyperparameter but are none, and arguments of the constructor.

    An argument that is no hyperparameter of a group decides which parts the rule has; in a group it would do nothing.
    """
    shaping = set(arguments) - known
    for key in given:
        if key in shaping:
            refuse(owner, key, "given to the constructor, as it shapes the rule of all groups", given[key])
        guess = None if key in known or key in _OTHER_KEYS else nearest(key, known, cutoff=0.75)
        if guess:
            raise ArgumentError(f"{owner}: a param group has no {key!r}; did you mean {guess!r}?")


def check_together(
    owner: str,
    plan: Node,
    route: Route,
    values: Mapping[str, Any],
    groups: Iterable[tuple[Mapping[str, Any], Route]],
    step: int,
) -> None:
    """Refuse a group whose hyperparameters of a global transform differ from those of the other groups it sees."""
    groups = list(groups)
    for node in plan.on(route):
        if not isinstance(node.transform, GlobalTransform):
            continue
        together = [group for group, other in groups if other in node.routes]
        for key in sorted({*node.hyper.values()} - {"weight_decay"}):
            if any(group[key] != present(values[key], step) for group in together):
                refuse(owner, key, "the same in all param groups, as it concerns them together", values[key])


def check_needed(owner: str, plan: Node, routes: Iterable[Route]) -> None:
    """Refuse a model on which the rule that the method is named after would never run."""
    met = {label for route in routes for label in route}
    for node in plan.walk():
        needed = node.transform.needed if isinstance(node.transform, Partition) else ()
        for label in set(needed) - met:
            raise ArgumentError(f"{owner}: the model has no {label} parameter, for which its rule is made.")


def check_labels(owner: str, lr: Any, plan: Node) -> None:
    """Refuse learning rates by label that name no label of the rule."""
    if isinstance(lr, Mapping):
        labels = {label for route in plan.routes for label in route}
        if not lr or not set(lr) <= labels:
            refuse(owner, "lr", f"given for labels out of {', '.join(sorted(labels)) or 'none'}", dict(lr))


def lr_of(owner: str, lr: Any, route: Route) -> Any:
    """The learning rate of a route, where there may be one per label."""
    if not isinstance(lr, Mapping):
        return lr
    label = next((label for label in route if label in lr), None)
    if label is None:
        refuse(owner, "lr", f"given for the label {' / '.join(route)}", dict(lr))
    return lr[label]


def refuse_capture(owner: str) -> None:
    """Refuse a step while a CUDA graph is captured."""
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise ArgumentError(
            f"{owner}: a step cannot be captured in a CUDA graph, which would replay the hyperparameters of the "
            "capture; capture forward and backward, and call step() outside of the graph."
        )


def refuse_sparse(opt: Optimizer) -> None:
    """Refuse sparse gradients before anything has moved."""
    for p in opt.parameters():
        if p.grad is not None and p.grad.is_sparse:
            raise ArgumentError(
                f"{type(opt).__name__}: cannot take the sparse gradient of {opt.info(p).label}; "
                "build its layer with sparse=False."
            )
