"""The reference executor: eager PyTorch, one parameter at a time. Every other executor is compared with it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from downslope._core.combinators import Chain, Every, Mask, Partition, Project, Split, Switch
from downslope._core.plan import Node
from downslope._core.transform import GlobalTransform, Projector
from downslope._engine import sharded
from downslope._engine.exchange import run_whole
from downslope._engine.item import Context, Item, seeded
from downslope._engine.state import needs_whole, slots, store
from downslope._engine.storage import SCALE

__all__ = ["apply", "combined", "hyper", "run", "step"]


def step(plan: Node, items: Iterable[Item], context: Context) -> None:
    """Take the items through the whole rule and write the new parameters.

    Where the rule allows, items are made and done with one after the other, as each holds copies of its parameter.
    """
    for batch in context.batches(plan, items):
        run(plan, batch, context)
        for item in batch:
            item.finish()


def run(node: Node, items: list[Item], context: Context) -> None:
    """Take the items through a rule: `item.u` becomes the update, after the step the new parameter."""
    whole = {id(item): item for item in items if item.divided and needs_whole(node, item)}
    if whole:
        run_whole(node, list(whole.values()), lambda item: run(node, [item], context))
        items = [item for item in items if id(item) not in whole]
    if not items:
        return
    t = node.transform
    if isinstance(t, Chain):
        for batch in context.batches(node, items):
            for child in node.children.values():
                run(child, batch, context)
    elif isinstance(t, Partition):
        for child in node.children.values():
            run(child, [i for i in items if i.route in child.routes], context)
    elif isinstance(t, Mask):
        run(node.children["inner"], [i for i in items if t.takes(i.info)], context)
    elif isinstance(t, Every):
        due = [i for i in items if context.makes_state or i.step % t.k == 0]
        _counted(node.children["inner"], due, [max(i.step // t.k, 1) for i in due], context)
    elif isinstance(t, Project):
        _project(node, items, context)
    elif isinstance(t, Split):
        _split(node, items, context)
    elif isinstance(t, Switch):
        _switch(node, items, context)
    elif isinstance(t, GlobalTransform):
        _global(node, items, context)
    else:
        for item in items:
            apply(node, item, context)


def _counted(node: Node, items: list[Item], steps: list[int], context: Context) -> None:
    """Run a rule that does not see every step, with its own count of steps as `h.step`."""
    own = [item.with_step(step) for item, step in zip(items, steps, strict=True)]
    run(node, own, context)
    for item, done in zip(items, own, strict=True):
        item.follow(done)


def hyper(node: Node, item: Item, context: Context, step: int | None = None) -> SimpleNamespace:
    """What a transform reads as `h`."""
    group = item.group
    h = SimpleNamespace(
        lr=group["lr"],
        initial_lr=group["base_lr"],
        max_lr=context.max_lr,
        step=item.step if step is None else step,
        grad=item.grad,
        incoming=item.incoming,
        info=item.info,
        peers=lambda: context.peers(item.route),
        shared=context.visible,
        generator=lambda: seeded(item.seed, item.step, item.info, item.p.device),
        **item.signals,
    )
    for name in node.transform.live():
        setattr(h, name, group[node.hyper[name]])
    return h


def apply(node: Node, item: Item, context: Context) -> None:
    """Take one item through one transform, now or, where another executor puts it off, later."""
    if context.native is not None and context.native.defer(node, item, context):
        return
    t = node.for_group(item.group)
    state = slots(node, item)
    if t.scope == "tensor" and not item.stored_p.numel():
        return  # norms and maxima over nothing are not defined
    item.u, changes = t.update(item.u, item.p, state, hyper(node, item, context))
    store(node, item, {k: v for k, v in changes.items() if v is not getattr(state, k, None)})


def _global(node: Node, items: list[Item], context: Context) -> None:
    """measure, add up, combine, update."""
    sums = measured(node, items, context)
    combined(node, items, context, sums)
    outer, context.visible = context.visible, shared_values(node, items, context)
    for item in items:
        apply(node, item, context)
    context.visible = outer


def shared_values(node: Node, items: list[Item], context: Context) -> SimpleNamespace:
    """The shared values of a global transform, created at its first use."""
    if node.key not in context.shared:
        context.shared[node.key] = node.initial_shared(items[0].group)
    return SimpleNamespace(kept_as=node.key, **context.shared[node.key])


def measured(node: Node, items: list[Item], context: Context) -> dict[str, Any]:
    """The sums of what a global transform measures on every parameter, in float64."""
    outer, context.visible = context.visible, shared_values(node, items, context)
    found = [(item.layout, values) for item, values in zip(items, _measured_on(node, items, context), strict=True)]
    context.visible = outer
    return sharded.total(found, node.for_group(items[0].group).reduce)


def _measured_on(node: Node, items: list[Item], context: Context) -> list[dict[str, float]]:
    """What a global transform measures on each item."""
    filled = [item for item in items if item.stored_p.numel()]
    emitted = context.native.measure(node, filled, context) if context.native is not None and filled else None
    values = iter(emitted or [_measure(node, item, context) for item in filled])
    return [next(values) if item.stored_p.numel() else _of_nothing(node, item, context) for item in items]


def _measure(node: Node, item: Item, context: Context) -> dict[str, float]:
    t = node.for_group(item.group)
    values, changes = t.measure(item.u, item.p, slots(node, item), hyper(node, item, context))
    store(node, item, changes)
    return {name: float(value) for name, value in values.items()}


def _of_nothing(node: Node, item: Item, context: Context) -> dict[str, float]:
    """What counts for a tensor without elements; one zero stands in, as processes must know all names."""
    t, one = node.for_group(item.group), item.p.new_zeros((1,) * item.p.ndim)
    signals = {k: one if isinstance(v, Tensor) else v for k, v in item.signals.items()}
    stand_in = Item(
        one, item.info, item.group, item.route, {}, stored_p=one, stored_grad=one, step=item.step, signals=signals
    )
    stand_in.incoming = one
    state = {k: v.new_zeros(one.shape) if v.ndim else v for k, v in vars(slots(node, item)).items()}
    values, _ = t.measure(one, one, SimpleNamespace(**state), hyper(node, stand_in, context))
    return {name: -math.inf if t.reduce.get(name) == "max" else 0.0 for name in values}


def combined(node: Node, items: list[Item], context: Context, sums: dict[str, Any]) -> None:
    """Turn the sums into the new shared values."""
    t = node.for_group(items[0].group)
    h = hyper(node, items[0], context, step=context.step)
    changed = t.combine(SimpleNamespace(**sums), shared_values(node, items, context), h)
    context.shared[node.key] |= changed


def _refresh(node: Node, item: Item, context: Context) -> tuple[Projector, SimpleNamespace, bool]:
    projector = node.for_group(item.group)
    due = projector.due(item.step)
    if due:
        store(node, item, projector.refresh(item.u, item.p, slots(node, item), hyper(node, item, context)))
    return projector, slots(node, item), due


def _inside(item: Item, projector: Projector, basis: Any, step: int | None = None) -> Item:
    """The item as the inner rule of a subspace sees it."""
    u = projector.down(item.u, basis)
    from_gradient = item.from_gradient
    return Item(
        item.parameter,
        item.info,
        item.group,
        item.route,
        item.state,
        stored_p=projector.down(item.p, basis),
        stored_grad=u if from_gradient else projector.down(item.grad, basis),
        step=item.step if step is None else step,
        seed=item.seed,
        signals=item.signals,
        u=None if from_gradient else u,
    )


def _project(node: Node, items: list[Item], context: Context) -> None:
    child, plain, projected = node.children["projector"], [], []
    for item in items:
        if child.for_group(item.group).applies(item.p):
            projector, basis, _ = _refresh(child, item, context)
            projected.append((item, _inside(item, projector, basis), projector, basis))
        else:
            plain.append(item)
    run(node.children["inner"], [*(low for _, low, _, _ in projected), *plain], context)
    for item, low, projector, basis in projected:
        item.u = projector.up(low.u, basis, item.p)


def _split(node: Node, items: list[Item], context: Context) -> None:
    t = node.transform
    assert isinstance(t, Split)
    child, stateful, stateless = (node.children[k] for k in ("projector", "stateful", "stateless"))
    counter = f"{child.name}.steps"
    plain, projected = [], []
    for item in items:
        if not child.for_group(item.group).applies(item.p):
            plain.append(item)
            continue
        projector, basis, due = _refresh(child, item, context)
        if t.reset:
            if due:
                for leaf in stateful.leaves():
                    for key in leaf.slots.values():
                        item.state.pop(key, None)
                        item.state.pop(key + SCALE, None)
                item.state[counter] = 0
            item.state[counter] += 1
        low = _inside(item, projector, basis, item.state.get(counter))
        rest = item.with_update(item.u - projector.up(low.u, basis, item.p))
        projected.append((item, low, rest, projector, basis))
    run(stateful, [*(low for _, low, _, _, _ in projected), *plain], context)
    run(stateless, [rest for _, _, rest, _, _ in projected], context)
    for item, low, rest, projector, basis in projected:
        item.u = projector.up(low.u, basis, item.p) + rest.u


def _switch(node: Node, items: list[Item], context: Context) -> None:
    trigger = node.children["trigger"]
    values = shared_values(trigger, items, context)
    outer, context.visible = context.visible, values
    if values.switched:
        counter = f"{trigger.name}.steps_after"
        for item in items:
            item.state[counter] = item.state.get(counter, 0) + 1
        _counted(node.children["after"], items, [i.state[counter] for i in items], context)
        context.visible = outer
        return
    context.visible = outer
    for item in items:
        item.incoming = item.u
    run(node.children["before"], items, context)
    combined(trigger, items, context, measured(trigger, items, context))
