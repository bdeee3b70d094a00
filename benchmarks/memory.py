"""Memory above parameters, gradients and state during a step, in a fresh process.

The process takes a few steps, so that state and libraries are there, gives freed memory back, notes its resident size
(VmRSS), resets the kernel's high-water mark of it (writing 5 to /proc/self/clear_refs) and takes one more step. Extra
is the new high-water mark (VmHWM) less that size: every page of the process that the step touched and that was not
resident before, whoever allocated it. The kernel counts in batches, so a few hundred KiB may be missing. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fresh import TaskError, run
from benchmarks.rivals import lanes, ours
from benchmarks.sets import SETS, tensors

__all__ = ["measure_memory", "peak"]

WARM_UP = 3
STEPS = 3


def measure_memory(shape_set: str, scale: float, key: str, execution: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Ours and the rivals that need no compiling; rows and a line for each one that could not be measured."""
    rows, notes = [], []
    libraries = ["downslope", *(name for name, _ in lanes(key, tensors(SETS["tiny"]), compiled=False))]
    for library in libraries:
        try:
            rows += run("memory:peak", shape_set=shape_set, scale=scale, key=key, library=library, execution=execution)
        except TaskError as error:
            missing = "is not here" in str(error)
            notes.append(str(error) if missing else f"memory of {key} in {library} left out: {error}")
    return rows, notes


def peak(shape_set: str, scale: float, key: str, library: str, execution: str) -> list[dict[str, Any]]:
    """The task: one row for each way that the library runs the rule, the median over a few steps."""
    shared = tensors(SETS[shape_set].scaled(scale))
    if library == "downslope":
        lane = ours(key, shared.parameters, execution=execution)
    else:
        lane = next(make for name, make in lanes(key, shared, compiled=False) if name == library)()
    rows = []
    for label, step in lane.variants.items():
        for _ in range(WARM_UP):
            shared.restore()
            step()
        rows.append(
            {
                "set": shape_set,
                "method": key,
                "label": label,
                "extra": statistics.median(_extra(step) for _ in range(STEPS)),
                "parameters": shared.parameter_bytes,
                "state": lane.state_bytes,
            }
        )
    return rows


def _extra(step: Any) -> int:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = _status()["VmRSS"]
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return max(0, _status()["VmHWM"] - before)


def _status() -> Mapping[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (x.partition(":") for x in lines) if "kB" in rest}
