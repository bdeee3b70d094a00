"""Paths on functions of two variables: the functions, the protocol, the level lines and the picture."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from downslope._checks import UnknownMethod
from downslope.cli import app
from downslope.referee import Landscape, RaceError, trace
from downslope.referee.contours import level_lines
from downslope.referee.landscapes import LANDSCAPES
from downslope.referee.tracepicture import outcome, picture, settings
from downslope.referee.tracing import RATES, _arrived

runner = CliRunner()
SVG = "{http://www.w3.org/2000/svg}"
BOWL = Landscape(
    name="bowl",
    formula="2x² + y²/2",
    value=lambda x, y: 2 * x**2 + y**2 / 2,
    start=(1.0, -1.0),
    minima=((0.0, 0.0),),
    window=(-1.5, 1.5, -1.5, 1.5),
    tolerance=0.02,
    steps=40,
)


@pytest.mark.parametrize("ground", LANDSCAPES.values(), ids=LANDSCAPES.keys())
def test_the_minima_are_where_they_are_said_to_be(ground: Landscape):
    x0, x1, y0, y1 = ground.window
    for minimum in ground.minima:
        point = torch.tensor(minimum, dtype=torch.float64, requires_grad=True)
        value = ground.value(point[0], point[1])
        (slope,) = torch.autograd.grad(value, point)
        assert value.item() == pytest.approx(ground.least, abs=1e-9)
        assert slope.abs().max() < 1e-4 or ground.name == "river"
    x, y = torch.meshgrid(torch.linspace(x0, x1, 301), torch.linspace(y0, y1, 301), indexing="ij")
    assert ground.value(x, y).min() >= ground.least - 1e-6
    for x, y in (ground.start, *ground.minima):
        assert x0 < x < x1
        assert y0 < y < y1


def test_the_functions_are_the_classical_ones():
    def at(name: str, x: float, y: float) -> float:
        return LANDSCAPES[name].value(torch.tensor(x), torch.tensor(y)).item()

    assert at("rosenbrock", -1.2, 1.0) == pytest.approx(24.2)
    assert at("beale", 1.0, 1.0) == pytest.approx(1.5**2 + 2.25**2 + 2.625**2)
    assert at("himmelblau", 0.0, 0.0) == 170
    assert at("rastrigin", 0.5, 0.0) == pytest.approx(20.25)
    assert at("saddle", 0.0, 0.0) == 0


def test_gradient_descent_walks_as_on_paper():
    """SGD without momentum on a bowl multiplies each coordinate by 1 - lr times its curvature."""
    (path,) = trace(replace(BOWL, steps=5), ["sgd"], trials=1).paths
    lr, momentum = path.hyper["lr"], path.hyper["momentum"]
    x, v = np.array(BOWL.start), np.zeros(2)
    for point in path.points[1:]:
        slope = np.array([4.0, 1.0]) * x
        v = momentum * v + slope
        x = x - lr * (slope + momentum * v)  # torch's Nesterov, which SGD's card fixes
        assert point == pytest.approx(tuple(x), rel=1e-12)


def test_every_method_has_the_same_trials_and_the_best_one_is_drawn():
    told: list[str] = []
    found = trace(BOWL, ["adam", "lion"], trials=12, progress=told.append)
    assert told == ["adam", "lion"]
    adam, lion = found.paths
    assert adam.tried == lion.tried == 12
    assert RATES[1] <= adam.hyper["lr"] <= RATES[2]
    assert "weight_decay" not in adam.hyper
    assert adam.arrived is not None
    assert adam.hits >= 1
    limit = BOWL.least + BOWL.tolerance
    assert all(v <= limit for v in adam.values[adam.arrived :])
    assert adam.values[adam.arrived - 1] > limit
    best = min((p for p in _all(BOWL, "adam", 12) if p.arrived is not None), key=lambda p: p.arrived)
    assert adam.arrived == best.arrived
    assert sum(p.arrived is not None for p in _all(BOWL, "adam", 12)) == adam.hits


def _all(ground: Landscape, key: str, trials: int):
    from downslope.referee import tracing

    noise = np.zeros((ground.steps, 2))
    points = tracing.candidates(tracing._space(key), trials, 0)
    return [tracing._walk(key, ground, hyper, noise, 0) for hyper in points]


def test_a_path_is_the_same_every_time_and_noise_is_shared():
    noisy = replace(BOWL, noise=0.5, tolerance=1e-9)
    first = trace(noisy, ["sgd", "sophia-h"], trials=3)
    assert trace(noisy, ["sgd", "sophia-h"], trials=3).to_json() == first.to_json()
    random = replace(BOWL, value=lambda x, y: BOWL.value(x, y) * (1 + 0.1 * torch.rand(())))
    one = trace(random, ["sgd"], trials=2)
    torch.manual_seed(7)  # nobody's business
    assert trace(random, ["sgd"], trials=2).to_json() == one.to_json()
    assert trace(noisy, ["sgd"], trials=3, seed=1).paths[0].points != first.paths[0].points
    quiet = trace(BOWL, ["sgd"], trials=3)
    assert quiet.paths[0].points != first.paths[0].points
    state = torch.get_rng_state()
    trace(random, ["sgd"], trials=1, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_flying_through_the_minimum_is_not_arriving():
    assert _arrived([5, 0, 5, 0, 0], 1) == 3
    assert _arrived([5, 0, 5], 1) is None
    assert _arrived([0, 0], 1) == 0
    assert _arrived([5, math.nan], 1) is None


def test_divergence_is_told_and_drawn():
    steep = replace(BOWL, value=lambda x, y: 1e6 * (x**4 + y**4), tolerance=1e-12)
    found = trace(steep, ["sgd"], trials=1, steps=50)
    (path,) = found.paths
    assert path.broken is not None
    assert path.broken.startswith("diverged at step")
    assert path.arrived is None
    assert len(path.points) < 51
    assert all(math.isfinite(c) for point in path.points for c in point)
    root = ElementTree.fromstring(picture(found))
    assert "diverged" in root.get("aria-label", "")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["paths"][0]["broken"] == path.broken


@pytest.mark.parametrize("key", ["muon", "galore", "sinkgd"])
def test_methods_for_matrices_are_refused(key: str):
    with pytest.raises(RaceError, match=f"{key!r} cannot be traced: it refuses a point of two numbers") as error:
        trace("rosenbrock", ["adam", key])
    assert error.value.bad_input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"function": "rosenbrok"}, "There is no function 'rosenbrok'; did you mean 'rosenbrock'?"),
        ({"trials": 0}, "trials must be a whole number >= 1; got 0."),
        ({"steps": 0}, "steps must be a whole number >= 1; got 0."),
        ({"methods": []}, "methods must name at least one method"),
        ({"methods": ["adam", "adam"]}, "each method may be named once"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, sentence: str):
    with pytest.raises(RaceError) as error:
        trace(**({"function": "beale", "methods": ["adam"]} | arguments))
    assert sentence in str(error.value)


def test_unknown_methods_and_parts_are_refused():
    with pytest.raises(UnknownMethod, match="did you mean 'adam'"):
        trace("beale", ["adamm"])
    with pytest.raises(UnknownMethod, match="is a part"):
        trace("beale", ["clip-global-norm"])


def test_level_lines_of_a_cone_are_circles():
    y, x = np.mgrid[-2:2:81j, -2:2:81j]
    lines = level_lines(np.hypot(x, y), 1.0)
    assert len(lines) == 1
    ring = np.array(lines[0]) / 20 - 2
    assert np.hypot(ring[:, 0], ring[:, 1]) == pytest.approx(1, abs=1e-3)
    assert lines[0][0] == lines[0][-1]
    turned = np.unwrap(np.arctan2(ring[:, 1], ring[:, 0]))
    assert abs(turned[-1] - turned[0]) == pytest.approx(2 * math.pi)


def test_level_lines_through_a_saddle_and_over_the_edge():
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    lines = level_lines(x * y, 0.1)
    assert len(lines) == 2
    for line in lines:
        corners = np.array(line) / 19.5 - 1
        assert corners[:, 0] * corners[:, 1] == pytest.approx(0.1, abs=2e-3)
        assert max(abs(corners[0])) == pytest.approx(1)  # open lines begin and end at the edge
        assert max(abs(corners[-1])) == pytest.approx(1)
    assert level_lines(x * y, 5.0) == []


def test_the_picture_shows_paths_settings_and_marks():
    found = trace(BOWL, ["adam", "d-adaptation"], trials=4)
    root = ElementTree.fromstring(picture(found))
    words = ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]
    for path in found.paths:
        assert words.count(path.method) == 2  # beside the path and in the legend
        assert settings(path.hyper) in words
        assert outcome(path) in words
        assert f"{path.hits} of {path.tried} settings arrive" in words
    assert len(list(root.iter(f"{SVG}polygon"))) == 1  # the minimum
    lines = [e.get("points", "").split() for e in root.iter(f"{SVG}polyline")]
    assert {line[0] for line in lines} == {"553.3,599.3"}  # every path begins at the start: x 1, y -1
    assert len([e for e in root.iter(f"{SVG}path") if e.get("class") == "level"]) >= 10


def test_paths_beyond_the_colours_are_dashed():
    found = trace(BOWL, ["sgd"], trials=2)
    many = picture(replace(found, paths=found.paths * 12))
    lines = [e for e in ElementTree.fromstring(many).iter(f"{SVG}polyline") if e.get("stroke")]
    assert [e.get("stroke-dasharray") is not None for e in lines] == [False] * 10 + [True] * 2


def test_settings_are_readable():
    assert settings({"lr": 0.0123456, "nesterov": True, "rectify": False}) == "lr 0.0123, nesterov, no rectify"
    assert settings({}) == "nothing to tune"


def test_the_command(tmp_path: Path):
    path = tmp_path / "new" / "saddle.svg"
    options = ["--methods", "sgd,adam", "--trials", "3", "--steps", "20", "--picture", str(path)]
    done = runner.invoke(app, ["trace", "saddle", *options])
    assert done.exit_code == 0, done.output
    head, sgd, adam, last = done.stdout.splitlines()
    assert head.split("\t") == ["method", "tuned to", "steps", "final value", "settings that arrive"]
    assert sgd.startswith("sgd\tlr ")
    assert adam.split("\t")[4].endswith(" of 3")
    assert last == f"Picture: {path}"
    before = path.read_text(encoding="utf-8")
    told = json.loads(runner.invoke(app, ["trace", "saddle", *options, "--json"]).stdout)
    assert [len(p["points"]) for p in told["paths"]] == [21, 21]
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["beal", "--methods", "adam"], "There is no function 'beal'; did you mean 'beale'?"),
        (["beale", "--methods", "muon"], "'muon' cannot be traced"),
        (["beale", "--methods", "adam", "--picture", "/dev/null/x.svg"], "cannot write /dev/null/x.svg"),
        (["beale", "--methods", "adam", "--picture", "/"], "cannot write"),
    ],
)
def test_the_command_refuses_in_one_sentence(line: list[str], sentence: str):
    done = runner.invoke(app, ["trace", *line])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stdout == ""
