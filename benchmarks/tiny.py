"""Workloads that really train in milliseconds, on each of which a method is raced against itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.simulated import Setting, judge_stages
from downslope import make
from downslope.referee.data.batches import Batches
from downslope.referee.data.packaged import fashion_mnist, state_of_the_union
from downslope.referee.metrics import cross_entropy, mean_loss
from downslope.referee.trial import run_trial
from downslope.referee.verdict import Judgement
from downslope.referee.workload import Workload

__all__ = ["TINY", "Tiny", "arrivals", "race"]


@dataclass(frozen=True)
class Tiny:
    """A workload and the method that is raced against itself on it."""

    workload: Callable[[], Workload]
    method: str
    hyper: Mapping[str, Any]


def _workload(name: str, model: Callable[[], nn.Module], train: Batches, held: Any, target: float) -> Workload:
    """Evaluated at every step, for at most 60."""
    return Workload(
        name=name,
        model=model,
        train=train,
        validation=[held],
        loss=cross_entropy,
        metric=mean_loss(cross_entropy),
        metric_name="cross entropy (nats)",
        goal="min",
        target=target,
        steps=60,
        evaluate_every=1,
    )


@functools.cache
def pictures() -> Workload:
    """1,000 pictures of the packaged Fashion-MNIST at 7 by 7 pixels, a network 49-24-10, batches of 50."""
    images = fashion_mnist()

    def small(pictures: Tensor) -> Tensor:
        return F.avg_pool2d(pictures.float().reshape(-1, 1, 28, 28), 4).flatten(1)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(49, 24), nn.ReLU(), nn.Linear(24, 10))

    train = Batches(small(images.train_images[:1000]), images.train_classes[:1000], size=50, shuffle=True)
    held = small(images.validation_images[:400]), images.validation_classes[:400]
    return _workload("tiny-pictures", model, train, held, 0.9)


@functools.cache
def text() -> Workload:
    """The next character of the packaged speeches from the four before, embedded in 8 numbers each, batches of 64."""
    speeches = state_of_the_union()
    kinds = len(speeches.alphabet)

    def windows(source: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        found = source[starts[:, None] + torch.arange(5)].long()
        return found[:, :4], found[:, 4]

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(kinds, 8), nn.Flatten(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, kinds))

    train = Batches(*windows(speeches.train, torch.arange(0, 7_000_000, 1000)), size=64, shuffle=True)
    return _workload("tiny-text", model, train, windows(speeches.validation, torch.arange(0, 400_000, 800)), 2.75)


TINY = {
    "tiny network": Tiny(pictures, "adamw", {"lr": 0.01}),
    "tiny text": Tiny(text, "sgd", {"lr": 0.3, "momentum": 0.9, "nesterov": True}),
}


def arrivals(name: str, first: int, count: int) -> list[float]:
    """The steps to the target of so many real runs, each from a seed of its own; infinite for a miss."""
    torch.set_num_threads(1)
    tiny, found = TINY[name], []
    workload = tiny.workload()
    for seed in range(first, first + count):
        record = run_trial(
            workload,
            lambda model, **hyper: make(tiny.method, model, execution="reference", **hyper),
            tiny.hyper,
            seed=seed,
            steps=workload.steps,
            target=workload.target,
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
    return judge_stages(setting, list(mine.reshape(methods, most)), pictures().steps, {})
