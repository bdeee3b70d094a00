"""Loading: a saved state goes back to the parameters by name, with its dtype, or is refused in one sentence."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downslope._checks import ArgumentError
from downslope._engine.sharded import local, state_for
from downslope._engine.storage import check_saved

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = ["count_nothing", "load_state", "makes_state_only", "packed"]

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
        state["shared"] = _restored(opt, shared)
        _check_complete(owner, state["shared"]["optimizer"].pop("entries", None), state)
    for (group, _), values in zip(pairs, hyper, strict=True):
        group.update(values)
    opt.state.clear()
    opt.state.update({k: v for k, v in state.items() if v})


def packed(shared: dict[str, dict[str, Any]], state: dict[Any, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The shared values as they are saved: lists for tensors, whose shape may change, and the count of all entries."""
    plain = {k: {n: v.tolist() if isinstance(v, Tensor) else v for n, v in own.items()} for k, own in shared.items()}
    return plain | {"optimizer": plain["optimizer"] | {"entries": count_entries(state)}}


def _restored(opt: Optimizer, saved: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    shared = copy.deepcopy(saved)
    for key, initial in opt.initial_shared().items():
        for name, value in shared.get(key, {}).items():
            if isinstance(initial.get(name), Tensor):
                shared[key][name] = torch.as_tensor(value, dtype=initial[name].dtype)
    return shared


def makes_state_only(opt: Optimizer) -> bool:
    """Whether a step is none of training, but how `torch.distributed.checkpoint` makes the state that it will fill.

    It sets every lr to 0 and every gradient to zeros and takes the first step, without the signals of a loop.
    """
    if opt.steps > 0 or any(group["lr"] != 0 for group in opt.param_groups):
        return False
    grads = [p.grad for p in opt.parameters() if p.requires_grad]
    return all(grad is not None and not local(grad).any() for grad in grads)


def count_nothing(opt: Optimizer) -> None:
    """Leave the state of such a step as before the first one, but there."""
    for p in opt.parameters():
        if p in opt.state:
            opt.state[p]["step"] = 0
    shared: dict[str, Any] = opt.state["shared"]  # type: ignore[index]
    shared |= {key: values for key, values in opt.initial_shared().items() if key in shared}
    shared["optimizer"]["steps"] = 0


def count_entries(state: dict[Any, dict[str, Any]]) -> int:
    """How many numbers the states of all parameters hold."""
    values = (value for key, own in state.items() if key != "shared" for value in own.values())
    return sum(value.numel() if isinstance(value, Tensor) else 1 for value in values)


def _check_complete(owner: str, entries: int | None, state: dict[Any, dict[str, Any]]) -> None:
    """Refuse what `torch.distributed.checkpoint` has loaded in part: it fills what a fresh optimizer has, no more."""
    found = count_entries(state)
    if entries is not None and entries != found:
        raise ArgumentError(
            f"{owner}: the state was saved with {entries} numbers and came with {found}, as its rule keeps other state "
            "than at its start; save it whole, by StateDictOptions(full_state_dict=True), and call load_state_dict()."
        )


def _keys(saved: object) -> str:
    return ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__


def _match_groups(
    owner: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    if len(ours) != len(theirs):
        raise ArgumentError(f"{owner}: the saved state has {len(theirs)} param groups, this optimizer has {len(ours)}.")
    names = [_names(g) for g in (*ours, *theirs)]
    if any(each is None for each in names):
        for i, (mine, saved) in enumerate(zip(ours, theirs, strict=True)):
            here, there = len(mine["params"]), len(saved["params"])
            if here != there:
                raise ArgumentError(f"{owner}: param group {i} has {here} parameters, the saved one has {there}.")
        return list(zip(ours, theirs, strict=True))
    sets = [frozenset(each or ()) for each in names]
    known = sets[len(ours) :]
    pairs = []
    for mine, wanted in zip(ours, sets, strict=False):
        if wanted not in known:
            odd = sorted(wanted.difference(*known)) or sorted(wanted)
            raise ArgumentError(
                f"{owner}: the saved state has no param group with exactly these parameters: {odd[:3]}."
            )
        pairs.append((mine, theirs[known.index(wanted)]))
    return pairs


def _names(group: dict[str, Any]) -> list[str] | None:
    """The names of a group's parameters; `torch.distributed.checkpoint` puts them in the place of the numbers.

    None where there are no names, or not as many as parameters, as these were put in or taken out by hand.
    """
    ids, names = group["params"], group.get("param_names")
    if all(isinstance(each, str) for each in ids):
        return list(ids)
    return None if names is None or len(names) != len(ids) else names


def _check_rule(owner: str, opt: Optimizer, group: dict[str, Any], theirs: dict[str, Any]) -> None:
    if "rule" not in theirs:
        raise ArgumentError(f"{owner}: the state was not saved by an optimizer of downslope; start from a fresh state.")
    if theirs["rule"] != group["rule"]:
        raise ArgumentError(f"{owner}: the state was saved by the rule '{theirs['rule']}', not '{group['rule']}'.")
    missing = sorted(opt.hyperparameters(group) - set(theirs))
    if missing:
        raise ArgumentError(f"{owner}: the saved param group lacks {', '.join(missing)}.")


def _ids(owner: str, group: dict[str, Any], theirs: dict[str, Any]) -> list[Any]:
    ours, saved = _names(group), _names(theirs)
    if ours is not None and saved is not None:
        by_name = dict(zip(saved, theirs["params"], strict=True))
        return [by_name[name] for name in ours]
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
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    return state_for(value.detach().to(device=p.device, copy=True), p)
