"""Contours: the level lines of a function on a grid, by marching squares, joined into polylines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["level_lines"]

Point = tuple[float, float]
Edge = tuple[int, int, int]  # of the grid: row, column, and 0 for the edge to the right or 1 for the edge upwards

# The edges of a cell that the line crosses (0 bottom, 1 right, 2 top, 3 left), by which of its corners lie above the
# level (bits 1, 2, 4, 8: lower left, lower right, upper right, upper left). Saddle cells (5, 10) are cut into two.
CROSSED: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((3, 0),),
    2: ((0, 1),),
    3: ((3, 1),),
    4: ((1, 2),),
    5: ((3, 0), (1, 2)),
    6: ((0, 2),),
    7: ((3, 2),),
    8: ((2, 3),),
    9: ((2, 0),),
    10: ((0, 1), (2, 3)),
    11: ((2, 1),),
    12: ((1, 3),),
    13: ((1, 0),),
    14: ((0, 3),),
}


def level_lines(values: np.ndarray, level: float) -> list[list[Point]]:
    """The lines on which a function on a grid has a value, as (column, row) in units of the grid.

    Args:
        values: the function, a row per y and a column per x.
        level: its value on the lines.
    """
    above = values > level
    case = above[:-1, :-1] + 2 * above[:-1, 1:] + 4 * above[1:, 1:] + 8 * above[1:, :-1]
    neighbours: dict[Edge, list[Edge]] = {}
    for row, column in np.argwhere((case > 0) & (case < 15)).tolist():
        sides = ((row, column, 0), (row, column + 1, 1), (row + 1, column, 0), (row, column, 1))
        for a, b in CROSSED[int(case[row, column])]:
            neighbours.setdefault(sides[a], []).append(sides[b])
            neighbours.setdefault(sides[b], []).append(sides[a])
    return [[_crossing(values, level, edge) for edge in line] for line in _joined(neighbours)]


def _crossing(values: np.ndarray, level: float, edge: Edge) -> Point:
    """Where the line crosses an edge of the grid, by linear interpolation."""
    row, column, upwards = edge
    here = float(values[row, column])
    there = float(values[row + 1, column] if upwards else values[row, column + 1])
    share = (level - here) / (there - here)
    return (column, row + share) if upwards else (column + share, row)


def _joined(neighbours: dict[Edge, list[Edge]]) -> list[list[Edge]]:
    """Lines through all edges; open ones begin at their ends, closed ones return to where they began."""
    ends: Sequence[Edge] = [edge for edge, near in neighbours.items() if len(near) == 1]
    seen: set[Edge] = set()
    lines = []
    for first in [*ends, *neighbours]:
        if first in seen:
            continue
        line, at = [first], first
        seen.add(first)
        while onward := [edge for edge in neighbours[at] if edge not in seen]:
            at = onward[0]
            seen.add(at)
            line.append(at)
        lines.append(line + [first] * (first in neighbours[at] and len(line) > 2))
    return lines
