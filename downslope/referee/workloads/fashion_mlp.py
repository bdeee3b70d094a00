"""fashion-mlp: clothes in ten classes, by a multilayer perceptron. Needs no download; one of the default race's two."""

from __future__ import annotations

import functools

from torch import nn

from downslope.referee.card import Card
from downslope.referee.data.batches import Batches
from downslope.referee.data.packaged import fashion_mnist
from downslope.referee.metrics import cross_entropy, mean_loss
from downslope.referee.workload import Workload

CARD = Card(
    name="fashion-mlp",
    task="images: clothes by a multilayer perceptron",
    metric_name="cross entropy (nats)",
    goal="min",
    target=0.376,
    steps=550,
    evaluate_every=20,
    description="Multilayer perceptron 784-256-256-128-10, ReLU, dropout 0.25 (0.30 million parameters), batch 256",
    data="Fashion-MNIST, a class-balanced subset: 12,000 training pictures, 2,000 of the official test pictures",
    licence="MIT, Copyright (c) 2017 Zalando SE",
    target_origin="AdamW, NadamW and SGD with Nesterov's momentum, 50 points each, for three quarters of the budget: "
    "the best is NadamW (lr 0.00175, weight decay 0.00323); the median of ten seeds there, 0.3757, is rounded to the "
    "easier side; 7, 4 and 2 of the 50 points reach it. Cross entropy, because the step at which an accuracy is first "
    "reached varies three times as much between seeds",
    variants={
        "batch-norm": ("batch normalisation before each ReLU", {"norm": "batch"}),
        "layer-norm": ("layer normalisation before each ReLU", {"norm": "layer"}),
        "wide": ("hidden layers of 512, 512 and 256", {"widths": (784, 512, 512, 256)}),
        "orthogonal": ("orthogonal initial matrices of gain 1.4 and biases of zero", {"orthogonal": True}),
        "small-batch": ("batches of 128, twice as many steps", {"size": 128, "stretch": 2}),
    },
)
WIDTHS = (784, 256, 256, 128)


def model(widths: tuple[int, ...] = WIDTHS, norm: str = "", orthogonal: bool = False) -> nn.Sequential:
    """784-256-256-128-10 with dropout: 300,938 numbers, three hidden matrices and a head."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(widths, widths[1:]):
        norms = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        layers += [nn.Linear(before, after), *([norms[norm](after)] if norm else []), nn.ReLU(), nn.Dropout(0.25)]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
    for layer in network if orthogonal else ():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=2**0.5)
            nn.init.zeros_(layer.bias)
    return network


def workload(
    widths: tuple[int, ...] = WIDTHS, norm: str = "", orthogonal: bool = False, size: int = 256, stretch: int = 1
) -> Workload:
    """The workload; see the module. `size` is the batch's, `stretch` as in `Card.workload`."""
    images = fashion_mnist()
    return CARD.workload(
        model=functools.partial(model, widths, norm, orthogonal),
        train=Batches(images.train_images, images.train_classes, size=size, shuffle=True),
        validation=Batches(images.validation_images, images.validation_classes, size=1000),
        loss=cross_entropy,
        metric=mean_loss(cross_entropy),
        stretch=stretch,
    )
