"""Drawing: the few pieces that SVG pictures share. They follow the reader's light or dark theme and need no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from downslope.referee.errors import RaceError
from downslope.referee.files import make_folder, write_text

__all__ = ["HUES", "STYLE", "breadth", "check_path", "points", "save", "shortened", "spread", "svg"]

HUES = ("#3b6fb6", "#d9622b", "#2f8f6b", "#a4569c", "#b8860b", "#5aa3c7", "#c2455c", "#7a7f3a", "#7b68c4", "#8d6e63")
"""Colours that differ in lightness as well as in hue, and are read on white and on black."""

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #5c6068; }
.title { font-size: 14px; font-weight: 600; fill: #1c1d20; } .strong { fill: #1c1d20; }
.grid { stroke: #e2dfd8; } .ground { fill: #fbfaf7; } .halo { stroke: #fbfaf7; } .ink { fill: #1c1d20; }
.outline { stroke: #1c1d20; fill: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #a0a5ad; } .title, .strong, .ink { fill: #e9e8e4; }
  .grid { stroke: #32363c; } .ground { fill: #15171a; } .halo { stroke: #15171a; } .outline { stroke: #e9e8e4; }
}
"""


def svg(width: int, height: int, label: str, parts: Sequence[str], style: str = "") -> str:
    """A whole picture on its ground; `label` is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(label)}"><style>{STYLE}{style}</style>'
        f'<rect class="ground" width="{width}" height="{height}"/>{"".join(parts)}</svg>\n'
    )


def points(pairs: Sequence[tuple[float, float]]) -> str:
    """The coordinates of a line, to a tenth of a pixel."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def breadth(text: str) -> float:
    """Pixels to reserve for a text of 12 pixels: what the widest of the usual faces (DejaVu Sans) takes."""
    return sum(_letter(letter) for letter in text)


def _letter(letter: str) -> float:
    if letter in " !'(),-./:;IJ[]fijlrt|":
        return 5.0
    if letter in "%@MWmw…" or letter > "\u1100":
        return 12.0
    return 10.0 if letter.isupper() or not letter.isalnum() else 7.7


def shortened(text: str, room: float) -> str:
    """The text, or as much of it as there is room for and an ellipsis."""
    if breadth(text) <= room:
        return text
    kept = 1
    while kept < len(text) and breadth(text[: kept + 1]) + 12 <= room:
        kept += 1
    return f"{text[:kept]}…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, `gap` apart and between two ends as far as there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = list(wanted)
    floor = low
    for i in order:
        found[i] = floor = max(found[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        found[i] = ceiling = min(found[i], ceiling)
        ceiling -= gap
    return found


def check_path(path: Path) -> None:
    """Refuse, before anything runs, a file that cannot be written, and a name that promises another format."""
    if path.suffix.lower() not in ("", ".svg"):
        raise RaceError(f"{path} would hold an SVG picture; name a file that ends in .svg.", bad_input=True)
    try:
        make_folder(path.parent)
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise _unwritable(path, error) from error


def save(path: Path, picture: str) -> None:
    """Write a picture, whole or not at all."""
    try:
        write_text(path, picture)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RaceError:
    return RaceError(f"cannot write {path} ({error.strerror or error}); name another file.", bad_input=True)
