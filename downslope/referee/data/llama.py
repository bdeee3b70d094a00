"""A block of the Llama architecture in plain PyTorch, laid out and named as in a GGUF file.

Llama: Touvron and others, 2023 (arXiv:2302.13971): normalisation before each part by the root mean square, rotary
positions, and a gated perceptron; queries share keys and values in groups (Ainslie and others, 2023,
arXiv:2305.13245). In a GGUF file the rows of queries and keys are so ordered that rotary positions turn neighbours,
places 2i and 2i + 1 of a head, where `transformers` turns places i and i + half; the numbers are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Block", "Shape"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a block: its width, heads of queries, heads of keys and values, and the perceptron's hidden width.

    `eps` is added to mean squares; `base` is that of the rotary positions' frequencies.
    """

    width: int
    heads: int
    groups: int
    hidden: int
    eps: float
    base: float

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.width // self.heads


class Block(nn.Module):
    """Causal self-attention and a gated perceptron, each on the normalised input and added to it.

    Its parameters have the names that they have in a GGUF file after `blk.N.`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        shared = shape.groups * shape.head
        self.attn_norm = nn.RMSNorm(shape.width, shape.eps)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, shared, bias=False)
        self.attn_v = nn.Linear(shape.width, shared, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, shape.eps)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, T, width)."""
        x = x + self.attend(self.attn_norm(x))
        y = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """What each place takes from the places up to it."""
        head = self.shape.head
        q, k, v = (part(x).unflatten(-1, (-1, head)) for part in (self.attn_q, self.attn_k, self.attn_v))
        q, k = rotate(q, self.shape.base), rotate(k, self.shape.base)
        queries = self.shape.heads // self.shape.groups
        k, v = k.repeat_interleave(queries, 2), v.repeat_interleave(queries, 2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative, which some methods need
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        taken: Tensor = self.attn_output(seen.transpose(1, 2).flatten(2))
        return taken


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary positions: places 2i and 2i + 1 of a head at time t, as a point, turned by t / base^(2i / width).

    (B, T, heads, width) to the same.
    """
    time, width = x.shape[1], x.shape[3]
    speed = base ** (-torch.arange(0, width, 2, dtype=torch.float32, device=x.device) / width)
    angle = torch.arange(time, dtype=torch.float32, device=x.device)[:, None, None] * speed
    cos, sin = angle.cos(), angle.sin()
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
