"""Spaces: a panel for each hyperparameter that was tuned, with every trial, its score, and the chosen point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from downslope.referee.draw import Axis, Chart, Dot, Figure, Layer, Rule
from downslope.referee.series import method_index
from downslope.referee.words import number

__all__ = ["hyper_figures", "shown"]

Content = Mapping[str, Any]


@dataclass(frozen=True)
class _Trial:
    """A tuning trial as a panel shows it: `end` is `reached`, `missed`, `cut` (by the pruner) or `broke`."""

    label: str
    index: int
    hyper: Mapping[str, Any]
    end: str
    steps: int | None
    text: str
    chosen: bool


def shown(value: Any) -> str:
    """A hyperparameter's value as people write it; JSON has lists where Python has tuples."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(shown, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def hyper_figures(content: Content, w: Content) -> list[Figure]:
    """One panel per hyperparameter; methods that share one share its panel."""
    spaces = {m["label"]: m["space"] for m in content["plan"]["methods"]}
    trials = [t for s in w["standings"] for t in _trials(w, s)]
    ends = [end for end in ("missed", "cut", "broke") if any(t.end == end for t in trials)]
    names = dict.fromkeys(name for space in spaces.values() for name in space)
    found = []
    for i, name in enumerate(names):
        tuned = {label: space[name] for label, space in spaces.items() if name in space}
        mine = [t for t in trials if t.label in tuned and name in t.hyper]
        if mine:
            chart = _panel(content, w, name, list(tuned.values()), mine, ends)
            found.append(Figure(f"hyper-{i}", name, "", {"": chart}, tuning=True, small=True))
    return found


def _trials(w: Content, s: Content) -> list[_Trial]:
    """The tuning trials of a method; the chosen one is the first that ran at the tuned point."""
    prefix, found, free = f"{w['name']}/{s['label']}/tune/", [], True
    for t in w["trials"]:
        if not t["task"].startswith(prefix):
            continue
        index, steps, cut = int(t["task"].removeprefix(prefix)), t["steps_to_target"], t.get("cut")
        end = (
            "broke"
            if t["cause"] is not None
            else "reached"
            if steps is not None
            else "missed"
            if cut is None
            else "cut"
        )
        best = "" if t["best_metric"] is None else f", best {number(t['best_metric'], 4)}"
        outcome = {
            "broke": "broke",
            "reached": f"target at step {steps}",
            "missed": f"missed{best}",
            "cut": f"cut at step {cut}{best}",
        }[end]
        point = ", ".join(f"{k} {shown(v)}" for k, v in t["hyper"].items())
        chosen = free and end != "broke" and t["hyper"] == s["tuned"]
        free = free and not chosen
        text = f"trial {index + 1}{' (chosen)' if chosen else ''}: {outcome}; {point}"
        found.append(_Trial(s["label"], index, t["hyper"], end, steps, text, chosen))
    return found


def _panel(
    content: Content, w: Content, name: str, ranges: Sequence[Any], trials: Sequence[_Trial], ends: Sequence[str]
) -> Chart:
    budget = w["workload"]["steps"]
    levels = {end: budget * (1.12 + 0.15 * i) for i, end in enumerate(ends)}
    x, place = _axis(name, ranges, [t.hyper[name] for t in trials])
    layers = []
    for label in dict.fromkeys(t.label for t in reversed(trials)):
        shapes, hover = [], []
        for t in (t for t in trials if t.label == label):
            at, y = place(t.hyper[name]), float(t.steps) if t.steps is not None else levels[t.end]
            shapes.append(Dot(at, y, {"reached": "dot", "missed": "ring", "cut": "cut", "broke": "cross"}[t.end]))
            hover.append((at, y, t.text))
            if t.chosen:
                shapes.append(Dot(at, y, "halo"))
        layers.append(Layer(method_index(content, label), label, tuple(shapes), tuple(hover)))
    top = budget * (1.2 + 0.15 * (len(ends) - 1)) if ends else budget * 1.04
    ticks = Axis("", 0.0, float(budget)).marks(4)
    ticks = tuple((v, text) for v, text in ticks if v <= budget * 0.98) + tuple((y, end) for end, y in levels.items())
    y_axis = Axis("steps to the target", 0.0, top, ticks=ticks)
    return Chart(f"{w['name']}: tuning {name}", x, y_axis, tuple(layers), (Rule(float(budget)),) if ends else ())


def _axis(name: str, ranges: Sequence[Any], values: Sequence[Any]) -> tuple[Axis, Any]:
    """The axis of a hyperparameter, and where a value stands on it: numbers by size, other choices in their order."""
    ends = [v for kind, *rest in ranges for v in rest] + list(values)
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in ends):
        names = list(dict.fromkeys(shown(v) for v in ends))
        ticks = tuple((float(i), text) for i, text in enumerate(names))
        return Axis(name, -0.5, len(names) - 0.5, ticks=ticks), lambda v: float(names.index(shown(v)))
    low, high = float(min(ends)), float(max(ends))
    least = float(min((v for v in ends if v > 0), default=1.0))
    wide = any(kind == "log" for kind, *_ in ranges) or high >= 100 * least
    if low < 0 or not wide:
        room = 0.05 * (high - low) or 0.5
        return Axis(name, low - room, high + room), float
    room = (high / least) ** 0.05 if high > least else 1.5
    if low > 0:
        return Axis(name, low / room, high * room, log=True), float
    zero = least / room**3  # zero has no place on a logarithmic axis, so it gets one of its own on the left
    marks = Axis(name, least / room, high * room, log=True).marks(3)
    return Axis(name, zero / room, high * room, log=True, ticks=((zero, "0"), *marks)), lambda v: float(v or zero)
