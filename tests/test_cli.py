from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from downslope import __version__
from downslope.cli import app

TOY = Path(__file__).parent / "referee" / "toy_workload.py"
runner = CliRunner()


def test_looking_things_up_loads_nothing_heavy():
    """`--help`, `find` and `show` answer at once because nothing of this is imported."""
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from downslope.cli import app\n"
        "for line in ('--help', '--version', 'race --help', 'find', 'find *belief*', 'show adamw', 'workloads'):\n"
        "    assert CliRunner().invoke(app, line.split()).exit_code == 0, line\n"
        "heavy = {'torch', 'numpy', 'optuna', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version():
    assert runner.invoke(app, ["--version"]).stdout == f"downslope {__version__}\n"


def test_find_and_show():
    found = runner.invoke(app, ["find", "*belief*"])
    assert found.stdout.split("\t")[0] == "adabelief"
    shown = runner.invoke(app, ["show", "adabelief"]).stdout
    for words in ("AdaBelief", "arxiv.org", "ds.AdaBelief(params, lr=0.001", "tuning", "proved"):
        assert words in shown
    listed = runner.invoke(app, ["workloads"]).stdout
    assert "fashion-mlp" in listed


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["find", "adabelieve"], "No method matches 'adabelieve'; did you mean 'adabelief'?"),
        (["show", "adamww"], "There is no method 'adamww'; did you mean 'adamw'?"),
        (["show", "AdamW"], "There is no method 'AdamW'; did you mean 'adamw'?"),
        (["race", "fashion-mpl", "--methods", "sgd"], "There is no workload 'fashion-mpl', and no such Python file"),
        (["race", "nowhere.py", "--methods", "sgd"], "nowhere.py: there is no such file"),
        (["race", str(TOY), "--methods", "sgdd"], "There is no method 'sgdd'; did you mean 'sgd'?"),
        (["race", str(TOY), "--methods", ","], "methods must name at least one method"),
        (["race", str(TOY), "--methods", "sgd", "--trials", "0"], "trials must be a whole number >= 1; got 0."),
        (
            ["race", str(TOY), "--methods", "sgd", "--sampler", "sobol"],
            "sampler must be one of 'quasi-random', 'random'",
        ),
        (["race", str(TOY), "--methods", "sgd", "--pruner", "median", "--trials", "3"], "can cut none of 3 trials"),
        (["race", str(TOY), "--methods", "sgd", "--self-tuning", "--pruner", "median"], "is for tuning; leave it out"),
        (["race", str(TOY), "--methods", "sgd", "--self-tuning", "--trials", "8"], "trials is for tuning; leave"),
        (["race", str(TOY), "--methods", "sgd", "--budget", "nan"], "budget must be a finite number > 0"),
        (["race", str(TOY), "--methods", "sgd", "--target", "high"], "--target must be a number, or NAME=NUMBER for"),
        (
            ["race", str(TOY), "--methods", "sgd", "--target", "toy=1,toy=2"],
            "--target must be a number, or NAME=NUMBER",
        ),
        (["race", str(TOY), "--methods", "sgd", "--target", "tyo=0.9"], "target names 'tyo', which is not raced; the"),
        (
            ["race", str(TOY), "--methods", "sgd", "--target", "toy=inf"],
            "target must be a finite number; got inf for toy",
        ),
        (["race", str(TOY), "--methods", "sgd", "--compare", "all"], "compare must be one of 'pairs', 'baseline'; got"),
        (["race", str(TOY), "--methods", "sgd", "--folder", f"{TOY}/x"], "cannot write in"),
        (["report", "no-such-folder"], "no-such-folder holds no race"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(line: list[str], sentence: str):
    done = runner.invoke(app, line)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.startswith("downslope: ")
    assert done.stderr.count("\n") == 1


def test_a_race_that_cannot_be_read_is_exit_code_one(tmp_path: Path):
    (tmp_path / "race.json").write_text("{")
    done = runner.invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert "race.json is damaged" in done.stderr


def test_a_workload_file_that_raises_names_file_and_line(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("from downslope.referee import Workload\n\ndef workload() -> Workload:\n    return 1 / 0\n")
    done = runner.invoke(app, ["race", str(path), "--methods", "sgd"])
    assert done.exit_code == 2
    assert f"{path}, line 4: workload() raised ZeroDivisionError: division by zero" in done.stderr


def test_unknown_options_are_refused_by_the_command_line():
    done = runner.invoke(app, ["race", str(TOY), "--methods", "sgd", "--seed-count", "3"])
    assert done.exit_code == 2
    assert "seed" in done.stderr
