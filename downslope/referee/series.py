"""Series: the numbers that the report's figures draw, taken from the results of a race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from downslope.referee.words import number

__all__ = ["HUES", "figure_data", "hue", "median_curve"]

HUES = ("#3b6fb6", "#d9622b", "#2f8f6b", "#a4569c", "#b8860b", "#5aa3c7", "#c2455c", "#7a7f3a", "#7b68c4", "#8d6e63")
"""Colours that differ in lightness as well as in hue, and are read on white and on black."""


def hue(content: Mapping[str, Any], label: str) -> str:
    """The colour of a method, the same everywhere in a report."""
    labels = [m["label"] for m in content["plan"]["methods"]]
    return HUES[labels.index(label) % len(HUES)]


def figure_data(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that the page's figures need, per workload."""
    return [_workload(content, w) for w in content["workloads"]]


def _workload(content: Mapping[str, Any], w: Mapping[str, Any]) -> dict[str, Any]:
    entry = w["workload"]
    methods = []
    for s in w["standings"]:
        runs = _runs(w, s["label"])
        methods.append(
            {
                "label": s["label"],
                "hue": hue(content, s["label"]),
                "arrivals": s["arrivals"],
                "steps": s["steps"],
                "best_after": [each["value"] for each in s["best_after"]],
                "runs": runs,
                "curve": median_curve(runs),
            }
        )
    return {
        "name": w["name"],
        "metric": entry["metric_name"],
        "goal": entry["goal"],
        "target": entry["target"],
        "target_text": number(entry["target"]),
        "steps": entry["steps"],
        "trials": content["plan"]["trials"],
        "range": _range(methods, entry),
        "methods": methods,
    }


def _runs(w: Mapping[str, Any], label: str) -> list[dict[str, list[float]]]:
    prefix = f"{w['name']}/{label}/seed/"
    curves = [t["curve"] for t in w["trials"] if t["task"].startswith(prefix)]
    return [
        {
            "step": [p["step"] for p in curve],
            "second": [round(p["seconds"], 4) for p in curve],
            "metric": [p["metric"] for p in curve],
        }
        for curve in curves
        if curve
    ]


def median_curve(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Median, lowest and highest metric over runs at every step at which any was evaluated.

    A run that has ended (at its target, say) counts with its last value from then on, until all have ended.
    """
    if not runs:
        return {"step": [], "second": [], "median": [], "low": [], "high": []}
    steps = sorted({step for run in runs for step in run["step"]})
    metric = np.array([_held(run, steps, "metric") for run in runs])
    second = np.array([_held(run, steps, "second") for run in runs])
    columns = {
        "second": np.median(second, axis=0),
        "median": np.median(metric, axis=0),
        "low": metric.min(axis=0),
        "high": metric.max(axis=0),
    }
    return {"step": list(steps)} | {name: [float(f"{v:.6g}") for v in values] for name, values in columns.items()}


def _held(run: Mapping[str, Sequence[float]], steps: Sequence[float], name: str) -> list[float]:
    at = np.searchsorted(run["step"], steps, "right") - 1
    return [run[name][max(i, 0)] for i in at]


def _range(methods: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> list[float] | None:
    """Where to look: the far end of the first few evaluations would squeeze what matters into a line."""
    points = [p for m in methods for run in m["runs"] for p in zip(run["step"], run["metric"], strict=True)]
    last = max((step for step, _ in points), default=0)
    values = [v for step, v in points if step >= 0.08 * last]
    if len(values) < 2:
        return None
    ends = sorted([float(np.quantile(values, 0.01)), float(np.quantile(values, 0.99)), float(entry["target"])])
    margin = 0.06 * (ends[-1] - ends[0])
    return [ends[0] - margin, ends[-1] + margin]
