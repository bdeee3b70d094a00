"""The picture of a trace: level lines of the landscape, the paths over them, and what each method was tuned to."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from downslope.referee.contours import level_lines
from downslope.referee.drawing import HUES, points, svg
from downslope.referee.landscapes import Landscape
from downslope.referee.tracing import Path, Trace
from downslope.referee.words import number

__all__ = ["outcome", "picture", "report", "settings"]

PLOT, SIDE, LEFT, TOP, BOTTOM = 640, 280, 20, 66, 32
LINES, GRID = 16, 240

STYLE = """
.level { fill: none; stroke: #7a8794; stroke-width: 1; } .name { font-weight: 600; stroke-width: 4; paint-order: stroke;
  stroke-linejoin: round; } .small { font-size: 11px; }
@media (prefers-color-scheme: dark) { .level { stroke: #8d99a6; } }
"""

Place = Callable[[tuple[float, float]], tuple[float, float]]


def settings(hyper: Mapping[str, Any]) -> str:
    """Hyperparameters in words; a switch by its name, with `no` before it where it is off."""
    words = []
    for name, value in hyper.items():
        if isinstance(value, bool):
            words.append(name if value else f"no {name}")
        else:
            words.append(f"{name} {number(value) if isinstance(value, float) else value}")
    return ", ".join(words) or "nothing to tune"


def outcome(path: Path) -> str:
    """How a path ended, in words."""
    if path.broken is not None:
        return path.broken
    return f"arrived at step {path.arrived}" if path.arrived is not None else f"not arrived, ends at {path.final:.2g}"


def report(trace: Trace, path: FilePath, *, as_json: bool = False) -> None:
    """Print what the picture shows: as JSON, as a table on a terminal, as lines with tabs elsewhere."""
    if as_json:
        sys.stdout.write(json.dumps(trace.to_json() | {"picture": str(path)}, allow_nan=False) + "\n")
        return
    head = ("method", "tuned to", "steps", "final value", "settings that arrive")
    rows = []
    for p in trace.paths:
        steps = p.broken or ("not arrived" if p.arrived is None else str(p.arrived))
        rows.append((p.method, settings(p.hyper), steps, f"{p.final:.3g}", f"{p.hits} of {p.tried}"))
    console = Console(highlight=False)
    if not console.is_terminal:
        sys.stdout.write("".join("\t".join(row) + "\n" for row in [head, *rows]) + f"Picture: {path}\n")
        return
    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(f"Picture: {path}", markup=False, soft_wrap=True)


def picture(trace: Trace) -> str:
    """The whole picture as SVG."""
    ground = trace.landscape
    x0, x1, y0, y1 = ground.window
    height = round(PLOT * (y1 - y0) / (x1 - x0))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return LEFT + PLOT * (x - x0) / (x1 - x0), TOP + height * (y1 - y) / (y1 - y0)

    frame = f'x="{LEFT}" y="{TOP}" width="{PLOT}" height="{height}"'
    parts = [
        f'<text class="title" x="{LEFT}" y="26">{escape(ground.name)}</text>',
        f'<text x="{LEFT}" y="46">{escape(ground.formula)}</text>',
        f'<clipPath id="frame"><rect {frame}/></clipPath><g clip-path="url(#frame)">',
        *_levels(ground, place),
    ]
    drawn = [_visible([place(p) for p in path.points], height) for path in trace.paths]
    for i, (path, line) in enumerate(zip(trace.paths, drawn, strict=True)):
        parts += _path(path, line, i)
    parts += [*_marks(ground, place), f'</g><rect class="outline" {frame} stroke-width="0.6"/>']
    parts += _names(trace, drawn, height)
    parts += _legend(trace)
    bottom = max(TOP + height, TOP + 62 * len(trace.paths)) + 24
    for k, words in enumerate(_caption(trace)):
        parts.append(f'<text class="small" x="{LEFT}" y="{bottom + 16 * k}">{escape(words)}</text>')
    spoken = "; ".join(f"{p.method} {outcome(p)}" for p in trace.paths)
    return svg(LEFT + PLOT + SIDE, bottom + BOTTOM, f"Paths on {ground.name}: {spoken}", parts, STYLE)


def _caption(trace: Trace) -> tuple[str, str]:
    return (
        f"Each method at its best of {trace.trials} quasi-random settings (constant learning rates), "
        f"{trace.steps} steps from the same start.",
        f"Arrived: within {number(trace.landscape.tolerance)} of the minimum's value, and staying there. Ring: start; "
        f"star: minimum; cross: diverged; dots: steps.",
    )


def _levels(ground: Landscape, place: Place) -> list[str]:
    """Level lines, evenly spaced in the logarithm of the height above the minimum; the lower, the stronger."""
    x0, x1, y0, y1 = ground.window
    rows = round(GRID * (y1 - y0) / (x1 - x0))
    x, y = torch.linspace(x0, x1, GRID, dtype=torch.float64), torch.linspace(y0, y1, rows, dtype=torch.float64)
    values = ground.value(*torch.meshgrid(x, y, indexing="xy")).numpy() - ground.least
    top = float(values.max())
    levels = np.geomspace(max(float(np.quantile(values, 0.002)), top * 1e-5), top * 0.9, LINES)
    found = []
    for i, level in enumerate(levels):
        strokes = ""
        for line in level_lines(values, float(level)):
            corners = [place((x0 + (x1 - x0) * c / (GRID - 1), y0 + (y1 - y0) * r / (rows - 1))) for c, r in line]
            strokes += "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in _thinned(corners, 4))
        found.append(f'<path class="level" d="{strokes}" opacity="{0.75 - 0.5 * i / (LINES - 1):.2f}"/>')
    return found


def _thinned(line: Sequence[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """The line without corners that are nearer than `least` pixels to the one before; its ends stay."""
    kept = [line[0]]
    for point in line[1:-1]:
        if math.dist(point, kept[-1]) >= least:
            kept.append(point)
    return [*kept, line[-1]]


def _visible(line: Sequence[tuple[float, float]], height: float) -> list[tuple[float, float]]:
    """The path up to where it is so far outside that no picture can say more."""
    for i, (x, y) in enumerate(line):
        if not (-4 * PLOT < x < 5 * PLOT and -4 * height < y < 5 * height):
            return list(line[:i]) if i > 1 else list(line[:1])
    return list(line)


def _path(path: Path, line: Sequence[tuple[float, float]], number: int) -> list[str]:
    """A path with a dot for every step, and a cross where it diverged.

    From the eleventh on, paths are dashed, and dots that would fill the gaps are left out.
    """
    hue, dashed = HUES[number % len(HUES)], number >= len(HUES)
    corners = f'points="{points(_thinned(line, 0.3))}"'
    spots = _thinned(line, 12.0 if dashed else 1.0)[1:]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.7"/>' for x, y in spots)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    found = [
        f'<g fill="none" stroke-linejoin="round"><polyline class="halo" {corners} stroke-width="4.5" opacity="0.75"/>',
        f'<polyline {corners} stroke="{hue}" stroke-width="1.8"{dashes}/></g>',
        f'<g fill="{hue}">{dots}</g>',
    ]
    if path.broken is not None:
        x, y = line[-1]
        found.append(f'<path d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12" stroke="{hue}" stroke-width="2.5"/>')
    return found


def _marks(ground: Landscape, place: Place) -> list[str]:
    """The start as a ring, the minima as stars."""
    x, y = place(ground.start)
    found = [f'<circle class="outline" cx="{x:.1f}" cy="{y:.1f}" r="5" stroke-width="2"/>']
    for minimum in ground.minima:
        x, y = place(minimum)
        star = [(7 if i % 2 == 0 else 2.8, math.pi * i / 5 - math.pi / 2) for i in range(10)]
        corners = points([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in star])
        found.append(f'<polygon class="ink halo" points="{corners}" stroke-width="3" paint-order="stroke"/>')
    return found


def _names(trace: Trace, drawn: Sequence[Sequence[tuple[float, float]]], height: float) -> list[str]:
    """Each method's name beside its path, where the path is farthest from the others and from names already there."""
    taken: list[tuple[float, float]] = []
    found = []
    for i, (path, line) in enumerate(zip(trace.paths, drawn, strict=True)):
        width = 7.2 * len(path.method)
        inside = [
            (x, y)
            for x, y in _thinned(line, 4)
            if LEFT + 8 < x < LEFT + PLOT - width - 14 and TOP + 14 < y < TOP + height - 10
        ]
        if not inside:
            continue
        others = [p for j, other in enumerate(drawn) if j != i for p in _thinned(other, 4)]
        x, y = max(inside, key=lambda p: _room((p[0] + 8 + width / 2, p[1] - 6), p, others, taken))
        taken += [(x + 8 + width * k / 3, y - 6) for k in range(4)]
        style = f'style="fill: {HUES[i % len(HUES)]}"'
        found.append(f'<text class="name halo" x="{x + 8:.1f}" y="{y - 5:.1f}" {style}>{escape(path.method)}</text>')
    return found


def _room(
    middle: tuple[float, float],
    anchor: tuple[float, float],
    others: Sequence[tuple[float, float]],
    taken: Sequence[tuple[float, float]],
) -> float:
    """How free a place for a name is: the distance to other paths, no more than is useful, and to other names."""
    to_paths = min((min(math.dist(middle, p), 1.5 * math.dist(anchor, p)) for p in others), default=60.0)
    to_names = min((math.dist(middle, p) for p in taken), default=60.0)
    return min(to_paths, 60.0) + min(to_names, 60.0)


def _legend(trace: Trace) -> list[str]:
    """Beside the picture: method, what it was tuned to, how it ended, how many trials arrived."""
    x, found = LEFT + PLOT + 20, []
    for i, path in enumerate(trace.paths):
        y = TOP + 14 + 62 * i
        hue = HUES[i % len(HUES)]
        dashed = f'fill="none" stroke="{hue}" stroke-width="2" stroke-dasharray="3.7 2.6"'
        look = dashed if i >= len(HUES) else f'fill="{hue}"'
        found.append(f'<circle cx="{x}" cy="{y - 4}" r="5" {look}/>')
        found.append(f'<text class="title" x="{x + 12}" y="{y}">{escape(path.method)}</text>')
        tried = f"{path.hits} of {path.tried} settings arrive"
        for k, words in enumerate((settings(path.hyper), outcome(path), tried)):
            found.append(f'<text class="small" x="{x + 12}" y="{y + 15 + 14 * k}">{escape(words)}</text>')
    return found
