"""Compile a C++ source text with the system compiler, keep the library in a private folder of the user, and load it.

A library is kept under a hash of everything that its code depends on: the source, the flags, the compiler, the CPU and
torch's OpenMP runtime, which the library shares. It ends with the seconds that building it took and its own SHA-256,
so that a damaged one is rebuilt, never loaded. Folder: `$DOWNSLOPE_CACHE`, else `$XDG_CACHE_HOME/downslope`, else
`~/.cache/downslope`; if that cannot be written, a temporary one for this process.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from downslope._checks import refuse

__all__ = ["BuildError", "Compiler", "NoCompiler", "compiler", "load", "watched"]

# Nothing here may lose NaN or infinity or reorder a sum. Without trapping maths a comparison becomes a vector mask: its
# result is the same, only the floating-point exception flags, which nobody reads, are not.
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native",
)
_CPU_LINES = re.compile(r"^(?:vendor_id|cpu family|model|stepping|flags|Features|CPU \w+)\s*:.*$", re.MULTILINE)
_RUNTIME = re.compile(r"/\S*/lib(?:gomp|omp|iomp5)[^/\s]*\.so[^/\s]*$", re.MULTILINE)
_DIGEST_BYTES = hashlib.sha256().digest_size
_STALE_SECONDS = 3600
_KEPT_BYTES = 256 * 2**20
"""The kernels that the folder holds at most, with their sources; those not used for longest go first."""

_MARK = struct.Struct("<16sd")
_BUILT = b"downslope: built"
"""After a library's code stand these words and the seconds that building it took; then the SHA-256 of all that."""

_log = logging.getLogger("downslope")
_loaded: dict[Path, Library] = {}
_watched: list[dict[str, float | None]] = []


class BuildError(RuntimeError):
    """A source does not compile, or the library made of it cannot be loaded."""


class NoCompiler(BuildError):
    """There is no C++ compiler that could build a kernel."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that runs it and the file behind that command."""

    command: tuple[str, ...]
    path: Path

    @property
    def clang(self) -> bool:
        return "clang" in self.path.name

    @functools.cached_property
    def version(self) -> str:
        """The first line that the compiler says about itself; this starts it, once."""
        run = subprocess.run([*self.command, "--version"], capture_output=True, text=True, check=False)
        return (run.stdout or run.stderr).partition("\n")[0]

    def identity(self) -> str:
        """What a library's name depends on: the command, and the compiler's file as it is now. Starts nothing."""
        found = self.path.stat()
        return f"{self.command} {self.path} {found.st_size} {found.st_mtime_ns}"


def compiler() -> Compiler | None:
    """The C++ compiler: `$CXX`, else the first of g++, c++ and clang++ on the path; None if there is none."""
    if not sys.platform.startswith("linux"):
        return None
    chosen = shlex.split(os.environ.get("CXX", ""))
    for command in [chosen] if chosen else [["g++"], ["c++"], ["clang++"]]:
        found = shutil.which(command[0])
        if found:
            return Compiler((found, *command[1:]), Path(found).resolve())
    return None


class Library(NamedTuple):
    """A loaded library, and the seconds that building it took, whenever that was; None if that is not known."""

    code: ctypes.CDLL
    seconds: float | None


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float | None]]:
    """The libraries that are asked for inside, each by its name with the seconds that building it took."""
    found: dict[str, float | None] = {}
    _watched.append(found)
    try:
        yield found
    finally:
        _watched.pop()


def load(source: str) -> ctypes.CDLL:
    """The library made of a C++ source, built on the first use of that text on this machine.

    Raises `NoCompiler` if none is found, `BuildError` if the source does not compile, and `ArgumentError` if the folder
    of kernels, or the library in it, could have been written by another user.
    """
    tool = compiler()
    if tool is None:
        raise NoCompiler(_no_compiler())
    folder, name = _folder(), _name(source, tool)
    library = folder / f"{name}.so"
    if library not in _loaded:
        _loaded[library] = _open(library) or _build(source, name, tool, folder)
    for each in _watched:
        each[name] = _loaded[library].seconds
    return _loaded[library].code


def _no_compiler() -> str:
    if not sys.platform.startswith("linux"):
        return "native kernels are built on Linux only; execution='reference' runs the same maths."
    if os.environ.get("CXX"):
        return f"$CXX names {os.environ['CXX']!r}, which is not on the path; correct it, or unset it to use g++."
    return "no C++ compiler on the path; install g++ or name one in $CXX."


def _name(source: str, tool: Compiler) -> str:
    parts = (source, *_flags(tool), *(path.name for path in _openmp()), tool.identity(), _cpu())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _flags(tool: Compiler) -> tuple[str, ...]:
    """The compiler's flags. Clang's threads run on LLVM's runtime only: beside libgomp it builds for one thread."""
    foreign = tool.clang and any(path.name.startswith("libgomp") for path in _openmp())
    return (*_FLAGS, "-fopenmp-simd" if foreign else "-fopenmp")


@functools.cache
def _cpu() -> str:
    """The CPU's model and features, which -march=native stands for."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(1 << 14).partition("\n\n")[0]
    except OSError:
        first = platform.processor()
    return "\n".join([platform.machine(), *_CPU_LINES.findall(first)])


@functools.cache
def _openmp() -> tuple[Path, ...]:
    """The OpenMP runtime that torch has loaded, torch's own copy before any other; empty if there is none.

    Two runtimes in one process would keep two pools of threads that fight for the same cores.
    """
    home = str(Path(torch.__file__).parent)
    try:
        mapped = dict.fromkeys(_RUNTIME.findall(Path("/proc/self/maps").read_text()))
    except OSError:
        return ()
    return tuple(Path(path) for path in sorted(mapped, key=lambda path: not path.startswith(home))[:1])


def _folder() -> Path:
    """The folder of kernels, made if need be, which belongs to this user alone."""
    named = os.environ.get("DOWNSLOPE_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(named) if named else (Path(shared) if shared else Path.home() / ".cache") / "downslope"
        root.mkdir(parents=True, exist_ok=True)
        folder = root.absolute() / "kernels"
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError) as reason:
        return _temporary(str(reason))
    _check_private(folder)
    return folder


@functools.cache
def _temporary(reason: str) -> Path:
    """A folder for this process alone, where the user's folder cannot be written; says so once."""
    folder = Path(tempfile.mkdtemp(prefix="downslope-"))
    _log.warning("Kernels are kept for this process only (%s); set DOWNSLOPE_CACHE to a folder of your own.", reason)
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process leaves it to the one that made it
        shutil.rmtree(folder, ignore_errors=True)


def _check_private(path: Path) -> None:
    """Refuse a folder or library that somebody else could have written."""
    found = path.lstat()
    mine = found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
    if mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    kind = "a link" if stat.S_ISLNK(found.st_mode) else f"mode {stat.S_IMODE(found.st_mode):04o}"
    refuse(
        "native kernels",
        str(path),
        f"owned by user {os.geteuid()}, writable by nobody else and no link, because what lies there is run",
        f"owner {found.st_uid}, {kind}",
        "Remove it, or set DOWNSLOPE_CACHE to a folder of your own.",
    )


def _open(library: Path) -> Library | None:
    """Load a library that lies there whole; None if there is none, or a damaged one."""
    try:
        _check_private(library)
        content = library.read_bytes()
        os.utime(library)  # when it was last used
    except FileNotFoundError:
        return None
    content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        words, seconds = _MARK.unpack(content[-_MARK.size :])
        return Library(ctypes.CDLL(str(library)), seconds if words == _BUILT else None)
    except (OSError, struct.error):
        return None


def _build(source: str, name: str, tool: Compiler, folder: Path) -> Library:
    """Compile in a folder of its own, then move into place: another process sees no library, or a whole one."""
    try:
        work = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    except OSError as reason:
        folder = _temporary(str(reason))
        work = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
    text, library = folder / f"{name}.cpp", folder / f"{name}.so"
    try:
        _place(source.encode(), work / "source", text)
        start = time.perf_counter()
        _compile(tool, text, work / "library")
        seconds = time.perf_counter() - start
        content = (work / "library").read_bytes() + _MARK.pack(_BUILT, seconds)
        _place(content + hashlib.sha256(content).digest(), work / "checked", library)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        _sweep(folder)
    try:
        return Library(ctypes.CDLL(str(library)), seconds)
    except OSError as reason:
        raise BuildError(f"the kernel {library} was built but cannot be loaded: {reason}.") from None


def _place(content: bytes, temporary: Path, path: Path) -> None:
    temporary.write_bytes(content)
    temporary.chmod(0o600)
    os.replace(temporary, path)


def _compile(tool: Compiler, text: Path, library: Path) -> None:
    command: list[Any] = [*tool.command, *_flags(tool), text, "-o", library, "-Wl,--as-needed", *_openmp()]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if run.returncode:
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()] or [f"exit status {run.returncode}"]
        said = next((line for line in lines if "error:" in line), lines[-1])
        raise BuildError(f"{tool.command[0]} cannot build the kernel {text}: {said.removeprefix(f'{text}:')}")


def _sweep(folder: Path) -> None:
    """Remove what builds left that were killed, and the oldest kernels where there are too many."""
    for left in folder.glob("build-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process may be sweeping too
        kernels = sorted(((path.stat(), path) for path in folder.glob("*.so")), key=lambda each: each[0].st_mtime_ns)
        held = sum(path.stat().st_size for path in folder.iterdir())
        for found, library in kernels:
            if held <= _KEPT_BYTES:
                break
            source = library.with_suffix(".cpp")
            held -= found.st_size + source.stat().st_size
            library.unlink()
            source.unlink()
