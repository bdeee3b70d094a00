"""sotu-gpt: the next character of presidents' messages, by a small transformer. Needs no download; one of the default
race's two.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from downslope.referee.card import Card
from downslope.referee.data.batches import TextBatches
from downslope.referee.data.packaged import state_of_the_union
from downslope.referee.metrics import bits_per_token, cross_entropy
from downslope.referee.workload import Workload

CARD = Card(
    name="sotu-gpt",
    task="text: the next character by a small transformer",
    metric_name="bits per character",
    goal="min",
    target=2.45,
    steps=700,
    evaluate_every=25,
    description="Transformer of 2 blocks, width 64, 4 heads, context 32 (0.11 million parameters), batch 32",
    data="Annual messages of the presidents of the United States 1790-1928, 7.9 million characters; every 14th "
    "message, ten in all, held out for validation",
    licence="public domain",
    target_origin="A trigram model with back-off reaches 2.61. AdamW, NadamW and SGD with Nesterov's momentum, 50 "
    "points each, for three quarters of the budget: the best is NadamW (lr 0.00378, weight decay 0.00178); the median "
    "of ten seeds there, 2.449, is rounded to the easier side; 0, 4 and 0 of the 50 points reach it",
    variants={
        "post-norm": ("normalisation after each sum, not before each part", {"post_norm": True}),
        "wide": ("a width of 128", {"width": 128}),
        "small-embeddings": ("initial embeddings of a tenth of the size", {"deviation": 0.02}),
        "small-batch": ("batches of 16, twice as many steps", {"size": 16, "stretch": 2}),
    },
)

LENGTH = 32
"""Characters that the model sees at once, in training and in validation."""


class Block(nn.Module):
    """Self-attention and a perceptron, each on the normalised input and added to it; or normalised after the sum."""

    def __init__(self, width: int, heads: int, *, causal: bool = True, post_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.post_norm = heads, causal, post_norm
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        out: Tensor
        if self.post_norm:
            x = self.norm1(x + self.attend(x))
            out = self.norm2(x + self.down(F.relu(self.up(x))))
        else:
            x = x + self.attend(self.norm1(x))
            out = x + self.down(F.relu(self.up(self.norm2(x))))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """What each place takes from all places, or from those up to it."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative, which some methods need
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        taken: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return taken


class Transformer(nn.Module):
    """Decoder-only, learned positions, separate head: character numbers (B, T) to logits (B, T, characters)."""

    def __init__(
        self,
        characters: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        *,
        post_norm: bool = False,
        deviation: float = 0.2,
    ) -> None:
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(characters, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads, post_norm=post_norm) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, characters)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(places)
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def workload(
    width: int = 64, post_norm: bool = False, deviation: float = 0.2, size: int = 32, stretch: int = 1
) -> Workload:
    """The workload. `deviation`: of initial embeddings, `size`: of batches, `stretch`: as in `Card.workload`."""
    text = state_of_the_union()
    return CARD.workload(
        model=functools.partial(Transformer, len(text.alphabet), width, post_norm=post_norm, deviation=deviation),
        train=TextBatches(text.train, length=LENGTH, size=size),
        validation=TextBatches(text.validation, length=LENGTH, size=128, windows=256),
        loss=cross_entropy,
        metric=bits_per_token,
        stretch=stretch,
    )
