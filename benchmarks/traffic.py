"""What a step of a method must read and write, found by watching the reference executor on a small probe.

Every tensor operation of one step is recorded with what it depends on. A number that is reduced from whole tensors (a
norm, a mean) parts the step in two passes: what needs it can only be computed once all of the tensor has been read, so
its inputs are read again. A pass must read each input, and each state that the first pass has written, on which its
results depend elementwise; everything else is taken to stay in registers. Reductions of reductions (three passes as
written in AdamP, eleven in SinkGD) count as one first pass, as algebra may merge them: the bytes are rather too few
than too many, so a bound from them is rather too strict than too kind.

Methods with matrix products (Muon, GaLore) are bound by arithmetic; of them the compulsory traffic is given: every
input once, every output once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Pass", "Traffic", "traffic"]

WARM_UP = 6
WATCHED = 5
"""Steps that are watched; the commonest traffic counts, so what a method does every few hundred steps does not."""
WHOLE = 1 / 64
"""From this share of the parameter's numbers on, a tensor counts as whole; below, as a reduction of one."""

_MATRIX = ("mm", "bmm", "addmm", "baddbmm", "dot", "mv", "sort", "topk", "cumsum", "cumprod", "linalg_", "_linalg")
_NORMS = ("linalg_vector_norm", "_linalg_check_errors")
_REPLACING = ("copy_", "fill_", "zero_")


@dataclass(frozen=True)
class Pass:
    """Names that one pass over the data reads and writes: `"p"`, `"grad"` and slots."""

    reads: frozenset[str]
    writes: frozenset[str]


@dataclass(frozen=True)
class Traffic:
    """The passes of a step.

    `depth` is how many there are if every reduction is made as it is written; `matrix` says that matrix products make
    the byte bound a loose one.
    """

    passes: tuple[Pass, ...]
    depth: int = 1
    matrix: bool = False

    def __str__(self) -> str:
        def names(each: frozenset[str]) -> str:
            return " ".join(sorted(each, key=lambda n: (n not in ("p", "grad"), n))) or "nothing"

        return "; then ".join(f"reads {names(one.reads)}, writes {names(one.writes)}" for one in self.passes)


@dataclass(eq=False)
class _Value:
    """A tensor on its way through a step: what it was made of, and after how many reductions."""

    parents: tuple[_Value, ...] = ()
    level: int = 0
    full: bool = True
    name: str = ""
    matrix: bool = False


class _Watch(TorchDispatchMode):
    """Records how every tensor depends on the inputs, by storage: views and in-place changes are the same tensor."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.least = inputs["p"].numel() * WHOLE
        self.values: dict[int, _Value] = {}
        self.alive: list[Tensor] = []
        self.left: list[_Value] = []
        for name, x in inputs.items():
            self._put(x, _Value(full=x.numel() > self.least, name=name))

    def of(self, x: Tensor) -> _Value | None:
        return self.values.get(x.untyped_storage()._cdata)

    def _put(self, x: Tensor, value: _Value) -> None:
        self.alive.append(x)  # so that no address is used twice
        self.values[x.untyped_storage()._cdata] = value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name, mutable = func.overloadpacket.__name__, func._schema.is_mutable
        inputs = list(_tensors((*args, *(kwargs or {}).values())))
        replaced = self.of(inputs[0]) if name in _REPLACING and _is_whole(inputs[0]) else None
        parents = {id(v): v for v in map(self.of, inputs) if v is not None and v is not replaced}
        level = max((v.level for v in parents.values()), default=0)
        wide = any(v.full for v in parents.values())
        matrix = name.startswith(_MATRIX) and not name.startswith(_NORMS)
        if name == "_local_scalar_dense":  # a number leaves the tensors: whatever comes now may depend on it
            self.left += parents.values()
            return result
        level = max([level, *(v.level for v in self.left)])
        seen = {x.untyped_storage()._cdata for x in inputs}
        for out in _tensors((result,)):
            if mutable or out.untyped_storage()._cdata not in seen:  # else a view
                full = out.numel() > self.least
                made_of = (*parents.values(), *self.left)
                self._put(out, _Value(made_of, level + (wide and not full), full, matrix=matrix and wide))
        return result


def traffic(step: Callable[[], Any], p: nn.Parameter, state: Callable[[], Mapping[str, Any]]) -> Traffic:
    """The traffic of a step of one parameter: the commonest of a few, after a few that warm it up.

    Args:
        step: takes a step.
        p: the parameter, with a gradient.
        state: gives its state; what is no tensor in it is ignored.
    """
    for _ in range(WARM_UP):
        step()
    return Counter(_watched(step, p, state) for _ in range(WATCHED)).most_common(1)[0][0]


def _watched(step: Callable[[], Any], p: nn.Parameter, state: Callable[[], Mapping[str, Any]]) -> Traffic:
    assert p.grad is not None
    inputs = {"p": p.detach(), "grad": p.grad}
    inputs |= {name: x for name, x in state().items() if isinstance(x, Tensor)}
    watch = _Watch(inputs)
    before = {name: watch.of(x) for name, x in inputs.items()}
    with watch:
        step()
    after = {name: x for name, x in state().items() if isinstance(x, Tensor)} | {"p": p.detach()}
    values = {name: watch.of(x) for name, x in after.items()}
    written = {name: v for name, v in values.items() if v is not None and v is not before.get(name)}
    ancestors = _ancestors(list(written.values()))
    if any(v.matrix for v in ancestors):
        return Traffic((Pass(frozenset(v.name for v in ancestors if v.name), frozenset(written)),), matrix=True)
    early = {name: v for name, v in written.items() if v.level == 0}
    late = {name: v for name, v in written.items() if v.level > 0}
    reductions = [v for v in ancestors if not v.full and any(parent.full for parent in v.parents)]
    first = Pass(_leaves((*early.values(), *reductions), {}), frozenset(early))
    second = Pass(_leaves(late.values(), early), frozenset(late))
    depth = 1 + max((v.level for v in written.values()), default=0)
    return Traffic(tuple(each for each in (first, second) if each.reads or each.writes), depth)


def _leaves(values: Iterable[_Value], stored: Mapping[str, _Value]) -> frozenset[str]:
    """The names that whole values are made of elementwise: inputs, and states that an earlier pass has stored."""
    names: set[str] = set()
    known = {id(v): name for name, v in stored.items()}
    starts = list(values)
    open_values, seen = list(starts), {id(v) for v in starts}
    while open_values:
        one = open_values.pop()
        if one.name or id(one) in known:
            names.add(one.name or known[id(one)])
        elif one.full or one in starts:
            fresh = [v for v in one.parents if id(v) not in seen]
            seen |= {id(v) for v in fresh}
            open_values += fresh
    return frozenset(names)


def _ancestors(values: list[_Value]) -> list[_Value]:
    seen = {id(v): v for v in values}
    open_values = list(values)
    while open_values:
        fresh = [v for v in open_values.pop().parents if id(v) not in seen]
        seen |= {id(v): v for v in fresh}
        open_values += fresh
    return list(seen.values())


def _tensors(values: Any) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _is_whole(x: Tensor) -> bool:
    return x.numel() * x.element_size() == x.untyped_storage().nbytes()
