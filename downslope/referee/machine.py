"""What a race ran on: machine, versions, threads and git state, for the report."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

__all__ = ["Bystanders", "git_state", "machine_facts"]

PACKAGE = Path(__file__).parents[1]


def machine_facts() -> dict[str, Any]:
    """Facts about this machine and process that a reader needs to judge or repeat a race."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
    }
    for package in ("downslope", "torch", "numpy", "optuna"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed as a package"
    facts["torch"] = torch.__version__
    facts["git_here"] = git_state(Path.cwd())
    facts["git_downslope"] = git_state(PACKAGE) if (PACKAGE.parent / ".git").exists() else None
    return facts


class Bystanders:
    """How many cores other programs keep busy, from now on."""

    def __init__(self) -> None:
        self._start = self._read()

    def cores(self) -> float:
        """The mean until now."""
        seconds, busy, mine = (now - then for now, then in zip(self._read(), self._start, strict=True))
        return round(max(0.0, busy - mine) / seconds, 2) if seconds > 0 else 0.0

    @staticmethod
    def _read() -> tuple[float, float, float]:
        everything, mine = psutil.cpu_times(), psutil.Process().cpu_times()
        idle = everything.idle + getattr(everything, "iowait", 0.0)
        counted_twice = getattr(everything, "guest", 0.0) + getattr(everything, "guest_nice", 0.0)
        return time.perf_counter(), sum(everything) - idle - counted_twice, mine.user + mine.system


def git_state(folder: Path) -> str | None:
    """The commit of the repository that a folder belongs to, and whether tracked files have changed since; None if
    there is none, or no git. Never a path or a name of a branch."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if changed is None:
        return f"{commit[:12]}, not known whether changed since"
    return f"{commit[:12]}, {'with uncommitted changes' if changed else 'clean'}"


def _git(folder: Path, *words: str) -> str | None:
    """The output of a git command that only reads, or None where it fails."""
    # No hooks, file watchers or optional locks of a repository that may be a stranger's.
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
