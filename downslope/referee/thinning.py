"""Thinning: what a race keeps of a long trial, so that its place on the disk is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from downslope.referee.trial import Point, Record

__all__ = ["POINTS", "thinned"]

POINTS = 500
"""The most evaluations that a stored curve has."""


def thinned(record: Record, *, goal: str, limit: int = POINTS) -> Record:
    """The record with at most `limit` points of its curve.

    The first, the last, the best and the one that reached the target stay; the others are taken at even distances. The
    loss of a point is the mean since the last one that stays, so no step is left out of it.
    """
    curve = record.curve
    if len(curve) <= limit:
        return record
    sign = -1 if goal == "max" else 1
    best = min(range(len(curve)), key=lambda i: sign * curve[i].metric)
    reached = [i for i, point in enumerate(curve) if point.step == record.steps_to_target]
    keep = {best, *reached}
    room = limit - len(keep)
    keep |= {round(i * (len(curve) - 1) / (room - 1)) for i in range(room)}
    at = sorted(keep)
    return replace(record, curve=tuple(_joined(curve, i, j) for i, j in zip([-1, *at], at)))


def _joined(curve: Sequence[Point], before: int, at: int) -> Point:
    """Point `at`, with the mean loss of all steps since point `before`."""
    total, steps = 0.0, 0
    for i in range(before + 1, at + 1):
        loss, width = curve[i].loss, curve[i].step - (curve[i - 1].step if i else 0)
        if loss is not None and width > 0:
            total, steps = total + loss * width, steps + width
    return replace(curve[at], loss=total / steps if steps else curve[at].loss)
