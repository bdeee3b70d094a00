"""The state of an item: what the maths of a transform reads and writes, in the form in which it is stored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downslope._checks import ArgumentError
from downslope._engine.sharded import local
from downslope._engine.storage import Form, get, put, rounding_key

if TYPE_CHECKING:
    from downslope._core.plan import Node
    from downslope._core.transform import Slot
    from downslope._engine.item import Item

__all__ = ["coded", "form_of", "needs_whole", "slots", "store", "stored"]


def stored(node: Node, item: Item) -> dict[str, Tensor]:
    """The state of a leaf for one parameter as it is stored, by slot, created at its first use."""
    found = {}
    for slot in node.for_group(item.group).kept():
        key = node.slots[slot.name]
        if key not in item.state:
            _put(node, item, slot, slot.initial(node.settled(item.group), item.p))
        found[slot.name] = item.state[key]
    return found


def needs_whole(node: Node, item: Item) -> bool:
    """Whether a rule takes a parameter as a whole only: by its maths, or as its state is coded in blocks."""
    if node.needs_whole or node.children:
        return node.needs_whole
    by_rows = item.layout is None or item.layout.by_rows
    forms = {form for form, _ in coded(node, item).values()}
    return bool(forms - ({"bfloat16"} if by_rows else set()))


def slots(node: Node, item: Item) -> SimpleNamespace:
    """The state of a leaf for one parameter, as its maths reads it."""
    found = stored(node, item)
    for name in () if node.storage.plain else found:
        slot = node.slot(name)
        form, shape = form_of(node, item, slot)
        found[name] = get(item.state, node.slots[name], slot, form, shape, item.p.dtype)
    return SimpleNamespace(**found)


def form_of(node: Node, item: Item, slot: Slot) -> tuple[Form, tuple[int, ...]]:
    """The form in which a slot is stored, which goes by the whole parameter, and the shape it has for this item."""
    transform = node.for_group(item.group)
    shape = whole = slot.shape_for(transform, item.stored_p)
    if not node.in_subspace and item.stored_p.shape != item.info.shape:
        whole = slot.shape_for(transform, torch.empty(item.info.shape, device="meta"))
    return node.storage.form(item.info, node.slots[slot.name], slot, whole)[0], shape


def coded(node: Node, item: Item) -> dict[str, tuple[Form, bool]]:
    """The slots of a leaf that are not kept in full precision: their forms, and whether they have a sign."""
    found: dict[str, tuple[Form, bool]] = {}
    for slot in () if node.storage.plain else node.for_group(item.group).kept():
        form, _ = form_of(node, item, slot)
        if form != "float32":
            found[node.slots[slot.name]] = form, not slot.nonnegative
    return found


def store(node: Node, item: Item, changes: Any) -> None:
    """Store new values of slots; the others keep theirs."""
    for name, value in changes.items():
        _put(node, item, node.slot(name), value.clone() if _aliases(value, item) else value)


def _put(node: Node, item: Item, slot: Slot, value: Tensor) -> None:
    key = node.slots[slot.name]
    if node.storage.plain:
        item.state[key] = value
        return
    form, shape = form_of(node, item, slot)
    if form != "float32" and tuple(value.shape) != shape:
        raise ArgumentError(f"{node.name}: {slot.name} must keep its declared shape {shape}; got {tuple(value.shape)}.")
    draw = rounding_key(item.seed, item.state, item.info, key)
    put(item.state, key, slot, form, value, draw, item.start)


def _aliases(value: Tensor, item: Item) -> bool:
    """Whether a new state is a view of the parameter or of its gradient, which change under it."""
    own = _memory(value)
    return any(own == _memory(x) for x in (item.parameter, item.parameter.grad) if x is not None)


def _memory(x: Any) -> int:
    return int(local(x).untyped_storage().data_ptr())
