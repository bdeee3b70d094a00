"""What a race ran on: machine, versions, threads and git state, for the report."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["git_state", "machine_facts"]

PACKAGE = Path(__file__).parents[1]


def machine_facts() -> dict[str, Any]:
    """Facts about this machine and process that a reader needs to judge or repeat a race."""
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
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
