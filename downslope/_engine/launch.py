"""Launches: a kernel with the tables of pointers and numbers that it is called with."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from downslope._core.roles import ParamInfo
from downslope._engine.codebook import codebook
from downslope._engine.emit import BLOCKWISE, STOCHASTIC
from downslope._engine.item import Item
from downslope._engine.program import Program
from downslope._engine.state import coded
from downslope._engine.storage import SCALE, Form, codec, rounding_key

__all__ = ["TABLES", "TAGS", "Launch", "call", "computing", "draw", "function", "setting", "storage"]

TAGS = {torch.float32: "ds::f32", torch.float64: "ds::f64", torch.bfloat16: "ds::bf16", torch.float16: "ds::f16"}
TABLES = ("numel", "rows", "set", "data", "layout", "args", "measured", "start", "key")
_FORMATS = {"bfloat16": STOCHASTIC, "8bit": BLOCKWISE[0], "4bit": BLOCKWISE[1]}
_pointer = Tensor.data_ptr
_contiguous = Tensor.is_contiguous


class _Job(ctypes.Structure):
    """As in kernels/job.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_tensors", "n_sets", "threads")),
        *((name, ctypes.c_void_p) for name in TABLES),
    )


def function(library: ctypes.CDLL) -> Any:
    """The entry of a kernel."""
    entry = library.downslope_step
    entry.argtypes, entry.restype = [ctypes.POINTER(_Job)], ctypes.c_int
    return entry


def computing(p: Tensor) -> torch.dtype:
    """The dtype that the step of a parameter is computed in."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def call(entry: Any, job: _Job, written: list[Tensor]) -> None:
    """Call a kernel, and tell autograd which tensors it has written."""
    job.threads = torch.get_num_threads()
    if entry(ctypes.byref(job)):
        raise MemoryError("a kernel could not get the memory for its sums.")
    torch.autograd.graph.increment_version(written)


class Launch:
    """A kernel with the parameters that it is to take."""

    def __init__(self, program: Program, items: Sequence[Item]) -> None:
        self.program, self.items, self.deferred = program, items, list(items[0].deferred)
        self.function: Any = None
        self.compute = computing(items[0].stored_p)
        streams = {name: self._column(name) for name in program.streams}
        self.storage = storage(items[0], program)
        self.drawn = [name for name, how in self.storage if how == STOCHASTIC]
        self.columns = streams | {key: [item.state[key] for item in items] for key in program.scalars}
        self.data = np.array([list(map(_pointer, column)) for column in self.columns.values()], np.int64).T.copy()
        self.scales = {
            name: [item.state[name + SCALE] for item in items] for name, how in self.storage if how in BLOCKWISE
        }
        self.coded = {name: self._code(name, scales) for name, scales in self.scales.items()}
        self.numel = np.array([item.stored_p.numel() for item in items], np.int64)
        self.rows = np.array([len(p) if p.ndim else 1 for p in (item.stored_p for item in items)], np.int64)
        self.measured = np.zeros((len(items), max(len(program.measured), 1)))
        self.start = np.array([item.start for item in items], np.int64)
        self.key = np.zeros(self.data.shape, np.int64)
        for name in self.drawn:
            self.key[:, program.column(name)] = [draw(name, item.info, item.seed, item.state) for item in items]
        self._lay_out(list(streams.values()))
        self._sort_sets()
        tables = (getattr(self, name).ctypes.data for name in TABLES)
        self.job = _Job(len(items), len(self.args), 1, *tables)
        outputs = {*program.stores, *([] if program.update is None else [program.into])}
        self.written = [item.parameter for item in items] if "p" in outputs else []

    @property
    def repeatable(self) -> bool:
        """Whether it depends on nothing but what a `Repeat` looks at."""
        signals = any(d.leaf.signals for d in self.deferred)
        views = any(item.parameter.is_complex() for item in self.items)
        return not (self.layouts or signals or views or "u" in self.columns)

    def run(self) -> None:
        """Call the kernel."""
        call(self.function, self.job, self.written)

    def _column(self, name: str) -> list[Tensor]:
        if name == "p":
            return [item.stored_p for item in self.items]
        if name == "grad":
            return [item.stored_grad for item in self.items]
        if name == "u":
            return [_apart(item) for item in self.items]
        if name == "out":
            return [torch.empty_like(item.stored_p, dtype=self.compute) for item in self.items]
        if name.startswith("signal."):
            return [item.signals[name.removeprefix("signal.")] for item in self.items]
        return [item.state[name] for item in self.items]

    def _code(self, name: str, scales: list[Tensor]) -> np.ndarray[Any, Any]:
        """The structures `LowBit` of lowbit.h, to which the pointers of a coded state lead."""
        form, signed = _codes(self.items[0])[name]
        how = codec(form, not signed)
        table = np.empty(len(scales), [(each, np.int64) for each in ("codes", "scales", "book", "block")])
        column = self.program.column(name)
        table["codes"], table["scales"] = self.data[:, column], list(map(_pointer, scales))
        table["book"], table["block"] = _book(form, signed).data_ptr(), how.block
        self.data[:, column] = table.ctypes.data + table.itemsize * np.arange(len(scales))
        return table

    def _lay_out(self, columns: list[list[Tensor]]) -> None:
        """Layouts for the tensors whose elements do not lie in the order of the others."""
        self.layouts: list[np.ndarray[Any, Any]] = []
        self.layout = np.zeros(self.data.shape, np.int64)
        ordered = self.program.by_rows or bool(self.drawn) or bool(self.scales)
        for i, row in enumerate(zip(*columns, strict=True)):
            if all(map(_contiguous, row)):
                continue
            alike = all(x.stride() == row[0].stride() for x in row)
            if alike and not ordered and torch.ops.aten.is_non_overlapping_and_dense(row[0]):
                continue
            for j, x in enumerate(row):
                if not x.is_contiguous():
                    self.layouts.append(np.array([x.ndim, *x.shape, *x.stride()], np.int64))
                    self.layout[i, j] = self.layouts[-1].ctypes.data

    def _sort_sets(self) -> None:
        """Sets of hyperparameters: one for every group, step and set of shared values."""
        known: dict[Any, int] = {}
        self.of_set: list[Item] = []
        self.set = np.empty(len(self.items), np.int64)
        for i, item in enumerate(self.items):
            key = (id(item.group), *((d.step, id(d.shared)) for d in item.deferred))
            if key not in known:
                known[key] = len(known)
                self.of_set.append(item)
            self.set[i] = known[key]
        numbers = [[_number(source, item) for source in self.program.arguments] for item in self.of_set]
        self.args = np.array(numbers, np.float64).reshape(len(numbers), -1)


def storage(item: Item, program: Program) -> tuple[tuple[str, str], ...]:
    """How the streams of an item are stored that are not stored in the precision of the computation."""
    compute, found = computing(item.stored_p), []
    forms = _codes(item)
    for name in program.streams:
        if name == "p" and item.rounded:
            found.append((name, STOCHASTIC))
        elif name in forms:
            found.append((name, _FORMATS[forms[name][0]]))
        elif (dtype := _dtype_of(name, item, compute)) != compute:
            found.append((name, TAGS[dtype]))
    return tuple(found)


def _codes(item: Item) -> dict[str, tuple[Form, bool]]:
    return {key: how for d in item.deferred for key, how in coded(d.leaf.node, item).items()}


@functools.cache
def _book(form: str, signed: bool) -> Tensor:
    how = codec(form, not signed)
    return codebook(how.map, how.thresholds)


def _dtype_of(name: str, item: Item, compute: torch.dtype) -> torch.dtype:
    if name in ("p", "grad"):
        return item.stored_p.dtype if name == "p" else item.stored_grad.dtype
    if name in ("u", "out"):
        return compute if item.made is None else item.made.dtype
    x = item.signals[name.removeprefix("signal.")] if name.startswith("signal.") else item.state[name]
    dtype: torch.dtype = x.dtype
    return dtype


def draw(name: str, info: ParamInfo, seed: int, state: Mapping[str, Any]) -> int:
    """The key of what rounds a stream at the coming step."""
    return rounding_key(seed, state, info, "" if name == "p" else name)


def _apart(item: Item) -> Tensor:
    """The update made so far, in memory that is not the parameter's, as the kernel writes that one."""
    u = item.made
    assert u is not None
    return u.clone() if u.untyped_storage().data_ptr() == item.stored_p.untyped_storage().data_ptr() else u


def _number(source: tuple[Any, ...], item: Item) -> float:
    kind = source[0]
    if kind == "step":
        return float(item.deferred[source[1]].step)
    if kind == "shared":
        return float(getattr(item.deferred[source[1]].shared, source[2]))
    if kind == "loss":
        return float(item.signals["loss"])
    return setting(source, item.group, item.deferred[0].max_lr)


def setting(source: tuple[Any, ...], group: dict[str, Any], max_lr: float) -> float:
    """An argument that stands in a param group."""
    if source[0] == "hyper":
        value = group[source[1]]
        return float(value if source[2] is None else value[source[2]])
    return float({"lr": group["lr"], "initial_lr": group["base_lr"], "max_lr": max_lr}[source[0]])
