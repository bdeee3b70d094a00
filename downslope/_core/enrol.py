"""Enrolment: a param group as given becomes one group per rule, with every parameter known by name and role."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downslope._checks import ArgumentError, check_form, check_hyperparameter, refuse
from downslope._core.admission import check_together, lr_of, refuse_unknown
from downslope._core.groups import named_members
from downslope._core.options import Options
from downslope._core.plan import Route, describe, route_of
from downslope._core.roles import ROLES, ParamInfo, role_by_name
from downslope._core.scheduled import present
from downslope._engine import sharded

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = ["enrol"]

Member = tuple[str | None, Tensor]


def enrol(opt: Optimizer, param_group: dict[str, Any]) -> None:
    """Check a param group and add it to `opt`, divided by the routes that its parameters take through the rule.

    Raises:
        ArgumentError: in one sentence; some of the group may have been added then.
    """
    owner = type(opt).__name__
    if "params" not in param_group:
        raise ArgumentError(f"{owner}: a param group has no 'params'; it has {', '.join(map(str, param_group))}.")
    members = named_members(owner, param_group["params"], param_group.get("param_names"))
    role = param_group.get("role")
    if role is not None and role not in ROLES:
        refuse(owner, "role", f"one of {', '.join(ROLES)}", role)
    given = {k: v for k, v in param_group.items() if k not in ("params", "param_names", "role")}
    infos = {p: _inform(opt, name, p, role) for name, p in members}
    by_route: dict[Route, list[Member]] = {}
    for name, p in members:
        route = route_of(opt._plan, lambda part, info=infos[p]: part.label(info))
        by_route.setdefault(route, []).append((name, p))
    if len(by_route) > 1 and "lr" in given and not isinstance(given["lr"], Mapping):
        refuse(owner, "lr of a group that several rules share", "a dict with one lr per label", given["lr"])
    known = {"lr"}.union(*(opt._plan.hyperparameters(route) for route in by_route))
    refuse_unknown(owner, given, known, [*inspect.signature(type(opt).__init__).parameters, *Options.__annotations__])
    for route, routed in by_route.items():
        _add(opt, given, route, routed)


def _inform(opt: Optimizer, name: str | None, p: Tensor, role: str | None) -> ParamInfo:
    """What is known of a parameter, which must be new and fit the rule."""
    owner = type(opt).__name__
    info = opt._model_roles.get(name or "") or role_by_name(name, p)
    if role is not None:
        info = replace(info, role=role, why="its param group says so")
    if p in opt._info:
        raise ArgumentError(f"{owner}: {info.label} appears more than once in the param groups.")
    if p.is_complex() and any(n.transform.scope == "tensor" for n in opt._plan.leaves()):
        raise ArgumentError(f"{owner}: cannot take complex parameters such as {info.label}; split them into two.")
    opt._plan.storage.admit(info)
    opt._info[p] = info
    opt._divided |= sharded.is_divided(p)
    return info


def _add(opt: Optimizer, given: Mapping[str, Any], route: Route, members: list[Member]) -> None:
    """Add the members of one route as a group that has every hyperparameter of their rule."""
    owner, known = type(opt).__name__, opt._plan.hyperparameters(route)
    values = known | {"lr": lr_of(owner, given.get("lr", opt._lr), route)}
    values |= {k: v for k, v in given.items() if k in known}
    live = {"lr"} | {n.hyper[f] for n in opt._plan.on(route) for f in n.transform.live()}
    for key in live:
        if values[key] is not None or key == "lr":
            check_form(owner, key, values[key], known.get(key, 0.0))
            check_hyperparameter(owner, key, present(values[key], opt.steps))
    check_together(owner, opt._plan, route, values, zip(opt.param_groups, opt._routes, strict=True), opt.steps)
    index, group = len(opt.param_groups), {k: v for k, v in given.items() if k not in values}
    group |= {key: opt._scheduled.take(index, key, value, opt.steps) for key, value in values.items()}
    group |= {"base_lr": getattr(values["lr"], "peak", group["lr"]), "rule": describe(opt._plan, route)}
    group["params"] = [p if name is None else (name, p) for name, p in members]
    defaults, opt.defaults = opt.defaults, {}  # the group is complete; torch must not add other rules' defaults
    try:
        torch.optim.Optimizer.add_param_group(opt, group)
    finally:
        opt.defaults = defaults
    opt._routes.append(route)
    for node in opt._plan.on(route):
        settled = node.settled(group)
        settled.check_lr(group["lr"])
        for p, info in ((p, opt._info[p]) for _, p in members):
            if node.takes(info):
                sharded.admit(owner, node, settled, info, p, opt._stochastic)
                if not node.in_subspace:
                    settled.check_parameter(info)
