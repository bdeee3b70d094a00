"""The figures: where they put what was measured, and which part of it they show."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from downslope.referee.draw import DARK, STYLE, WIDE, Axis, Chart, Dot, Layer, Line, draw
from downslope.referee.drawing import breadth, shortened
from downslope.referee.errors import RaceError
from downslope.referee.figures import metric_chart, profile_figure, workload_figures
from downslope.referee.picture import picture, pictures, raster, write_png
from downslope.referee.report import write
from downslope.referee.series import curve_range, leading, median_curve, method_index, thin
from tests.referee.sample import content

LABELS = {"adamw": "adamw", "lion": "lion", "wild": "sgd"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return content(["first", "second"], LABELS)


def test_axes_place_values_and_choose_round_ticks():
    assert Axis("", 0.0, 200.0).at(50.0) == 0.25
    assert Axis("", 1e-4, 1e-2, log=True).at(1e-3) == pytest.approx(0.5)
    assert [text for _, text in Axis("", 0.36, 0.71).marks(4)] == ["0.4", "0.5", "0.6", "0.7"]
    assert [text for _, text in Axis("", 0.0, 550.0).marks(6)] == ["0", "100", "200", "300", "400", "500"]
    assert [value for value, _ in Axis("", 1e-5, 1e-1, log=True).marks(4)] == pytest.approx(
        [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    )
    assert [value for value, _ in Axis("", 0.9, 11.0, log=True).marks(5)] == pytest.approx([1.0, 2.0, 5.0, 10.0])
    for low, high in ((0.0, 0.0), (5.0, 5.0), (-1e-9, 1e9), (1e-12, 3e-12)):
        marks = Axis("", low, high).marks(4)
        assert all(math.isfinite(v) for v, _ in marks)
        assert len(marks) <= 12


def test_a_line_is_drawn_where_its_numbers_are():
    layer = Layer(0, "a", (Line([(0.0, 0.0), (10.0, 1.0)]),))
    text = draw(Chart("t", Axis("x", 0.0, 10.0), Axis("y", 0.0, 1.0), (layer,)), WIDE, "c", page=True)
    left, top, width, height = map(float, re.search(r'data-frame="([^"]+)"', text).group(1).split())
    path = ElementTree.fromstring(text).find(f".//{SVG}g[@class='m t0']/{SVG}path").get("d")
    numbers = [float(x) for x in re.findall(r"[\d.]+", path)]
    assert numbers == pytest.approx([left, top + height, left + width, top], abs=0.11)


def test_named_ticks_stand_whole_and_only_a_name_without_room_is_cut():
    names = ("0 %", "100 %", "a method of many words and no end to its name")
    layer = Layer(0, "a", (Line([(0.0, 0.0), (10.0, 1.0)]),))
    for shown, cut in ((names[:2], set()), (names, {names[2]})):
        axis = Axis("y", 0.0, 2.0, ticks=tuple((float(i), name) for i, name in enumerate(shown)))
        text = draw(Chart("t", Axis("x", 0.0, 10.0), axis, (layer,)), WIDE, "c", page=True)
        written = {each.text for each in ElementTree.fromstring(text).iter(f"{SVG}text")}
        assert set(shown) - written == cut
        assert sum(each.endswith("…") for each in written if each) == len(cut)


def test_stairs_hold_each_value_until_the_next():
    layer = Layer(0, "a", (Line([(0.0, 1.0), (4.0, 1.0), (5.0, 0.0), (10.0, 0.0)], stairs=True),))
    text = draw(Chart("t", Axis("x", 0.0, 10.0), Axis("y", 0.0, 1.0), (layer,)), WIDE, "c", page=True)
    path = ElementTree.fromstring(text).find(f".//{SVG}g[@class='m t0']/{SVG}path").get("d")
    assert path.count("L") == 4  # one corner more than the points
    corner = [tuple(map(float, point.split())) for point in path.lstrip("M").split("L")][2]
    top = float(re.search(r'data-frame="\S+ (\S+)', text).group(1))
    assert corner[1] == pytest.approx(top)


def test_colours_repeat_with_dashes_and_every_one_has_a_dark_twin():
    layer = Layer(9, "tenth", (Line([(0.0, 0.0), (1.0, 1.0)]), Dot(0.0, 0.0)))
    text = draw(Chart("t", Axis("x", 0.0, 1.0), Axis("y", 0.0, 1.0), (layer,)), WIDE, "c")
    assert 'class="m t1" data-m="9"' in text
    assert text.count("stroke-dasharray") >= 2  # the line and its legend
    assert set(re.findall(r"\.t\d", STYLE)) == set(re.findall(r"\.t\d", DARK)) == {f".t{i}" for i in range(8)}


def _contrast(a: str, b: str) -> float:
    """The ratio of WCAG 2.1."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("style", [STYLE, DARK])
def test_colours_stand_out_from_their_ground(style: str):
    ground = re.search(r"\.ground \{ fill: (#\w+)", style).group(1)
    for colour in re.findall(r"\.t\d \{ color: (#\w+)", style):
        assert _contrast(colour, ground) >= 3.0, colour  # WCAG 1.4.11, graphical objects
    for colour in re.findall(r"(?:text|goal) \{ fill: (#\w+)", style):
        assert _contrast(colour, ground) >= 4.5, colour  # 1.4.3, text


def test_the_frame_shows_what_happens_near_the_target_and_not_the_first_steps():
    def curve(rate: float) -> dict[str, list[float]]:
        steps = list(range(0, 501, 20))
        return {"step": steps, "median": [0.35 + 2.0 * math.exp(-rate * s) for s in steps], "low": [], "high": []}

    low, high = curve_range([curve(0.02), curve(0.03), curve(0.025)], 0.39, falling=True)
    assert low < 0.35
    assert 0.4 < high < 0.8  # 2.35 at the start is far above
    up = [{"step": [0, 50, 100, 200], "median": [0.1, 0.7, 0.8, 0.9], "low": [], "high": []}]
    low, high = curve_range(up, 0.95, falling=False)
    assert 0.6 < low < 0.7
    assert high > 0.95
    assert curve_range([], 0.4, falling=True) is None
    noisy = [{"step": [0, 10, 20, 30], "median": [3.9, 3.7, 3.5, 3.9], "low": [], "high": []}]
    low, high = curve_range(noisy, None, falling=True)
    assert low < 3.5  # the best is in the frame, though the last is worse than the first
    assert high > 3.7


def test_the_loss_starts_where_it_was_first_measured():
    runs = [{"step": [0, 10, 20], "loss": [None, 0.9, 0.8]}, {"step": [0, 10], "loss": [None, 0.7]}]
    assert median_curve(runs, "loss") == {
        "step": [10, 20],
        "median": [0.8, 0.75],
        "low": [0.7, 0.7],
        "high": [0.9, 0.8],
    }


def test_thinning_keeps_both_ends():
    assert thin([1, 2, 3], 5) == [1, 2, 3]
    assert thin(list(range(1000)), 11) == [round(i * 99.9) for i in range(11)]


def test_every_figure_of_a_race(results: dict[str, Any]):
    figures = {f.key: f for f in workload_figures(results, results["workloads"][0])}
    assert list(figures)[:7] == ["metric", "loss", "waiting", "arrivals", "tuning", "cost", "memory"]
    assert [f.title for f in figures.values() if f.small] == ["lr", "weight_decay", "betas", "nesterov", "momentum"]
    assert all(set(figures[k].charts) == {"step", "second"} for k in ("metric", "loss", "waiting", "arrivals"))
    assert profile_figure(results) is not None
    assert profile_figure({**results, "workloads": results["workloads"][:1]}) is None


def test_seconds_are_steps_times_the_measured_seconds_per_step(results: dict[str, Any]):
    w = results["workloads"][0]
    charts = next(f for f in workload_figures(results, w) if f.key == "arrivals").charts
    per_step = {s["label"]: s["seconds"]["value"] for s in w["standings"]}
    for by_step, by_second in zip(charts["step"].layers, charts["second"].layers, strict=True):
        factor = per_step[by_step.label]
        dots = [[d.x for d in c.shapes if isinstance(d, Dot) and d.shape == "dot"] for c in (by_step, by_second)]
        assert dots[1] == pytest.approx([x * factor for x in dots[0]])


def test_a_panel_tells_how_each_trial_ended_and_which_was_chosen(results: dict[str, Any]):
    w = results["workloads"][0]
    one = json_copy(w)
    cut = next(t for t in one["trials"] if t["task"] == "first/lion/tune/004")
    cut |= {"steps_to_target": None, "cut": 120}
    panel = next(f for f in workload_figures(results, one) if f.title == "lr").charts[""]
    assert panel.x.log
    by_label = {layer.label: layer for layer in panel.layers}
    shapes = {label: [d.shape for d in layer.shapes] for label, layer in by_label.items()}
    assert shapes["lion"].count("cut") == 1
    assert shapes["wild"].count("cross") == 1
    assert "ring" in shapes["wild"]
    assert all(s.count("halo") == 1 for s in shapes.values())
    for label, layer in by_label.items():
        tuned = next(s["tuned"]["lr"] for s in w["standings"] if s["label"] == label)
        assert next(d.x for d in layer.shapes if d.shape == "halo") == tuned
    assert {text for _, text in panel.y.ticks} >= {"missed", "cut", "broke"}
    assert any("cut at step 120" in text for *_, text in by_label["lion"].hover)
    assert any(text.startswith("trial 2: broke; lr ") for *_, text in by_label["wild"].hover)


def test_zero_has_a_place_of_its_own_on_a_logarithmic_axis(results: dict[str, Any]):
    w = json_copy(results["workloads"][0])
    plan = json_copy(results["plan"])
    plan["methods"][1]["space"]["weight_decay"] = ["log", 1e-4, 1e-1]
    for t in w["trials"]:
        if "/lion/" in t["task"]:
            t["hyper"]["weight_decay"] = 1e-3
    panel = next(f for f in workload_figures({**results, "plan": plan}, w) if f.title == "weight_decay").charts[""]
    assert panel.x.log
    assert (panel.x.ticks or ())[0][1] == "0"
    assert panel.x.low < (panel.x.ticks or ())[0][0] < 1e-4


def json_copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_files_stand_alone(results: dict[str, Any]):
    found = pictures(results)
    assert {"first-metric-step", "first-metric-second", "second-tuning", "first-hyper-0", "all-profile"} <= set(found)
    for name, text in found.items():
        root = ElementTree.fromstring(text)
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert root.find(f"{SVG}style") is not None
        shown = {t.text for t in root.iter(f"{SVG}text")}
        assert {"adamw", "lion", "wild"} & shown, name  # a legend, or names on the axis
    panels = ElementTree.fromstring(picture(results))
    inner = panels.findall(f"{SVG}svg")
    assert [p.get("x") for p in inner] == ["0", "480"]
    assert int(panels.get("height", "")) == max(int(p.get("height", "")) for p in inner) > 300


def test_of_many_methods_the_curves_begin_with_the_first_and_the_baseline():
    many = content(["w"], {f"m{i}": ("adamw", "lion", "sgd")[i % 3] for i in range(12)})
    (w,) = many["workloads"]
    ranked = [s["label"] for s in w["standings"]]
    many["order"] = [{"label": label, "targets": 1, "factor": 1.0} for label in ranked]
    slow = ranked[-1]
    many["plan"]["methods"].sort(key=lambda m: m["label"] != slow)  # the baseline is named first
    shown = leading(many, ranked)
    assert shown == [*ranked[:7], slow]
    assert method_index(many, slow) == 0
    assert sorted(method_index(many, label) for label in shown) == list(range(8))  # each with a colour of its own
    figures = {f.key: f for f in workload_figures(many, w)}
    for key in ("metric", "loss", "waiting", "tuning"):
        for chart in figures[key].charts.values():
            assert {layer.label for layer in chart.layers if not layer.hidden} == set(shown)
    assert not any(layer.hidden for layer in figures["arrivals"].charts["step"].layers)  # they have rows of their own
    betas = next(f for f in figures.values() if f.title == "betas").charts[""]
    assert len(betas.layers) == 4
    assert [layer.hidden for layer in betas.layers] == [layer.label not in shown for layer in betas.layers]
    assert 'class="m ' not in draw(figures["arrivals"].charts["step"], WIDE, "c", page=True)  # no name hides a row
    chart = figures["metric"].charts["step"]
    assert _methods(draw(chart, WIDE, "c", page=True), off=True) == {method_index(many, x) for x in ranked[7:-1]}
    assert _methods(draw(chart, WIDE, "c")) == set(range(8))
    assert (
        chart.y
        == metric_chart(many, w | {"standings": w["standings"][:7] + w["standings"][-1:]}, "metric", "made up").y
    )
    tall = ElementTree.fromstring(draw(figures["arrivals"].charts["step"], WIDE, "c", page=True))
    assert float(tall.get("viewBox", "").split()[3]) == WIDE.height > 54 + 18 * 12
    high = ElementTree.fromstring(draw(replace(figures["arrivals"].charts["step"], rows=30), WIDE, "c", page=True))
    assert float(high.get("viewBox", "").split()[3]) == 54 + 18 * 30


def _methods(svg: str, *, off: bool = False) -> set[int]:
    groups = [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("data-m")]
    return {int(g.get("data-m", "")) for g in groups if ("off" in g.get("class", "").split()) == off}


def test_a_panel_of_hidden_methods_alone_is_not_a_file():
    many = content(["w"], {f"m{i}": ("adamw", "lion", "sgd")[i % 3] for i in range(12)})  # the four of sgd come last
    panels = {f.title: f for f in workload_figures(many, many["workloads"][0]) if f.small}
    assert all(layer.hidden for layer in panels["nesterov"].charts[""].layers)
    assert f"w-{panels['betas'].key}" in pictures(many)
    assert f"w-{panels['nesterov'].key}" not in pictures(many)


def test_a_method_that_never_ran_has_no_place_on_an_axis_of_seconds():
    found = content(["w"], {"adamw": "adamw", "lion": "lion", "sgd": "sgd"})
    (w,) = found["workloads"]
    before = {f.key: f for f in workload_figures(found, w)}
    never = w["standings"][-1]
    never |= {"tuned": None, "seconds": None, "time": None, "arrivals": [None] * len(never["arrivals"])}
    never |= {"steps": {"value": None, "low": None, "high": None, "coverage": 0.9}}
    w["trials"] = [t for t in w["trials"] if t["task"].split("/")[1] != never["label"]]
    figures = {f.key: f for f in workload_figures(found, w)}
    waiting, arrivals = (figures[key].charts["second"] for key in ("waiting", "arrivals"))
    assert never["label"] not in {layer.label for layer in waiting.layers}
    assert never["label"] in {layer.label for layer in figures["waiting"].charts["step"].layers}
    assert never["label"] in {layer.label for layer in arrivals.layers}
    for key, chart in (("waiting", waiting), ("arrivals", arrivals)):
        assert chart.x.high <= before[key].charts["second"].x.high, key


def test_short_races_have_a_short_axis_of_seconds():
    found = content(["w"], {"adamw": "adamw", "lion": "lion"})
    (w,) = found["workloads"]
    for s in w["standings"]:
        s["seconds"] = {name: 1e-6 for name in s["seconds"]}
    (waiting,) = (f for f in workload_figures(found, w) if f.key == "waiting")
    assert waiting.charts["second"].x.high < 0.01


def test_a_text_is_cut_only_where_the_widest_face_has_no_room():
    assert breadth("adamw") >= 44  # DejaVu Sans at 12 pixels
    assert shortened("adamw", breadth("adamw")) == "adamw"
    cut = shortened("a name that is too long", 60)
    assert cut.endswith("…")
    assert breadth(cut) <= 60


def test_names_that_leave_nothing_for_a_file_are_numbered():
    found = pictures(content(["ÄÖ", "a b", "a-b"], {"adamw": "adamw"}))
    assert {"workload-1-loss-step", "a-b-2-loss-step", "a-b-3-loss-step"} <= set(found)


def test_a_picture_becomes_png(results: dict[str, Any]):
    pytest.importorskip("resvg_py", reason="needs downslope[png]")
    data = raster(pictures(results)["first-metric-step"], zoom=1)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == WIDE.width


def test_every_figure_of_a_folder_becomes_png(tmp_path: Path):
    pytest.importorskip("resvg_py", reason="needs downslope[png]")
    found = content(["one"], {"adamw": "adamw"})
    write(tmp_path, found)
    write_png(tmp_path, found)
    drawn = {p.with_suffix("").name for p in tmp_path.rglob("*.svg")}
    assert {p.with_suffix("").name for p in tmp_path.rglob("*.png")} == drawn
    assert {"curves", "one-metric-step"} <= drawn


def test_png_without_its_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(RaceError, match=r"pip install 'downslope\[png\]'"):
        raster("<svg/>")
