"""The built-in workloads in lines for a terminal, read without importing torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from downslope.referee.card import Card
from downslope.referee.data.packages import SOURCES, here
from downslope.referee.workloads import BUILT_IN

__all__ = ["listing", "origin"]


MARGIN = " " * 21


def listing() -> Iterator[str]:
    """For each workload what is learned, and below it target, budget and data, and its variants."""
    for name, card in BUILT_IN.items():
        sign = ">=" if card.goal == "max" else "<="
        yield f"{name:<20} {card.task}"
        yield f"{MARGIN}{card.metric_name} {sign} {card.target:g} within {card.steps:,} steps"
        yield f"{MARGIN}{origin(card)}"
        if card.variants:
            variants = f"variants: {', '.join(f'@{variant}' for variant in card.variants)}"
            yield from textwrap.wrap(variants, 112, initial_indent=MARGIN, subsequent_indent=MARGIN)


def origin(card: Card) -> str:
    """Where the data is: in this package, or the wheel that is fetched once, and whether that has been done."""
    if not card.source:
        return "data in this package"
    package, _ = SOURCES[card.source]
    return f"data from {package.pinned}, {'here' if here(card.source) else 'not here yet'}"
