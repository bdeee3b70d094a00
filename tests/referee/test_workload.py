"""What a workload must be, where it may come from, and what is said when it is not one."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from downslope.referee.data import Batches
from downslope.referee.metrics import cross_entropy, mean_loss
from downslope.referee.workload import Workload, WorkloadError, builtin_workloads, load_workload

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_workload.py"


def tiny() -> Workload:
    batches = Batches(torch.rand(8, 3), torch.arange(8) % 2, size=4)
    return Workload(
        name="tiny",
        model=lambda: nn.Linear(3, 2),
        train=batches,
        validation=batches,
        loss=cross_entropy,
        metric=mean_loss(cross_entropy),
        metric_name="loss",
        goal="min",
        target=0.5,
        steps=10,
        evaluate_every=5,
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("name", "", "`name` must be a text that is not empty; got ''"),
        ("name", 3, "`name` must be a text that is not empty; got 3"),
        ("name", "a/b", "`name` must be a text without slashes"),
        ("model", nn.Linear(1, 1).weight, "`model` must be a function"),
        ("loss", None, "`loss` must be a function (pass the function, not its result); got None"),
        ("metric", 0.3, "`metric` must be a function"),
        ("metric_name", None, "`metric_name` must be a text"),
        ("train", 7, "`train` must be an iterable of batches; got 7"),
        ("train", "data", "`train` must be an iterable of batches; got 'data'"),
        ("train", (b for b in [1]), "`train` must be iterable more than once"),
        ("validation", [], "`validation` must be at least one batch long; got a list"),
        ("goal", "maximum", "`goal` must be 'min' or 'max'; got 'maximum'"),
        ("target", math.nan, "`target` must be a finite number; got nan"),
        ("target", math.inf, "`target` must be a finite number; got inf"),
        ("target", "0.9", "`target` must be a finite number; got '0.9'"),
        ("target", True, "`target` must be a finite number; got True"),
        ("steps", 0, "`steps` must be a whole number of steps above 0; got 0"),
        ("steps", 10.0, "`steps` must be a whole number of steps above 0; got 10.0"),
        ("steps", True, "`steps` must be a whole number of steps above 0; got True"),
        ("evaluate_every", -5, "`evaluate_every` must be a whole number of steps above 0; got -5"),
        ("evaluate_every", 11, "`evaluate_every` must be at most steps (10); got 11"),
        ("licence", None, "`licence` must be a text; got None"),
    ],
)
def test_a_wrong_field_is_refused_in_one_sentence(field: str, value: object, says: str) -> None:
    with pytest.raises(WorkloadError) as refused:
        replace(tiny(), **{field: value})
    message = str(refused.value)
    assert says in message
    assert message.startswith("Workload ")
    assert message.endswith(".")
    assert "\n" not in message


def test_an_iterable_without_a_length_is_fine() -> None:
    class Endless:
        def __iter__(self):
            return iter(range(3))

    assert replace(tiny(), train=Endless()).train


def test_reached_and_better_follow_the_goal_and_never_prefer_nan() -> None:
    down, up = tiny(), replace(tiny(), goal="max")
    assert down.reached(0.5)
    assert not down.reached(0.51)
    assert up.reached(0.5)
    assert not up.reached(0.49)
    assert down.better(0.1, 0.2)
    assert up.better(0.2, 0.1)
    for workload in (down, up):
        assert not workload.better(0.1, 0.1)
        assert not workload.reached(math.nan)
        assert workload.better(9.0, math.nan)
        assert not workload.better(math.nan, 9.0)
        assert not workload.better(math.nan, math.nan)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fashion-mpl", "did you mean 'fashion-mlp'?"),
        ("sotu_gpt", "did you mean 'sotu-gpt'?"),
        ("zzz", "the built-in ones are fashion-mlp, sotu-gpt"),
    ],
)
def test_an_unknown_name_gets_the_nearest_or_all(name: str, says: str) -> None:
    with pytest.raises(WorkloadError, match="There is no workload") as refused:
        load_workload(name)
    assert says in str(refused.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


IMPORT = "from downslope.referee.workload import Workload\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", ", line 1: this is not valid Python: "),
        ("x = 1\n\nimport nowhere_at_all\n", ", line 3: the file raised ModuleNotFoundError: No module named"),
        ("raise SystemExit\n", ", line 1: the file raised SystemExit: no message"),
        ("x = 1\n", ": no function returns a Workload; write one, beginning with `def workload() -> Workload:`"),
        (IMPORT, ": no function returns a Workload"),
        ("def workload():\n    return 3\n", ", line 1: workload() must return a downslope.referee.Workload; got int"),
        ("def workload():\n    pass\n", "got NoneType"),
        (
            "def workload(path):\n    pass\n",
            ", line 1: workload() must be callable without arguments; give path a default",
        ),
        (
            "def workload():\n    x = 1\n    return x / 0\n",
            ", line 3: workload() raised ZeroDivisionError: division by zero",
        ),
        (IMPORT + "def workload():\n    return Workload()\n", ", line 3: workload() raised TypeError"),
        (
            IMPORT + "def a() -> Workload: ...\ndef b() -> 'Workload': ...\n",
            ": several functions return a Workload: a (line 2), b (line 3); name the one to race `workload`.",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(WorkloadError) as refused:
        load_workload(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert says in message
    assert "\n" not in message


def test_a_wrong_field_in_a_file_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE.read_text(encoding="utf-8").replace("steps=400", "steps=0"))
    with pytest.raises(WorkloadError, match=r"mine\.py, line 13: Workload 'my-workload': `steps` must be"):
        load_workload(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="there is no such file"):
        load_workload(tmp_path / "none.py")


def test_the_function_is_the_one_named_workload_or_the_only_annotated_one(tmp_path: Path) -> None:
    body = "\n    w = load_workload(EXAMPLE)\n    return replace(w, name={name!r})\n"
    head = (
        "from dataclasses import replace\nfrom downslope.referee import Workload, load_workload\n"
        f"EXAMPLE = {str(EXAMPLE)!r}\n"
    )
    two = "def other() -> Workload:" + body.format(name="other") + "def workload():" + body.format(name="chosen")
    assert load_workload(write(tmp_path, head + two)).name == "chosen"
    one = "def helper():\n    return 1\ndef other() -> Workload:" + body.format(name="other")
    assert load_workload(write(tmp_path, head + one)).name == "other"


def test_a_file_may_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_mine.py").write_text(f"EXAMPLE = {str(EXAMPLE)!r}\n", encoding="utf-8")
    text = "from downslope.referee import load_workload\nfrom neighbour_of_mine import EXAMPLE\n"
    path = write(tmp_path, text + "def workload():\n    return load_workload(EXAMPLE)\n")
    assert load_workload(path).name == "my-workload"


def train(workload: Workload, steps: int) -> tuple[list[float], float]:
    """A few steps of AdamW from seed 0: the losses, and the metric at the end."""
    torch.manual_seed(0)
    model = workload.model()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[float] = []
    while len(losses) < steps:
        for batch in workload.train:
            loss = workload.loss(model, batch)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    model.eval()
    with torch.no_grad():
        return losses, workload.metric(model, workload.validation)


def test_the_example_has_25_lines_and_learns() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 26
    workload = load_workload(EXAMPLE)
    assert workload.name == "my-workload"
    losses, metric = train(workload, 30)
    assert losses[-1] < 0.5 * losses[0]
    assert metric > 0.6


def test_the_list_names_every_file_and_the_two_that_need_no_download_come_first() -> None:
    folder = Path(sys.modules["downslope.referee.workloads"].__file__ or "").parent
    files = {file.stem.replace("_", "-") for file in folder.glob("*.py")} - {"--init--"}
    assert set(builtin_workloads()) == files
    assert list(builtin_workloads())[:2] == ["fashion-mlp", "sotu-gpt"]
    assert all(builtin_workloads().values())


def test_an_unknown_keyword_names_the_nearest(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from downslope.referee import Workload\n\n"
        "def workload() -> Workload:\n    return Workload(name='x', desciption='y')\n"
    )
    with pytest.raises(WorkloadError, match="line 4: a Workload has no 'desciption'; did you mean 'description'"):
        load_workload(path)
