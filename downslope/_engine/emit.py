"""Emission: a program as the C++ source of one kernel for all parameters that follow it.

The kernel runs in passes. A pass goes over all elements, in segments that threads share, and adds up what the
reductions need; between passes a stage turns the sums of each parameter into its numbers. The last pass stores.
The order of all sums depends on shapes alone, so that results do not change with the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from string import Template

from downslope._engine.expr import ELEMENT, ROW, SET, TENSOR, Value
from downslope._engine.program import Program

__all__ = ["BLOCKWISE", "SEGMENT", "STOCHASTIC", "TILE", "emit"]

BLOCKWISE = ("ds::q8", "ds::q4")
STOCHASTIC = "bfloat16, rounded stochastically"
TILE = 2048
SEGMENT = 16 * TILE
_REDUCTIONS = ("sum", "max")
_START = {"sum": "0", "max": "-__builtin_inf()"}
_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==",
    "ne": "!=", "logical_and": "&", "logical_or": "|",
}  # fmt: skip


def emit(program: Program, compute: str, storage: Mapping[str, str]) -> str:
    """The source of the kernel.

    Args:
        program: what to compute.
        compute: the C++ type that it is computed in, "float" or "double".
        storage: for each stream that is not stored in that type, the tag of `staging.h` or how it is stored.
    """
    return _Emitter(program, compute, storage).source()


_KERNEL = Template("""
using C = $compute;
struct Set { $set_fields };
struct Tensor { i64 rows, cols, pieces, first, numel; $tensor_fields $row_fields };

static inline void prelude(const double* a, Set& s) {
$prelude
}

extern "C" int downslope_step(const Job* given) {
  const Job& job = *given;
  const i64 n = job.n_tensors;
  Arena arena;
  Set* sets = arena.take<Set>(job.n_sets);
  Tensor* tensors = arena.take<Tensor>(n);
  if (arena.failed) return 1;
  for (i64 k = 0; k < job.n_sets; ++k) prelude(job.args + k * $arguments, sets[k]);
  i64 segments = 0, elements = 0, rows = 0;
  for (i64 t = 0; t < n; ++t) {
    Tensor& x = tensors[t];
    x.numel = job.numel[t];
    x.rows = $rows;
    x.cols = x.rows ? x.numel / x.rows : 0;
    x.pieces = (x.cols + $segment - 1) / $segment;
    x.first = segments;
    segments += x.rows * x.pieces;
    elements += x.numel;
    rows += x.rows;
  }
$row_arrays
  double* partial = arena.take<double>(segments * $sums);
  if (arena.failed) return 1;
  const i64 grain = elements > $segment * segments / 2 ? 1 : $segment * segments / (elements ? elements : 1);
  #pragma omp parallel num_threads(job.threads) if (elements > $segment / 2)
  {
$passes
  }
  return 0;
}
""")
_STAGE = Template("""
    #pragma omp for schedule(dynamic, 16)
    for (i64 t = 0; t < n; ++t) {
      Tensor& x = tensors[t];
      const Set& s = sets[job.set[t]];
      (void)s;
$body
    }
""")
_PASS = Template("""
    {
      i64 t = 0;
      #pragma omp for schedule(dynamic, grain)
      for (i64 k = 0; k < segments; ++k) {
        t = find(tensors, n, k, t);
        const Tensor& x = tensors[t];
        const Set& s = sets[job.set[t]];
        const i64 row = (k - x.first) / x.pieces, piece = (k - x.first) % x.pieces;
        const i64 begin = row * x.cols + piece * $segment;
        const i64 end = piece + 1 == x.pieces ? (row + 1) * x.cols : begin + $segment;
        (void)s;
$numbers
$totals
$buffers
        for (i64 i = begin; i < end; i += $tile) {
          const i64 m = end - i < $tile ? end - i : $tile;
$opened
$sums
          $simd
          for (i64 j = 0; j < m; ++j) {
$body
          }
$added
$closed
        }
$kept
      }
    }
""")


class _Emitter:
    def __init__(self, program: Program, compute: str, storage: Mapping[str, str]) -> None:
        self.program, self.compute, self.storage = program, compute, storage
        outputs = [*program.stores.values(), *program.measured.values()]
        outputs += [] if program.update is None else [program.update]
        self.order = _topological(outputs)
        self.name = {id(v): f"v{i}" for i, v in enumerate(self.order)}
        self.last = max((v.depth for v in outputs), default=0)
        self.reductions = [v for v in self.order if v.op in _REDUCTIONS and v.args[0].level == ELEMENT]
        self.sums = max(len(self.reductions), 1)
        self.written = self._written()

    def _written(self) -> dict[str, Value]:
        """What is stored element by element, by stream."""
        p = self.program
        written = {
            k: v for k, v in p.stores.items() if k not in p.scalars and not (v.op == "stream" and v.args == (k,))
        }
        if p.update is not None:
            written[p.into] = p.update
        return written

    # ---------------------------------------------------------------- the whole

    def source(self) -> str:
        """The whole text behind the headers."""
        at_set = [v for v in self.order if v.level == SET and v.op != "constant"]
        return _KERNEL.substitute(
            compute=self.compute,
            set_fields=_fields((self._type(v), self.name[id(v)]) for v in at_set),
            tensor_fields=_fields((self._type(v), self.name[id(v)]) for v in self._at_level(TENSOR)),
            row_fields=_fields((f"{self._type(v)}*", self.name[id(v)]) for v in self._at_level(ROW)),
            prelude=_lines(2, (f"s.{self.name[id(v)]} = {self._expression(v, SET)};" for v in at_set)),
            arguments=max(len(self.program.arguments), 1),
            rows="job.rows[t]" if self.program.by_rows else "1",
            row_arrays=_lines(2, self._row_arrays()),
            sums=self.sums,
            segment=SEGMENT,
            passes="".join(self._stage(depth) + self._pass(depth) for depth in range(self.last + 1)),
        )

    def _at_level(self, level: int) -> list[Value]:
        return [v for v in self.order if v.level == level and v.op != "constant"]

    def _type(self, v: Value) -> str:
        return "bool" if v.boolean else "double" if v.level == SET else "C"

    def _row_arrays(self) -> Iterator[str]:
        """One block of memory for each number of the rows, of which every tensor has a part."""
        for v in self._at_level(ROW):
            name, kind = self.name[id(v)], self._type(v)
            yield f"{kind}* {name} = arena.take<{kind}>(rows);"
            yield "if (arena.failed) return 1;"
            yield f"for (i64 t = 0; t < n; {name} += tensors[t++].rows) tensors[t].{name} = {name};"

    # ---------------------------------------------------------------- stages: numbers of tensors and rows

    def _stage(self, depth: int) -> str:
        lines = [self._staged(v) for v in self.order if v.level in (TENSOR, ROW) and v.depth == depth]
        if depth == self.last:
            p, width = self.program, len(self.program.measured)
            kept = ((key, v) for key, v in p.stores.items() if key in p.scalars)
            lines += [f"*(C*){self._cell('data', key)} = (C){self._at(v, TENSOR)};" for key, v in kept]
            measured = enumerate(p.measured.values())
            lines += [f"job.measured[t * {width} + {i}] = {self._at(v, TENSOR)};" for i, v in measured]
        lines = [line for line in lines if line]
        return _STAGE.substitute(body=_lines(6, lines)) if lines else ""

    def _staged(self, v: Value) -> str:
        name = self.name[id(v)]
        if v.op == "constant":
            return ""
        if v.op not in _REDUCTIONS:
            if v.level == TENSOR:
                return f"x.{name} = {self._expression(v, TENSOR)};"
            return f"for (i64 r = 0; r < x.rows; ++r) x.{name}[r] = {self._expression(v, ROW)};"
        if v.args[0].level == ROW:
            each, over = f"(double)x.{self.name[id(v.args[0])]}[r]", "for (i64 r = 0; r < x.rows; ++r)"
            return f"{{ double a = {_START[v.op]}; {over} {_add(v.op, 'a', each)} x.{name} = (C)a; }}"
        each = f"partial[k * {self.sums} + {self.reductions.index(v)}]"
        if v.level == TENSOR:
            over = "for (i64 k = x.first; k < x.first + x.rows * x.pieces; ++k)"
            return f"{{ double a = {_START[v.op]}; {over} {_add(v.op, 'a', each)} x.{name} = (C)a; }}"
        over = "for (i64 k = x.first + r * x.pieces; k < x.first + (r + 1) * x.pieces; ++k)"
        one = f"double a = {_START[v.op]}; {over} {_add(v.op, 'a', each)} x.{name}[r] = (C)a;"
        return f"for (i64 r = 0; r < x.rows; ++r) {{ {one} }}"

    # ---------------------------------------------------------------- passes: elements

    def _pass(self, depth: int) -> str:
        """The loops over all elements that come after stage `depth`."""
        reductions = [(f"a{i}", v.op, v.args[0], i) for i, v in enumerate(self.reductions) if v.args[0].depth == depth]
        written = self.written if depth == self.last else {}
        if not reductions and not written:
            return ""
        ends = [*written.values(), *(x for _, _, x, _ in reductions)]
        needed = _topological(ends, ELEMENT)
        read = [v.args[0] for v in needed if v.op == "stream"]
        streams = list(dict.fromkeys([*read, *written]))
        sums = [a for a, op, _, _ in reductions if op == "sum"]
        body = [self._element(v) for v in needed]
        body += [f"{self._pointer(s)}[j] = (C){self._at(v, ELEMENT)};" for s, v in written.items()]
        body += [_add(op, a, self._at(x, ELEMENT)) for a, op, x, _ in reductions]
        simd = "#pragma omp simd" + (f" reduction(+ : {', '.join(sums)})" if sums else "")
        return _PASS.substitute(
            segment=SEGMENT,
            tile=TILE,
            numbers=_lines(8, (self._number(v) for v in _below(needed, ends, self.order))),
            totals=_lines(8, (f"double total_{a} = {_START[op]};" for a, op, _, _ in reductions)),
            buffers=_lines(8, (f"alignas(64) C b{self.program.column(s)}[{TILE}];" for s in streams)),
            opened=_lines(10, (self._open(s, s in read) for s in streams)),
            sums=_lines(10, (f"C {a} = {_START[op]};" for a, op, _, _ in reductions)),
            simd=simd if len(sums) == len(reductions) else "",
            body=_lines(12, body),
            added=_lines(10, (_add(op, f"total_{a}", f"(double){a}") for a, op, _, _ in reductions)),
            closed=_lines(10, [*self._ahead(read, written), *(self._close(s) for s in written)]),
            kept=_lines(8, (f"partial[k * {self.sums} + {i}] = total_{a};" for a, _, _, i in reductions)),
        )

    def _element(self, v: Value) -> str:
        name = self.name[id(v)]
        if v.op == "stream":
            return f"const C {name} = {self._pointer(v.args[0])}[j];"
        return f"const {self._type(v)} {name} = {self._expression(v, ELEMENT)};"

    def _number(self, v: Value) -> str:
        """A number of the set, the tensor or the row, as a constant of the loop."""
        name, kind = self.name[id(v)], "bool" if v.boolean else "C"
        source = f"s.{name}" if v.level == SET else f"x.{name}" if v.level == TENSOR else f"x.{name}[row]"
        return f"const {kind} {name} = ({kind}){source};"

    # ---------------------------------------------------------------- streams

    def _pointer(self, stream: str) -> str:
        return f"p{self.program.column(stream)}"

    def _open(self, stream: str, read: bool) -> str:
        at, how = self.program.column(stream), self.storage.get(stream)
        data, layout = self._cell("data", stream), self._cell("layout", stream)
        tag = {None: self._own, STOCHASTIC: "ds::bf16"}.get(how, how)
        load = f"ds::load<C, {tag}>({data}, {layout}, i, m, b{at});" if read else ""
        if how is not None:
            return f"C* __restrict p{at} = b{at}; {load}"
        return f"C* __restrict p{at} = {layout} ? b{at} : (C*){data} + i; if ({layout}) {{ {load} }}"

    def _ahead(self, read: Iterable[str], written: Iterable[str]) -> list[str]:
        """Asks for what the next tile reads in place, where coding this tile's results leaves the memory idle."""
        if not any(self.storage.get(s) in BLOCKWISE for s in written):
            return []
        return [f"ds::prefetch({self._pointer(s)} + {TILE}, m);" for s in read if self.storage.get(s) is None]

    def _close(self, stream: str) -> str:
        at, how = self.program.column(stream), self.storage.get(stream)
        data, layout = self._cell("data", stream), self._cell("layout", stream)
        if how == STOCHASTIC:
            key = f"(ds::u32){self._cell('key', stream)}"
            return f"ds::store_stochastic<C>({data}, {layout}, i, m, b{at}, {key}, job.start[t] + i);"
        store = f"ds::store<C, {how or self._own}>({data}, {layout}, i, m, b{at});"
        return store if how is not None else f"if ({layout}) {store}"

    @property
    def _own(self) -> str:
        return "ds::f32" if self.compute == "float" else "ds::f64"

    def _cell(self, table: str, name: str) -> str:
        width = len(self.program.streams) + len(self.program.scalars)
        return f"job.{table}[t * {width} + {self.program.column(name)}]"

    # ---------------------------------------------------------------- expressions

    def _at(self, v: object, level: int) -> str:
        """How an expression at a level names a value or a number."""
        if not isinstance(v, Value):
            return _literal(v, "double" if level == SET else "C")
        if v.op == "constant":
            return _literal(v.args[0], "double" if level == SET else "C")
        name = self.name[id(v)]
        if level == ELEMENT:
            return name
        if level == SET:
            return f"s.{name}"
        kind = "bool" if v.boolean else "C"
        return {SET: f"({kind})s.{name}", TENSOR: f"x.{name}", ROW: f"x.{name}[r]"}[v.level]

    def _expression(self, v: Value, level: int) -> str:
        kind = "double" if level == SET else "C"
        if v.op == "argument":
            return f"a[{v.args[0]}]"
        if v.op == "scalar":
            return f"*(const C*){self._cell('data', v.args[0])}"
        if v.op == "size":
            return f"(C)x.{v.args[0]}"
        if v.op == "constant":
            return _literal(v.args[0], kind)
        a = [self._at(each, level) for each in v.args]
        if v.op in _INFIX:
            return f"({a[0]} {_INFIX[v.op]} {a[1]})"
        if v.op == "logical_not":
            return f"!{a[0]}"
        if v.op == "where":
            return f"({a[0]} ? {a[1]} : {a[2]})" if v.boolean else f"({a[0]} ? ({kind}){a[1]} : ({kind}){a[2]})"
        if v.op == "neg":
            return f"-{a[0]}"
        return f"ds::{v.op}({', '.join(f'({kind}){each}' for each in a)})"


def _add(op: str, into: str, x: str) -> str:
    """The statement that takes one more number into a reduction."""
    return f"{into} += {x};" if op == "sum" else f"{into} = ds::maximum({into}, (decltype({into})){x});"


def _fields(typed: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{kind} {name};" for kind, name in typed)


def _lines(indent: int, lines: Iterable[str]) -> str:
    return "\n".join(" " * indent + line for line in lines)


def _literal(x: object, kind: str) -> str:
    if isinstance(x, bool):
        return "true" if x else "false"
    value = float(x)  # type: ignore[arg-type]
    if math.isnan(value):
        return f'({kind})__builtin_nan("")'
    if math.isinf(value):
        return f"({kind}){'-' if value < 0 else ''}__builtin_inf()"
    return f"({kind}){value.hex()}"


def _topological(outputs: Iterable[Value], level: int | None = None) -> list[Value]:
    """The values that the outputs need, each behind its arguments; with a level, those of that level alone."""
    seen: dict[int, Value] = {}

    def visit(v: Value) -> None:
        if id(v) in seen or (level is not None and v.level != level):
            return
        for a in v.args:
            if isinstance(a, Value):
                visit(a)
        seen[id(v)] = v

    for v in outputs:
        visit(v)
    return list(seen.values())


def _below(needed: list[Value], outputs: list[Value], order: list[Value]) -> list[Value]:
    """The values below the level of elements that a pass reads, in their order."""
    read = {id(a) for v in needed for a in v.args if isinstance(a, Value)} | {id(v) for v in outputs}
    return [v for v in order if id(v) in read and v.level < ELEMENT and v.op != "constant"]
