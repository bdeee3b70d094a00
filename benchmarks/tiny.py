"""A workload that really trains in milliseconds, on which a method is raced against itself."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.simulated import Setting, judge_stages
from downslope import make
from downslope.referee.data.packaged import fashion_mnist
from downslope.referee.metrics import cross_entropy, mean_loss
from downslope.referee.trial import run_trial
from downslope.referee.verdict import Judgement
from downslope.referee.workload import Workload

__all__ = ["BUDGET", "arrivals", "race"]

BUDGET, GRID, TARGET = 60, 1, 0.9
HYPER = {"lr": 0.01}


@functools.cache
def workload() -> Workload:
    """1,000 pictures of the packaged Fashion-MNIST at 7 by 7 pixels, a network 49-24-10, batches of 50."""
    images = fashion_mnist()

    def small(pictures: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(pictures.float().reshape(-1, 1, 28, 28), 4).flatten(1)

    train = small(images.train_images[:1000]), images.train_classes[:1000]
    held = small(images.validation_images[:400]), images.validation_classes[:400]

    class Batches:
        def __iter__(self) -> Any:
            order = torch.randperm(1000)
            for i in range(0, 1000, 50):
                yield train[0][order[i : i + 50]], train[1][order[i : i + 50]]

    return Workload(
        name="tiny-fashion",
        model=lambda: nn.Sequential(nn.Linear(49, 24), nn.ReLU(), nn.Linear(24, 10)),
        train=Batches(),
        validation=[held],
        loss=cross_entropy,
        metric=mean_loss(cross_entropy),
        metric_name="cross entropy (nats)",
        goal="min",
        target=TARGET,
        steps=BUDGET,
        evaluate_every=GRID,
    )


def arrivals(first: int, count: int) -> list[float]:
    """The steps to the target of so many real runs, each from a seed of its own; infinite for a miss."""
    torch.set_num_threads(1)
    found = []
    for seed in range(first, first + count):
        record = run_trial(
            workload(),
            lambda model, **hyper: make("adamw", model, execution="reference", **hyper),
            HYPER,
            seed=seed,
            steps=BUDGET,
            target=TARGET,
            goal="min",
        )
        found.append(float(record.steps_to_target) if record.steps_to_target is not None else math.inf)
    return found


def race(setting: Setting, runs: list[float], rng: np.random.Generator | None, number: int) -> tuple[Judgement, int]:
    """A race of a method against itself: of runs of its own, or drawn from all runs where `rng` is given."""
    methods, most = len(setting.ratios), setting.max_seeds or setting.seeds
    if rng is None:
        mine = np.array(runs[number * methods * most :][: methods * most])
    else:
        mine = rng.choice(runs, methods * most)
    return judge_stages(setting, list(mine.reshape(methods, most)), BUDGET, {})
