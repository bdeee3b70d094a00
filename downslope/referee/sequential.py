"""Sequential races: seeds are added in stages until the verdict is reached, at an error rate that holds for all looks.

The stages are fixed in the plan. The level is divided among the looks, each look gets its share and judges with it as a
race that is looked at once would, and a word once reached stands. Whatever the data, the chance of a wrong word at any
look is then at most the sum of the shares (Bonferroni's bound, as in Lan and DeMets' spending of a level, without their
account of how looks depend on each other, which would need to be known for every family of tests). That holds for
`better` and `worse`, and in the same way for `equivalent`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOOK", "LOOKS", "Look", "look_key", "looks"]

LOOK = "look/"
"""How the key of a task begins that is a look at the race."""

LOOKS = 4
"""The most looks at a race: each one more costs power."""


@dataclass(frozen=True)
class Look:
    """A judgement on the way: after how many seeds, and with what share of the level."""

    seeds: int
    share: float


def look_key(number: int) -> str:
    """The key of the task that is the look of this number, from 1; the last look has none: it is the report."""
    return f"{LOOK}{number}"


def looks(seeds: int, max_seeds: int) -> list[Look]:
    """At most four looks from `seeds` to `max_seeds`, each half as many seeds again or more.

    The share of the level spent up to a look is its share of all seeds, so all of it is spent at the last one.
    """
    growth = max(1.5, (max_seeds / seeds) ** (1 / (LOOKS - 1)))
    counts = [seeds]
    while counts[-1] < max_seeds:
        count = round(seeds * growth ** len(counts))
        counts.append(count if count * 1.25 <= max_seeds else max_seeds)
    before = [0, *counts[:-1]]
    return [Look(n, (n - m) / max_seeds) for n, m in zip(counts, before, strict=True)]
