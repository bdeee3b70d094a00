"""Traced runs: several transforms as one graph of tensor operations, the arithmetic on hyperparameters apart.

What a rule computes from hyperparameters alone (`1 - b1**step`) is evaluated in Python floats once per step and param
group and comes into the graph as one vector of numbers. So the graph holds no hyperparameter: nothing is compiled
anew when one changes, and a kernel never raises to a power for each element what is the same for all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from downslope._checks import plain
from downslope._core import maths
from downslope._core.transform import Transform

__all__ = ["WIDTH", "NotTraceable", "Reader", "Source", "Traced", "build", "computing"]

WIDTH = 64
"""Length of the vector of numbers that a function takes."""

# fmt: off
_ELEMENTWISE = frozenset((
    "_to_copy", "alias", "clone", "copy_", "detach", "full_like", "lift_fresh_copy", "ones_like", "scalar_tensor",
    "zeros_like",
))
_PLAIN = _ELEMENTWISE | {
    "all", "amax", "amin", "any", "cat", "cumsum", "expand", "flatten", "full", "linalg_vector_norm", "max", "mean",
    "min", "new_zeros", "ones", "permute", "reshape", "select", "slice", "squeeze", "stack", "std", "sum", "sym_numel",
    "sym_size", "t", "transpose", "unsqueeze", "var", "view", "zeros",
}
# fmt: on


class NotTraceable(Exception):
    """The maths of a run cannot be turned into a graph; the message says why."""


class Source(NamedTuple):
    """Where an input of a function comes from: `p`, `grad`, `u`, `incoming`, a signal, or a slot of a leaf."""

    kind: str
    name: str = ""
    leaf: int = 0


class Reader(NamedTuple):
    """One transform of a run with the values that it reads as `h` for an example parameter."""

    transform: Transform
    h: dict[str, Any]


class _Symbol(fx.Proxy):
    """A hyperparameter, or what was computed from hyperparameters alone."""

    @staticmethod
    def traced(name: str, args: tuple[Any, ...]) -> Any:
        """A function of `downslope._core.maths` on symbols, numbers and tensors."""
        tracer = next(x.tracer for x in args if isinstance(x, _Symbol))
        return tracer.create_proxy("call_function", getattr(maths, name), args, {})


class _Scalars(fx.proxy.GraphAppendingTracer):
    """Records arithmetic among hyperparameters; where it meets a tensor, its result becomes a number of the vector."""

    def __init__(self, vector: Tensor) -> None:
        super().__init__(fx.Graph())
        self.vector = vector
        self.inputs: dict[tuple[Any, ...], fx.Proxy] = {}
        self.numbers: dict[fx.Node, Tensor] = {}
        self.baked: dict[fx.Node, Any] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def symbol(self, place: tuple[Any, ...], value: Any) -> fx.Proxy:
        """The input that stands for the hyperparameter at `place`, whose present value is given."""
        if place not in self.inputs:
            self.inputs[place] = self.proxy(self.graph.placeholder(f"x{len(self.inputs)}"))
            self.inputs[place].node.meta["value"] = value
        return self.inputs[place]

    def create_proxy(  # type: ignore[override]
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *rest: Any, **options: Any
    ) -> Any:
        met: list[Any] = []
        fx.node.map_aggregate((args, kwargs), lambda x: met.append(x) if isinstance(x, Tensor) else None)
        if not met:
            if kind != "call_function":
                raise NotTraceable(f"calls the method {target} of a hyperparameter")
            proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
            values, named = self._mapped((args, kwargs), lambda x: x.node.meta["value"])
            proxy.node.meta["value"] = target(*values, **named)
            return proxy
        function = target if kind == "call_function" else getattr(torch.Tensor, target)
        values, named = self._mapped((args, kwargs), self._number)
        try:
            return function(*values, **named)
        except (
            TypeError,
            GuardOnDataDependentSymNode,
        ):  # it takes plain numbers only: the present ones, which every later call is checked against
            values, named = self._mapped((args, kwargs), lambda x: x.node.meta["value"])
            result = function(*values, **named)
            fx.node.map_aggregate((args, kwargs), self._bake)
            return result

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise NotTraceable("branches on a value that may change at every step")

    def function(self) -> Callable[..., tuple[Any, ...]]:
        """From the inputs to the numbers of the vector and, behind them, those that are baked into the graph."""
        self.graph.output((*self.numbers, *self.baked))
        self.graph.lint()
        forward: Callable[..., tuple[Any, ...]] = fx.GraphModule(torch.nn.Module(), self.graph).forward
        return forward

    @staticmethod
    def _mapped(arguments: Any, function: Callable[[fx.Proxy], Any]) -> Any:
        return fx.node.map_aggregate(arguments, lambda x: function(x) if isinstance(x, fx.Proxy) else x)

    def _number(self, proxy: fx.Proxy) -> Tensor:
        node = proxy.node
        if node not in self.numbers:
            if len(self.numbers) == WIDTH:
                raise NotTraceable(f"reads more than {WIDTH} numbers")
            number = self.vector[len(self.numbers)]
            self.numbers[node] = number != 0 if isinstance(node.meta["value"], bool) else number
        return self.numbers[node]

    def _bake(self, x: Any) -> None:
        if isinstance(x, fx.Proxy):
            self.baked[x.node] = x.node.meta["value"]


class _Values:
    """Attribute access to hyperparameters as symbols and to tensors as inputs of the graph."""

    def __init__(self, scalars: _Scalars, place: tuple[Any, ...], given: dict[str, Any], tensors: dict[str, Tensor]):
        self._all = scalars, place, given, tensors

    def __getattr__(self, name: str) -> Any:
        scalars, place, given, tensors = self._all
        if name in tensors:
            return tensors[name]
        if name not in given:
            raise AttributeError(name)
        if name == "shared" and given[name] is not None:
            return _Values(scalars, (*place, "shared"), vars(given[name]), {})
        value = plain(given[name])
        if isinstance(value, tuple):
            return tuple(scalars.symbol((*place, name, k), each) for k, each in enumerate(value))
        if isinstance(value, int | float):
            return scalars.symbol((*place, name), value)
        if value is None:
            return None
        raise NotTraceable(f"reads h.{name}")


class Traced:
    """A run of transforms, ready to be compiled.

    `graph(vector, *inputs)` returns the outputs that are not written in place; `sources` says what the inputs are,
    `written` which of them the graph overwrites, `returned` what it returns (`u`, or a slot). `elementwise` is
    whether the graph may run on flattened tensors of any length, `failure` why it could not be compiled.
    """

    def __init__(self, graph: fx.GraphModule, scalars: _Scalars, outcome: _Outcome, symbolic: bool) -> None:
        self.graph, self.symbolic, self.precision = graph, symbolic, scalars.vector.dtype
        self.sources, self.written, self.returned = outcome.sources, outcome.written, outcome.returned
        self.places = tuple(scalars.inputs)
        self.baked = tuple(scalars.baked.values())
        vector = next(iter(graph.graph.nodes))
        self.elementwise = all(_is(n, _ELEMENTWISE) or vector in n.all_input_nodes for n in graph.graph.nodes)
        self.operations = [node.target for node in graph.graph.nodes if node.op == "call_function"]
        self.same_when_flat: bool | None = None
        self.callables: dict[str, Callable[..., tuple[Tensor, ...]]] = {}
        self.failure = ""
        self._numbers = scalars.function()
        self._padding = [0.0] * (WIDTH - len(scalars.numbers))

    def __call__(self, backend: str, vector: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run it, compiled at its first call; where that fails, eagerly, with a warning."""
        if backend not in self.callables:
            self.callables[backend] = torch.compile(
                self.graph.forward, backend=backend, fullgraph=True, dynamic=self.symbolic
            )
        try:
            return self.callables[backend](vector, *inputs)
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            cause = getattr(error, "inner_exception", error)
            self.failure = f"could not be compiled ({type(cause).__name__}: {_first_line(cause)})"
            warnings.warn(f"A run of transforms {self.failure}; it is run eagerly.", stacklevel=2)
            self.callables[backend] = self.graph.forward
            return self.callables[backend](vector, *inputs)

    def vector(self, numbers: Sequence[float], device: torch.device) -> Tensor:
        """The numbers on a device, in computing precision."""
        vector = torch.tensor([*numbers, *self._padding], dtype=self.precision)
        if device.type == "cuda":  # pinned, as any other copy waits for the device
            return vector.pin_memory().to(device, non_blocking=True)
        return vector.to(device)

    def numbers(self, values: Sequence[dict[str, Any]]) -> tuple[list[float], bool]:
        """The numbers of the vector, from what each leaf reads as `h`; and whether the baked ones still hold."""
        found = self._numbers(*(_at(values, place) for place in self.places))
        count = len(found) - len(self.baked)
        return [float(x) for x in found[:count]], found[count:] == self.baked


class _Outcome(NamedTuple):
    sources: tuple[Source, ...]
    written: tuple[Source, ...]
    returned: tuple[Source, ...]


def _at(values: Sequence[dict[str, Any]], place: tuple[Any, ...]) -> Any:
    leaf, name, *more = place
    value = values[leaf][name]
    for each in more:
        value = value[each] if isinstance(each, int) else getattr(value, each)
    return plain(value)


def build(leaves: Sequence[Reader], inputs: dict[Source, Tensor], sign: float, final: bool, symbolic: bool) -> Traced:
    """Trace a run on example tensors, of which only shapes and dtypes matter.

    Args:
        leaves: the transforms in their order.
        inputs: tensors as stored. Without `u` the update starts from `grad`.
        sign: -1 where the gradient is negated.
        final: whether the run ends in the new parameter, which is then written to `p`, or in an update.
        symbolic: trace for every size instead of those of the examples.

    Raises:
        NotTraceable: if the maths branches on values, draws random numbers, or fails in tracing for any other reason.
    """
    sources = tuple(inputs)
    precision = computing(inputs[Source("p")]).dtype
    outcome: list[Any] = []

    def body(vector: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        scalars = _Scalars(vector)
        results = _results(scalars, leaves, dict(zip(sources, tensors, strict=True)), sign)
        written: list[Source] = []
        returned: dict[Source, Tensor] = {}
        given = dict(zip(sources, tensors, strict=True))
        for source, value in results.items():
            target = given.get(Source("p") if source.kind == "u" else source)
            if source.kind == "u" and not final:
                returned[source] = value
            elif value is target:
                continue
            elif target is not None and (final and source.kind == "u" or _alike(value, target)):
                target.copy_(value)
                written.append(Source("p") if source.kind == "u" else source)
            else:
                returned[source] = value
        outcome[:] = scalars, _Outcome(sources, tuple(written), tuple(returned))
        return tuple(returned.values())

    vector = torch.zeros(WIDTH, dtype=precision, device=inputs[Source("p")].device)
    try:
        graph = make_fx(body, tracing_mode="symbolic" if symbolic else "fake")(vector, *inputs.values())
    except NotTraceable:
        raise
    except Exception as error:  # whatever the maths of a method does that a tracer cannot follow
        raise NotTraceable(f"cannot be traced ({type(error).__name__}: {_first_line(error)})") from error
    scalars, found = outcome
    return Traced(graph, scalars, _without_unused(graph, found), symbolic)


def _results(
    scalars: _Scalars, leaves: Sequence[Reader], given: dict[Source, Tensor], sign: float
) -> dict[Source, Tensor]:
    """The new slots and the last `u` of a run."""
    p = computing(given[Source("p")])
    grad = computing(given[Source("grad")])
    grad = -grad if sign < 0 else grad
    u = given.get(Source("u"), grad)
    common = {"grad": grad} | {s.name: computing(x) for s, x in given.items() if s.kind == "signal"}
    if Source("incoming") in given:
        common["incoming"] = given[Source("incoming")]
    results: dict[Source, Tensor] = {}
    for i, (transform, h) in enumerate(leaves):
        slots = {s.name: x for s, x in given.items() if s.kind == "slot" and s.leaf == i}
        state = _Values(scalars, (i,), {}, slots)
        u, changes = transform.update(u, p, state, _Values(scalars, (i,), h, common))
        results |= {Source("slot", name, i): value for name, value in changes.items()}
    return results | {Source("u"): u}


def computing(x: Tensor) -> Tensor:
    """A tensor in the precision in which the maths is done: float32 at least."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _alike(value: Tensor, target: Tensor) -> bool:
    return value.dtype == target.dtype and value.shape == target.shape


def _without_unused(graph: fx.GraphModule, outcome: _Outcome) -> _Outcome:
    """Refuse operations that are better left as they are, and drop the inputs that no operation reads."""
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        if not _is(node, _PLAIN):
            raise NotTraceable(f"uses {_name(node)}")
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"][1:]
    used = [bool(node.users) for node in placeholders]
    for node, is_used in zip(placeholders, used, strict=True):
        if not is_used:
            graph.graph.erase_node(node)
    graph.recompile()
    kept = tuple(s for s, is_used in zip(outcome.sources, used, strict=True) if is_used)
    return outcome._replace(sources=kept)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _is_of_compiler(error: Exception) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # it takes a second to import

    return isinstance(error, TorchDynamoException)


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _is(node: fx.Node, names: frozenset[str]) -> bool:
    if node.op != "call_function":
        return True
    target = node.target
    pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return pointwise or _name(node) in names or getattr(target, "__module__", "") in ("_operator", "math")
