"""Trials in processes of their own: what a workload does wrong ends its own trial, in one sentence, and no other."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from downslope.referee import RaceError, isolation
from downslope.referee.isolation import Errand, Household
from downslope.referee.trial import Record

pytestmark = pytest.mark.skipif(not isolation.supported(), reason="this system cannot hand sockets to a process")

ABUSER = str(Path(__file__).parent / "abuser.py")
TRIAL: dict[str, Any] = {
    "do": "trial",
    "method": "sgd",
    "hyper": {"lr": 0.1},
    "settings": {"seed": 1, "steps": 4, "target": 1.0, "goal": "max"},
}
Attempt = Callable[..., Errand]


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    """One for all tests: what one trial does must not reach the next one, so each test finds it as it was."""
    os.environ["ABUSER"] = str(tmp_path_factory.mktemp("abuser") / "deed")
    with Household(["sgd"]) as one:
        one.ask(ABUSER, {"do": "card"}, "loaded", threads=1)
        yield one
    del os.environ["ABUSER"]


@pytest.fixture
def attempt(household: Household) -> Iterator[Attempt]:
    """Do a deed in a trial and wait until that ends; no process may be left, and the next trial must be as ever."""

    def run(deed: str, **limits: Any) -> Errand:
        Path(os.environ["ABUSER"]).write_text(deed)
        return finished(household, household.start(ABUSER, TRIAL, threads=1, **limits))

    nursery = one_child(household)
    before = set(nursery.children(recursive=True))
    yield run
    assert set(nursery.children(recursive=True)) == before
    good = run("")
    assert good.cause is None
    assert Record.from_json(good.answer).steps == 4


def deed(what: str) -> Path:
    """Have this done; returns a file that is there once it has begun."""
    path = Path(os.environ["ABUSER"])
    path.write_text(what)
    begun = path.with_name("begun")
    begun.unlink(missing_ok=True)
    return begun


def finished(household: Household, errand: Errand) -> Errand:
    while not errand.ended:
        household.wait(1.0)
    return errand


def one_child(household: Household) -> psutil.Process:
    (nursery,) = household._nurseries.values()
    return psutil.Process(nursery._process.pid)


@pytest.mark.parametrize(
    ("deed", "cause"),
    [
        ("_exit", "its process ended with exit code 3"),
        ("abort", 'its process was killed by SIGABRT at "{file}", line 112 in do'),
        ("crash", "its process was killed by SIGSEGV at"),
        ("kill itself", "its process was killed by SIGKILL (as the system does when memory runs out)"),
    ],
)
def test_a_process_that_dies_is_a_cause_with_what_was_known(attempt: Attempt, deed: str, cause: str):
    errand = attempt(deed)
    assert errand.died
    assert not errand.lost
    assert (errand.cause or "").startswith(cause.partition(" at ")[0])
    assert (' at "' in (errand.cause or "")) == (" at" in cause)
    assert errand.step == 2  # it died in the third
    assert [(p.step, p.metric) for p in errand.points] == [(0, 0.5), (2, 0.5)]


@pytest.mark.parametrize("deed", ["loop", "loop @ model", "loop @ metric", "sleep in C", "ignore signals"])
def test_what_never_returns_is_ended_at_its_limit(attempt: Attempt, deed: str):
    errand = attempt(deed, seconds=0.3)
    assert errand.died
    assert errand.cause == "it was ended at its limit of 0.3 s"
    assert errand.step == (-1 if "@" in deed else 2)


def test_without_a_limit_silence_ends_it(attempt: Attempt, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "SILENCE", 0.3)
    cause = attempt("loop").cause or ""
    assert cause.startswith("it was ended after 0.005 minutes without a step; a limit of its own (trial_seconds)")


def test_a_leak_is_ended_at_its_limit(attempt: Attempt):
    errand = attempt("leak", memory=800_000_000)
    assert (errand.cause or "").startswith("it was ended at its limit of 0.8 GB of memory, holding ")


def test_what_raises_or_exits_is_a_record_with_the_place(attempt: Attempt):
    record = Record.from_json(attempt("raise").answer)
    assert record.steps == 3
    assert (record.cause or "").startswith(f"step 3: IndexError at {ABUSER}, line ")
    assert (record.cause or "").endswith(": no column 7")
    assert (Record.from_json(attempt("exit").answer).cause or "").endswith(": enough")
    assert (Record.from_json(attempt("raise @ model").answer).cause or "").startswith("step 0: IndexError at ")


@pytest.mark.parametrize("deed", ["breed", "breed daemons", "start a program", "start a thread"])
def test_what_it_started_ends_with_it(attempt: Attempt, deed: str):
    errand = attempt(deed)  # the fixture looks at what is left
    assert errand.cause is None


def test_what_it_started_ends_with_it_when_it_is_killed(attempt: Attempt):
    assert attempt("breed and hang", seconds=0.3).died


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what leaves its session is not found")
def test_what_it_started_ends_with_it_though_others_run(household: Household, attempt: Attempt):
    begun = deed("loop")
    other = household.start(ABUSER, TRIAL, threads=1)
    while not begun.exists():
        household.wait(0.01)
    family = one_child(household).children(recursive=True)
    assert attempt("breed daemons").cause is None
    assert one_child(household).children(recursive=True) == family
    other.stop()
    assert finished(household, other).died


def test_an_answer_counts_though_its_process_does_not_end(attempt: Attempt, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "GRACE", 0.2)
    errand = attempt("hang at exit")
    assert errand.cause is None
    assert Record.from_json(errand.answer).steps == 4


def test_what_it_changes_is_gone_with_it(attempt: Attempt):
    before = attempt("look").output.text()
    changed = attempt("change everything")
    assert Record.from_json(changed.answer).cause is not None
    assert attempt("look").output.text() == before != ""
    assert "float32 1 " in before
    assert torch.get_default_dtype() == torch.float32


def test_it_does_not_see_the_address_of_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    teller = tmp_path / "teller.py"
    teller.write_text("import os\ndef workload(): raise ValueError(os.environ.get('DOWNSLOPE_STORAGE', 'not there'))\n")
    monkeypatch.setenv("DOWNSLOPE_STORAGE", "postgresql://me:geheimnis42@host/races")
    with Household([]) as household, pytest.raises(RaceError, match="not there"):
        household.ask(str(teller), {"do": "card"}, "loaded", threads=1)


def test_the_end_of_what_it_prints_is_kept(attempt: Attempt):
    text = attempt("say a lot").output.text()
    first, *_, last, empty = text.split("\n")
    assert first.endswith(" bytes before this were not kept]")
    assert last.startswith("line 39999 of very many")
    assert empty == ""
    assert len(text) - len(first) - 1 == 64 * 1024
    assert attempt("say something").output.text() == "the last words\n"
    assert attempt("").output.text() == ""


def test_several_run_at_once_on_cores_of_their_own(household: Household, attempt: Attempt):
    Path(os.environ["ABUSER"]).write_text("loop")
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    pair = [household.start(ABUSER, TRIAL, threads=1, cores=[core], seconds=0.5) for _ in range(2)]
    while not all(errand.step == 2 for errand in pair):
        household.wait(0.01)
    assert len({errand.pid for errand in pair}) == 2
    if sys.platform == "linux":
        trials = [psutil.Process(errand.pid).children()[0] for errand in pair]
        assert [trial.cpu_affinity() for trial in trials] == [[core], [core]]
    assert all(finished(household, errand).died for errand in pair)


def test_the_loss_of_the_nursery_is_told_and_the_next_errand_gets_another(household: Household):
    Path(os.environ["ABUSER"]).write_text("kill the nursery")
    errand = finished(household, household.start(ABUSER, TRIAL, threads=1))
    assert errand.lost
    assert errand.cause == "the process that loads the workload ended"
    Path(os.environ["ABUSER"]).write_text("")
    assert finished(household, household.start(ABUSER, TRIAL, threads=1)).cause is None


def test_the_loss_of_the_nursery_is_told_though_a_process_holds_its_socket(household: Household):
    Path(os.environ["ABUSER"]).write_text("fork @ file")
    with Household() as other:
        other.ask(ABUSER, {"do": "card"}, "loaded", threads=1)
        nursery = one_child(other)
        (holder,) = nursery.children()
        Path(os.environ["ABUSER"]).write_text("loop")
        errand = other.start(ABUSER, TRIAL, threads=1)
        while errand.step < 2:
            other.wait(0.1)
        nursery.kill()
        other.wait(10.0)
        assert errand.lost
        holder.wait(10.0)


def test_nobody_is_told_of_an_errand_once_the_household_is_closed(household: Household):
    begun = deed("loop")
    told: list[int] = []
    with Household() as other:
        errand = other.start(ABUSER, TRIAL, threads=1)
        errand.told = lambda step, point: told.append(step)
        while not begun.exists():
            time.sleep(0.01)
    assert errand.points[-1].step == 2
    assert told == []


def test_where_forking_is_not_safe_every_errand_gets_a_fresh_interpreter(
    household: Household, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "path", [*sys.path, Path("here")])  # a path need not be a text
    Path(os.environ["ABUSER"]).write_text("start a thread @ file")
    with Household() as other:
        one, two = (finished(other, other.start(ABUSER, TRIAL, threads=1, seconds=600.0)) for _ in range(2))
        nursery = one_child(other)
    assert one.cause is two.cause is None
    assert Record.from_json(two.answer).curve[-1].metric == 0.5
    assert not nursery.is_running()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("loop @ file", r"workload '.*abuser\.py' could not be loaded: it was ended after 30 minutes without"),
        ("_exit @ file", r"could not be loaded: its process ended with exit code 3$"),
        ("say something and die @ file", "ended with exit code 3; the last that it printed: the last words$"),
        ("raise @ file", r"abuser\.py, line \d+: workload\(\) raised IndexError: no column 7"),
    ],
)
def test_a_file_that_does_not_load_is_one_sentence(
    household: Household, monkeypatch: pytest.MonkeyPatch, what: str, sentence: str
):
    begun = deed(what)
    clock = isolation.time.monotonic
    hangs = begun if what.startswith("loop") else Path("no such file")
    monkeypatch.setattr(  # the limit is reached once the file runs
        isolation.time, "monotonic", lambda: clock() + (1801.0 if hangs.exists() else 0.0)
    )
    with Household() as other, pytest.raises(RaceError, match=sentence) as error:
        other.ask(ABUSER, {"do": "card"}, "loaded", threads=1)
    assert error.value.bad_input
