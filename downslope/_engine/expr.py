"""Expressions: what a transform's maths computes, as a graph from which kernels are emitted.

`update` and `measure` are called once with symbols in the place of tensors and hyperparameters. Every value of the
graph has a level, which says how often it exists, and a depth, the number of reductions on the way to it:

    SET      one number per set of hyperparameters, computed in float64
    TENSOR   one number per parameter: its size, its scalar state, norms
    ROW      one number per row of a parameter seen as a matrix of shape[0] rows
    ELEMENT  one number per element
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

__all__ = ["ELEMENT", "ROW", "SET", "TENSOR", "Graph", "Symbol", "TraceError", "Value"]

SET, TENSOR, ROW, ELEMENT = range(4)


class TraceError(TypeError):
    """The maths does something that no kernel can be emitted for."""


@dataclass(frozen=True, eq=False)
class Value:
    """One operation of the graph; equal operations are one object."""

    op: str
    args: tuple[Any, ...]
    level: int
    depth: int
    boolean: bool = False


_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_LOGIC = ("logical_and", "logical_or", "logical_not")
_UNARY = (
    "neg", "abs", "sqrt", "rsqrt", "square", "reciprocal", "exp", "expm1", "log", "log1p", "sigmoid", "tanh", "cos",
    "sin", "sign", "floor",
)  # fmt: skip
_BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "copysign", "mod")
_ALIASES = {
    "truediv": "div", "true_divide": "div", "multiply": "mul", "subtract": "sub", "divide": "div", "negative": "neg",
    "absolute": "abs", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne",
    "bitwise_and": "logical_and", "bitwise_or": "logical_or", "bitwise_not": "logical_not", "and_": "logical_and",
    "or_": "logical_or", "invert": "logical_not", "remainder": "mod", "clip": "clamp", "linalg_vector_norm": "norm",
    "vector_norm": "norm", "relu_": "relu",
}  # fmt: skip


class Graph:
    """Makes values, each once, for parameters of `ndim` dimensions."""

    def __init__(self, ndim: int) -> None:
        self.ndim, self.asked_ndim = ndim, False
        self._known: dict[Any, Value] = {}

    def values(self) -> list[Value]:
        """All values made so far."""
        return list(self._known.values())

    def value(self, op: str, *args: Any, level: int | None = None, depth: int | None = None) -> Value:
        """The value of an operation on values and numbers."""
        parts = [a for a in args if isinstance(a, Value)]
        level = max((a.level for a in parts), default=SET) if level is None else level
        depth = max((a.depth for a in parts), default=0) if depth is None else depth
        boolean = op in _COMPARISONS or op in _LOGIC or (op == "where" and all(_is_boolean(a) for a in args))
        key = (op, level, *(id(a) if isinstance(a, Value) else (type(a), repr(a)) for a in args))
        if key not in self._known:
            self._known[key] = Value(op, args, level, depth, boolean)
        return self._known[key]

    def stream(self, name: str) -> Symbol:
        """A tensor that is read element by element."""
        return Symbol(self, self.value("stream", name, level=ELEMENT), "whole")

    def scalar(self, op: str, name: str, level: int) -> Symbol:
        """A number that is given from outside: an argument of the set, or a number of the tensor."""
        return Symbol(self, self.value(op, name, level=level), "number")

    def reduce(self, kind: str, x: Value, level: int) -> Value:
        """A sum or a maximum over all elements, or over those of a row; factors common to all are left out of it."""
        if kind == "sum":
            outside, inside = self._factors(x, level)
            if outside is not None:
                total = self.reduce("sum", inside, level)
                return self.value("mul", total, outside)
        return self.value(kind, x, level=level, depth=x.depth + (x.level == ELEMENT))

    def _factors(self, x: Value, level: int) -> tuple[Value | None, Value]:
        """x as outside·inside, where outside is itself the result of a reduction and need not be waited for."""
        if x.op in ("mul", "div") and all(isinstance(a, Value) for a in x.args):
            a, b = x.args
            if b.level <= level and b.depth > 0:
                outside, inside = self._factors(a, level)
                return self.value(x.op, 1.0 if outside is None else outside, b), inside
            if x.op == "mul" and a.level <= level and a.depth > 0:
                outside, inside = self._factors(b, level)
                return (a if outside is None else self.value("mul", a, outside)), inside
            left, inner = self._factors(a, level)
            right, other = self._factors(b, level) if x.op == "mul" else (None, b)
            if left is not None or right is not None:
                outside = left if right is None else right if left is None else self.value("mul", left, right)
                return outside, self.value(x.op, inner, other)
        return None, x


def _is_boolean(a: Any) -> bool:
    return a.boolean if isinstance(a, Value) else isinstance(a, bool)


def _operator(name: str, swapped: bool = False) -> Callable[..., Any]:
    def method(self: Symbol, *other: Any) -> Any:
        return _apply(name, (*other, self) if swapped else (self, *other), {})

    return method


class Symbol:
    """A value in the hands of a method's maths, which takes it for a tensor or a number.

    `view` is the shape: `"whole"` (the parameter's), `"rows"` (a matrix of its rows), `"line"` (a matrix of one row),
    `"row"` or `"row kept"` (one number per row, without or with the dimension), `"number"`.
    """

    __slots__ = ("graph", "value", "view")

    def __init__(self, graph: Graph, value: Value, view: str) -> None:
        self.graph, self.value, self.view = graph, value, view

    # ---------------------------------------------------------------- what torch and Python ask

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _apply(function.__name__, args, kwargs or {})

    @staticmethod
    def traced(name: str, args: Sequence[Any]) -> Any:
        """A function of `downslope._core.maths` on symbols and numbers."""
        return _apply(name, args, {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not _known(name):
            raise AttributeError(f"{name!r} is not elementwise")
        return lambda *args, **kwargs: _apply(name, (self, *args), kwargs)

    def __bool__(self) -> NoReturn:
        raise TraceError("it branches on a value; use maths.where")

    def __float__(self) -> NoReturn:
        raise TraceError("it needs a value as a Python number")

    __int__ = __index__ = __len__ = __iter__ = __float__

    @property
    def dtype(self) -> Any:
        """What `.to(x.dtype)` gets: any dtype is the computing one."""
        return float

    device: Any = None

    @property
    def ndim(self) -> int:
        """Known while tracing, so that the maths may branch on it."""
        self.graph.asked_ndim |= self.view == "whole"
        return {"whole": self.graph.ndim, "row": 1, "number": 0}.get(self.view, 2)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The dimensions as symbols, where they can be told."""
        if self.view not in ("rows", "line", "whole"):
            raise TraceError("it needs the shape of a reduced value")
        rows, cols, numel = (self.graph.scalar("size", name, TENSOR) for name in ("rows", "cols", "numel"))
        return {"rows": (rows, cols), "line": (1, numel), "whole": (rows,)}[self.view]

    def numel(self) -> Symbol:
        return self.graph.scalar("size", "numel", TENSOR)

    def reshape(self, *shape: Any) -> Symbol:
        rows = shape[0] if len(shape) == 2 and shape[1] == -1 else None
        if isinstance(rows, Symbol) and rows.value.args == ("rows",):
            return Symbol(self.graph, self.value, "rows")
        if isinstance(rows, int) and rows == 1:
            return Symbol(self.graph, self.value, "line")
        raise TraceError(f"it reshapes to {shape}")

    def reshape_as(self, other: Symbol) -> Symbol:
        return Symbol(self.graph, self.value, other.view)

    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swapped=True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", swapped=True)
    __truediv__, __rtruediv__ = _operator("div"), _operator("div", swapped=True)
    __mod__, __rmod__ = _operator("mod"), _operator("mod", swapped=True)
    __pow__, __rpow__ = _operator("pow"), _operator("pow", swapped=True)
    __and__, __rand__ = _operator("logical_and"), _operator("logical_and", swapped=True)
    __or__, __ror__ = _operator("logical_or"), _operator("logical_or", swapped=True)
    __neg__, __abs__, __invert__ = _operator("neg"), _operator("abs"), _operator("logical_not")
    __lt__, __le__, __gt__, __ge__ = _operator("lt"), _operator("le"), _operator("gt"), _operator("ge")
    __eq__, __ne__ = _operator("eq"), _operator("ne")
    __hash__ = None  # type: ignore[assignment]


# -------------------------------------------------------------------- operations


def _known(name: str) -> bool:
    name = _ALIASES.get(name, name)
    return name in _UNARY or name in _BINARY or name in _COMPARISONS or name in _LOGIC or name in _COMPOSED


def _apply(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = name.strip("_")
    name = _ALIASES.get(name, name)
    if name in _COMPOSED:
        return _COMPOSED[name](*args, **kwargs)
    if name in ("max", "min") and len(args) == 2 and isinstance(args[1], Symbol):
        return _apply(f"{name}imum", args, kwargs)
    if name in ("add", "sub") and "alpha" in kwargs:
        args, kwargs = (args[0], args[1] * kwargs["alpha"]), {}
    arity = 1 if name in _UNARY or name == "logical_not" else 2
    if not (name in _UNARY or name in _BINARY or name in _COMPARISONS or name in _LOGIC):
        raise TraceError(f"it uses {name!r}, which is not elementwise")
    if kwargs or len(args) != arity:
        raise TraceError(f"it calls {name!r} with arguments that no kernel takes")
    return _make(name, *args)


def _make(op: str, *args: Any) -> Symbol:
    symbols = [a for a in args if isinstance(a, Symbol)]
    if any(isinstance(a, Tensor) for a in args):
        raise TraceError("it uses a tensor that is neither state nor a signal")
    graph = symbols[0].graph
    if op == "pow":
        return _power(graph, *args)
    values = tuple(a.value if isinstance(a, Symbol) else a for a in args)
    return Symbol(graph, graph.value(op, *values), _joined([s.view for s in symbols]))


def _joined(views: list[str]) -> str:
    shaped = {v for v in views if v != "number"}
    if shaped <= {"rows", "row kept"} and "rows" in shaped:
        return "rows"
    if len(shaped) > 1:
        raise TraceError(f"it mixes the shapes {' and '.join(sorted(shaped))}")
    return shaped.pop() if shaped else "number"


def _power(graph: Graph, base: Any, exponent: Any) -> Symbol:
    if isinstance(base, Symbol) and base.value.level > SET and not isinstance(exponent, Symbol):
        simple: dict[float, Callable[[Symbol], Any]] = {
            0.5: lambda x: _make("sqrt", x),
            1.0: lambda x: x,
            2.0: lambda x: x * x,
            3.0: lambda x: x * x * x,
            -1.0: lambda x: 1.0 / x,
            -0.5: lambda x: 1.0 / _make("sqrt", x),
            -2.0: lambda x: 1.0 / (x * x),
        }
        if float(exponent) in simple:
            result: Symbol = simple[float(exponent)](base)
            return result
    values = [a.value if isinstance(a, Symbol) else a for a in (base, exponent)]
    views = [a.view for a in (base, exponent) if isinstance(a, Symbol)]
    return Symbol(graph, graph.value("pow", *values), _joined(views))


def _where(condition: Any, yes: Any, no: Any) -> Any:
    if not isinstance(condition, Symbol):
        return yes if condition else no
    return _make("where", condition, yes, no)


def _clamp(x: Symbol, min: Any = None, max: Any = None) -> Symbol:
    x = x if min is None else _make("maximum", x, min)
    return x if max is None else _make("minimum", x, max)


def _lerp(a: Symbol, b: Any, weight: Any) -> Any:
    near = weight < 0.5
    return _where(near, a + weight * (b - a), b - (b - a) * (1 - weight))


def _number(x: Symbol) -> Symbol:
    """A bool as a number."""
    return _make("where", x, 1.0, 0.0) if x.value.boolean else x


def _full_like(x: Symbol, value: float, **_: Any) -> Symbol:
    """A constant in the shape of x: it has to be a symbol of that shape, which x·0 would not be for NaN."""
    return Symbol(x.graph, x.graph.value("constant", float(value), level=x.value.level), x.view)


def _reduced(kind: str, x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    x = _number(x)
    if x.value.level < ROW:
        if dim is None:
            return x
        raise TraceError("it reduces a number along a dimension")
    whole = dim is None or (x.view == "line" and dim in (1, -1))
    if not whole and (x.view != "rows" or dim not in (1, -1)):
        raise TraceError(f"it reduces along dimension {dim}")
    value = x.graph.reduce(kind, x.value, TENSOR if whole else ROW)
    return Symbol(x.graph, value, "number" if whole else "row kept" if keepdim else "row")


def _sum(x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    return _reduced("sum", x, dim, keepdim)


def _mean(x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    total = _sum(x, dim, keepdim)
    if x.value.level != ELEMENT:
        raise TraceError("it takes a mean over rows")
    by_row = dim is not None and x.view == "rows"
    return _make("div", total, x.graph.scalar("size", "cols" if by_row else "numel", TENSOR))


def _norm(x: Symbol, p: Any = 2, dim: Any = None, keepdim: bool = False, ord: Any = None) -> Symbol:
    order = p if ord is None else ord
    if order in (2, 2.0, "fro"):
        return _make("sqrt", _sum(_make("mul", x, x), dim, keepdim))
    if order in (1, 1.0):
        return _sum(_make("abs", x), dim, keepdim)
    if order == math.inf:
        return _reduced("max", _make("abs", x), dim, keepdim)
    raise TraceError(f"it takes a norm of order {order}")


def _max(x: Symbol, *other: Any) -> Symbol:
    return _make("maximum", x, *other) if other else _reduced("max", x)


def _amin(x: Symbol, dim: Any = None, keepdim: bool = False) -> Symbol:
    return _make("neg", _reduced("max", _make("neg", x), dim, keepdim))


def _min(x: Symbol, *other: Any) -> Symbol:
    return _make("minimum", x, *other) if other else _amin(x)


def _cosine_similarity(a: Symbol, b: Symbol, dim: int = 1, eps: Any = 1e-8) -> Any:
    lengths = _make("maximum", _norm(a, dim=dim), eps), _make("maximum", _norm(b, dim=dim), eps)
    return _sum(_make("mul", a, b), dim) / lengths[0] / lengths[1]


_COMPOSED: dict[str, Callable[..., Any]] = {
    "where": _where,
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "clamp_max": lambda x, max: _clamp(x, max=max),
    "relu": lambda x: _clamp(x, min=0.0),
    "lerp": _lerp,
    "addcmul": lambda x, a, b, value=1: x + value * a * b,
    "addcdiv": lambda x, a, b, value=1: x + value * a / b,
    "to": lambda x, *_, **__: _number(x),
    "type_as": lambda x, other: _number(x),
    "float": _number,
    "clone": lambda x, **_: x,
    "detach": lambda x: x,
    "contiguous": lambda x: x,
    "zeros_like": lambda x, **_: _full_like(x, 0.0),
    "ones_like": lambda x, **_: _full_like(x, 1.0),
    "full_like": _full_like,
    "sum": _sum,
    "mean": _mean,
    "norm": _norm,
    "max": _max,
    "min": _min,
    "amax": lambda x, dim=None, keepdim=False: _reduced("max", x, dim, keepdim),
    "amin": _amin,
    "cosine_similarity": _cosine_similarity,
    "isfinite": lambda x: _make("lt", _make("abs", x), math.inf),
}  # fmt: skip
