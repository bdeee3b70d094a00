"""Emission: a program as the C++ source of one kernel for all parameters that follow it.

The kernel runs in passes. A pass goes over all elements, in segments that threads share, and adds up what the
reductions need; between passes a stage turns the sums of each parameter into its numbers. The last pass stores.
The order of all sums depends on shapes alone, so that results do not change with the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from downslope._engine.expr import ELEMENT, ROW, SET, TENSOR, Value
from downslope._engine.program import Program

__all__ = ["BLOCKWISE", "SEGMENT", "STOCHASTIC", "TILE", "emit"]

BLOCKWISE = ("ds::q8", "ds::q4")
STOCHASTIC = "bfloat16, rounded stochastically"
TILE = 2048
SEGMENT = 16 * TILE
_REDUCTIONS = ("sum", "max")
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


@dataclass(frozen=True)
class _Reduction:
    index: int
    value: Value

    @property
    def start(self) -> str:
        return "0" if self.value.op == "sum" else "-__builtin_inf()"


class _Emitter:
    def __init__(self, program: Program, compute: str, storage: Mapping[str, str]) -> None:
        self.program, self.compute, self.storage = program, compute, storage
        outputs = [*program.stores.values(), *program.measured.values()]
        outputs += [] if program.update is None else [program.update]
        self.order = _topological(outputs)
        self.name = {id(v): f"v{i}" for i, v in enumerate(self.order)}
        self.last = max((v.depth for v in outputs), default=0)
        over_elements = [v for v in self.order if v.op in _REDUCTIONS and v.args[0].level == ELEMENT]
        self.reductions = [_Reduction(i, v) for i, v in enumerate(over_elements)]
        self.rows = [v for v in self.order if v.level == ROW and v.op != "constant"]
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
        passes = "".join(self._stage(d) + self._pass(d) for d in range(self.last + 1))
        c = self.compute
        return f"""
using C = {c};
struct Set {{ {self._fields(SET)} }};
struct Tensor {{ i64 numel, rows, cols, pieces, first; {self._fields(TENSOR)} {self._row_fields()} }};

static inline void prelude(const double* a, Set& s) {{
{self._statements(v for v in self.order if v.level == SET)}
{self._keep(SET, "s")}
}}

extern "C" int downslope_step(const Job* job_) {{
  const Job& job = *job_;
  const i64 n = job.n_tensors;
  Arena arena;
  Set* sets = arena.take<Set>(job.n_sets);
  Tensor* tensors = arena.take<Tensor>(n);
  i64 segments = 0, elements = 0;
  for (i64 k = 0; k < job.n_sets; ++k) prelude(job.args + k * {max(len(self.program.arguments), 1)}, sets[k]);
  for (i64 t = 0; t < n; ++t) {{
    Tensor& x = tensors[t];
    x.numel = job.numel[t];
    x.rows = {"job.rows[t]" if self.program.by_rows else "1"};
    x.cols = x.rows ? x.numel / x.rows : 0;
    x.pieces = (x.cols + {SEGMENT - 1}) / {SEGMENT};
    x.first = segments;
    segments += x.rows * x.pieces;
    elements += x.numel;
  }}
  {self._row_arrays()}
  double* partial = arena.take<double>(segments * {max(len(self.reductions), 1)});
  if (arena.failed) return 1;
  const i64 grain = elements > {SEGMENT} * segments / 2 ? 1 : {SEGMENT} * segments / (elements ? elements : 1);
  #pragma omp parallel num_threads(job.threads) if (elements > {SEGMENT // 2})
  {{
{passes}
  }}
  return 0;
}}
"""

    def _fields(self, level: int) -> str:
        return " ".join(f"{self._type(v)} {self.name[id(v)]};" for v in self._kept(level))

    def _row_fields(self) -> str:
        return " ".join(f"{self._type(v)}* {self.name[id(v)]};" for v in self.rows)

    def _row_arrays(self) -> str:
        """One block of memory for each number of the rows, of which every tensor has a part."""
        lines = ["i64 rows = 0; for (i64 t = 0; t < n; ++t) rows += job.rows[t];"]
        for v in self.rows:
            name, kind = self.name[id(v)], self._type(v)
            lines.append(f"{{ {kind}* part = arena.take<{kind}>(rows); if (arena.failed) return 1;")
            lines.append(f"for (i64 t = 0; t < n; part += tensors[t++].rows) tensors[t].{name} = part; }}")
        return "\n  ".join(lines) if self.rows else ""

    def _type(self, v: Value) -> str:
        return "bool" if v.boolean else "double" if v.level == SET else "C"

    def _kept(self, level: int) -> list[Value]:
        """The values of a level that a higher one, or a later stage, reads."""
        return [v for v in self.order if v.level == level and v.op != "constant"]

    def _keep(self, level: int, into: str) -> str:
        return " ".join(f"{into}.{self.name[id(v)]} = {self.name[id(v)]};" for v in self._kept(level))

    # ---------------------------------------------------------------- stages: numbers of tensors and rows

    def _stage(self, depth: int) -> str:
        values = [v for v in self.order if v.level in (TENSOR, ROW) and v.depth == depth and v.op != "constant"]
        scalars = {k: v for k, v in self.program.stores.items() if k in self.program.scalars}
        ending = depth == self.last and (scalars or self.program.measured)
        if not values and not ending:
            return ""
        lines = [self._stage_value(v) for v in values]
        if depth == self.last:
            for k, v in scalars.items():
                at = self.program.column(k)
                lines.append(f"*(C*)job.data[t * {self._width()} + {at}] = (C){self._at(v, TENSOR)};")
            for i, v in enumerate(self.program.measured.values()):
                lines.append(f"job.measured[t * {len(self.program.measured)} + {i}] = {self._at(v, TENSOR)};")
        body = "\n        ".join(lines)
        return f"""
    #pragma omp for schedule(dynamic, 16)
    for (i64 t = 0; t < n; ++t) {{
        Tensor& x = tensors[t];
        const Set& s = sets[job.set[t]];
        (void)s;
        {body}
    }}
"""

    def _stage_value(self, v: Value) -> str:
        name = self.name[id(v)]
        if v.op in _REDUCTIONS:
            combine = "total += {x}" if v.op == "sum" else "total = ds::maximum(total, {x})"
            start = "0" if v.op == "sum" else "-__builtin_inf()"
            if v.args[0].level == ROW:
                each = combine.format(x=f"(double)x.{self.name[id(v.args[0])]}[r]")
                return f"{{ double total = {start}; for (i64 r = 0; r < x.rows; ++r) {each}; x.{name} = (C)total; }}"
            count = max(len(self.reductions), 1)
            index = next(r.index for r in self.reductions if r.value is v)
            each = combine.format(x=f"partial[k * {count} + {index}]")
            if v.level == TENSOR:
                return (
                    f"{{ double total = {start}; for (i64 k = x.first; k < x.first + x.rows * x.pieces; ++k) {each}; "
                    f"x.{name} = (C)total; }}"
                )
            return (
                f"for (i64 r = 0; r < x.rows; ++r) {{ double total = {start}; "
                f"for (i64 k = x.first + r * x.pieces; k < x.first + (r + 1) * x.pieces; ++k) {each}; "
                f"x.{name}[r] = (C)total; }}"
            )
        if v.level == ROW:
            return f"for (i64 r = 0; r < x.rows; ++r) x.{name}[r] = {self._expression(v, ROW)};"
        return f"x.{name} = {self._expression(v, TENSOR)};"

    # ---------------------------------------------------------------- passes: elements

    def _pass(self, depth: int) -> str:
        reductions = [r for r in self.reductions if r.value.args[0].depth == depth]
        written = self.written if depth == self.last else {}
        if not reductions and not written:
            return ""
        needed = _topological([r.value.args[0] for r in reductions] + list(written.values()), ELEMENT)
        inputs = [v.args[0] for v in needed if v.op == "stream"]
        lower = _direct(needed, list(written.values()) + [r.value.args[0] for r in reductions], self.order)
        streams = list(dict.fromkeys([*inputs, *written]))
        numbers = "\n          ".join(self._number(v) for v in lower)
        opened = "\n            ".join(self._open(s, s in inputs, s in written) for s in streams)
        loads = "\n              ".join(
            f"const C {self.name[id(v)]} = {self._pointer(v.args[0])}[j];" for v in needed if v.op == "stream"
        )
        maths = "\n              ".join(
            f"const {self._type(v)} {self.name[id(v)]} = {self._expression(v, ELEMENT)};"
            for v in needed
            if v.op != "stream"
        )
        stores = "\n              ".join(
            f"{self._pointer(s)}[j] = (C){self._at(v, ELEMENT)};" for s, v in written.items()
        )
        closed = "\n            ".join(self._close(s) for s in written)
        sums = [r for r in reductions if r.value.op == "sum"]
        clause = f" reduction(+: {', '.join(f'a{r.index}' for r in sums)})" if sums else ""
        accumulate = "\n              ".join(self._accumulate(r) for r in reductions)
        begin = " ".join(f"double t{r.index} = {r.start};" for r in reductions)
        tile_begin = " ".join(f"C a{r.index} = {r.start};" for r in reductions)
        tile_end = " ".join(
            f"t{r.index} += (double)a{r.index};"
            if r.value.op == "sum"
            else f"t{r.index} = ds::maximum(t{r.index}, (double)a{r.index});"
            for r in reductions
        )
        count = max(len(self.reductions), 1)
        end = " ".join(f"partial[k * {count} + {r.index}] = t{r.index};" for r in reductions)
        simd = "#pragma omp simd" + clause if all(r.value.op == "sum" for r in reductions) else ""
        return f"""
    {{
    i64 t = 0;
    #pragma omp for schedule(dynamic, grain)
    for (i64 k = 0; k < segments; ++k) {{
          t = find(tensors, n, k, t);
          const Tensor& x = tensors[t];
          const Set& s = sets[job.set[t]];
          const i64 row = (k - x.first) / x.pieces, piece = (k - x.first) % x.pieces;
          const i64 begin = row * x.cols + piece * {SEGMENT};
          const i64 end = piece + 1 == x.pieces ? (row + 1) * x.cols : begin + {SEGMENT};
          (void)s; (void)row;
          {numbers}
          {begin}
          {self._buffers(streams)}
          for (i64 i = begin; i < end; i += {TILE}) {{
            const i64 m = end - i < {TILE} ? end - i : {TILE};
            {opened}
            {tile_begin}
            {simd}
            for (i64 j = 0; j < m; ++j) {{
              {loads}
              {maths}
              {stores}
              {accumulate}
            }}
            {tile_end}
            {closed}
          }}
          {end}
    }}
    }}
"""

    def _accumulate(self, r: _Reduction) -> str:
        x = self._at(r.value.args[0], ELEMENT)
        return f"a{r.index} += {x};" if r.value.op == "sum" else f"a{r.index} = ds::maximum(a{r.index}, (C){x});"

    def _number(self, v: Value) -> str:
        """A number of the set, the tensor or the row, as a constant of the loop."""
        name, kind = self.name[id(v)], "bool" if v.boolean else "C"
        source = f"s.{name}" if v.level == SET else f"x.{name}" if v.level == TENSOR else f"x.{name}[row]"
        return f"const {kind} {name} = ({kind}){source};"

    # ---------------------------------------------------------------- streams

    def _width(self) -> int:
        return len(self.program.streams) + len(self.program.scalars)

    def _pointer(self, stream: str) -> str:
        return f"p{self.program.column(stream)}"

    def _buffers(self, streams: Iterable[str]) -> str:
        return " ".join(f"alignas(64) C b{self.program.column(s)}[{TILE}];" for s in streams)

    def _open(self, stream: str, read: bool, write: bool) -> str:
        at, how = self.program.column(stream), self.storage.get(stream)
        data, layout = self._cell("data", stream), self._cell("layout", stream)
        tag = {None: self._own, STOCHASTIC: "ds::bf16"}.get(how, how)
        load = f"ds::load<C, {tag}>({data}, {layout}, i, m, b{at});" if read else ""
        if how is not None:
            return f"C* __restrict p{at} = b{at}; {load}"
        return f"C* __restrict p{at} = {layout} ? b{at} : (C*){data} + i; if ({layout}) {{ {load} }}"

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

    def _cell(self, table: str, stream: str) -> str:
        return f"job.{table}[t * {self._width()} + {self.program.column(stream)}]"

    # ---------------------------------------------------------------- expressions

    def _statements(self, values: Iterable[Value]) -> str:
        lines = (f"  const auto {self.name[id(v)]} = {self._expression(v, SET)};" for v in values if v.op != "constant")
        return "\n".join(lines)

    def _at(self, v: object, level: int) -> str:
        """How an expression at a level names a value or a number."""
        if not isinstance(v, Value):
            return _literal(v, "double" if level == SET else "C")
        if v.op == "constant":
            return _literal(v.args[0], "double" if level == SET else "C")
        name = self.name[id(v)]
        if level in (SET, ELEMENT):
            return name
        kind = "bool" if v.boolean else "C"
        return {SET: f"({kind})s.{name}", TENSOR: f"x.{name}", ROW: f"x.{name}[r]"}[v.level]

    def _expression(self, v: Value, level: int) -> str:
        kind = "double" if level == SET else "C"
        if v.op == "argument":
            return f"a[{v.args[0]}]"
        if v.op == "scalar":
            at = self.program.column(v.args[0])
            return f"*(const C*)job.data[t * {self._width()} + {at}]"
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


def _direct(needed: list[Value], outputs: list[Value], order: list[Value]) -> list[Value]:
    """The values below the level of elements that a pass reads, in their order."""
    read = {id(a) for v in needed for a in v.args if isinstance(a, Value)} | {id(v) for v in outputs}
    return [v for v in order if id(v) in read and v.level < ELEMENT and v.op != "constant"]
