"""umls: missing links of a small medical knowledge graph; fetched once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from downslope.referee.card import Card
from downslope.referee.data.batches import Batches
from downslope.referee.data.links import umls
from downslope.referee.metrics import cross_entropy, mean_reciprocal_rank
from downslope.referee.workload import Workload

CARD = Card(
    name="umls",
    task="graph: missing links of a medical knowledge graph",
    source="umls",
    metric_name="mean reciprocal rank (filtered)",
    goal="max",
    target=0.874,
    steps=800,
    evaluate_every=40,
    description="Embeddings and a perceptron 256-256-128, 135 concepts scored (0.13 million parameters), batch 128",
    data="UMLS semantic network: 5,216 training and 652 validation links, each asked in both directions",
    licence="MIT (the package that carries it); the network is by the US National Library of Medicine",
    target_origin="AdamW, NadamW and SGD with Nesterov's momentum, 50 points each, for three quarters of the budget: "
    "the best is AdamW (lr 0.003, weight decay 0.00488); the median of ten seeds there, 0.8742, is "
    "rounded to the easier side; 4, 5 and 0 of the 50 points reach it",
)


class LinkNet(nn.Module):
    """A perceptron turns a concept and a relation into a place among the concepts; all concepts are scored by it."""

    def __init__(self, concepts: int, relations: int, width: int = 128) -> None:
        super().__init__()
        self.concept_embedding = nn.Embedding(concepts, width)
        self.relation_embedding = nn.Embedding(relations, width)
        self.layers = nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(2 * width, width),
        )
        self.bias = nn.Parameter(torch.zeros(concepts))
        for embedding in (self.concept_embedding, self.relation_embedding):
            nn.init.normal_(embedding.weight, std=width**-0.5)

    def forward(self, queries: Tensor) -> Tensor:
        """Queries (B, 2), of a concept and a relation, to scores (B, concepts)."""
        concept, relation = self.concept_embedding(queries[:, 0]), self.relation_embedding(queries[:, 1])
        place = self.layers(torch.cat([concept, relation], 1))
        scores: Tensor = place @ self.concept_embedding.weight.T + self.bias
        return scores


def workload() -> Workload:
    """The workload; see the module."""
    graph = umls()
    return CARD.workload(
        model=functools.partial(LinkNet, graph.concepts, graph.relations),
        train=Batches(*graph.train, size=128, shuffle=True),
        validation=Batches(*graph.validation, size=512),
        loss=cross_entropy,
        metric=mean_reciprocal_rank,
    )
