"""The native executor: runs of traceable transforms as one emitted kernel for all parameters.

The reference executor walks through the rule; where it would apply a transform that can be emitted, the transform is
put off instead, and what has been put off is run as one kernel when somebody asks for the update, or at the end of the
step. What cannot be emitted runs in the reference executor, on the same items. A step in which everything was put off
to its end is remembered: the next one like it goes straight to the kernels.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from downslope._core.combinators import Every, Project, Split, Switch
from downslope._core.plan import Node, Route
from downslope._engine.build import BuildError, load
from downslope._engine.emit import emit
from downslope._engine.expr import TraceError
from downslope._engine.item import Context, Item
from downslope._engine.kernels import runtime
from downslope._engine.launch import TAGS, Launch, computing, function, storage
from downslope._engine.program import Leaf, Program, fuse, widths_of
from downslope._engine.reference import run
from downslope._engine.repeat_native import Measured, Repeat
from downslope._engine.state import coded, stored
from downslope._engine.storage import SCALE

__all__ = ["Native", "leaf_of", "unavailable"]

_log = logging.getLogger("downslope")
_PROBE = """
extern "C" int probe() {
  int n = 0;
  #pragma omp parallel for reduction(+: n)
  for (int i = 0; i < 4; ++i) n += i;
  return n;
}
"""


@functools.cache
def unavailable() -> str | None:
    """Why kernels cannot be built here, or None; said once in the log."""
    try:
        assert load(_PROBE).probe() == 6
    except BuildError as error:
        _log.warning("downslope runs without its own kernels, several times slower: %s", error)
        return str(error)
    return None


@dataclass(frozen=True)
class Deferred:
    """A transform that was put off, with what it saw besides tensors."""

    leaf: Leaf
    step: int
    max_lr: float
    shared: Any = None


class Native:
    """Puts transforms off and runs them; every optimizer has its own."""

    def __init__(self) -> None:
        self._leaves: dict[Any, Leaf] = {}
        self._programs: dict[Any, Program | None] = {}
        self._kernels: dict[Any, Any] = {}
        self._repeat: Repeat | None = None
        self._trail: list[Measured] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Native:
        return Native()

    def __reduce__(self) -> tuple[Any, ...]:
        return Native, ()

    # ---------------------------------------------------------------- one step

    def again(self, groups: Sequence[dict[str, Any]], sign: float, context: Context) -> bool:
        """Take the last step's way once more; False, with nothing done, where anything about it may have changed."""
        return self._repeat is not None and self._repeat.run(groups, sign, context)

    def step(self, plan: Node, groups: Sequence[dict[str, Any]], items: Iterable[Item], context: Context) -> None:
        """Take the items through the rule and write the new parameters."""
        context.native, self._repeat, self._trail = self, None, []
        whole: list[Item] = []
        for batch in context.batches(plan, items):
            run(plan, batch, context)
            for item in batch:
                if item.deferred and (item.from_gradient or len(batch) > 1):
                    whole.append(item)  # it holds no memory of its own: all such items are one launch
                else:
                    self._finish([item])
        launches = self._finish(whole)
        steady = not any(isinstance(node.transform, Every | Project | Split | Switch) for node in plan.walk())
        steady &= not any(item.layout for item in whole)  # of a sharded parameter, tensors are others in every step
        steady &= bool(whole) and sum(len(group["params"]) for group in groups) == len(whole)
        if steady and self._trail is not None:
            measuring = (launch for each in self._trail for launch in each.launches)
            if all(launch.repeatable for launch in (*measuring, *launches)):
                self._repeat = Repeat(groups, context.state, self._trail, launches)
        self._trail = None  # it holds gradients

    def _finish(self, items: Sequence[Item]) -> list[Launch]:
        launches = []
        for batch in self._batches(items, finishing=True):
            if batch[0].deferred:
                launches.append(self._launch(batch, finishing=True))
                launches[-1].run()
                for item in batch:
                    item.state["step"] = item.step
            else:
                for item in batch:
                    item.finish()
        return launches

    # ---------------------------------------------------------------- putting off

    def defer(self, node: Node, item: Item, context: Context) -> bool:
        """Put a transform off, if a kernel can be emitted for it."""
        leaf = self._leaf(node, item.group, _signals(item))
        if not self._takes(leaf, item, context):
            self._trail = None
            return False
        if item.deferred and self._clash(leaf, item):
            self.settle([item])
        item.deferred.append(Deferred(leaf, item.step, context.max_lr, context.visible))
        item.settle = self.settle
        return True

    def settle(self, items: Sequence[Item]) -> None:
        """Run what has been put off for these items, so that their updates are tensors."""
        self._trail = None
        for batch in self._batches([item for item in items if item.deferred], finishing=False):
            launch = self._launch(batch, finishing=False)
            launch.run()
            for item, u in zip(batch, launch.columns["out"], strict=True):
                item.u = u
            torch.autograd.graph.increment_version([x for key in launch.program.stores for x in launch.columns[key]])

    def measure(self, node: Node, items: Sequence[Item], context: Context) -> list[dict[str, float]] | None:
        """What a global transform measures on each item; None where no kernel can be emitted for it."""
        leaves = [self._leaf(node, item.group, _signals(item), measuring=True) for item in items]
        if not all(self._takes(leaf, item, context) for leaf, item in zip(leaves, items, strict=True)):
            self._trail = None
            return None
        found: dict[int, dict[str, float]] = {}
        launches = []
        for leaf, item in zip(leaves, items, strict=True):
            item.deferred.append(Deferred(leaf, item.step, context.max_lr, context.visible))
        try:
            for batch in self._batches(items, finishing=False):
                launches.append(launch := self._launch(batch, finishing=False))
                launch.run()
                names = list(launch.program.measured)
                for item, row in zip(batch, launch.measured.tolist(), strict=True):
                    found[id(item)] = dict(zip(names, row, strict=False))
            if self._trail is not None:
                self._trail.append(Measured(node, items, launches))
        finally:
            for item in items:
                item.deferred.pop()
        return [found[id(item)] for item in items]

    def executor(self, plan: Node, route: Route, group: dict[str, Any], p: Tensor, low: Collection[str]) -> str:
        """What runs the rule of a parameter, for the manifest; `low` has the slots that are stored at low precision."""
        if not (p.device.type == "cpu" and p.layout == torch.strided):
            return "reference"
        eager = []
        for node in (nodes := list(plan.on(route))):
            leaf = self._leaf(node, group, tuple(node.transform.needs))
            program = self._program((leaf,), p.ndim, True, True, False)
            if program is None or (program.by_rows and not set(low).isdisjoint(node.slots.values())):
                eager.append(node.name)
        if eager and len(eager) < len(nodes):
            return f"native, reference for {', '.join(eager)}"
        return "reference" if eager else "native"

    # ---------------------------------------------------------------- what can be emitted

    def _leaf(self, node: Node, group: dict[str, Any], signals: tuple[str, ...], measuring: bool = False) -> Leaf:
        leaf = leaf_of(node, group, signals, measuring)
        return self._leaves.setdefault((id(node), id(leaf.transform), leaf.widths, signals, measuring), leaf)

    def _takes(self, leaf: Leaf, item: Item, context: Context) -> bool:
        """Whether a kernel can be emitted for this transform of this parameter."""
        program = self._program((leaf,), item.stored_p.ndim, True, False, False)
        if program is None or (program.by_rows and coded(leaf.node, item)):
            return False  # blocks and rows are different pieces of a tensor
        if not (_is_plain(item.stored_p) and _is_plain(item.stored_grad)):
            return False
        if leaf.transform.scope == "tensor" and not item.stored_p.numel():
            return False
        shared = [source[2] for source in program.arguments if source[0] == "shared"]
        if not all(_is_number(getattr(context.visible, name)) for name in shared):
            return False
        state, compute = stored(leaf.node, item), computing(item.stored_p)
        codes = {key for key, (form, _) in coded(leaf.node, item).items() if form != "bfloat16"}
        for slot in leaf.transform.kept():
            x, key = state[slot.name], leaf.node.slots[slot.name]
            if key in codes:
                if not (x.is_contiguous() and item.state[key + SCALE].is_contiguous() and x.device.type == "cpu"):
                    return False
                continue
            wider = x.dtype == torch.float64 != compute  # the reference then computes in float64
            if not _is_plain(x) or wider or (slot.shape == "scalar" and x.dtype != compute):
                return False
        return all(_is_plain(x) for x in item.signals.values() if isinstance(x, Tensor))

    def _clash(self, leaf: Leaf, item: Item) -> bool:
        """Whether a kernel with what was put off would go by rows and by blocks at once."""
        leaves = [*(d.leaf for d in item.deferred), leaf]
        return any(coded(each.node, item) for each in leaves) and any(self._by_rows(each, item) for each in leaves)

    def _by_rows(self, leaf: Leaf, item: Item) -> bool:
        program = self._program((leaf,), item.stored_p.ndim, True, False, False)
        return program is not None and program.by_rows

    def _program(
        self, leaves: tuple[Leaf, ...], ndim: int, from_gradient: bool, finishing: bool, negated: bool
    ) -> Program | None:
        """The program of some transforms, or None where there can be none; one for all dimensions where it may be."""
        form, dimensions = (*map(id, leaves), from_gradient, finishing, negated), min(ndim, 2)
        if (form, dimensions) not in self._programs:
            try:
                program = fuse(leaves, dimensions, from_gradient, finishing, negated)
            except TraceError:
                program = None
            for each in range(3) if program is not None and not program.graph.asked_ndim else (dimensions,):
                self._programs.setdefault((form, each), program)
        return self._programs[form, dimensions]

    # ---------------------------------------------------------------- running

    def _of(self, item: Item, finishing: bool) -> Program | None:
        leaves = tuple(d.leaf for d in item.deferred)
        if not leaves:
            return None
        return self._program(leaves, item.stored_p.ndim, item.from_gradient, finishing, item.sign < 0)

    def _batches(self, items: Sequence[Item], finishing: bool) -> list[list[Item]]:
        """The items that one kernel can take together."""
        batches: dict[Any, list[Item]] = {}
        for item in items:
            program = self._of(item, finishing)
            how = None if program is None else (computing(item.stored_p), storage(item, program))
            batches.setdefault((id(program), how), []).append(item)
        return list(batches.values())

    def _launch(self, batch: Sequence[Item], finishing: bool) -> Launch:
        program = self._of(batch[0], finishing)
        assert program is not None
        launch = Launch(program, batch)
        key = (id(program), launch.compute, launch.storage)
        if key not in self._kernels:
            compute = "float" if launch.compute == torch.float32 else "double"
            self._kernels[key] = function(load(runtime() + emit(program, compute, dict(launch.storage))))
        launch.function = self._kernels[key]
        return launch


def leaf_of(node: Node, group: dict[str, Any], signals: tuple[str, ...], measuring: bool = False) -> Leaf:
    """A transform at its place, in the form that a param group and the signals at hand give it."""
    t = node.for_group(group)
    return Leaf(node, t, widths_of(node, t, group), signals, measuring)


def _signals(item: Item) -> tuple[str, ...]:
    return tuple(name for name, value in item.signals.items() if value is not None)


def _is_plain(x: Tensor) -> bool:
    """Whether a kernel can reach the numbers of a tensor."""
    return type(x) is Tensor and x.device.type == "cpu" and x.layout == torch.strided and x.dtype in TAGS


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) or (isinstance(x, Tensor) and x.ndim == 0)
