from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from downslope import make
from downslope.referee import RaceError, Workload
from downslope.referee.trial import Record, run_trial


def train(toy: Workload, method: str = "adamw", *, seed: int = 0, steps: int = 40, **hyper: Any) -> Record:
    return run_trial(
        toy,
        lambda model, **h: make(method, model, **h),
        hyper or {"lr": 0.05},
        seed=seed,
        steps=steps,
        target=toy.target,
        goal=toy.goal,
    )


def test_it_stops_where_the_target_is_reached(toy: Workload):
    record = train(toy)
    assert record.steps_to_target == record.steps == record.curve[-1].step < 40
    assert record.curve[-1].metric >= toy.target > record.curve[-2].metric
    assert [p.step for p in record.curve] == list(range(0, record.steps + 1, toy.evaluate_every))
    assert record.curve[0].loss is None
    assert 0 < record.curve[1].loss < 2
    assert record.cause is None
    assert record.state_bytes
    assert "weight" in (record.manifest or "")


def test_a_miss_is_a_miss_within_the_budget(toy: Workload):
    record = train(toy, steps=3, lr=1e-6)
    assert record.steps_to_target is None
    assert record.steps == record.budget == 3
    assert record.curve[-1].step == 3  # the end is evaluated though 3 is no multiple of 2


def test_it_can_go_on_beyond_the_target(toy: Workload):
    record = run_trial(
        toy,
        lambda m, **h: make("adamw", m, **h),
        {"lr": 0.05},
        seed=0,
        steps=40,
        target=0.8,
        goal="max",
        stop_at_target=False,
    )
    assert record.steps == 40
    assert record.steps_to_target == train(toy).steps_to_target


def test_the_seed_decides_everything_and_nothing_leaks(toy: Workload):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = train(toy, seed=1, steps=10)
    assert torch.rand(1) == expected
    torch.rand(100)
    again, other = train(toy, seed=1, steps=10), train(toy, seed=2, steps=10)
    assert [(p.loss, p.metric) for p in first.curve] == [(p.loss, p.metric) for p in again.curve]
    assert first.curve[1].loss != other.curve[1].loss


def test_a_smaller_metric_may_be_the_goal(toy: Workload):
    smaller = replace(toy, goal="min", target=0.2, metric=lambda m, b: 1 - toy.metric(m, b))
    assert train(smaller).steps_to_target == train(toy).steps_to_target


def test_a_record_survives_json(toy: Workload):
    record = train(toy, betas=(0.9, 0.95), lr=0.01)
    assert Record.from_json(record.to_json()) == record


def test_divergence_ends_the_trial_with_cause_step_and_parameter(toy: Workload):
    record = train(toy, "sgd", lr=1e38)
    assert record.steps_to_target is None
    assert record.cause is not None
    assert record.cause.startswith(f"step {record.steps}: ")
    assert "the loss became" in record.cause
    assert "'0.weight'" in record.cause or "'2.weight'" in record.cause


def test_a_gradient_that_overflows_is_named_though_the_loss_is_finite(toy: Workload):
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) + self.scale.sqrt()  # the slope of the root at 0 is infinite

    record = train(replace(toy, model=Root), "sgd", lr=0.1)
    assert record.steps == 1
    assert record.cause is not None
    assert "gradient of 'scale' is not finite (the loss is" in record.cause


def test_a_loss_that_is_infinite_by_itself_and_a_metric_that_is_nan(toy: Workload):
    broken = replace(toy, loss=lambda m, b: toy.loss(m, b) + math.inf)
    assert "the loss became inf; all parameters and gradients are finite, the largest value" in (
        train(broken).cause or ""
    )
    blind = replace(toy, metric=lambda m, b: math.nan)
    assert (train(blind).cause or "").startswith("step 0: the metric became nan; all parameters and gradients are fin")


def test_a_huge_but_finite_gradient_is_no_failure(toy: Workload):
    steep = replace(toy, loss=lambda m, b: 1e30 * toy.loss(m, b))  # the norm overflows float32, no entry does
    assert train(steep, lr=0.05).cause is None


def test_whatever_raises_ends_the_trial_and_not_the_race(toy: Workload):
    def explode(model: nn.Module, batch: Any) -> torch.Tensor:
        raise RuntimeError("no such layer\nand a second line")

    cause = train(replace(toy, loss=explode)).cause or ""
    assert re.fullmatch(r"step 1: RuntimeError at .*test_trial\.py, line \d+: no such layer", cause)
    refused = train(toy, lr=-1.0).cause or ""
    assert refused.startswith("step 0: ArgumentError")
    assert refused.endswith(": AdamW: lr must be a finite number >= 0; got -1.0.")


def test_a_cause_can_be_written_and_shown_whatever_was_raised(toy: Workload):
    def loss(model: Any, batch: Any) -> Any:
        raise OSError("no file \udcff\x1b[31m here")

    record = train(replace(toy, loss=loss))
    assert record.cause is not None
    assert "no file ??[31m here" in record.cause
    record.cause.encode("utf-8")
    assert Record.from_json(record.to_json() | {"cause": "\x00\ud800"}).cause == "??"


def test_what_stops_a_race_is_not_taken_for_a_failure_of_the_trial(toy: Workload):
    def full(step: int, metric: float | None) -> None:
        raise RaceError("the disk is full")

    with pytest.raises(RaceError, match="disk"):
        run_trial(toy, lambda m, **h: make("sgd", m, **h), {}, seed=0, steps=3, target=1.0, goal="max", progress=full)


@pytest.mark.parametrize(
    ("method", "hyper"),
    [
        ("precond-sps", {"f_star": 0.0}),
        ("mars", {"lr": 0.01, "exact": True}),
        ("sophia-h", {"lr": 0.01}),
        ("muon", {"momentum": 0.9}),
        ("dog", {"eps": 1e-8}),
    ],
)
def test_methods_get_what_they_need(toy: Workload, method: str, hyper: dict[str, Any]):
    record = train(toy, method, steps=6, **hyper)
    assert record.cause is None
    assert record.steps == 6 or record.steps_to_target is not None
