from __future__ import annotations

import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from downslope.cli import app
from downslope.referee import RaceError, profile, scoreboard
from downslope.referee.drawing import check_path, spread

runner = CliRunner()
TEXT = "submission,mnist,wmt\nadamw,10,40\n<lion>,20,20\nsgd,,100\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "times.csv"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_score_prints_lines_with_tabs_in_a_pipe(table: Path):
    done = runner.invoke(app, ["score", str(table)])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "submission\tscore\treached\tworkloads\tspeedup\tcompared",
        "adamw\t0.8333\t2\t2\t1\t2",
        "<lion>\t0.8333\t2\t2\t1\t2",
        "sgd\t0.0000\t1\t2\t0.4\t1",
    ]


def test_score_prints_a_table_on_a_terminal(table: Path):
    out = io.StringIO()
    scoreboard.show(profile(table, baseline="<lion>"), Console(file=out, width=100, force_terminal=False))
    head, first, *_, last = out.getvalue().splitlines()
    assert head.split() == ["submission", "score", "targets", "speed-up", "over", "<lion>", "mnist", "wmt"]
    assert first.split() == ["adamw", "0.8333", "2", "of", "2", "1", "×", "1.00", "2.00"]
    assert last.split() == ["sgd", "0.0000", "1", "of", "2", "0.2", "×", "(over", "1)", "miss", "5.00"]


def test_score_prints_json(table: Path):
    done = runner.invoke(app, ["score", str(table), "--json", "--tau", "3", "--budgets", "mnist=30,wmt=120"])
    found = json.loads(done.stdout)
    assert found["score"] == pytest.approx({"adamw": 0.75, "<lion>": 0.75, "sgd": 0})
    assert found["speedup"]["sgd"] == pytest.approx((10 / 30 * 40 / 100) ** 0.5)


def test_what_the_table_lacks_is_said(tmp_path: Path):
    path = tmp_path / "long.csv"
    path.write_text("submission,workload,time\na,v,1\na,w,2\nb,w,2\n", encoding="utf-8")
    done = runner.invoke(app, ["score", str(path)])
    assert "the table has no time of b on v; it counts as a miss." in done.stderr


def test_score_draws_the_profiles(table: Path, tmp_path: Path):
    path = tmp_path / "profile.svg"
    assert runner.invoke(app, ["score", str(table), "--profile", str(path)]).exit_code == 0
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    texts = ["".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<lion> 0.833" in texts
    lines = [e.get("points") for e in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 6  # a curve and the way to its label, three times
    assert all(points.split()[0].startswith("56.0,") for points in lines[::2])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--budgets", "mnist"], "--budgets must be name=number,name=number,...; got 'mnist' in it."),
        (["--held-out", "cifar"], "'cifar' is not in the table, which has mnist, wmt."),
        (["--profile", "/dev/null/x.svg"], "cannot write /dev/null/x.svg"),
    ],
)
def test_bad_options_are_one_sentence(table: Path, arguments: list[str], sentence: str):
    done = runner.invoke(app, ["score", str(table), *arguments])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stdout == ""


def test_scoring_loads_nothing_heavy(table: Path):
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from downslope.cli import app\n"
        f"assert CliRunner().invoke(app, ['score', {str(table)!r}]).exit_code == 0\n"
        "assert not {'torch', 'numpy', 'optuna', 'plotly', 'sqlalchemy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_labels_keep_their_distance():
    places = spread([50, 10, 11, 49], 10, 0, 60)
    assert places == [59, 10, 20, 49]
    assert spread([5, 5, 5], 4, 0, 9) == [1, 5, 9]


def test_the_table_in_the_docs_is_what_is_printed(tmp_path: Path):
    text = (Path(__file__).parents[2] / "docs" / "referee.md").read_text(encoding="utf-8")
    given, shown = text.split("$ cat times.csv\n")[1].split("```")[0].split("$ downslope score")
    path = tmp_path / "times.csv"
    path.write_text(given, encoding="utf-8")
    out = io.StringIO()
    scoreboard.show(profile(path, baseline="adamw"), Console(file=out, width=100, force_terminal=False))
    assert [line.split() for line in shown.splitlines()[1:]] == [line.split() for line in out.getvalue().splitlines()]


def test_names_are_shown_as_they_are_and_not_as_markup():
    found = profile({"adamw[/b]": {"w[v2]": 1.0}, "lion[v2]": {"w[v2]": 2.0}}, baseline="lion[v2]")
    out = io.StringIO()
    scoreboard.show(found, Console(file=out, width=100, force_terminal=True))
    assert "adamw[/b]" in out.getvalue()
    assert "lion[v2]" in out.getvalue()


def test_a_profile_of_many_submissions_has_room_for_all_their_names():
    many = {f"submission number {i} {'m' * i}": {"w": 1.0 + i / 40} for i in range(40)}
    drawing = ElementTree.fromstring(scoreboard.picture(profile(many)))
    height = float(drawing.get("height", ""))
    named = [t for t in drawing.iter("{http://www.w3.org/2000/svg}text") if "submission" in "".join(t.itertext())]
    places = sorted(float(t.get("y", "")) for t in named)
    assert len(places) == 40
    assert 0 < places[0] < places[-1] < height
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) >= 12


def test_a_picture_is_not_saved_under_the_name_of_another_format(tmp_path: Path):
    with pytest.raises(RaceError, match=r"p\.png would hold an SVG picture; name a file that ends in \.svg\."):
        check_path(tmp_path / "p.png")
    check_path(tmp_path / "p.svg")
