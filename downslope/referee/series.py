"""Series: the numbers that the report's figures draw, taken from the results of a race."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from downslope.referee.draw import TONES

__all__ = ["Curve", "curve_range", "leading", "median_curve", "method_index", "pace", "seed_runs", "thin"]

Run = Mapping[str, Sequence[float | None]]
Curve = dict[str, list[float]]


def method_index(content: Mapping[str, Any], label: str) -> int:
    """The number of a method in its race: its colour, the same everywhere in a report.

    Few methods are numbered as they were named. Of more than there are colours, the first ones have colours of their
    own: the baseline, then the methods as they came out.
    """
    labels = [m["label"] for m in content["plan"]["methods"]]
    if len(labels) > TONES:
        baseline, placed = labels[0], [place["label"] for place in content["order"]]
        labels = [baseline, *(each for each in placed if each != baseline)]
    return labels.index(label)


def leading(content: Mapping[str, Any], ranked: Sequence[str]) -> list[str]:
    """The methods that a figure shows at first: all, or of more than there are colours the first ones and the
    baseline."""
    if len(ranked) <= TONES:
        return list(ranked)
    baseline = content["plan"]["methods"][0]["label"]
    first = list(ranked[:TONES])
    return first if baseline in first else [*first[:-1], baseline]


def seed_runs(w: Mapping[str, Any], label: str) -> list[dict[str, list[Any]]]:
    """The curves of the judging runs of a method: step, second, metric and loss at each evaluation."""
    prefix = f"{w['name']}/{label}/"
    curves = [t["curve"] for t in w["trials"] if t["judged"] and t["task"].startswith(prefix)]
    names = {"step": "step", "second": "seconds", "metric": "metric", "loss": "loss"}
    return [{name: [p[field] for p in curve] for name, field in names.items()} for curve in curves if curve]


def median_curve(runs: Sequence[Run], what: str = "metric") -> Curve:
    """Median, lowest and highest metric (or loss) over runs at every step at which any was evaluated.

    A run that has ended (at its target, say) counts with its last value from then on, until all have ended. Steps at
    which nothing was measured (the loss before the first step) are left out.
    """
    known = [_known(run, what) for run in runs]
    known = [run for run in known if run[0]]
    if not known:
        return {"step": [], "median": [], "low": [], "high": []}
    first = max(run[0][0] for run in known)
    steps = [step for step in sorted({step for run in known for step in run[0]}) if step >= first]
    values = np.array([[v[int(i)] for i in np.searchsorted(s, steps, "right") - 1] for s, v in known])
    columns = {"median": np.median(values, axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
    return {"step": list(steps)} | {name: [float(f"{v:.6g}") for v in column] for name, column in columns.items()}


def _known(run: Run, what: str) -> tuple[list[float], list[float]]:
    pairs = [(s, v) for s, v in zip(run["step"], run[what], strict=True) if s is not None and v is not None]
    return [s for s, _ in pairs], [v for _, v in pairs]


def pace(w: Mapping[str, Any]) -> dict[str, float] | None:
    """Seconds per step of every method that ran, measured apart, and of no other; None where they were not."""
    ran = [s for s in w["standings"] if s["tuned"] is not None]
    if not ran or any(s["seconds"] is None for s in ran):
        return None
    return {s["label"]: s["seconds"]["value"] for s in ran}


def curve_range(curves: Sequence[Curve], target: float | None, *, falling: bool) -> tuple[float, float] | None:
    """The values worth looking at: from what most methods had after a fifth of their way to the best, and the target.

    The first evaluations lie far off, and would press all that matters into a line. `falling` says which end is good.
    """
    ends = [] if target is None else [target]
    starts, values = [], []
    for c in curves:
        if c["step"]:
            late = [v for s, v in zip(c["step"], c["median"], strict=True) if s >= 0.2 * c["step"][-1]]
            starts.append(late[0])
            values += late
    if not values:
        return None
    start = float(np.quantile(starts, 0.8 if falling else 0.2))
    best = min([*values, *ends]) if falling else max([*values, *ends])
    low, high = sorted((start, best))
    if not math.isfinite(high - low):
        return None
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def thin(points: Sequence[Any], most: int) -> list[Any]:
    """At most about so many of the points, evenly, always with the first and the last."""
    if len(points) <= most:
        return list(points)
    at = sorted({round(i * (len(points) - 1) / (most - 1)) for i in range(most)})
    return [points[i] for i in at]
