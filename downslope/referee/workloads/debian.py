"""debian: which section does a package belong to? Nodes of a graph, by a graph convolution. Needs no download."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from downslope.referee.card import Card
from downslope.referee.data.batches import Batches
from downslope.referee.data.packaged import Packages, debian
from downslope.referee.metrics import cross_entropy, mean_loss
from downslope.referee.workload import Workload

CARD = Card(
    name="debian",
    task="graph: the sections of software packages by a graph convolution",
    metric_name="cross entropy (nats)",
    goal="min",
    target=0.746,
    steps=120,
    evaluate_every=5,
    description="Embedded words and two graph convolutions of width 32, dropout 0.5 (27,114 parameters), batch 256",
    data="8,252 packages of Debian 12 in ten sections, joined by 33,655 dependencies; a quarter of the nodes for "
    "training and another for validation",
    licence="facts about the packages: numbers of sections, dependencies and words; no names and no texts",
    target_origin="AdamW, NadamW and SGD with Nesterov's momentum, 50 points each, for three quarters of the budget: "
    "the best is NadamW (lr 0.0226, weight decay 0.137); the median of ten seeds there, 0.7453, is "
    "rounded to the easier side; 0, 0 and 0 of the 50 points reach it",
    variants={
        "layer-norm": ("layer normalisation before the first ReLU", {"layer_norm": True}),
        "wide": ("a width of 128", {"width": 128}),
        "small-init": ("initial embeddings of half the size", {"deviation": 0.5}),
    },
)


class Spread(torch.autograd.Function):
    """A symmetric sparse matrix times a dense one; its gradient is such a product too, so no transpose is made."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        """(N, N) and (N, width) to (N, width)."""
        ctx.matrix = matrix
        product: Tensor = torch.sparse.mm(matrix, x)
        return product

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        """Of a constant matrix and of x."""
        return None, Spread.apply(ctx.matrix, grads[0])


class GraphNet(nn.Module):
    """The mean of a package's embedded words, spread over the graph, through two linear maps, and spread once more."""

    neighbours: Tensor
    words: Tensor
    starts: Tensor

    def __init__(self, graph: Packages, width: int, layer_norm: bool, deviation: float) -> None:
        super().__init__()
        for name, values in (("neighbours", averages(graph)), ("words", graph.words), ("starts", graph.starts)):
            self.register_buffer(name, values, persistent=False)
        self.word_embedding = nn.EmbeddingBag(graph.vocabulary, width)
        nn.init.normal_(self.word_embedding.weight, std=deviation)
        self.norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, nodes: Tensor) -> Tensor:
        """Numbers of packages (B,) to logits of sections (B, 10); all packages take part."""
        x = torch.relu(self.norm(self.word_embedding(self.words, self.starts)))
        x = Spread.apply(self.neighbours, x)
        x = self.dropout(torch.relu(self.hidden(x)))
        logits: Tensor = Spread.apply(self.neighbours, self.head(x))[nodes]
        return logits


def averages(graph: Packages) -> Tensor:
    """(N, N), sparse: edges both ways and loops, divided by the roots of both ends' degrees."""
    count = len(graph.sections)
    loops = torch.arange(count).expand(2, -1)
    ends = torch.cat([graph.edges.T, graph.edges.T.flip(0), loops], 1)
    root = torch.bincount(ends[0], minlength=count).rsqrt()
    return torch.sparse_coo_tensor(
        ends, root[ends[0]] * root[ends[1]], (count, count), check_invariants=True
    ).coalesce()


def workload(width: int = 32, layer_norm: bool = False, deviation: float = 1.0) -> Workload:
    """The workload; see the module. `deviation` is that of the initial embeddings."""
    graph = debian()
    train, validation = graph.train, graph.validation
    return CARD.workload(
        model=functools.partial(GraphNet, graph, width, layer_norm, deviation),
        train=Batches(train, graph.sections[train], size=256, shuffle=True),
        validation=Batches(validation, graph.sections[validation], size=len(validation)),
        loss=cross_entropy,
        metric=mean_loss(cross_entropy),
    )
