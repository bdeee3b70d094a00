"""The plan: a rule with its names bound, so that executors know where each hyperparameter and each slot lives.

Hyperparameters stand in the param groups and slots in `optimizer.state[p]` under their plain names (`betas`,
`exp_avg`), or, where one way through the rule has two of the same name, under `transform.name`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from downslope._core.combinators import Chain, Combinator, Every, Mask, Partition, Project, Split, Switch
from downslope._core.roles import ParamInfo
from downslope._core.transform import GlobalTransform, Slot, Transform
from downslope._engine.storage import StateDtype, Storage

__all__ = ["Node", "bind", "describe", "route_of"]

Route = tuple[str, ...]


@dataclass
class Node:
    """One transform at its place in the rule."""

    transform: Transform
    path: Route
    routes: tuple[Route, ...] = ()
    children: dict[str, Node] = field(default_factory=dict)
    name: str = ""
    key: str = ""
    hyper: dict[str, str] = field(default_factory=dict)
    slots: dict[str, str] = field(default_factory=dict)
    masks: tuple[Mask, ...] = ()
    in_subspace: bool = False
    storage: Storage = field(default_factory=Storage)
    _variants: dict[Any, Transform] = field(default_factory=dict)

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def leaves(self) -> Iterator[Node]:
        """The nodes that hold maths."""
        return (node for node in self.walk() if not isinstance(node.transform, Combinator))

    def on(self, route: Route) -> Iterator[Node]:
        """The leaves that a route meets."""
        return (leaf for leaf in self.leaves() if route in leaf.routes)

    def hyperparameters(self, route: Route) -> dict[str, Any]:
        """The hyperparameters of a route under their names in a param group, as the rule was given them."""
        return {key: getattr(leaf.transform, name) for leaf in self.on(route) for name, key in leaf.hyper.items()}

    @functools.cached_property
    def is_global(self) -> bool:
        """Whether anything here needs all parameters at once."""
        return any(isinstance(n.transform, GlobalTransform) for n in self.walk())

    def slot(self, name: str) -> Slot:
        """The slot that the transform declares under a name."""
        return next(slot for slot in self.transform.slots if slot.name == name)

    @functools.cached_property
    def needs_whole(self) -> bool:
        """Whether the rule here, as one piece, needs whole parameters rather than any pieces of them."""
        t = self.transform
        return isinstance(t, Project | Split) or (t.scope == "tensor" and not isinstance(t, Combinator))

    @functools.cached_property
    def needs_others(self) -> bool:
        """Whether processes that share parameters must talk to each other in a step."""
        return not self.storage.plain or any(node.needs_whole or node.is_global for node in self.walk())

    def takes(self, info: ParamInfo) -> bool:
        """Whether a parameter reaches this node through the masks above it."""
        return all(mask.takes(info) for mask in self.masks)

    def settled(self, group: dict[str, Any]) -> Any:
        """The transform with all hyperparameters of a param group filled in, for initial values."""
        values = {f: group[key] for f, key in self.hyper.items()}
        return replace(self.transform, **values)  # type: ignore[type-var]

    def initial_shared(self, group: dict[str, Any]) -> dict[str, Any]:
        """What the shared values of a global transform start from."""
        t = self.settled(group)
        return {slot.name: slot.init(t) if callable(slot.init) else slot.init for slot in t.shared}

    def for_group(self, group: dict[str, Any]) -> Any:
        """The transform with the structure that a param group asks for."""
        structure = type(self.transform).structure()
        if not structure:
            return self.transform
        values = tuple(group[self.hyper[f]] for f in structure)
        if values not in self._variants:
            changes = {f: v for f, v in zip(structure, values, strict=True) if v != getattr(self.transform, f)}
            self._variants[values] = replace(self.transform, **changes)  # type: ignore[type-var]
        return self._variants[values]


def bind(
    rule: Transform, tied: tuple[str, ...] = (), owner: str = "Optimizer", state_dtype: StateDtype = "float32"
) -> Node:
    """The plan of a rule; hyperparameters named in `tied` are one and the same wherever they occur.

    Slots are stored as `state_dtype` says; what is wrong with it is refused in the name of `owner`.
    """
    partitions: list[tuple[str, ...]] = []
    root = _tree(rule, (), partitions)
    routes = tuple(itertools.product(*partitions))
    _assign_routes(root, routes)
    leaves = list(root.leaves())
    _number(leaves)
    times = Counter(leaf.name for leaf in leaves)
    for leaf in leaves:  # two branches of a partition may have leaves of one name, but not one set of shared values
        leaf.key = leaf.name if times[leaf.name] == 1 else "/".join((*leaf.path, leaf.name))
    _name(leaves, routes, "hyper", tied)
    _name(leaves, routes, "slots", ())
    storage = Storage(owner, state_dtype, {leaf.slots[s.name]: None for leaf in leaves for s in leaf.transform.kept()})
    for node in root.walk():
        node.storage = storage
    return root


def _tree(rule: Transform, path: Route, partitions: list[Route]) -> Node:
    node = Node(rule, path)
    if isinstance(rule, Partition):
        partitions.append(tuple(rule.rules))
    if isinstance(rule, Combinator):
        for label, part in rule.children().items():
            child = _tree(part, (*path, label), partitions)
            for below in child.walk():
                below.masks += (rule,) if isinstance(rule, Mask) else ()
                below.in_subspace |= isinstance(rule, Project | Split)
            node.children[label] = child
    return node


def _assign_routes(root: Node, routes: tuple[Route, ...]) -> None:
    counter = itertools.count()

    def visit(node: Node, mine: tuple[Route, ...]) -> None:
        node.routes = mine
        index = next(counter) if isinstance(node.transform, Partition) else None
        for label, child in node.children.items():
            visit(child, mine if index is None else tuple(r for r in mine if r[index] == label))

    visit(root, routes)


def _number(leaves: list[Node]) -> None:
    """Name every leaf by its class in snake case, numbered where the name is taken on one of its routes."""
    for leaf in leaves:
        taken = {other.name for other in leaves if set(other.routes) & set(leaf.routes)}
        base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(leaf.transform).__name__).lower()
        numbered = (f"{base}_{i}" for i in itertools.count(2))
        leaf.name = next(name for name in itertools.chain([base], numbered) if name not in taken)


def _name(leaves: list[Node], routes: tuple[Route, ...], kind: str, tied: tuple[str, ...]) -> None:
    """Plain names where they are unique on every route, else qualified by the transform."""

    def wanted(leaf: Node) -> list[str]:
        t = leaf.transform
        return [*t.live(), *t.structure()] if kind == "hyper" else [s.name for s in t.slots]

    clashes: set[str] = {"lr", "params", "base_lr", "param_names", "rule"} if kind == "hyper" else {"step"}
    for route in routes:
        count = Counter(name for leaf in leaves if route in leaf.routes for name in wanted(leaf))
        clashes |= {name for name, n in count.items() if n > 1 and name not in tied}
    for leaf in leaves:
        names = {name: f"{leaf.name}.{name}" if name in clashes else name for name in wanted(leaf)}
        setattr(leaf, kind, names)


def route_of(root: Node, label: Any) -> Route:
    """The route of a parameter: its label in every partition that it meets, the first label in the others."""

    def visit(node: Node, met: bool) -> Iterator[str]:
        partition = node.transform if isinstance(node.transform, Partition) else None
        mine = None if partition is None else label(partition) if met else next(iter(partition.rules))
        if mine is not None:
            yield mine
        for key, child in node.children.items():
            yield from visit(child, met and mine in (None, key))

    return tuple(visit(root, True))


def describe(node: Node, route: Route, p: Tensor | None = None, info: ParamInfo | None = None) -> str:
    """The rule of a route in one line; with a parameter, what of it reaches that parameter."""
    t = node.transform
    inner = [describe(c, route, p, info) for c in node.children.values() if route in c.routes]
    if isinstance(t, Mask) and info is not None:
        return inner[0] if t.takes(info) else ""
    if isinstance(t, Project | Split) and p is not None and not t.projector.applies(p):
        return f"{inner[1]} (not projected)"
    if isinstance(t, Chain | Partition):
        return " > ".join(x for x in inner if x)
    if isinstance(t, Every):
        return f"every {t.k}({inner[0]})"
    if isinstance(t, Switch):
        return f"switch({inner[0]} | {inner[1]})"
    if isinstance(t, Mask):
        return f"mask({inner[0]})"
    if isinstance(t, Combinator):
        return f"{type(t).__name__.lower()}({', '.join(inner)})"
    return type(t).__name__
