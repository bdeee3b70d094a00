"""The plain kernel that sets the byte bound: r arrays read and w written in one pass, at the bandwidth of the machine.

C++ made for each (r, w): one loop, `omp parallel for simd`, static schedule, -O3 -march=native. What is written is, as
in an optimizer, among what is read, so the stores are plain ones: the line is in the cache already, and a store that
goes past the cache would gain nothing. The arrays come from torch's allocator, are first touched by torch's threads,
and the kernel runs on torch's own OpenMP runtime with torch's number of threads.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

__all__ = ["LARGEST", "Bandwidth", "compiler", "runtimes"]

LARGEST = 2**26
"""Numbers in an array at most: 256 MiB. With half of it plain kernels were slower, with twice as much not quicker."""

_SOURCE = """
extern "C" void run(float **x, long n, int threads) {{
  {pointers}
  float total = 0;
  #pragma omp parallel for simd schedule(static) num_threads(threads) reduction(+ : total)
  for (long i = 0; i < n; i++) {{
    const float sum = {sum};
    {stores}
  }}
  if (total == 1.25f) x[0][0] = total;
}}
"""


class Bandwidth:
    """Plain kernels on arrays of `numel` numbers (at most `LARGEST`), which all of them share."""

    def __init__(self, numel: int) -> None:
        self.numel = min(numel, LARGEST)
        self._arrays: list[torch.Tensor] = []

    def nbytes(self, reads: int, writes: int) -> int:
        """Bytes that one call of a kernel moves."""
        return (reads + writes) * self.numel * 4

    def kernel(self, reads: int, writes: int) -> Callable[[], object]:
        """A call without arguments that reads `reads` arrays and writes `writes` of them."""
        run, arrays = _built(reads, writes), max(reads, writes)
        while len(self._arrays) < arrays:
            self._arrays.append(torch.full((self.numel,), 0.125))
        pointers = (ctypes.c_void_p * arrays)(*(x.data_ptr() for x in self._arrays[:arrays]))
        threads = torch.get_num_threads()
        return lambda: run(pointers, self.numel, threads)


@cache
def compiler() -> str | None:
    """The C++ compiler on this machine: `$CXX`, else g++, c++ or clang++; None if there is none."""
    return shutil.which(os.environ.get("CXX", "")) or next(
        filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None
    )


def runtimes() -> list[str]:
    """The OpenMP runtimes in this process; more than one means threads that get in each other's way."""
    text = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
    return sorted(set(re.findall(r"/\S*lib(?:gomp|omp|iomp5)[^/\s]*\.so\S*", text)))


@cache
def _built(reads: int, writes: int) -> Callable[..., object]:
    found = compiler()
    assert found is not None
    total = max(reads, writes)
    # The gradient is read alone: arrays are written from the last one on. The values stay near 0.125.
    sums = " + ".join(f"x{i}[i]" for i in range(reads))
    stores = [f"x{i}[i] = sum * {1 / max(reads, 1)}f;" for i in range(total - writes, total)] or ["total += sum;"]
    text = _SOURCE.format(
        pointers="\n  ".join(f"float *__restrict x{i} = x[{i}];" for i in range(total)),
        sum=sums or "0.125f",
        stores="\n    ".join(stores),
    )
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "plain.cpp"), Path(folder, "plain.so")
        source.write_text(text)
        flags = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
        subprocess.run([found, *flags, str(source), *runtimes()[:1], "-o", str(library)], check=True)
        run = ctypes.CDLL(str(library)).run
    run.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_int)
    run.restype = None
    return run  # type: ignore[no-any-return]
