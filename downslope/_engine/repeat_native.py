"""Repeating a step: its kernels run again with new gradients and hyperparameters, without a walk through the rule."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from downslope._core.plan import Node
from downslope._engine.item import Context, Item
from downslope._engine.launch import TABLES, Launch, call, draw, setting
from downslope._engine.program import widths_of
from downslope._engine.reference import combined
from downslope._engine.sharded import total
from downslope._engine.storage import SCALE

__all__ = ["Measured", "Repeat"]

_pointer = Tensor.data_ptr
_contiguous = Tensor.is_contiguous
_grad = operator.attrgetter("grad")
_step = operator.itemgetter("step")


@dataclass(frozen=True)
class Measured:
    """What a step measured for a global transform: on which items, by which kernels."""

    node: Node
    items: Sequence[Item]
    launches: Sequence[Launch]


class Repeat:
    """The kernels of a step, to be run again.

    What a program may do to an optimizer between two steps is looked at first: other parameters, gradients, state,
    steps or structure than before, or tensors that have moved; then the step takes the long way.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        state: Mapping[Any, Any],
        trail: Sequence[Measured],
        launches: Sequence[Launch],
    ) -> None:
        self.groups, self.members = list(groups), [list(group["params"]) for group in groups]
        self.kept, self.sign = list(state.values()), launches[0].items[0].sign
        self.measures = [_Measure(each) for each in trail]
        self.last = [_Again(launch) for launch in launches]
        self.all = [*(each for measure in self.measures for each in measure.kernels), *self.last]
        self.form = [each.form() for each in self.all]

    def run(self, groups: Sequence[dict[str, Any]], sign: float, context: Context) -> bool:
        """Run the kernels again; False, with nothing done, if something has changed."""
        if sign != self.sign or not self._same_members(groups, context.state):
            return False
        try:
            fresh = [each.form() for each in self.all] == self.form and all(
                [each.renew(context.max_lr) for each in self.all]
            )
        except (AttributeError, KeyError, TypeError, IndexError):  # a gradient, a number or a state is not there
            return False
        if not fresh:
            return False
        for measure in self.measures:
            measure.run(context)
        for each in self.last:
            each.run(context)
        for each in self.all:
            each.count()
        return True

    def _same_members(self, groups: Sequence[dict[str, Any]], state: Mapping[Tensor, Any]) -> bool:
        if len(groups) != len(self.groups) or not all(map(operator.is_, groups, self.groups)):
            return False
        for group, own in zip(groups, self.members, strict=True):
            if len(group["params"]) != len(own) or not all(map(operator.is_, group["params"], own)):
                return False
        return len(state) == len(self.kept) and all(map(operator.is_, state.values(), self.kept))


class _Measure:
    """The measuring of a global transform, and the combining of what was measured."""

    def __init__(self, done: Measured) -> None:
        self.node, self.first = done.node, done.items[0].bare()
        self.kernels = [_Again(launch) for launch in done.launches]
        places = {id(item): i for i, item in enumerate(done.items)}
        self.order = [places[id(item)] for launch in done.launches for item in launch.items]

    def run(self, context: Context) -> None:
        """Measure, add up in the order of the parameters, and combine."""
        rows: list[Any] = [None] * len(self.order)
        found = []
        for each in self.kernels:
            each.run(context)
            found += [dict(zip(each.measures, row, strict=False)) for row in each.measured.tolist()]
        for place, row in zip(self.order, found, strict=True):
            rows[place] = row
        sums = total([(None, row) for row in rows], self.node.for_group(self.first.group).reduce)
        combined(self.node, [self.first], context, sums)


class _Again:
    """A launch without the tensors that belong to one step alone."""

    def __init__(self, launch: Launch) -> None:
        items, program = launch.items, launch.program
        self.tables = [*(getattr(launch, name) for name in TABLES), launch.coded]  # the job points into them
        self.function, self.job, self.data, self.args = launch.function, launch.job, launch.data, launch.args
        self.key, self.written, self.sources = launch.key, launch.written, program.arguments
        self.measured, self.measures = launch.measured, list(program.measured)
        self.params, self.states = [item.parameter for item in items], [item.state for item in items]
        self.steps, self.dtypes = [item.step for item in items], [item.stored_grad.dtype for item in items]
        self.named = [(item.info, item.seed) for item in items]
        self.draws = [(program.column(name), name) for name in launch.drawn]
        self.leaves = [d.leaf for d in launch.deferred]
        places = {id(item): i for i, item in enumerate(items)}
        self.sets = [(item.group, places[id(item)]) for item in launch.of_set]
        self.known = {name: list(map(_pointer, column)) for name, column in launch.columns.items()}
        self.known |= {name + SCALE: list(map(_pointer, column)) for name, column in launch.scales.items()}
        self.shared = [
            (place, launch.deferred[source[1]].shared.kept_as, source[2])
            for place, source in enumerate(self.sources)
            if source[0] == "shared"
        ]

    def form(self) -> list[Any]:
        """The values of structure, and for live hyperparameters whether they are None, a number or how many."""
        found: list[Any] = []
        for group, _ in self.sets:
            for leaf in self.leaves:
                node, transform = leaf.node, leaf.transform
                found += [group[node.hyper[name]] for name in transform.structure()]
                found.append(widths_of(node, transform, group))
        return found

    def renew(self, max_lr: float) -> bool:
        """Put new gradients and numbers into the tables; False if something is not as it was."""
        grads = list(map(_grad, self.params))
        if list(map(_step, self.states)) != self.steps or not all(map(_contiguous, grads)):
            return False
        for j, (name, known) in enumerate(self.known.items()):
            own = grads if name == "grad" else self.params if name == "p" else None
            now = list(map(_pointer, map(operator.itemgetter(name), self.states) if own is None else own))
            if now != known:
                if name != "grad" or [g.dtype for g in grads] != self.dtypes:
                    return False
                self.data[:, j], self.known[name] = now, now
        for k, (group, at) in enumerate(self.sets):
            step = float(self.steps[at] + 1)
            self.args[k] = [self._number(source, step, group, max_lr) for source in self.sources] or 0.0
        for j, name in self.draws:
            mine = zip(self.named, self.states, strict=True)
            self.key[:, j] = [draw(name, info, seed, state) for (info, seed), state in mine]
        return True

    @staticmethod
    def _number(source: tuple[Any, ...], step: float, group: dict[str, Any], max_lr: float) -> float:
        if source[0] == "step":
            return step
        return 0.0 if source[0] == "shared" else setting(source, group, max_lr)  # shared values come last

    def run(self, context: Context) -> None:
        """Call the kernel."""
        for place, kept_as, name in self.shared:
            self.args[:, place] = float(context.shared[kept_as][name])
        call(self.function, self.job, self.written)

    def count(self) -> None:
        """The step has been taken."""
        self.steps = [step + 1 for step in self.steps]
        for state, step in zip(self.states, self.steps, strict=True):
            state["step"] = step
