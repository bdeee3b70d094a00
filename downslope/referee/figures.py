"""Figures: what a race's report shows, as charts made from the content of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from downslope.referee.draw import Axis, Band, Bar, Chart, Dot, Figure, Layer, Line, Rule
from downslope.referee.raceprofile import measured
from downslope.referee.series import (
    Curve,
    curve_range,
    leading,
    median_curve,
    method_index,
    pace,
    seed_runs,
    thin,
)
from downslope.referee.spaces import hyper_figures
from downslope.referee.tuning import in_any_order
from downslope.referee.words import exact, number, percent, seconds_text

__all__ = ["metric_chart", "profile_figure", "workload_figures"]

Content = Mapping[str, Any]
SEED_LINES = 60
"""More runs than this in one chart are shown by their band alone."""
POINTS = 160
"""Points of a line that a reader can tell apart."""


def workload_figures(content: Content, w: Content) -> list[Figure]:
    """All figures of a workload, in the order of the report."""
    entry = w["workload"]
    metric = entry["metric_name"]
    found = [_curves(content, w, "metric", metric), _curves(content, w, "loss", "training loss")]
    found += [_survival(content, w), _arrivals(content, w)]
    if any(s["best_after"] for s in w["standings"]):
        found.append(_tuning(content, w))
    found += [_cost(content, w), _memory(content, w)]
    shown = leading(content, [s["label"] for s in w["standings"]])
    return [_opened(f, shown) for f in (*found, *hyper_figures(content, w)) if f is not None]


def _opened(figure: Figure, shown: Sequence[str]) -> Figure:
    """A figure in which only some methods are seen at first, where all would be too many."""
    return replace(figure, charts={by: _uncrowded(chart, shown) for by, chart in figure.charts.items()})


def _uncrowded(chart: Chart, shown: Sequence[str]) -> Chart:
    if chart.rows:
        return chart
    return replace(chart, layers=tuple(replace(each, hidden=each.label not in shown) for each in chart.layers))


def _views(w: Content, build: Any) -> dict[str, Chart]:
    """A chart by step and, where seconds per step were measured, by second."""
    factors = pace(w)
    charts = {"step": build(None)}
    return charts | ({"second": build(factors)} if factors else {})


def _paces(w: Content, factors: Mapping[str, float] | None) -> Mapping[str, float]:
    """What a step is on the axis of x, for each method that has a place there: by second, those that were timed."""
    return dict.fromkeys((s["label"] for s in w["standings"]), 1.0) if factors is None else factors


def _at(value: float, factors: Mapping[str, float] | None) -> str:
    return f"step {value:.0f}" if factors is None else f"{value:.3g} s"


def _unit(factors: Mapping[str, float] | None) -> str:
    return "step" if factors is None else "seconds of training"


# ----------------------------------------------------------------- curves


def _curves(content: Content, w: Content, what: str, name: str) -> Figure | None:
    runs = {s["label"]: seed_runs(w, s["label"]) for s in w["standings"]}
    if not any(median_curve(r, what)["step"] for r in runs.values()):
        return None
    title = f"Validation: {name}" if what == "metric" else "Training loss"
    lines = ", thin lines are seeds" if _thin_lines(runs) else ""
    seconds = "" if pace(w) is None else " Seconds are steps times the seconds per step measured apart."
    caption = (
        f"{'' if what == 'metric' else 'Mean since the last evaluation. '}Median over seeds at the tuned point; the "
        f"band reaches from the lowest to the highest{lines}; a run that has reached the "
        f"target keeps its last value.{seconds}"
    )
    return Figure(what, title, caption, _views(w, lambda f: metric_chart(content, w, what, name, f, runs)))


def _thin_lines(runs: Mapping[str, Sequence[Any]]) -> bool:
    return sum(map(len, runs.values())) <= SEED_LINES


def metric_chart(
    content: Content,
    w: Content,
    what: str,
    name: str,
    factors: Mapping[str, float] | None = None,
    runs: Mapping[str, Sequence[Any]] | None = None,
) -> Chart:
    """Curves with bands; by step, or by second where `factors` gives each method's seconds per step."""
    entry, shown = w["workload"], leading(content, [s["label"] for s in w["standings"]])
    runs = runs if runs is not None else {s["label"]: seed_runs(w, s["label"]) for s in w["standings"]}
    curves = {label: median_curve(r, what) for label, r in runs.items()}
    target = entry["target"] if what == "metric" else None
    paces = _paces(w, factors)
    drawn = [label for label in reversed(list(curves)) if curves[label]["step"] and label in paces]
    layers = [
        _curve_layer(content, label, curves[label], runs[label] if _thin_lines(runs) else [], what, factors)
        for label in drawn
    ]
    falling = what == "loss" or entry["goal"] == "min"
    low, high = curve_range([curves[label] for label in shown], target, falling=falling) or (0.0, 1.0)
    ends = [curves[label]["step"][-1] * paces[label] for label in drawn]
    rules = (Rule(target, f"target {exact(target)}"),) if target is not None else ()
    x = Axis(_unit(factors), 0.0, max(ends, default=1.0) or 1.0)
    chart = Chart(f"{w['name']}: {name} by {_word(factors)}", x, Axis(name, low, high), tuple(layers), rules)
    return _uncrowded(chart, shown)


def _word(factors: Mapping[str, float] | None) -> str:
    return "step" if factors is None else "second"


def _curve_layer(
    content: Content, label: str, c: Curve, runs: Sequence[Any], what: str, factors: Mapping[str, float] | None
) -> Layer:
    k = 1.0 if factors is None else factors[label]
    rows = thin(list(zip([s * k for s in c["step"]], c["median"], c["low"], c["high"], strict=True)), POINTS)
    shapes: list[Line | Band] = [Band([(x, low, high) for x, _, low, high in rows])]
    for run in runs:
        points = [(s * k, v) for s, v in zip(run["step"], run[what], strict=True) if v is not None]
        if len(points) > 1:
            shapes.append(Line(thin(points, POINTS), 0.9, 0.4))
    shapes.append(Line([(x, v) for x, v, _, _ in rows]))
    hover = tuple(
        (x, v, f"{_at(x, factors)}: {number(v, 4)} ({number(low, 4)} to {number(high, 4)})") for x, v, low, high in rows
    )
    return Layer(method_index(content, label), label, tuple(shapes), hover)


# ------------------------------------------------------- steps to the target


def _survival(content: Content, w: Content) -> Figure:
    caption = (
        "The share of runs that had not reached the target yet (Kaplan-Meier), with its pointwise 95 % band: lower and "
        "further left is better. A curve that ends above 0 has runs that missed."
    )
    return Figure("waiting", "Not yet at the target", caption, _views(w, lambda f: _survival_chart(content, w, f)))


def _survival_chart(content: Content, w: Content, factors: Mapping[str, float] | None) -> Chart:
    layers, end, paces = [], 0.0, _paces(w, factors)
    for s in (s for s in reversed(w["standings"]) if s["label"] in paces):
        k = paces[s["label"]]
        rows = [(0.0, 1.0, 1.0, 1.0), *((t, share, low, high) for t, share, low, high in s["waiting"])]
        if rows[-1][1] > 0:
            rows.append((float(s["budget"]), *rows[-1][1:]))
        rows = [(t * k, share, low, high) for t, share, low, high in rows]
        end = max(end, rows[-1][0])
        hover = tuple((t, share, f"{_at(t, factors)}: {percent(share)} still under way") for t, share, _, _ in rows)
        shapes = (Band([(t, low, high) for t, _, low, high in rows], True), Line([r[:2] for r in rows], stairs=True))
        layers.append(Layer(method_index(content, s["label"]), s["label"], shapes, hover))
    share = Axis("runs not yet at the target", 0.0, 1.0, ticks=tuple((v / 4, percent(v / 4)) for v in range(5)))
    title = f"{w['name']}: not yet at the target, by {_word(factors)}"
    return Chart(title, Axis(_unit(factors), 0.0, (end or 1.0) * 1.02), share, tuple(layers))


def _arrivals(content: Content, w: Content) -> Figure:
    caption = "Every seed (a cross is a miss), the median (upright), and the interval of the median (bar)."
    title = f"{'Steps' if pace(w) is None else 'Steps, or seconds,'} to the target"
    return Figure("arrivals", title, caption, _views(w, lambda f: _arrivals_chart(content, w, f)))


def _arrivals_chart(content: Content, w: Content, factors: Mapping[str, float] | None) -> Chart:
    ordered = list(reversed(w["standings"]))
    paces = _paces(w, factors)
    timed = [s for s in ordered if s["label"] in paces]
    budget = max(s["budget"] * paces[s["label"]] for s in timed)
    anything = any(None in s["arrivals"] for s in ordered)
    missed, layers = budget * 1.08, []
    longest = max((t * paces[s["label"]] for s in timed for t in s["arrivals"] if t is not None), default=budget)
    for i, s in enumerate(ordered):
        k, e = paces.get(s["label"]), s["steps"]  # who was not timed never ran, and has nothing but misses
        shapes: list[Bar | Dot] = []
        hover: list[tuple[float, float, str]] = []
        if k is not None and e["low"] is not None:
            shapes.append(Bar(e["low"] * k, missed if e["high"] is None else e["high"] * k, i))
        for j, t in enumerate(s["arrivals"]):
            x = missed if t is None or k is None else t * k
            shapes.append(Dot(x, i, "cross" if x == missed else "dot"))
            hover.append((x, float(i), f"seed {j + 1}: {'missed' if x == missed else _at(x, factors)}"))
        if k is not None and e["value"] is not None:
            shapes.append(Dot(e["value"] * k, i, "upright"))
        layers.append(Layer(method_index(content, s["label"]), s["label"], tuple(shapes), tuple(hover)))
    title = f"{'steps' if factors is None else 'seconds'} to the target"
    x = Axis(title, 0.0, missed * 1.04 if anything else longest * 1.06)
    rules = (Rule(budget, "missed", upright=True),) if anything else ()
    return Chart(f"{w['name']}: {title}", x, _names(ordered), tuple(layers), rules, rows=len(ordered))


def _names(ordered: Sequence[Content]) -> Axis:
    return Axis("", -0.7, len(ordered) - 0.3, ticks=tuple((i, s["label"]) for i, s in enumerate(ordered)))


def _tuning(content: Content, w: Content) -> Figure:
    budget, trials, layers = w["workload"]["steps"], content["plan"]["trials"], []
    missed = budget * 1.08
    count = len(w["standings"])
    for i, s in enumerate(reversed(w["standings"])):
        rows = [[missed if e[end] is None else e[end] for end in ("value", "low", "high")] for e in s["best_after"]]
        shift = 0.5 * ((count - 1 - i) / (count - 1) - 0.5) if count > 1 else 0.0  # beside each other, to be told apart
        points = [(k + 1 + shift, value) for k, (value, _, _) in enumerate(rows)]
        shapes: list[Line | Dot] = [Line(points, 1.5)] if points else []
        hover = []
        for k, ((x, value), (_, low, high)) in enumerate(zip(points, rows, strict=True)):
            shapes += [Line([(x, low), (x, high)], 4.0, 0.3), Dot(x, value, "ring" if value == missed else "dot")]
            found, least, most = ("not reached" if v == missed else f"{v:.0f}" for v in (value, low, high))
            coverage = round(s["best_after"][k]["coverage"], 2)
            between = f" ({least} to {most}, covers {percent(coverage)})" if coverage else ""
            hover.append((x, value, f"after {k + 1}: {found}{between}"))
        layers.append(Layer(method_index(content, s["label"]), s["label"], tuple(shapes), tuple(hover)))
    ends = [e[end] for s in w["standings"] for e in s["best_after"] for end in ("value", "high")]
    top = missed * 1.03 if None in ends or not ends else max(ends) * 1.1
    rules = (Rule(budget, "budget: not reached above"),) if None in ends else ()
    orders = (
        "over all orders of those that were run (dot), with its interval (bar)"
        if in_any_order(content["plan"]["sampler"], content["plan"]["pruner"])
        else "in the order in which they ran, which here means something, so that there is no interval"
    )
    caption = (
        f"The best steps to the target after so many trials, {orders}. A method that still falls on the right had too "
        "few trials."
    )
    across = Axis("tuning trials", 0.6, trials + 0.4, ticks=_whole(trials))
    up = Axis("best steps to the target", 0.0, top)
    chart = Chart(f"{w['name']}: best after so many trials", across, up, tuple(layers), rules)
    return Figure("tuning", "Best after so many trials", caption, {"": chart}, tuning=True)


def _whole(count: int) -> tuple[tuple[float, str], ...]:
    stride = max(1, -(-count // 8))
    return tuple((float(v), str(v)) for v in range(stride if stride > 1 else 1, count + 1, stride))


# ------------------------------------------------------------------ costs


def _cost(content: Content, w: Content) -> Figure | None:
    ordered = [s for s in reversed(w["standings"]) if s["seconds"] is not None]
    if not ordered:
        return None
    layers = []
    for i, s in enumerate(ordered):
        e, alone = {k: v * 1e3 for k, v in s["seconds"].items()}, s["step_alone"]
        shapes: list[Bar | Dot] = [Bar(e["low"], e["high"], i), Dot(e["value"], i)]
        hover = [(e["value"], float(i), f"whole step {seconds_text(s['seconds']['value'])}")]
        if alone is not None:
            shapes.append(Dot(alone * 1e3, i, "ring"))
            hover.append((alone * 1e3, float(i), f"optimizer alone {seconds_text(alone)}"))
        layers.append(Layer(method_index(content, s["label"]), s["label"], tuple(shapes), tuple(hover)))
    most = max(s["seconds"]["high"] for s in ordered) * 1e3
    caption = (
        "Milliseconds of one training step, measured apart in turns (full mark, with its interval), and of the "
        "optimizer alone (open mark)."
    )
    x = Axis("milliseconds per step", 0.0, most * 1.08)
    chart = Chart(f"{w['name']}: time per step", x, _names(ordered), tuple(layers), rows=len(ordered))
    return Figure("cost", "Time per step", caption, {"": chart})


def _memory(content: Content, w: Content) -> Figure | None:
    ordered = [s for s in reversed(w["standings"]) if s["memory"] is not None or s["state_bytes"] is not None]
    if not ordered:
        return None
    layers = []
    for i, s in enumerate(ordered):
        shapes, hover = [], []
        for name, what, y, thick, opacity in (
            ("memory", "peak memory", i + 0.16, 9, 0.45),
            ("state_bytes", "optimizer state", i - 0.2, 6, 1.0),
        ):
            if s[name] is not None:
                shapes.append(Bar(0.0, s[name] / 1e6, y, thick, opacity))
                hover.append((s[name] / 1e6, y, f"{what} {number(s[name] / 1e6)} MB"))
        layers.append(Layer(method_index(content, s["label"]), s["label"], tuple(shapes), tuple(hover)))
    most = max(s[name] for s in ordered for name in ("memory", "state_bytes") if s[name] is not None) / 1e6
    caption = (
        "Pale: the peak that training added to a fresh process. Full: the optimizer's state, which stays between "
        "steps. 1 MB is a million bytes."
    )
    x = Axis("MB", 0.0, most * 1.08 or 1.0)
    chart = Chart(f"{w['name']}: memory", x, _names(ordered), tuple(layers), rows=len(ordered))
    return Figure("memory", "Memory", caption, {"": chart})


# ------------------------------------------------------- over all workloads


def profile_figure(content: Content) -> Figure | None:
    """The performance profile over workloads, where there are several."""
    profile = content.get("profile")
    if not profile or len(content["workloads"]) < 2:
        return None
    layers = []
    taus = profile["tau"]
    for label, shares in profile["share"].items():
        points = list(zip(taus, shares, strict=True))
        hover = tuple((t, v, f"τ = {number(t)}: {percent(v)} of the workloads") for t, v in thin(points, POINTS))
        layers.append(Layer(method_index(content, label), label, (Line(thin(points, 400), stairs=True),), hover))
    y = Axis("workloads solved", 0.0, 1.03, ticks=tuple((v / 4, percent(v / 4)) for v in range(5)))
    unit = measured(content["workloads"], content["profile"])
    x = Axis(f"τ: times the fastest method's {unit}", taus[0], taus[-1])
    caption = (
        f"The share of workloads that a method solves within τ times the {unit} of the fastest one there. "
        "The score is the area under this curve, as AlgoPerf defines it: 1 is the fastest everywhere."
    )
    chart = Chart("Performance profile over workloads", x, y, tuple(reversed(layers)))
    shown = leading(content, [place["label"] for place in content["order"]])
    return _opened(Figure("profile", "Performance profile", caption, {"": chart}), shown)
