"""Draw: charts as plain SVG. Axes, lines, bands, dots and bars, placed by arithmetic; no browser and no library needed.

A chart is drawn once, here, for the page, for the files and for the pictures made of them. Every text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from downslope.referee.drawing import breadth, shortened
from downslope.referee.words import number

__all__ = [
    "NARROW",
    "SMALL",
    "STYLE",
    "TONES",
    "WIDE",
    "Axis",
    "Band",
    "Bar",
    "Chart",
    "Dot",
    "Layer",
    "Line",
    "Rule",
    "Size",
    "draw",
]

TONES = 8
"""Colours before lines begin to repeat them with dashes."""
ROW = 18
"""Pixels of a row with a name."""

STYLE = """
.chart { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.chart text { fill: #5a5e66; } .chart .title { font-size: 14px; font-weight: 600; fill: #1c1d20; }
.chart .ground { fill: #ffffff; } .chart .grid { stroke: #e6e3dc; } .chart .axis { stroke: #a8a49b; }
.chart .rule { stroke: #a63c17; stroke-dasharray: 1 4; stroke-linecap: round; stroke-width: 2; }
.chart .goal { fill: #a63c17; stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke; }
.chart .hollow { fill: #ffffff; } .chart .ink { stroke: #1c1d20; }
.t0 { color: #2563b0; } .t1 { color: #e2660c; } .t2 { color: #0a8a6c; } .t3 { color: #b04f9f; }
.t4 { color: #6b5b00; } .t5 { color: #3793cb; } .t6 { color: #b01542; } .t7 { color: #565c68; }
"""

DARK = """
@media (prefers-color-scheme: dark) {
  .chart text { fill: #a9aeb6; } .chart .title { fill: #ecebe7; }
  .chart .ground { fill: #1c1f23; } .chart .grid { stroke: #30343a; } .chart .axis { stroke: #5c626b; }
  .chart .rule { stroke: #f08a5d; } .chart .goal { fill: #f08a5d; stroke: #1c1f23; }
  .chart .hollow { fill: #1c1f23; } .chart .ink { stroke: #ecebe7; }
  .t0 { color: #5f9cff; } .t1 { color: #ff9d5c; } .t2 { color: #25c498; } .t3 { color: #d98be0; }
  .t4 { color: #f0d75e; } .t5 { color: #a6e3ff; } .t6 { color: #ff5d73; } .t7 { color: #aeb4bf; }
}
"""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Size:
    """Pixels of a drawing, without its title and legend."""

    width: int
    height: int


WIDE, NARROW, SMALL = Size(600, 330), Size(340, 270), Size(300, 220)


@dataclass(frozen=True)
class Axis:
    """One direction of a chart; `ticks` are (value, text), and found by themselves if None."""

    title: str
    low: float
    high: float
    log: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None

    def at(self, value: float) -> float:
        """The place of a value: 0 at the low end, 1 at the high end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return (value - low) / ((high - low) or 1.0)

    def marks(self, count: int) -> tuple[tuple[float, str], ...]:
        """About so many ticks at round values."""
        if self.ticks is not None:
            return self.ticks
        return tuple(
            (v, number(v, 4)) for v in (_decades(self.low, self.high, count) if self.log else self._round(count))
        )

    def _round(self, count: int) -> list[float]:
        raw = (self.high - self.low) / max(count, 1) or 1.0
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def _decades(low: float, high: float, count: int) -> list[float]:
    """Round values between two ends of a logarithmic axis: powers of ten, or 1, 2, 5 where these are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inside = range(first, last + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**e for e in inside for d in digits if low * 0.999 <= d * 10.0**e <= high * 1.001]
        if len(found) <= count + 1:
            break
    if len(found) > count + 1:
        found = found[:: math.ceil(len(found) / count)]
    return found or [low, high]


@dataclass(frozen=True)
class Line:
    """A line through points; `stairs` holds each value until the next."""

    points: Points
    width: float = 2.25
    opacity: float = 1.0
    stairs: bool = False


@dataclass(frozen=True)
class Band:
    """An area between (x, low, high)."""

    points: Sequence[tuple[float, float, float]]
    stairs: bool = False


@dataclass(frozen=True)
class Dot:
    """A mark at a point: `dot`, `ring`, `cross`, `cut`, `halo` (around another) or `upright` (a median)."""

    x: float
    y: float
    shape: str = "dot"


@dataclass(frozen=True)
class Bar:
    """A horizontal bar from one value to another."""

    low: float
    high: float
    y: float
    thick: float = 7
    opacity: float = 0.4


@dataclass(frozen=True)
class Rule:
    """A dotted line across the chart at a value of y (or of x), with a word."""

    value: float
    text: str = ""
    upright: bool = False


@dataclass(frozen=True)
class Layer:
    """What one method draws; `hover` are the points that can be asked for: (x, y, text).

    One that is `hidden` shows on a page when it is asked for, and is not in a file.
    """

    method: int
    label: str
    shapes: tuple[Line | Band | Dot | Bar, ...]
    hover: tuple[tuple[float, float, str], ...] = ()
    hidden: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart: two axes and the layers of the methods, the last one on top; with `rows`, each has one of its own."""

    title: str
    x: Axis
    y: Axis
    layers: tuple[Layer, ...] = field(default=())
    rules: tuple[Rule, ...] = ()
    rows: int = 0

    def fitted(self, size: Size) -> Size:
        """The size, higher where its rows need it."""
        return Size(size.width, max(size.height, 54 + ROW * self.rows))


@dataclass(frozen=True)
class Figure:
    """A figure of the report: one chart, or one for each way to count (`step` and `second`).

    Those about `tuning` stand together; `small` ones are panels.
    """

    key: str
    title: str
    caption: str
    charts: Mapping[str, Chart]
    tuning: bool = False
    small: bool = False


@dataclass(frozen=True)
class _Frame:
    """Where the plot stands in the drawing."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    def px(self, value: float) -> float:
        return self.left + self.width * self.x.at(value)

    def py(self, value: float) -> float:
        return self.top + self.height * (1 - self.y.at(value))


def draw(chart: Chart, size: Size, key: str, *, page: bool = False) -> str:
    """A chart as an SVG element: a whole file, or a part of the `page`, which shows title and legend by itself.

    `key` must be unique in a page and consist of letters, digits and hyphens.
    """
    size = chart.fitted(size)
    if not page:
        chart = replace(chart, layers=tuple(layer for layer in chart.layers if not layer.hidden))
    body, frame = _body(chart, size, key)
    legend, below = _legend(chart, size)
    full = f"0 -34 {size.width} {size.height + 34 + below}"
    style = "" if page else f"<style>{STYLE}{DARK}</style>"
    box = f"0 0 {size.width} {size.height}" if page else full
    measures = (
        f' data-full="{full}" data-frame="{_numbers(frame.left, frame.top, frame.width, frame.height)}" '
        f'data-x="{_scale(chart.x)}" data-y="{_scale(chart.y)}"'
        if page
        else f' width="{size.width}" height="{size.height + 34 + below}"'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="{box}" role="img" '
        f'aria-label="{escape(chart.title)}"{measures}>{style}'
        f'<rect class="ground" x="0" y="-34" width="{size.width}" height="{size.height + 34 + below}"/>'
        f'<text class="title" x="12" y="-12">{escape(chart.title)}</text>{body}{legend}</svg>'
    )


def _scale(axis: Axis) -> str:
    return f"{axis.low!r} {axis.high!r} {int(axis.log)}"


def _numbers(*values: float) -> str:
    return " ".join(f"{v:.1f}".removesuffix(".0") for v in values)


def _body(chart: Chart, size: Size, key: str) -> tuple[str, _Frame]:
    across = max(3, size.width // 80)
    y_marks = chart.y.marks(max(3, size.height // 60))
    longest = max((breadth(text) for _, text in y_marks), default=0.0)
    room = min(longest, size.width * (0.36 if chart.y.ticks is not None else 0.3) - 14)
    left = 14 + room
    top = 30 if chart.y.title else 12
    frame = _Frame(left, top, size.width - left - 16, size.height - top - 42, chart.x, chart.y)
    right, bottom = frame.left + frame.width, frame.top + frame.height
    parts = [f'<text x="12" y="16">{escape(chart.y.title)}</text>'] if chart.y.title else []
    for value, text in y_marks:
        y = frame.py(value)
        parts.append(f'<path class="grid" d="M{_numbers(left, y)}H{_numbers(right)}"/>')
        shown = escape(shortened(text, room))
        parts.append(f'<text x="{_numbers(left - 8)}" y="{_numbers(y + 4)}" text-anchor="end">{shown}</text>')
    for value, text in _apart(chart.x.marks(across), frame):
        x = frame.px(value)
        anchor = "end" if x + breadth(text) / 2 > size.width else "middle"
        at = _numbers(size.width - 4 if anchor == "end" else x, bottom + 17)
        parts.append(f'<path class="axis" d="M{_numbers(x, bottom)}v4"/>')
        x_text, y_text = at.split()
        parts.append(f'<text x="{x_text}" y="{y_text}" text-anchor="{anchor}">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{_numbers(left, bottom)}H{_numbers(right)}"/>')
    middle = _numbers(left + frame.width / 2)
    parts.append(f'<text x="{middle}" y="{size.height - 6}" text-anchor="middle">{escape(chart.x.title)}</text>')
    parts.append(f'<clipPath id="{key}"><rect x="{_numbers(left - 6)}" y="{_numbers(frame.top - 6)}" ')
    parts.append(f'width="{_numbers(frame.width + 12)}" height="{_numbers(frame.height + 6)}"/></clipPath>')
    lines, words = zip(*(_rule(rule, frame) for rule in chart.rules)) if chart.rules else ((), ())
    layers = "".join(_layer(layer, frame, _kind(chart, layer.method, hidden=layer.hidden)) for layer in chart.layers)
    parts += [*lines, f'<g clip-path="url(#{key})">{layers}</g>', *words]
    return "".join(parts), frame


def _apart(marks: Sequence[tuple[float, str]], frame: _Frame) -> Iterator[tuple[float, str]]:
    """The ticks whose texts do not touch."""
    end = -math.inf
    for value, text in marks:
        half = breadth(text) / 2
        if frame.px(value) - half > end + 6:
            end = frame.px(value) + half
            yield value, text


def _rule(rule: Rule, frame: _Frame) -> tuple[str, str]:
    """The line, which stands behind what is drawn, and its word, which stands before it."""
    right, bottom = frame.left + frame.width, frame.top + frame.height
    if rule.upright:
        x = frame.px(rule.value)
        line, at = f"M{_numbers(x, frame.top)}V{_numbers(bottom)}", (x - 5, frame.top + 2)
    else:
        y = frame.py(rule.value)
        line, at = f"M{_numbers(frame.left, y)}H{_numbers(right)}", (right, y - 7 if y - 7 > frame.top + 6 else y + 16)
    x_text, y_text = (_numbers(v) for v in at)
    word = f'<text class="goal" x="{x_text}" y="{y_text}" text-anchor="end">{escape(rule.text)}</text>'
    return f'<path class="rule" d="{line}"/>', word


def _layer(layer: Layer, frame: _Frame, kind: str) -> str:
    shapes = "".join(_shape(shape, frame, dashed=layer.method >= TONES) for shape in layer.shapes)
    return f'<g class="{kind}" data-m="{layer.method}">{shapes}</g>'


def _kind(chart: Chart, method: int, *, hidden: bool) -> str:
    """Colour, and what a page's names show and hide (`m`, `off`): not the rows of a chart, which have names."""
    tone = f"t{method % TONES}"
    return tone if chart.rows else f"m {tone}{' off' if hidden else ''}"


def _shape(shape: Line | Band | Dot | Bar, frame: _Frame, *, dashed: bool) -> str:
    if isinstance(shape, Line):
        points = _stairs(shape.points) if shape.stairs else shape.points
        dashes = ' stroke-dasharray="7 4"' if dashed else ""
        faint = f' stroke-opacity="{shape.opacity}"' if shape.opacity < 1 else ""
        return (
            f'<path d="{_path(points, frame)}" fill="none" stroke="currentColor" stroke-width="{shape.width}" '
            f'stroke-linejoin="round"{dashes}{faint}/>'
        )
    if isinstance(shape, Band):
        up, down = [(x, high) for x, _, high in shape.points], [(x, low) for x, low, _ in shape.points]
        if shape.stairs:
            up, down = list(_stairs(up)), list(_stairs(down))
        return f'<path d="{_path([*up, *reversed(down)], frame)}Z" fill="currentColor" fill-opacity="0.15"/>'
    if isinstance(shape, Bar):
        x0, x1, y = frame.px(shape.low), frame.px(shape.high), frame.py(shape.y) - shape.thick / 2
        return (
            f'<rect x="{_numbers(x0)}" y="{_numbers(y)}" width="{_numbers(max(x1 - x0, 1))}" '
            f'height="{shape.thick:g}" rx="{min(shape.thick / 2, 3):g}" fill="currentColor" '
            f'fill-opacity="{shape.opacity}"/>'
        )
    return _dot(shape, frame)


def _dot(dot: Dot, frame: _Frame) -> str:
    x, y = frame.px(dot.x), frame.py(dot.y)
    at = f'cx="{_numbers(x)}" cy="{_numbers(y)}"'
    if dot.shape == "dot":
        return f'<circle {at} r="4" fill="currentColor"/>'
    if dot.shape == "ring":
        return f'<circle class="hollow" {at} r="3.75" stroke="currentColor" stroke-width="1.75"/>'
    if dot.shape == "halo":
        return f'<circle class="ink" {at} r="7.5" fill="none" stroke-width="2"/>'
    paths = {"cross": "m-4,-4l8,8m0,-8l-8,8", "cut": "m-4.5,3.5h9l-4.5,-8z", "upright": "m0,-9v18"}
    kind = ' class="ink"' if dot.shape == "upright" else ' stroke="currentColor"'
    return f'<path d="M{_numbers(x, y)}{paths[dot.shape]}" fill="none"{kind} stroke-width="2"/>'


def _stairs(points: Points) -> Iterator[tuple[float, float]]:
    last: float | None = None
    for x, y in points:
        if last is not None and last != y:
            yield x, last
        yield x, y
        last = y


def _path(points: Iterable[tuple[float, float]], frame: _Frame) -> str:
    return "M" + "L".join(_numbers(frame.px(x), frame.py(y)) for x, y in points)


def _legend(chart: Chart, size: Size) -> tuple[str, int]:
    """The names of the methods below the plot, in rows, and the height that they take."""
    x, y, parts = 12, size.height + 18, []
    names = dict.fromkeys((layer.method, layer.label, layer.hidden) for layer in reversed(chart.layers))
    for method, label, hidden in names:
        shown = shortened(label, 240)
        wide = round(38 + breadth(shown))
        if x + wide > size.width and x > 12:
            x, y = 12, y + 20
        dashes = ' stroke-dasharray="7 4"' if method >= TONES else ""
        parts.append(
            f'<g class="key {_kind(chart, method, hidden=hidden)}" data-m="{method}" data-wide="{wide}" '
            f'transform="translate({x} {y})"><path d="M0 0h16" stroke="currentColor" stroke-width="3"{dashes}/>'
            f'<text x="22" y="4">{escape(shown)}</text></g>'
        )
        x += wide
    return "".join(parts), (y - size.height + 14 if parts else 0)
