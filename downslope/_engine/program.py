"""Programs: several transforms, one after the other, as one graph with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from downslope._core.plan import Node
from downslope._core.transform import Transform
from downslope._engine.expr import ROW, SET, TENSOR, Graph, Symbol, TraceError, Value

__all__ = ["Leaf", "Program", "fuse", "widths_of"]

Source = tuple[Any, ...]
"""Where an argument comes from: ("lr",), ("hyper", key, index), ("step", leaf), ("shared", leaf, name), …"""


def widths_of(node: Node, transform: Transform, group: dict[str, Any]) -> tuple[int | None, ...]:
    """For each live hyperparameter of a group: its length as a tuple, 0 for a number, None where it is None."""
    values = (group[node.hyper[name]] for name in transform.live())
    return tuple(None if v is None else len(v) if isinstance(v, tuple | list) else 0 for v in values)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A transform at its place in a rule, with what decides the form of its maths.

    Args:
        node: its place.
        transform: the record, with the structure that the param group asks for.
        widths: what `widths_of` says of its hyperparameters.
        signals: the signals that are there.
        measuring: `measure` in place of `update`.
    """

    node: Node
    transform: Transform
    widths: tuple[int | None, ...]
    signals: tuple[str, ...] = ()
    measuring: bool = False


@dataclass
class Program:
    """A graph with its ends.

    Args:
        streams: tensors read or written element by element: "p", "grad", "u", state keys, "signal.<name>".
        scalars: state of one number, by state key.
        arguments: where the arguments of a set come from, in order.
        update: what the running update becomes; None where nothing but measuring is done.
        into: the stream that it is stored to: "p" at the end of a rule, else "out".
        stores: what the slots become, by state key.
        measured: what is measured, by name.
    """

    graph: Graph
    streams: list[str] = field(default_factory=list)
    scalars: list[str] = field(default_factory=list)
    arguments: list[Source] = field(default_factory=list)
    update: Value | None = None
    into: str = "p"
    stores: dict[str, Value] = field(default_factory=dict)
    measured: dict[str, Value] = field(default_factory=dict)

    @property
    def by_rows(self) -> bool:
        """Whether the rows of a parameter are told apart."""
        return any(v.level == ROW or (v.op == "size" and v.args[0] != "numel") for v in self.graph.values())

    def column(self, name: str) -> int:
        """The place of a stream or a scalar in the tables of a kernel."""
        return [*self.streams, *self.scalars].index(name)

    def stream(self, name: str) -> Symbol:
        """A stream, listed at its first use."""
        if name not in self.streams:
            self.streams.append(name)
        return self.graph.stream(name)

    def scalar(self, key: str) -> Symbol:
        """A state of one number, listed at its first use."""
        if key not in self.scalars:
            self.scalars.append(key)
        return self.graph.scalar("scalar", key, TENSOR)

    def argument(self, *source: Any) -> Symbol:
        """An argument of the set, listed at its first use."""
        if source not in self.arguments:
            self.arguments.append(source)
        return self.graph.scalar("argument", str(self.arguments.index(source)), SET)


def fuse(leaves: Sequence[Leaf], ndim: int, from_gradient: bool, finishing: bool, negated: bool) -> Program:
    """One program of several transforms.

    Args:
        leaves: the transforms in order.
        ndim: dimensions of the parameters.
        from_gradient: the first of them gets the gradient; else an update that other code has made.
        finishing: the update is the new parameter.
        negated: the objective is maximised.

    Raises:
        TraceError: when some of the maths is none that a kernel can be emitted for.
    """
    program = Program(Graph(ndim))
    grad = _Gradient(program, negated)
    u: Any = grad() if from_gradient else program.stream("u")
    for index, leaf in enumerate(leaves):
        state = _state(program, leaf)
        h = _Hyper(program, index, leaf, grad)
        p: Any = program.stream("p")
        try:
            if leaf.measuring:
                values, changes = leaf.transform.measure(u, p, state, h)  # type: ignore[attr-defined]
                program.measured |= {name: _value(program, v) for name, v in values.items()}
            else:
                u, changes = leaf.transform.update(u, p, state, h)
        except TraceError:
            raise
        except (TypeError, AttributeError, IndexError, NotImplementedError) as error:
            raise TraceError(str(error)) from error
        if leaves[-1].measuring and not leaf.measuring:
            continue  # what stands before a measure is computed again, and kept, at the end of the step
        for name, value in changes.items():
            program.stores[leaf.node.slots[name]] = _value(program, value)
    if not (leaves and leaves[-1].measuring):
        program.update, program.into = _value(program, u), "p" if finishing else "out"
        program.stream(program.into)
    _check(program)
    return program


class _Gradient:
    """The gradient, read only where it is asked for."""

    def __init__(self, program: Program, negated: bool) -> None:
        self.program, self.negated = program, negated

    def __call__(self) -> Any:
        g = self.program.stream("grad")
        return -g if self.negated else g


class _Hyper:
    """What a transform reads as `h` while it is traced."""

    def __init__(self, program: Program, index: int, leaf: Leaf, grad: _Gradient) -> None:
        self._program, self._index, self._grad, self._leaf = program, index, grad, leaf
        for name, width in zip(leaf.transform.live(), leaf.widths, strict=True):
            key = leaf.node.hyper[name]
            if width:
                value: Any = tuple(program.argument("hyper", key, i) for i in range(width))
            else:
                value = None if width is None else program.argument("hyper", key, None)
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in ("lr", "initial_lr", "max_lr"):
            return self._program.argument(name)
        if name == "step":
            return self._program.argument("step", self._index)
        if name == "grad":
            return self._grad()
        if name == "shared":
            return _Shared(self._program, self._index)
        if name == "loss" and "loss" in self._leaf.signals:
            return self._program.argument("loss")
        if name in ("curvature", "previous_gradient", "loss"):
            return self._program.stream(f"signal.{name}") if name in self._leaf.signals else None
        raise TraceError(f"it reads h.{name}")


class _Shared:
    """The values that a global transform shares, as arguments of the set."""

    def __init__(self, program: Program, index: int) -> None:
        self._program, self._index = program, index

    def __getattr__(self, name: str) -> Symbol:
        return self._program.argument("shared", self._index, name)


def _state(program: Program, leaf: Leaf) -> SimpleNamespace:
    state = SimpleNamespace()
    for slot in leaf.transform.kept():
        key = leaf.node.slots[slot.name]
        if slot.shape == "param":
            setattr(state, slot.name, program.stream(key))
        elif slot.shape == "scalar":
            setattr(state, slot.name, program.scalar(key))
        else:
            raise TraceError(f"its state {slot.name!r} has a shape of its own")
    return state


def _value(program: Program, x: Any) -> Value:
    if isinstance(x, Symbol):
        return program.graph.value("where", x.value, 1.0, 0.0) if x.value.boolean else x.value
    if isinstance(x, bool | int | float):
        return program.graph.value("constant", float(x), level=SET)
    raise TraceError(f"it returns {type(x).__name__}")


def _check(program: Program) -> None:
    """A slot of one number can only keep one; a measure is one number per parameter."""
    for key in program.scalars:
        if key in program.stores and program.stores[key].level > TENSOR:
            raise TraceError(f"it keeps more than one number in {key!r}")
    for name, value in program.measured.items():
        if value.level > TENSOR:
            raise TraceError(f"it measures {name!r} element by element")
    for key in program.stores:
        if key not in program.scalars and key not in program.streams:
            raise TraceError(f"it keeps {key!r} without declaring it")
