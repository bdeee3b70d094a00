"""Loading: a saved state goes back to the parameters by name, with its dtype, or is refused in one sentence."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from downslope._checks import ArgumentError
from downslope._engine.storage import check_saved

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = ["load_state"]

_NOT_HYPER = ("params", "param_names", "shared")


def load_state(opt: Optimizer, saved: dict[str, Any]) -> None:
    """Check a state dict against `opt` and put it in; `opt` is unchanged if anything does not fit.

    Where both sides know names, parameters are matched by name in whatever order and grouping of equal sets; else by
    order. Tensors keep the dtype they were saved with and move to the device of their parameter.
    """
    owner = type(opt).__name__
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= set(saved):
        raise ArgumentError(f"{owner}: a state dict must have 'state' and 'param_groups'; got {_keys(saved)}.")
    pairs = _match_groups(owner, opt.param_groups, saved["param_groups"])
    state: dict[Any, Any] = {}
    hyper: list[dict[str, Any]] = []
    for group, theirs in pairs:
        _check_rule(owner, opt, group, theirs)
        ids = _ids(owner, group, theirs)
        for p, key in zip(group["params"], ids, strict=True):
            values = saved["state"].get(key, {})
            _check_shapes(owner, opt, p, group, values)
            state[p] = {k: _own(v, p) for k, v in values.items()}
        hyper.append({k: copy.deepcopy(v) for k, v in theirs.items() if k not in _NOT_HYPER})
    shared = next((g["shared"] for g in saved["param_groups"] if "shared" in g), None)
    if shared is not None:
        state["shared"] = copy.deepcopy(shared)
    for (group, _), values in zip(pairs, hyper, strict=True):
        group.update(values)
    opt.state.clear()
    opt.state.update({k: v for k, v in state.items() if v})


def _keys(saved: object) -> str:
    return ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__


def _match_groups(
    owner: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    if len(ours) != len(theirs):
        raise ArgumentError(f"{owner}: the saved state has {len(theirs)} param groups, this optimizer has {len(ours)}.")
    if not all("param_names" in g for g in (*ours, *theirs)):
        for i, (mine, saved) in enumerate(zip(ours, theirs, strict=True)):
            here, there = len(mine["params"]), len(saved["params"])
            if here != there:
                raise ArgumentError(f"{owner}: param group {i} has {here} parameters, the saved one has {there}.")
        return list(zip(ours, theirs, strict=True))
    by_names = {frozenset(g["param_names"]): g for g in theirs}
    pairs = []
    for mine in ours:
        names = frozenset(mine["param_names"])
        if names not in by_names:
            known = {n for g in theirs for n in g["param_names"]}
            odd = sorted(names - known) or sorted(names)
            raise ArgumentError(
                f"{owner}: the saved state has no param group with exactly these parameters: {odd[:3]}."
            )
        pairs.append((mine, by_names[names]))
    return pairs


def _check_rule(owner: str, opt: Optimizer, group: dict[str, Any], theirs: dict[str, Any]) -> None:
    if "rule" not in theirs:
        raise ArgumentError(f"{owner}: the state was not saved by an optimizer of downslope; start from a fresh state.")
    if theirs["rule"] != group["rule"]:
        raise ArgumentError(f"{owner}: the state was saved by the rule '{theirs['rule']}', not '{group['rule']}'.")
    missing = sorted(opt.hyperparameters(group) - set(theirs))
    if missing:
        raise ArgumentError(f"{owner}: the saved param group lacks {', '.join(missing)}.")


def _ids(owner: str, group: dict[str, Any], theirs: dict[str, Any]) -> list[Any]:
    if "param_names" in group and "param_names" in theirs:
        by_name = dict(zip(theirs["param_names"], theirs["params"], strict=True))
        return [by_name[name] for name in group["param_names"]]
    return list(theirs["params"])


def _check_shapes(owner: str, opt: Optimizer, p: Tensor, group: dict[str, Any], values: dict[str, Any]) -> None:
    found = opt.places(p, group)
    check_saved(owner, opt.info(p), found, values)
    for place in (each for each in found if each.shape is not None and isinstance(each.slot.shape, str)):
        for key, expected in place.entries().items():
            value = values.get(key)
            if isinstance(value, Tensor) and tuple(value.shape) != expected:
                raise ArgumentError(
                    f"{owner}: the saved {key} of {opt.info(p).label} has shape {tuple(value.shape)}, "
                    f"expected {expected}."
                )


def _own(value: Any, p: Tensor) -> Any:
    return value.detach().to(device=p.device, copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
