"""Peak memory of training with a method, measured in a process of its own.

`python -m downslope.referee.memory` reads a job list as JSON from standard input and prints one JSON line per job. Each
job runs in a fresh process: it trains a throw-away model for one step (so that libraries are loaded), notes the memory
in use, trains a new model for a few steps, and reports how much more the process held at its peak.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["held_by", "measure_memory"]

STEPS = 3
_EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""For glibc: what is freed goes back to the system, so that the peak does not depend on what the heap still holds."""


def measure_memory(
    source: str, jobs: Sequence[Mapping[str, Any]], *, threads: int, timeout: float = 120.0
) -> dict[str, Any]:
    """Peak bytes above the start for each job `{"label", "method", "hyper"}`; None where it could not be measured.

    `source` is a workload's name or file; a workload given as an object cannot be loaded by another process.
    """
    found: dict[str, Any] = {str(job["label"]): None for job in jobs}
    if not source:
        return found
    batches = [list(jobs)] if sys.platform == "linux" else [[job] for job in jobs]
    for batch in batches:
        request = json.dumps({"source": source, "threads": threads, "jobs": batch})
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            done = subprocess.run(
                [sys.executable, "-m", "downslope.referee.memory"],
                input=request,
                capture_output=True,
                text=True,
                timeout=timeout,
                env={**os.environ, **_EXACT},
            )
            for line in done.stdout.splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    answer = json.loads(line)
                    found[answer["label"]] = answer["bytes"]
    return found


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


def _main() -> None:
    request = json.load(sys.stdin)
    import torch

    from downslope._registry import card
    from downslope.referee.workload import load_workload

    torch.set_num_threads(request["threads"])
    workload = load_workload(request["source"])
    for job in request["jobs"]:
        importlib.import_module(card(job["method"]).module)
    for job in request["jobs"]:
        sys.stdout.flush()
        if sys.platform != "linux":
            _run(workload, job)
        elif os.fork() == 0:  # nothing has been computed yet, so no thread is lost by forking
            with contextlib.suppress(Exception):
                _run(workload, job)
            sys.stdout.flush()
            os._exit(0)
        else:
            os.wait()


def _run(workload: Any, job: Mapping[str, Any]) -> None:
    batches = list(itertools.islice(iter(workload.train), STEPS))
    _train(workload, job, batches[:1])
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc: give freed memory back, so that it is counted when used again
    start = _resident()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: start the peak afresh
    _train(workload, job, batches)
    sys.stdout.write(json.dumps({"label": job["label"], "bytes": max(_peak() - start, 0)}) + "\n")
    sys.stdout.flush()


def _train(workload: Any, job: Mapping[str, Any], batches: Sequence[Any]) -> None:
    from downslope import _registry
    from downslope.referee.plan import tuples
    from downslope.referee.trial import train_step

    model = workload.model()
    opt = _registry.make(job["method"], model, **{k: tuples(v) for k, v in job["hyper"].items()})
    for batch in batches:
        train_step(workload, model, opt, batch)


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


if __name__ == "__main__":
    _main()
