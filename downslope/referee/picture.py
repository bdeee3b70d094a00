"""Picture: a race's figures as files, made without a browser; they follow a reader's light or dark theme."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from downslope.referee.draw import DARK, SMALL, STYLE, WIDE, Size, draw
from downslope.referee.errors import RaceError
from downslope.referee.figures import metric_chart, profile_figure, workload_figures
from downslope.referee.files import guard

__all__ = ["picture", "pictures", "raster", "write_png"]

PANEL = Size(480, 290)


def picture(content: Mapping[str, Any]) -> str:
    """One panel per workload: the median over seeds by step, with the band of all seeds and the target."""
    drawn = []
    for i, w in enumerate(content["workloads"]):
        drawn.append(draw(metric_chart(content, w, "metric", w["workload"]["metric_name"]), PANEL, f"p{i}"))
    heights = [int(re.search(r' height="(\d+)"', text).group(1)) for text in drawn]  # type: ignore[union-attr]
    height, width = max(heights), PANEL.width * len(drawn)
    panels = (
        text.replace("<svg ", f'<svg x="{i * PANEL.width}" ', 1).replace(f"<style>{STYLE}{DARK}</style>", "")
        for i, text in enumerate(drawn)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(content["verdict"])}"><style>{STYLE}{DARK}</style>'
        f'<rect class="ground" width="{width}" height="{height}"/>{"".join(panels)}</svg>\n'
    )


def pictures(content: Mapping[str, Any]) -> dict[str, str]:
    """Every figure of the report as an SVG file's text, by a name that is safe as a file's.

    A figure in which nothing is seen at first is left out.
    """
    found = {}
    slugs = _slugs([w["name"] for w in content["workloads"]])
    figures = [
        (slug, f) for slug, w in zip(slugs, content["workloads"], strict=True) for f in workload_figures(content, w)
    ]
    profile = profile_figure(content)
    for where, figure in [*figures, *([("all", profile)] if profile else [])]:
        for by, chart in figure.charts.items():
            if all(layer.hidden for layer in chart.layers):
                continue
            name = "-".join(x for x in (where, figure.key, by) if x)
            found[name] = draw(chart, SMALL if figure.small else WIDE, "c") + "\n"
    return found


def _slugs(names: Sequence[str]) -> list[str]:
    """The workloads' names as parts of files' names; numbered where nothing, or nothing of their own, is left."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] for name in names]
    return [s if s and slugs.count(s) == 1 else f"{s or 'workload'}-{i + 1}" for i, s in enumerate(slugs)]


def write_png(folder: Path, content: Mapping[str, Any]) -> None:
    """Make a PNG beside every SVG that a report has in its folder.

    Raises:
        RaceError: if the package that draws them is not installed.
    """
    drawn = {"curves": picture(content)} | {f"figures/{name}": text for name, text in pictures(content).items()}
    for name, text in drawn.items():
        data = raster(text)
        with guard(folder):
            (folder / f"{name}.png").write_bytes(data)


def raster(svg: str, zoom: int = 2) -> bytes:
    """A picture as PNG, in its light colours.

    Raises:
        RaceError: if the package that draws it is not installed.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise RaceError("PNG files need a package: pip install 'downslope[png]'.", bad_input=True) from error
    light = svg.replace(DARK, "")
    return svg_to_bytes(svg_string=light, zoom=zoom, font_family="DejaVu Sans", sans_serif_family="DejaVu Sans")
