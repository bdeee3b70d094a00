"""Scoreboard: a profile over several workloads for people: a table, and the curves as an SVG picture."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from html import escape

from rich.console import Console
from rich.table import Table
from rich.text import Text

from downslope.referee.drawing import HUES, breadth, points, shortened, spread, svg
from downslope.referee.errors import RaceError
from downslope.referee.profiles import Profile

__all__ = ["pairs", "picture", "plain", "ranked", "report", "show"]

ACROSS, LEFT, TOP, BOTTOM = 454, 56, 44, 52
NAME, ROW = 240, 17
"""Pixels that a name may take, and that stand between two."""
SHIFT = 3.0
"""Pixels that the first and the last of the curves are moved, so that equal shares can be told apart."""


def pairs(text: str | None, option: str) -> dict[str, float] | None:
    """`name=number,name=number` as a mapping."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise RaceError(
                f"{option} must be name=number,name=number,...; got {item.strip()!r} in it.", bad_input=True
            ) from None
    return found


def report(profile: Profile, *, as_json: bool = False) -> None:
    """Print a profile as JSON, as a table on a terminal or as lines with tabs; what the input lacks goes to stderr."""
    console = Console(highlight=False)
    if as_json:
        sys.stdout.write(json.dumps(profile.to_json(), indent=2, allow_nan=False) + "\n")
    elif console.is_terminal:
        show(profile, console)
    else:
        sys.stdout.write("\n".join(plain(profile)) + "\n")
    for submission, workload in profile.absent:
        sys.stderr.write(f"downslope: the table has no time of {submission} on {workload}; it counts as a miss.\n")


def ranked(profile: Profile) -> list[str]:
    """The submissions, the highest score first; equal scores in the table's order."""
    return sorted(profile.score, key=lambda s: -profile.score[s])


def plain(profile: Profile) -> list[str]:
    """One line per submission, with tabs, for pipes."""
    lines = ["submission\tscore\treached\tworkloads\tspeedup\tcompared"]
    for s in ranked(profile):
        speedup = profile.speedup[s]
        cells = [s, f"{profile.score[s]:.4f}", str(_reached(profile, s)), str(len(profile.workloads))]
        cells += ["" if speedup is None else f"{speedup:.4g}", str(profile.compared[s])]
        lines.append("\t".join(cells))
    return lines


def show(profile: Profile, console: Console) -> None:
    """The scores as a table, with the times relative to the fastest where the terminal is wide enough for them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("submission", "score", "targets", f"speed-up over {profile.baseline}"):
        table.add_column(Text(name), justify="left" if name == "submission" else "right", overflow="fold")
    width = 50 + max(len(s) for s in profile.score) + len(profile.baseline)
    with_ratios = width + sum(max(6, len(w)) + 2 for w in profile.workloads) <= console.width
    for w in profile.workloads if with_ratios else ():
        table.add_column(Text(w), justify="right")
    for s in ranked(profile):
        speedup = profile.speedup[s]
        cells = [s, f"{profile.score[s]:.4f}", f"{_reached(profile, s)} of {len(profile.workloads)}"]
        over = "" if profile.compared[s] == len(profile.workloads) else f" (over {profile.compared[s]})"
        cells.append("–" if speedup is None else f"{speedup:.3g} ×{over}")
        if with_ratios:
            cells += [_ratio(r) for r in profile.ratios[s].values()]
        table.add_row(*map(Text, cells))
    console.print(table)


def _reached(profile: Profile, submission: str) -> int:
    return sum(r < math.inf for r in profile.ratios[submission].values())


def _ratio(r: float) -> str:
    return "miss" if math.isinf(r) else f"{r:.2f}"


def picture(profile: Profile) -> str:
    """The performance profiles: share of workloads reached within τ times the fastest, with the score beside each."""
    last, order = profile.tau[-1], ranked(profile)
    names = {s: shortened(s, NAME) for s in order}
    height = max(284, ROW * (len(order) - 1))

    def x(tau: float) -> float:
        return LEFT + ACROSS * (tau - 1) / (last - 1)

    def y(share: float) -> float:
        return TOP + height * (1 - share)

    parts = [f'<text class="title" x="{LEFT}" y="24">Workloads reached within τ times the fastest</text>']
    for i in range(5):
        parts.append(f'<line class="grid" x1="{x(1)}" x2="{x(last)}" y1="{y(i / 4):.1f}" y2="{y(i / 4):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(i / 4) + 4:.1f}" text-anchor="end">{25 * i} %</text>')
    for i in range(7):
        tau = 1 + (last - 1) * i / 6
        parts.append(f'<text x="{x(tau):.1f}" y="{TOP + height + 20}" text-anchor="middle">{tau:.3g}</text>')
    parts.append(f'<text x="{LEFT + ACROSS / 2}" y="{TOP + height + 40}" text-anchor="middle">τ</text>')
    middle = (len(order) - 1) / 2
    apart = [(i - middle) * min(1.0, SHIFT / (middle or 1.0)) for i in range(len(order))]
    ends = [y(profile.share[s][-1]) + gap for s, gap in zip(order, apart, strict=True)]
    places = spread(ends, ROW, TOP, TOP + height)
    for i, s in reversed(list(enumerate(order))):  # the best lies on top
        line = _steps(profile.tau, profile.share[s])
        drawn = points([(x(t), y(v) + apart[i]) for t, v in line])
        number = list(profile.score).index(s)
        dash = "" if number < len(HUES) else ' stroke-dasharray="5 3"'
        stroke = f'fill="none" stroke="{HUES[number % len(HUES)]}"{dash}'
        parts.append(f'<polyline points="{drawn}" {stroke} stroke-width="2"/>')
        elbow = points([(x(last), ends[i]), (x(last) + 10, places[i]), (x(last) + 16, places[i])])
        parts.append(f'<polyline points="{elbow}" {stroke} stroke-width="1.2"/>')
        label = f'{escape(names[s])} <tspan class="strong">{profile.score[s]:.3f}</tspan>'
        parts.append(f'<text x="{x(last) + 20}" y="{places[i] + 4:.1f}">{label}</text>')
    spoken = "; ".join(f"{s} {profile.score[s]:.3f}" for s in order)
    width = round(x(last) + 20 + max(map(breadth, names.values())) + breadth(" 0.000") + 12)
    return svg(width, TOP + height + BOTTOM, f"Performance profiles; scores: {spoken}", parts)


def _steps(tau: Sequence[float], share: Sequence[float]) -> list[tuple[float, float]]:
    """The corners of a step function that holds each value up to the next τ."""
    corners: list[tuple[float, float]] = []
    for t, v in zip(tau, share, strict=True):
        if corners:
            corners.append((t, corners[-1][1]))
        corners.append((t, v))
    return corners
