"""Memory: how much training adds to a process at its peak, and how much a process and its descendants hold."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from downslope.referee.trial import Trainable, train_step

__all__ = ["held_by", "peak_memory"]

STEPS = 3
_MMAP_THRESHOLD, _EXACT = -3, 65536
"""For glibc: larger pieces go back to the system when freed, so the peak does not depend on what the heap holds."""


def peak_memory(workload: Trainable, make: Callable[[Any], Any]) -> int:
    """Bytes that this process holds at its peak while a model is trained for a few steps, above those before.

    Where the model is on a GPU: those that torch holds there.

    For a process that does only this: it changes how memory is allocated.

    Args:
        workload: model, batches and loss.
        make: `make(model)` gives the optimizer.
    """
    with ThreadPoolExecutor(1) as thread:  # it has a heap of its own, without the gaps that loading has left
        return thread.submit(_added, workload, make).result()


def held_by(pid: int, enough: int) -> int:
    """Bytes that a process and its descendants hold; pages that several processes share count by their share.

    Summing shares takes milliseconds, so it is only done where the sum of all resident memory is above `enough`.
    """
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = [psutil.Process(pid)]
        family += family[0].children(recursive=True)
    resident = sum(_of(member, "memory_info", "rss") for member in family)
    if resident <= enough:
        return resident
    return sum(_of(member, "memory_full_info", "pss") or _of(member, "memory_info", "rss") for member in family)


def _of(process: psutil.Process, read: str, field: str) -> int:
    try:
        return int(getattr(getattr(process, read)(), field, 0))
    except psutil.Error:
        return 0  # it has just ended


def _added(workload: Trainable, make: Callable[[Any], Any]) -> int:
    """Before the model that counts, a throw-away one is trained for one step, so that libraries are loaded."""
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        libc.mallopt(_MMAP_THRESHOLD, _EXACT)
    batches = list(itertools.islice(iter(workload.train), STEPS))
    place = _train(workload, make, batches[:1])
    gc.collect()
    if place.type != "cpu":
        device = torch.get_device_module(place)
        start = device.memory_allocated(place)
        device.reset_peak_memory_stats(place)
        _train(workload, make, batches)
        return int(device.max_memory_allocated(place)) - int(start)
    with contextlib.suppress(AttributeError):
        libc.malloc_trim(0)  # give freed memory back, so that it is counted when used again
    start = _resident()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: start the peak afresh
    _train(workload, make, batches)
    return max(_peak() - start, 0)


def _train(workload: Trainable, make: Callable[[Any], Any], batches: Sequence[Any]) -> torch.device:
    """Train a new model; returns where it is."""
    model = workload.model()
    opt = make(model)
    for batch in batches:
        train_step(workload, model, opt, batch)
    return next(model.parameters()).device


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return _peak()


def _peak() -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
