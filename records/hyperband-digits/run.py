"""Hyperband against random search: learning rate, width and weight decay of a small network on scikit-learn's digits.

python records/hyperband-digits/run.py --seeds 10 > records/hyperband-digits/results.csv

Needs scikit-learn for the data. Both searches draw configurations from the same distribution and look at the validation
loss after 1, 3, 9, 27 and 81 epochs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import downslope as ds

R, ETA, BATCH, DRAWS = 81, 3, 250, 75
LOOKS = (1, 3, 9, 27, 81)


@dataclass(eq=False)
class Config:
    """A network with its hyperparameters, trained so far."""

    lr: float
    width: int
    weight_decay: float
    seed: int
    epochs: int = 0
    model: nn.Module | None = None
    opt: torch.optim.Optimizer | None = None


class Task:
    """Digits split at random: 1000 to train on, 797 to validate with."""

    def __init__(self, seed: int) -> None:
        digits = load_digits()
        order = torch.randperm(1797, generator=torch.Generator().manual_seed(seed))
        x, y = torch.tensor(digits.data, dtype=torch.float32)[order] / 16, torch.tensor(digits.target)[order]
        self.train, self.validation = (x[:1000], y[:1000]), (x[1000:], y[1000:])
        self.draws = torch.Generator().manual_seed(10_000 + seed)
        self.epochs = 0

    def sample(self) -> Config:
        """lr in [1e-4, 1], width in [8, 256], weight decay in [1e-6, 1e-1], all log-uniform."""
        u = torch.rand(3, generator=self.draws).tolist()
        number = int(torch.randint(2**31, (), generator=self.draws))
        return Config(10 ** (-4 + 4 * u[0]), round(8 * 32 ** u[1]), 10 ** (-6 + 5 * u[2]), number)

    def loss(self, config: Config, resource: float) -> float:
        """Validation loss after `resource` epochs; goes on from where the configuration stands."""
        torch.manual_seed(config.seed + config.epochs)
        if config.model is None:
            config.model = nn.Sequential(nn.Linear(64, config.width), nn.ReLU(), nn.Linear(config.width, 10))
            config.opt = ds.SGD(config.model, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
        x, y = self.train
        while config.epochs < round(resource):
            for batch in torch.randperm(1000).split(BATCH):
                config.opt.zero_grad()
                F.cross_entropy(config.model(x[batch]), y[batch]).backward()
                config.opt.step()
            config.epochs += 1
            self.epochs += 1
        with torch.no_grad():
            return float(F.cross_entropy(config.model(self.validation[0]), self.validation[1]))


def main() -> None:
    """One line per seed and evaluation that improved on all before it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout
    out.write("seed,search,evaluation,epochs_counted_from_start,epochs_trained,best_loss,lr,width,weight_decay\n")

    def row(seed: int, search: str, *values: object) -> None:
        out.write(",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in (seed, search, *values)) + "\n")
        out.flush()

    for seed in range(options.first, options.first + options.seeds):
        task, trained = Task(seed), []
        found = ds.hyperband(
            task.sample, lambda c, r, t=task, e=trained: (t.loss(c, r), e.append(t.epochs))[0], R, eta=ETA
        )
        spent, best = 0.0, float("inf")
        for i, e in enumerate(found.log):
            spent += e.resource
            if e.loss < best or i == len(found.log) - 1:
                best = min(best, e.loss)
                row(seed, "hyperband", i, spent, trained[i], best, e.config.lr, e.config.width, e.config.weight_decay)
        task, best = Task(1000 + seed), float("inf")
        task.train, task.validation = Task(seed).train, Task(seed).validation
        for i in range(DRAWS):
            config = task.sample()
            loss = min((value for look in LOOKS if (value := task.loss(config, look)) == value), default=float("inf"))
            if loss < best or i == DRAWS - 1:
                best = min(best, loss)
                row(
                    seed,
                    "random",
                    i,
                    float(task.epochs),
                    task.epochs,
                    best,
                    config.lr,
                    config.width,
                    config.weight_decay,
                )


if __name__ == "__main__":
    main()
