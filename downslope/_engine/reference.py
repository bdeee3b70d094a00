"""The reference executor: eager PyTorch, one parameter at a time. Every other executor is compared with it."""

from __future__ import annotations

import copy
import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from downslope._core.combinators import Chain, Every, Mask, Partition, Project, Split, Switch
from downslope._core.plan import Node
from downslope._core.roles import ParamInfo
from downslope._core.transform import GlobalTransform, Projector
from downslope._engine import sharded
from downslope._engine.codecs import stochastic_rounding
from downslope._engine.exchange import run_whole
from downslope._engine.state import needs_whole, slots, store
from downslope._engine.storage import SCALE, rounding_key

if TYPE_CHECKING:
    from downslope._engine.compiled import Compiled
    from downslope._engine.native import Native

__all__ = ["Context", "Item", "run", "seeded", "step"]

Shared = dict[str, dict[str, Any]]


class Item:
    """One parameter on its way through the rule; of a sharded one, what this process holds.

    `p` and `grad` are in computing precision (float32 at least, complex as real), made when they are first read, from
    what is stored: `stored_p` and `stored_grad`, with `sign` -1 where the objective is maximised. `u` is the running
    update; what another executor has put off (`deferred`) is run when `u` is read. `start` is the place at which this
    part of the tensor begins in the whole one, counted row by row; `stochastic` is how bfloat16 parameters are rounded.
    """

    def __init__(
        self,
        parameter: Tensor,
        info: ParamInfo,
        group: dict[str, Any],
        route: tuple[str, ...],
        state: MutableMapping[str, Any],
        *,
        stored_p: Tensor,
        stored_grad: Tensor,
        sign: float = 1.0,
        step: int,
        seed: int = 0,
        signals: dict[str, Any] | None = None,
        u: Tensor | None = None,
        start: int = 0,
        stochastic: bool = False,
        layout: sharded.Layout | None = None,
    ) -> None:
        self.parameter, self.info, self.group, self.route, self.state = parameter, info, group, route, state
        self.layout = layout
        self.stored_p, self.stored_grad, self.sign = stored_p, stored_grad, sign
        self.step, self.seed, self.signals = step, seed, {} if signals is None else signals
        self.start, self.stochastic = start, stochastic
        self.incoming: Tensor | None = None
        self.made = u
        self.deferred: list[Any] = []
        self.settle: Callable[[list[Item]], None] | None = None

    @classmethod
    def of(
        cls,
        parameter: Tensor,
        info: ParamInfo,
        group: dict[str, Any],
        route: tuple[str, ...],
        state: dict[str, Any],
        sign: float,
        seed: int,
        signals: dict[str, Any],
        stochastic: bool = False,
    ) -> Item:
        """The item of a parameter; one without a gradient here has it on another process, and zeros here."""
        layout = sharded.layout_of(parameter)
        signals = {k: _computing(_here(v, parameter)) if isinstance(v, Tensor) else v for k, v in signals.items()}
        stored_p = _real(sharded.local(parameter.detach()))
        stored_grad = torch.zeros_like(stored_p)
        if parameter.grad is not None:
            stored_grad = _real(_here(parameter.grad.detach(), parameter))
        step = state.get("step", 0) + 1
        return cls(
            parameter,
            info,
            group,
            route,
            state if layout is None else sharded.LocalState(state, layout),
            stored_p=stored_p,
            stored_grad=stored_grad,
            sign=sign,
            step=step,
            seed=seed,
            signals=signals,
            stochastic=stochastic,
            layout=layout,
            start=0 if layout is None else layout.start,
        )

    @property
    def divided(self) -> bool:
        """Whether other processes hold the rest of the parameter."""
        return self.layout is not None and bool(self.layout.axes)

    @functools.cached_property
    def p(self) -> Tensor:
        """The parameter before the step."""
        return _computing(self.stored_p)

    @functools.cached_property
    def grad(self) -> Tensor:
        """The gradient, with its sign."""
        grad = _computing(self.stored_grad)
        return grad if self.sign > 0 else -grad

    @property
    def u(self) -> Tensor:
        """The running update, which starts as the gradient."""
        if self.deferred:
            assert self.settle is not None
            self.settle([self])
        return self.grad if self.made is None else self.made

    @u.setter
    def u(self, u: Tensor) -> None:
        self.made, self.deferred = u, []

    @property
    def from_gradient(self) -> bool:
        """Whether no update has been made from the gradient yet, though some may have been put off."""
        return self.made is None

    @property
    def rounded(self) -> bool:
        """Whether the new parameter is rounded stochastically."""
        return self.stochastic and self.stored_p.dtype == torch.bfloat16

    def bare(self) -> Item:
        """An item without its tensors, for what reads other things."""
        bare = copy.copy(self)
        bare.stored_p = bare.stored_grad = bare.p = bare.grad = torch.empty(0, device=self.stored_p.device)
        bare.made, bare.deferred, bare.state = None, [], {}
        return bare

    def with_step(self, step: int) -> Item:
        """The same item with another count of steps."""
        other = copy.copy(self)
        other.step, other.deferred = step, list(self.deferred)
        return other

    def with_update(self, u: Tensor) -> Item:
        """The same item with another update."""
        other = copy.copy(self)
        other.u = u
        return other

    def whole(self, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> Item:
        """The item of the whole parameter: its `p`, `u`, `grad` (if not u), `incoming` and signals, and its state."""
        own = Item(
            tensors["p"],
            self.info,
            self.group,
            self.route,
            state,
            stored_p=tensors["p"],
            stored_grad=tensors.get("grad", tensors["u"]),
            step=self.step,
            seed=self.seed,
            signals={k: tensors.get(f"signal {k}", v) for k, v in self.signals.items()},
            u=tensors["u"] if "grad" in tensors else None,
        )
        own.incoming = tensors.get("incoming")
        return own

    def follow(self, other: Item) -> None:
        """Take over what has become of the update of another view of this item."""
        self.made, self.deferred = other.made, other.deferred

    def finish(self) -> None:
        """Write the new parameter and count the step."""
        parameter = sharded.local(self.parameter)
        u = torch.view_as_complex(self.u.contiguous()) if parameter.is_complex() else self.u
        if self.rounded:
            u = stochastic_rounding(u, rounding_key(self.seed, self.step, self.info, ""), self.start)
        parameter.copy_(u)
        self.state["step"] = self.step


@dataclass
class Context:
    """What all parameters share in one step.

    Items go `together` where processes exchange them; a step that only `makes_state` runs what is not due as well.
    """

    state: Mapping[Any, Any]
    shared: Shared
    step: int
    max_lr: float
    peers: Callable[[tuple[str, ...]], tuple[ParamInfo, ...]]
    visible: SimpleNamespace | None = None
    together: bool = False
    makes_state: bool = False
    native: Native | Compiled | None = None

    def batches(self, node: Node, items: Iterable[Item]) -> Iterable[list[Item]]:
        """The items that must go through a rule side by side."""
        return [list(items)] if node.is_global or self.together else ([item] for item in items)


def seeded(seed: int, step: int, info: ParamInfo, device: torch.device) -> torch.Generator:
    """A generator that depends on seed, step and the parameter's name (its shape, where it has none) alone."""
    key = zlib.crc32(f"{seed}/{step}/{info.label}".encode())
    return torch.Generator(device=device).manual_seed(key)


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


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _computing(x: Tensor) -> Tensor:
    x = _real(x.detach())
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _here(x: Tensor, parameter: Tensor) -> Tensor:
    """This process's piece of a tensor in the shape of a parameter."""
    piece: Tensor = sharded.local(sharded.sharded_like(x, parameter))
    return piece


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
