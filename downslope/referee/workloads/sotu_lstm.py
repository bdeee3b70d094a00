"""sotu-lstm: the next byte of presidents' messages, by an LSTM. Needs no download."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from downslope.referee.card import Card
from downslope.referee.data.batches import TextBatches
from downslope.referee.data.packaged import state_of_the_union
from downslope.referee.metrics import bits_per_token, cross_entropy
from downslope.referee.workload import Workload

CARD = Card(
    name="sotu-lstm",
    task="text: the next byte by an LSTM",
    metric_name="bits per byte",
    goal="min",
    target=2.53,
    steps=300,
    evaluate_every=15,
    description="LSTM of width 96 on embedded bytes, context 24 (0.08 million parameters), batch 32",
    data="Annual messages of the presidents of the United States 1790-1928, 7.9 million bytes; every 14th message, ten "
    "in all, held out for validation",
    licence="public domain",
    target_origin="AdamW, NadamW and SGD with Nesterov's momentum, 50 points each, for three quarters of the budget: "
    "the best is NadamW (lr 0.0299, weight decay 0.0261); the median of ten seeds there, 2.528, is "
    "rounded to the easier side; 0, 2 and 0 of the 50 points reach it",
    variants={
        "wide": ("a width of 192", {"width": 192}),
        "forget-bias": ("an initial bias of 1 in the forget gates", {"forget_bias": 1.0}),
        "small-batch": ("batches of 16, twice as many steps", {"size": 16, "stretch": 2}),
    },
)
LENGTH = 24
"""Bytes that the model sees at once, in training and in validation."""


class ByteLSTM(nn.Module):
    """Bytes (B, T) to logits of the next ones (B, T, 256)."""

    def __init__(self, width: int, forget_bias: float) -> None:
        super().__init__()
        self.byte_embedding = nn.Embedding(256, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.head = nn.Linear(width, 256)
        with torch.no_grad():
            dict(self.lstm.named_parameters())["bias_ih_l0"][width : 2 * width] += forget_bias

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, 256)."""
        states, _ = self.lstm(self.byte_embedding(tokens))
        logits: Tensor = self.head(states)
        return logits


def workload(width: int = 96, forget_bias: float = 0.0, size: int = 32, stretch: int = 1) -> Workload:
    """The workload; see the module. `size` is the batch's, `stretch` as in `Card.workload`."""
    text = state_of_the_union()
    codes = torch.tensor(list(text.alphabet.encode("ascii")), dtype=torch.uint8)
    return CARD.workload(
        model=functools.partial(ByteLSTM, width, forget_bias),
        train=TextBatches(codes[text.train.long()], length=LENGTH, size=size),
        validation=TextBatches(codes[text.validation.long()], length=LENGTH, size=128, windows=256),
        loss=cross_entropy,
        metric=bits_per_token,
        stretch=stretch,
    )
