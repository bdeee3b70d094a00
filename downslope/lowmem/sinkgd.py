"""SinkGD: gradient descent without state whose matrix gradients are normalised in rows and columns at once.

    X = G (m x n);  repeat L times:  X <- sqrt(n) X / |row|_2 (each row);  X <- sqrt(m) X / |column|_2 (each column)
    W <- W - lr X

In general X <- P_K(... P_1(X)), where P_k(X) is the matrix of unit k-th norm that lies furthest along X, scaled to the
Frobenius norm sqrt(m n). norms=("row", "spectral") with iterations=1 is the paper's account of SWAN, and
norms=("centered_row", "spectral") SWAN itself with its rescaling (Ma et al., arXiv:2412.13148, Algorithm 1).
Hidden weights of two or more axes take this step (convolutions flattened to (out, rest)), all others AdamW.

Paper: Scetbon, Ma, Gong & Meeds, "Gradient Multi-Normalization for Stateless and Scalable LLM Training", 2025,
Algorithms 1, 3 and 4.
Memory: nothing for hidden weights, two tensors for every other parameter.

Differs from the paper: rows and columns of zeros stay zero, where the formula divides by zero. The paper has no weight
decay; here it is decoupled and off by default. "spectral" takes an exact SVD and leaves null directions at zero; SWAN
iterates Newton-Schulz.
Differs from the authors' code: none is published. Learning rates follow two independent implementations, which quote
the paper's 0.02 for Adam and 0.05 times that for matrices; the one compared with treats norms below 1e-8 as 1e-8.
Reduces to: the sign of the gradient on a single row or column; AdamW on what is not a hidden weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import Unpack

from downslope._core import (
    Card,
    DecoupledWeightDecay,
    Hyper,
    Optimizer,
    Options,
    ParamInfo,
    Params,
    State,
    Transform,
    Updates,
    chain,
    partition,
)
from downslope.optim.muon import adamw_of_others

__all__ = ["MultiNormalize", "SinkGD"]

CARD = Card(
    key="sinkgd",
    name="SinkGD",
    exports=("SinkGD", "MultiNormalize"),
    paper="Scetbon et al., Gradient Multi-Normalization for Stateless and Scalable LLM Training, 2025",
    url="https://arxiv.org/abs/2502.06742",
    year=2025,
    code="none by the authors; https://github.com/axolotl-ai-cloud/axolotl @ 067b021c8b87",
    formula="hidden W -= lr X, X = G with rows of norm sqrt(n) and columns of norm sqrt(m); all else AdamW",
    scope="tensor",
    state="nothing for hidden weights, 2 tensors for the others",
    state_values=0.0,
    defaults="5 iterations as in the paper; learning rates as quoted by independent implementations",
    tuning={"lr": ("log", 1e-4, 1e-1), "adamw_lr": ("log", 1e-4, 3e-2)},
    claim="Adam's perplexity on LLaMA up to 1B with 40% of the tokens and the memory of SGD (the first version: 3 "
    "times the effective throughput)",
    evidence="60 steps equal an independent implementation; rows and columns reach their norms; claims were not rerun",
    status="partial: the authors' code is not published, so the fixture is an independent implementation",
)


def _row(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return math.sqrt(x.shape[1]) * x / torch.where(norm > 0, norm, 1.0)


def _column(x: Tensor) -> Tensor:
    return _row(x.mT).mT


def _centered_row(x: Tensor) -> Tensor:
    return _row(x - x.mean(1, keepdim=True))


def _spectral(x: Tensor) -> Tensor:
    left, size, right = torch.linalg.svd(x, full_matrices=False)
    there = size > max(x.shape) * torch.finfo(x.dtype).eps * size[:1]
    polar: Tensor = (left * there) @ right
    return math.sqrt(max(x.shape)) * polar


NORMS = {"row": _row, "column": _column, "centered_row": _centered_row, "spectral": _spectral}


class MultiNormalize(Transform):
    """The gradient of a matrix, normalised by several norms in turn. For weights of two or more axes.

    Args:
        norms: in this order, out of `"row"`, `"column"`, `"centered_row"` (mean subtracted first) and `"spectral"`.
        iterations: rounds through the norms.
    """

    norms: tuple[str, ...] = ("row", "column")
    iterations: int = 5

    scope = "tensor"

    def check(self) -> None:
        if not isinstance(self.norms, tuple) or not self.norms or not set(self.norms) <= set(NORMS):
            self.refuse("norms", f"a tuple out of {', '.join(map(repr, NORMS))}", self.norms)

    def check_parameter(self, info: ParamInfo) -> None:
        if len(info.shape) < 2:
            here = "Put it under the label 'hidden' of ds.partition."
            self.refuse("every parameter", "of two or more axes", f"shape {info.shape}", here)

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        x = u.flatten(1)
        for _ in range(self.iterations):
            for norm in self.norms:
                x = NORMS[norm](x)
        return x.reshape(u.shape), {}


class SinkGD(Optimizer):
    """Stateless normalised descent for hidden weights, AdamW for everything else. For memory as small as SGD's.

    Give it the model, so that it can tell hidden weights from embeddings and the head; matrices without a name are
    refused unless their param group has a `role`. Every entry of a hidden weight moves by about lr per step.

    Args:
        params: the model (best), `model.named_parameters()`, or param groups with a `role`.
        lr: learning rate of the hidden weights (1e-3).
        norms: what to normalise, in turn (("row", "column")).
        iterations: rounds of normalisation (5).
        weight_decay: decoupled decay of the hidden weights (0).
        adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: AdamW of the others (0.02, (0.9, 0.999), 1e-8, 0).

    Raises:
        ArgumentError: for a value that breaks its rule, a matrix of unknown role, or a model without hidden weights.

    Example:
        >>> opt = ds.SinkGD(model, lr=1e-3, adamw_lr=1e-2)

    Source: https://arxiv.org/abs/2502.06742
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        norms: tuple[str, ...] = ("row", "column"),
        iterations: int = 5,
        weight_decay: float = 0.0,
        adamw_lr: float = 0.02,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        rules = {
            "hidden": chain(MultiNormalize(tuple(norms), iterations), DecoupledWeightDecay(weight_decay)),
            "other": adamw_of_others(adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay),
        }
        super().__init__(params, partition(rules, needed=("hidden",)), lr={"hidden": lr, "other": adamw_lr}, **options)
