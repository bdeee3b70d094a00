"""The C++ that every emitted kernel starts with, as text: no standard header in it, so that it compiles in a moment."""

from __future__ import annotations

import functools
from importlib import resources

__all__ = ["runtime"]

_PARTS = ("basics.h", "maths.h", "lowbit.h", "staging.h", "job.h")


@functools.cache
def runtime() -> str:
    """The namespace `ds`: vectorised maths, and reading and writing of tensors as they are stored."""
    folder = resources.files(__name__)
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in _PARTS)
