"""Trust: what a race's folder may make this program believe. It may come from a stranger.

Reading one executes nothing: it holds JSON, never pickles, and its report needs neither the database nor the file of
the workload. What JSON can still do is checked here: other types than promised, names that lead out of the folder,
counts that fill the memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

__all__ = ["check_fields", "check_names", "check_size", "check_texts"]

MOST_TASKS = 1_000_000
LONGEST_NAME = 200
_PLAIN = {int, float, str, bool, NoneType}


def check_fields(content: Any) -> None:
    """Refuse a dataclass whose plain fields (numbers, texts, None) hold anything else, or a number that is not finite.

    Raises:
        ValueError: which field, and what it holds.
    """
    kind: Any = type(content)
    for name, allowed in _plain_fields(kind).items():
        value = getattr(content, name)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise ValueError(f"{name} is {value!r:.60}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")


def check_texts(content: Any) -> None:
    """Refuse a dataclass with a text that would do more to a terminal than to be shown.

    Raises:
        ValueError: which field.
    """
    for field in fields(content):
        value = getattr(content, field.name)
        if isinstance(value, str) and any(ord(letter) < 32 and letter not in "\n\r\t" for letter in value):
            raise ValueError(f"{field.name} holds control characters")


@functools.lru_cache
def _plain_fields(kind: Any) -> dict[str, tuple[type, ...]]:
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):
        allowed = set(get_args(hints[field.name]) or (hints[field.name],))
        if allowed <= _PLAIN:
            found[field.name] = tuple(allowed | {int} if float in allowed else allowed)
    return found


def check_names(names: Sequence[str]) -> None:
    """Refuse names of workloads or methods that could not be the names of files in the folder.

    Raises:
        ValueError: the name.
    """
    for name in names:
        bad = not isinstance(name, str) or name in ("", ".", "..") or len(name) > LONGEST_NAME
        if bad or any(letter in "/\\" or ord(letter) < 32 for letter in name):
            raise ValueError(f"{name!r:.60} is no name")


def check_size(workloads: int, methods: int, trials: int, seeds: int) -> None:
    """Refuse a plan without runs, or with more of them than anybody does.

    Raises:
        ValueError: how many.
    """
    runs = workloads * methods * (trials + seeds)
    if min(workloads, methods, trials + 1, seeds) < 1 or runs > MOST_TASKS:
        raise ValueError(f"{runs} runs")
