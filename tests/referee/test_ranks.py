"""Workloads that train on several processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from downslope.referee import RaceError, Workload, isolation, race
from downslope.referee.isolation import Errand, Household
from downslope.referee.trial import Record

pytestmark = [
    pytest.mark.skipif(not isolation.supported(), reason="this system cannot hand sockets to a process"),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed"),
]

RANKED = str(Path(__file__).parent / "ranked.py")
LINE = next(i for i, line in enumerate(Path(RANKED).read_text().splitlines(), 1) if "raise IndexError" in line)
TRIAL: dict[str, Any] = {
    "do": "trial",
    "method": "sgd",
    "hyper": {"lr": 0.1},
    "settings": {"seed": 1, "steps": 40, "target": 0.5, "goal": "min"},
}


@pytest.fixture
def household() -> Iterator[Household]:
    with Household() as one:
        yield one


def finished(household: Household, **limits: Any) -> Errand:
    errand = household.start(RANKED, TRIAL, threads=2, **limits)
    while not errand.ended:
        household.wait(1.0)
    return errand


@pytest.mark.parametrize("wrapped", ["replicated", "sharded"])
def test_two_ranks_train_as_one_would_on_their_batches_together(
    household: Household, monkeypatch: pytest.MonkeyPatch, wrapped: str
):
    monkeypatch.setenv("RANKED", wrapped)
    record = Record.from_json(finished(household).answer)
    assert record.cause is None
    # The same by hand, in one process: the same seed, each rank's half of a batch, the mean of both gradients.
    torch.manual_seed(1)
    weights = torch.tensor([[1.0, -2.0, 3.0]])
    w = torch.nn.Linear(3, 1, bias=False).weight.detach()
    distances = [float((w - weights).norm())]
    for step in range(1, record.steps + 1):
        batch = torch.randn(8, 3)
        w = w - 0.1 * 2 * ((batch @ (w - weights).T) * batch).mean(0, keepdim=True)
        if step % 2 == 0:
            distances.append(float((w - weights).norm()))
    assert [p.metric for p in record.curve] == pytest.approx(distances, rel=1e-4)
    assert record.steps == record.steps_to_target
    assert record.curve[-1].metric <= 0.5 < record.curve[-2].metric


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        ("raise", f"rank 1 of 2: step 1: IndexError at {RANKED}, line {LINE}: no column 7"),
        ("die", "rank 1 of 2: its process was killed by SIGKILL"),
    ],
)
def test_a_rank_that_ends_ends_the_trial_with_its_cause(
    household: Household, monkeypatch: pytest.MonkeyPatch, end: str, cause: str
):
    monkeypatch.setenv("RANKED", end)
    errand = finished(household)
    assert errand.cause == cause
    assert [p.step for p in errand.points] == [0]


def test_several_processes_take_a_file(toy: Workload, tmp_path: Path):
    from dataclasses import replace

    with pytest.raises(RaceError, match="a workload that trains on 2 processes must be given by name or file"):
        race(replace(toy, processes=2), methods=["sgd"], folder=tmp_path / "race")
    with pytest.raises(ValueError, match="`processes` must be a whole number above 0; got 0"):
        replace(toy, processes=0)


def test_a_race_on_two_processes_is_judged_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANKED", "replicated")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    result = race(RANKED, methods=["sgd"], trials=1, seeds=1, folder=tmp_path / "race", quiet=True)
    (w,) = result.content["workloads"]
    (s,) = w["standings"]
    assert s["hits"] == 1
    assert w["judgement"]["measure"] == "steps"
    assert w["timing"]["turns"] == {}
    assert w["timing"]["broken"] == {"sgd": "not measured: this workload trains on 2 processes"}
    assert s["memory"] is None
    assert "Seconds per step were not measured, so there is no time." in result.report.read_text()
