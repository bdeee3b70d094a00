"""Gradient memory of a backward pass with the step inside, counted exactly.

A hook on every parameter, which runs when its gradient has arrived and before the optimizer's own, adds up the bytes of
all `p.grad` that exist at that moment. The peak of that sum is the gradient memory: what autograd holds for
activations on its way is the same with and without the step inside, and is not counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import downslope as ds
from downslope.referee.workloads.sotu_gpt import LENGTH, Transformer

__all__ = ["measure"]

CHARACTERS = 96


def measure(key: str = "adamw", *, execution: str, width: int = 192, depth: int = 6) -> dict[str, Any]:
    """Peak bytes of gradients over two backward passes, with and without the step inside, and what bounds them."""
    plain, _ = _peak(key, execution, width, depth, inside=False)
    peak, sizes = _peak(key, execution, width, depth, inside=True)
    return {"method": key, "peak": peak, "without": plain, "two_largest": sum(sorted(sizes)[-2:]), "all": sum(sizes)}


def _peak(key: str, execution: str, width: int, depth: int, *, inside: bool) -> tuple[int, list[int]]:
    torch.manual_seed(0)
    model = Transformer(CHARACTERS, width, depth)
    parameters = list(model.parameters())
    seen = [0]

    def count(_: Tensor) -> None:
        seen.append(sum(p.grad.nbytes for p in parameters if p.grad is not None))

    for p in parameters:
        p.register_post_accumulate_grad_hook(count)
    opt: Any = ds.make(key, model, lr=1e-3, execution=execution)
    if inside:
        opt.step_in_backward(model)
    for _ in range(2):
        tokens = torch.randint(CHARACTERS, (8, LENGTH))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        opt.step()
        opt.zero_grad()
    return max(seen), [p.nbytes for p in parameters]
