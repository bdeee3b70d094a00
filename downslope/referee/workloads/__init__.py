"""Built-in workloads on real data: one file each, with a `CARD` and a function `workload()`.

The cards are literals, read here without importing torch; a workload's file is imported when it is asked for.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

from downslope.referee.card import Card

__all__ = ["BUILT_IN"]

ORDER = (
    "fashion-mlp",
    "sotu-gpt",
    "fashion-cnn",
    "fashion-vit",
    "fashion-noisy",
    "fashion-large-batch",
    "sotu-lstm",
    "sotu-smollm",
    "adult",
    "flights",
    "insteval",
    "umls",
    "debian",
    "elecdemand",
)
"""The two that are raced by default first; then by kind of data."""


def _card(name: str) -> Card:
    """The card of a workload's file, evaluated as a literal."""
    stem = name.replace("-", "_")
    path = Path(__file__).parent / f"{stem}.py"
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == "CARD":
            values = {k.arg: ast.literal_eval(k.value) for k in node.value.keywords if k.arg}
            return replace(Card(**values), module=f"{__name__}.{stem}")
    raise ValueError(f"{path} has no literal CARD.")


BUILT_IN: dict[str, Card] = {name: _card(name) for name in ORDER}
"""The cards by name."""
