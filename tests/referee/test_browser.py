"""The report in a real browser, on a desk and on a phone, in light and in dark.

The screenshots stay in the test run's temporary folder, or in the folder named by DOWNSLOPE_SCREENSHOTS.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from downslope.referee.report import write
from tests.referee.sample import content

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, from the extra dev")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: none of its commands was found")

NASTY = "<img src=x onerror=alert(1)>&\"'</script>"
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with two workloads, one of which is called like an attack."""
    folder = tmp_path_factory.mktemp("report")
    names = ["first", NASTY.replace("/", "")]
    write(folder, content(names, {"adamw": "adamw", NASTY.replace("/", ""): "lion", "wild": "sgd"}, NASTY))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, folder: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report; what the browser complains about, or asks of the network, fails the test."""
    complaints: list[str] = []
    opened = []

    def open_page(size: dict[str, Any] = DESK, scheme: str = "light") -> Page:
        context = browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        report = (folder / "report.html").as_uri()
        page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith((report, "blob:")) else None)
        page.goto(report)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert complaints == []


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (800, 360), (360, 740)])
def test_the_bar_of_many_methods_leaves_the_screen_to_the_figures(
    width: int, height: int, browser: Browser, tmp_path: Path
):
    write(tmp_path, content(["w"], {f"a method with a long name {i}": "adamw" for i in range(24)}))
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    bar = page.locator("[data-section=w0] .bar").bounding_box()
    context.close()
    assert bar is not None
    assert bar["height"] <= height / 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "size"), [("desk", DESK), ("phone", PHONE)])
def test_it_fits_and_follows_the_theme(
    device: str, size: dict[str, int], scheme: str, visit: Callable[..., Page], folder: Path
):
    page = visit(size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.strip("rgb()").split(",")[0]) < 128) == (scheme == "dark")
    wide, narrow = (page.locator(f"#w0-metric .view:not([hidden]) .{kind}").is_visible() for kind in ("wide", "narrow"))
    assert (wide, narrow) == ((True, False) if device == "desk" else (False, True))
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('.chart text')].filter((t) => t.getClientRects().length)"
        ".map((t) => 12 * t.closest('svg').getBoundingClientRect().width / t.closest('svg').viewBox.baseVal.width))"
    )
    assert smallest >= 10  # pixels: the letters of a figure are not drawn too small to read
    assert page.locator("img").count() == 0
    where = Path(os.environ.get("DOWNSLOPE_SCREENSHOTS", folder))
    where.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=where / f"report-{device}-{scheme}.png", full_page=True)


def test_a_column_sorts_both_ways_with_misses_last(visit: Callable[..., Page]):
    page = visit()
    table = page.locator("[data-section=w0] table").first
    head = table.locator("th", has_text="steps to target")

    def column() -> list[str]:
        return table.locator("td[data-label='steps to target']").evaluate_all(
            "cells => cells.map(c => c.dataset.value)"
        )

    head.locator("button").click()
    up = column()
    assert [float(v) for v in up if v] == sorted(float(v) for v in up if v)
    assert up[-1] == ""  # the method that never arrived
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    down = column()
    assert [float(v) for v in down if v] == sorted((float(v) for v in down if v), reverse=True)
    assert down[-1] == ""
    assert up != down


def test_a_chip_hides_its_method_in_every_figure_of_its_workload(visit: Callable[..., Page]):
    page = visit()
    shown = page.locator("[data-section=w0] .m[data-m='0']:visible")
    elsewhere = page.locator("[data-section=w1] .m[data-m='0']:visible")
    before, others = shown.count(), elsewhere.count()
    assert before >= 6
    chip = page.locator("[data-section=w0] .chip[value='0']")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "false"
    assert shown.count() == 0
    assert elsewhere.count() == others
    chip.click()
    assert shown.count() == before


def test_hover_tells_the_nearest_point_and_the_switch_counts_seconds(visit: Callable[..., Page]):
    page = visit()
    view = page.locator("#w0-metric .view:not([hidden])")
    tip = page.locator("#tip")

    def touch() -> str:
        ring = view.locator(".wide svg")
        ring.scroll_into_view_if_needed()
        box = ring.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.35, box["y"] + box["height"] * 0.75)
        assert tip.is_visible()
        return tip.inner_text()

    label, _, text = touch().partition("\n")
    assert label in ("adamw", NASTY.replace("/", ""), "wild")
    step, _, values = text.removeprefix("step ").partition(": ")
    assert int(step) % 20 == 0
    assert 0.3 < float(values.split()[0]) < 2.4
    page.locator("[data-section=w0] .switch button[value=second]").click()
    assert view.get_attribute("data-by") == "second"
    assert " s: " in touch()
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_a_hidden_method_is_not_found_by_hover(visit: Callable[..., Page]):
    page = visit()
    svg = page.locator(".panels figure .view:not([hidden]) svg:has(.m circle)").first
    svg.scroll_into_view_if_needed()
    spots = svg.locator(".m circle").evaluate_all(
        "dots => dots.map(d => [d.parentElement.dataset.m, d.getBoundingClientRect()])"
        ".map(([method, box]) => [method, box.x + 4, box.y + 4])"
    )
    for method in ("1", "2"):
        page.locator(f"[data-section=w0] .chip[value='{method}']").click()
    for method, x, y in spots:
        page.mouse.move(x, y)
        found = page.locator("#tip b").inner_text() if page.locator("#tip").is_visible() else ""
        assert found in ("adamw", ""), method
        assert found == "adamw" or method != "0"
    assert {method for method, _, _ in spots} > {"0"}


def test_the_legend_of_a_saved_figure_has_no_holes(visit: Callable[..., Page], tmp_path: Path):
    page = visit()
    first = page.locator("#w0-metric .view:not([hidden]) .wide .key").first.get_attribute("data-m")
    page.locator(f"[data-section=w0] .chip[value='{first}']").click()
    with page.expect_download() as download:
        page.locator("#w0-metric .save[value=svg]").click()
    download.value.save_as(tmp_path / "saved.svg")
    groups = ElementTree.parse(tmp_path / "saved.svg").iter("{http://www.w3.org/2000/svg}g")
    keys = [g for g in groups if "key" in g.get("class", "").split()]
    assert len(keys) == 2
    assert keys[0].get("transform", "").startswith("translate(12 ")


def test_a_figure_is_saved_as_svg_and_png_without_hidden_methods(visit: Callable[..., Page], tmp_path: Path):
    page = visit(DESK, "dark")
    page.locator("[data-section=w0] .chip[value='2']").click()
    saved = {}
    for kind in ("svg", "png"):
        with page.expect_download() as download:
            page.locator(f"#w0-metric .save[value={kind}]").click()
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
    assert saved["svg"].name == "w0-metric-step.svg"
    root = ElementTree.fromstring(saved["svg"].read_text())
    methods = {g.get("data-m") for g in root.iter("{http://www.w3.org/2000/svg}g")} - {None}
    assert methods == {"0", "1"}
    assert "prefers-color-scheme" in saved["svg"].read_text()
    width, height = (float(root.get(side, "0")) for side in ("width", "height"))
    data = saved["png"].read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 2 * width
    assert int.from_bytes(data[20:24], "big") == 2 * int(height)
    corner = page.evaluate(
        """async (data) => {
            const image = new Image();
            image.src = "data:image/png;base64," + data;
            await image.decode();
            const canvas = document.createElement("canvas");
            canvas.getContext("2d").drawImage(image, 0, 0);
            return [...canvas.getContext("2d").getImageData(3, 3, 1, 1).data];
        }""",
        base64.b64encode(data).decode(),
    )
    assert corner == [255, 255, 255, 255]  # light, also where the page is dark
