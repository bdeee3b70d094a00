"""The compiled executor: runs of transforms through torch.compile, with the small tensors of a run in one call.

The reference executor walks through the rule; where it would apply a transform that can be traced (see `traced`), the
transform is put off. When somebody asks for the update, or at the end of the step, all that was put off becomes one
function, compiled once for each structure, which writes parameters and state in place. Elementwise functions take
flattened tensors of any length, the others are compiled per shape. Matrix products and decompositions, projections,
and the measuring of what concerns all parameters stay with the reference executor; the manifest says so.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from downslope._core.combinators import Every, Project, Split, Switch
from downslope._core.plan import Node, Route
from downslope._core.transform import GlobalTransform, Projector
from downslope._engine.batches import How, Waiting, batches, form, is_flat
from downslope._engine.calls import alone, strides, together
from downslope._engine.item import Context, Item
from downslope._engine.reference import apply, hyper, run
from downslope._engine.repeat_compiled import Call, Repeat, Way, form_of
from downslope._engine.sharded import is_sharded
from downslope._engine.state import slots, store
from downslope._engine.traced import WIDTH, NotTraceable, Reader, Source, Traced, build

__all__ = ["Compiled"]

BACKEND = "inductor"
VARIANTS = 8
"""Functions of one structure that differ in a hyperparameter which some operation takes as a plain number only."""

_P, _GRAD, _U, _INCOMING = Source("p"), Source("grad"), Source("u"), Source("incoming")
_known: dict[Any, list[Traced]] = {}
_probed: dict[Any, Traced | str] = {}


class Compiled:
    """Puts transforms off and runs them compiled; every optimizer has its own, the functions serve all of them."""

    def __init__(self) -> None:
        self._structures: dict[tuple[int, int], Any] = {}
        self._verdicts: dict[Any, Traced | str] = {}
        self._compiled: set[Tensor] = set()
        self._eager: dict[Tensor, dict[str, str]] = {}
        self._ways: list[Way] = []
        self._repeat: Repeat | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled()

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, ()

    # ---------------------------------------------------------------- one step

    def again(self, groups: Sequence[dict[str, Any]], sign: float, context: Context) -> bool:
        """Take the last step's way once more; False, with nothing done, where anything about it may have changed."""
        return self._repeat is not None and self._repeat.run(groups, sign, context)

    def step(self, plan: Node, groups: Sequence[dict[str, Any]], items: Iterable[Item], context: Context) -> None:
        """Take the items through the rule and write the new parameters."""
        context.native, self._context, self._repeat = self, context, None
        self._structures.clear()
        self._verdicts.clear()
        whole: list[Item] = []
        for batch in context.batches(plan, items):
            run(plan, batch, context)
            for item in batch:
                if item.deferred and (item.from_gradient or len(batch) > 1):
                    whole.append(item)  # it holds no memory of its own
                else:
                    self._finish([item])
        self._ways.clear()
        self._finish(whole)
        members = sum(len(way.parameters) for way in self._ways)
        if all(_is_steady(node) for node in plan.walk()) and members == sum(len(group["params"]) for group in groups):
            self._repeat = Repeat(groups, self._ways, whole[0].sign, BACKEND)
        self._ways = []

    def _finish(self, items: Sequence[Item]) -> None:
        deferred = [item for item in items if item.deferred]
        self._run([item for item in deferred if item.rounded], final=False)
        written = self._run([item for item in deferred if not item.rounded], final=True)
        for item in items:
            if id(item) in written:
                item.state["step"] = item.step
            else:
                item.finish()

    def executor(self, plan: Node, route: Route, group: dict[str, Any], p: Tensor, low: Collection[str]) -> str:
        """What ran the rule of a parameter, for the manifest, and why where it was not compiled code.

        Slots stored at low precision (`low`) are decoded before a compiled function and encoded behind it.
        """
        eager = dict(self._eager.get(p, {}))
        if p not in self._compiled and not eager:
            return "compiled (no step yet)"
        for node in plan.on(route):
            t = node.for_group(group)
            if isinstance(t, Projector) and t.applies(p):
                eager[type(t).__name__] = "projects"
            elif isinstance(t, GlobalTransform):
                eager[type(t).__name__] = "measures all parameters"
        if low:
            eager["storage"] = f"decodes and encodes {', '.join(low)}"
        parts = ", ".join(f"{name} {why}" for name, why in eager.items())
        text = f"compiled (in reference: {parts})" if parts else "compiled"
        text = text if p in self._compiled else f"reference ({parts})"
        whole = [type(node.transform).__name__ for node in plan.on(route) if node.needs_whole]
        return f"{text}; {', '.join(whole)} where the tensor is whole" if whole and is_sharded(p) else text

    # ---------------------------------------------------------------- putting off

    def defer(self, node: Node, item: Item, context: Context) -> bool:
        """Put a transform off, if it can be compiled."""
        if type(item.stored_p) is not Tensor or type(item.stored_grad) is not Tensor:
            refusal = f"is for a {type(item.parameter).__name__}"
        elif not item.stored_p.numel():
            refusal = "is for an empty tensor"
        else:
            waiting = Waiting(node, item.step, context.visible, flat=False)
            probe = self._probe(waiting, item)
            if isinstance(probe, Traced):
                item.settle = self.settle
                item.deferred.append(waiting._replace(flat=self._may_be_flat(waiting, probe, item)))
                return True
            refusal = probe
        self._eager.setdefault(item.parameter, {})[type(node.transform).__name__] = refusal
        return False

    def settle(self, items: Sequence[Item]) -> None:
        """Run what has been put off for these items, so that their updates are tensors."""
        self._run(items, final=False)

    def measure(self, node: Node, items: Sequence[Item], context: Context) -> None:
        """What a global transform measures is left to the reference executor."""

    def _probe(self, waiting: Waiting, item: Item) -> Traced | str:
        """The function of one transform alone, or why there is none."""
        node, p = waiting.node, item.stored_p
        seen = form(item)
        place = (id(node), id(item.group), seen, p.shape)
        if place not in self._verdicts:
            key = (self._structure(node, item), seen, p.shape if node.transform.scope == "tensor" else p.ndim)
            if key not in _probed:
                try:
                    _probed[key] = self._build([waiting], item, How(final=False, flat=False))
                except NotTraceable as error:
                    _probed[key] = str(error)
            self._verdicts[place] = _probed[key]
        return self._verdicts[place]

    def _may_be_flat(self, waiting: Waiting, probe: Traced, item: Item) -> bool:
        """Whether a transform does the same to a flattened tensor; a global one may ask for the dimensions."""
        t = waiting.node.transform
        if (
            not probe.elementwise
            or t.scope == "tensor"
            or any(slot.shape not in ("param", "scalar") for slot in t.slots)
        ):
            return False
        if t.scope == "global" and probe.same_when_flat is None:
            try:
                flattened = self._build([waiting], item, How(final=False, flat=True))
                probe.same_when_flat = flattened.operations == probe.operations
            except NotTraceable:
                probe.same_when_flat = False
        return probe.same_when_flat is not False

    def _structure(self, node: Node, item: Item) -> Any:
        """What of a transform and its group decides which operations it consists of."""
        group, place = item.group, (id(node), id(item.group))
        if place not in self._structures:
            self._structures[place] = _structure(node, group)
        return self._structures[place]

    # ---------------------------------------------------------------- functions

    def _build(self, waiting: Sequence[Waiting], item: Item, how: How) -> Traced:
        inputs = _inputs(item, [vars(slots(each.node, item)) for each in waiting])
        if how.flat:
            shortened = (x if not (x.ndim or how.together) else x.new_empty(3 * WIDTH) for x in inputs.values())
            inputs = dict(zip(inputs, shortened, strict=True))
        values = self._read(waiting, item)
        leaves = [Reader(each.node.for_group(item.group), h) for each, h in zip(waiting, values, strict=True)]
        return build(leaves, inputs, item.sign, how.final, symbolic=how.flat)

    def _read(self, waiting: Sequence[Waiting], item: Item) -> list[dict[str, Any]]:
        """What each transform reads as `h`."""
        bare, context, found = item.bare(), copy.copy(self._context), []
        for each in waiting:
            context.visible = each.shared
            found.append(vars(hyper(each.node, bare, context, each.step)))
        return found

    def _read_again(self, waiting: Sequence[Waiting], item: Item) -> Callable[[int, float], Any]:
        """The same for coming steps of a rule without shared values; None once the structure is another one."""
        nodes, bare, context = [each.node for each in waiting], item.bare(), copy.copy(self._context)
        structures = [self._structure(node, item) for node in nodes]

        def read(step: int, max_lr: float) -> list[dict[str, Any]] | None:
            bare.step, context.max_lr = step, max_lr
            if [_structure(node, bare.group) for node in nodes] != structures:
                return None
            return [vars(hyper(node, bare, context)) for node in nodes]

        return read

    def _function(
        self, waiting: Sequence[Waiting], item: Item, how: How, values: list[dict[str, Any]]
    ) -> tuple[Traced, Tensor]:
        """The function of a run and the numbers that it takes in this step."""
        p = item.stored_p
        shape = () if how.flat else (p.shape, strides(p))
        key = (tuple(self._structure(each.node, item) for each in waiting), form(item), how, shape)
        variants = _known.setdefault(key, [])
        for traced in variants:
            numbers, hold = traced.numbers(values)
            if hold:
                break
        else:
            if len(variants) == VARIANTS:
                raise NotTraceable("keeps changing a hyperparameter that it needs as a plain number")
            traced = self._build(waiting, item, how)
            variants.append(traced)
            numbers, _ = traced.numbers(values)
        return traced, traced.vector(numbers, p.device)

    # ---------------------------------------------------------------- running

    def _run(self, items: Sequence[Item], final: bool) -> set[int]:
        """Run what was put off, together for items that go the same way; returns the ids of those fully written."""
        alike: dict[Any, list[Item]] = {}
        for item in items:
            way = tuple((id(each.node), each.step, id(each.shared)) for each in item.deferred)
            shape = None if is_flat(item) else item.stored_p.shape
            alike.setdefault((way, id(item.group), form(item), shape), []).append(item)
        return {id(item) for each in alike.values() for item in self._run_alike(each, final)}

    def _run_alike(self, items: Sequence[Item], final: bool) -> list[Item]:
        """Run items that go the same way in this step; returns those that are fully written."""
        waiting, first = items[0].deferred, items[0]
        values, again = self._read(waiting, first), self._read_again(waiting, first)
        functions: dict[How, tuple[Traced, Tensor]] = {}
        written: list[Item] = []
        calls: list[Call] = []
        as_stored = final and not (first.signals or first.layout or first.parameter.is_complex())
        for batch in batches(items):
            how = How.of(batch, final)
            try:
                if how not in functions:
                    functions[how] = self._function(waiting, first, how, values)
            except NotTraceable as error:
                self._run_eagerly(batch, str(error))
                continue
            traced, vector = functions[how]
            as_stored &= self._run_batch(batch, how, traced, vector)
            if final:
                members = range(len(written), len(written) + len(batch))
                calls.append(Call(traced, members, how.flat, how.together))
                written.extend(batch)
        if as_stored and calls:
            keys = {Source("slot", name, i): key for i, each in enumerate(waiting) for name, key in _keys(each, first)}
            forms = [form_of(x.parameter, x.stored_grad, [x.state[key] for key in keys.values()]) for x in written]
            self._ways.append(Way([item.parameter for item in written], forms, keys, again, calls))
        return written

    def _run_batch(self, batch: Sequence[Item], how: How, traced: Traced, vector: Tensor) -> bool:
        """Run items by one call; returns whether all their state was read and written where it is stored."""
        kept = [[vars(slots(each.node, item)) for each in item.deferred] for item in batch]
        stored = [_inputs(item, views) for item, views in zip(batch, kept, strict=True)]
        if how.together:
            returned = together(traced, BACKEND, vector, stored)
        else:
            returned = [alone(traced, BACKEND, vector, stored[0], how.flat)]
        as_stored = not traced.returned
        for item, given, results in zip(batch, stored, returned, strict=True):
            as_stored &= all(given[s] is _place(item, s) for s in given if s.kind == "slot")
            _keep(item, {source: given[source] for source in traced.written} | results)
            vars(item).pop("p", None)  # a copy in computing precision, made for new or decoded state
            if traced.failure:
                self._eager.setdefault(item.parameter, {})["a run"] = traced.failure
            else:
                self._compiled.add(item.parameter)
        return as_stored

    def _run_eagerly(self, batch: Sequence[Item], reason: str) -> None:
        context = copy.copy(self._context)
        context.native = None
        for item in batch:
            waiting, item.deferred = item.deferred, []
            for each in waiting:
                context.visible = each.shared
                self._eager.setdefault(item.parameter, {})[type(each.node.transform).__name__] = reason
                apply(each.node, item, context)


def _structure(node: Node, group: dict[str, Any]) -> Any:
    t = type(node.transform)
    live = (group[node.hyper[name]] for name in t.live())
    widths = tuple(len(x) if isinstance(x, tuple | list) else x is None for x in live)
    return t, tuple(group[node.hyper[name]] for name in t.structure()), widths


def _keys(waiting: Waiting, item: Item) -> Iterator[tuple[str, str]]:
    """The slots of a transform and where they stand in the state."""
    return ((slot.name, waiting.node.slots[slot.name]) for slot in waiting.node.for_group(item.group).kept())


def _place(item: Item, source: Source) -> Tensor | None:
    return item.state.get(item.deferred[source.leaf].node.slots[source.name])


def _is_steady(node: Node) -> bool:
    """Whether a step takes the same way through a node as the one before it."""
    return not isinstance(node.transform, Every | Project | Split | Switch | GlobalTransform)


def _inputs(item: Item, views: Sequence[dict[str, Tensor]]) -> dict[Source, Tensor]:
    """All tensors that the transforms put off may read, as they are stored."""
    inputs = {_P: item.stored_p, _GRAD: item.stored_grad}
    if item.made is not None:
        inputs[_U] = item.made
    if item.incoming is not None:
        inputs[_INCOMING] = item.incoming
    inputs |= {Source("signal", name): x for name, x in item.signals.items() if isinstance(x, Tensor)}
    return inputs | {Source("slot", name, i): x for i, view in enumerate(views) for name, x in view.items()}


def _keep(item: Item, results: dict[Source, Tensor]) -> None:
    """Store the slots that a function did not write where they are kept, and the update, if there is one."""
    for source, value in results.items():
        if source.kind == "slot" and _place(item, source) is not value:
            store(item.deferred[source.leaf].node, item, {source.name: value})
    if _U in results:
        item.u = results[_U]
