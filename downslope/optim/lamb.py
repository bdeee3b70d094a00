"""LAMB: Adam in which every layer's step is a fixed share of the size of its weights.

    m_t, v_t, m̂_t, v̂_t as in Adam
    u = m̂_t / (√v̂_t + ε) + λ x_t
    x_{t+1} = x_t - η φ(‖x_t‖)/‖u‖ u                φ(z) = min(max(z, γ_l), γ_u), or z

The ratio φ(‖x_t‖)/‖u‖ counts as 1 where one of its sides is 0.

Paper: You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer & Hsieh, Large Batch Optimization for Deep
Learning: Training BERT in 76 minutes, ICLR 2020, arXiv:1904.00962, algorithm 2.
Memory: 2 tensors like the parameter.
Differs from the paper: it leaves open what the ratio is where a side of it is 0. Its third
arXiv version has no bias correction (`bias_correction=False`); the first and the last have it.
Differs from the authors' code: the paper names TensorFlow Addons' as its implementation; that leaves parameters out by
patterns of their names, this by their shape (`exclude_vectors`), counts t for the whole model, this per parameter (the
same when all have a gradient at every step), and has neither φ's bounds (`clamp`) nor a bound of the ratio
(`max_ratio`; LAMBC of timm). NVIDIA's FusedLAMB clips the gradients' global norm to 1 before (chain
ClipByGlobalNorm in front), has weight_decay=0.01 and adapts only what it decays.
Reduces to: AdamW with learning rate η·r when max_ratio = r lies below every ratio; Adam with this ε on vectors that are
left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm
from typing_extensions import Unpack

from downslope._core import (
    Card,
    DecoupledWeightDecay,
    Hyper,
    Optimizer,
    Options,
    Params,
    State,
    Transform,
    Updates,
    chain,
    mask,
)
from downslope.optim._exclusion import has_matrix_shape
from downslope.optim.adam import ScaleByAdam

CARD = Card(
    key="lamb",
    name="LAMB",
    exports=("LAMB", "ScaleByTrustRatio"),
    paper="You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020",
    url="https://arxiv.org/abs/1904.00962",
    year=2019,
    code="https://github.com/tensorflow/addons @ d208d752e98c (transcribed)",
    formula="u = m^/(sqrt(v^) + eps) + wd x; x -= lr phi(|x|)/|u| u; ratio 1 where a norm is 0",
    scope="tensor",
    state="2 tensors like the parameter",
    state_values=2.0,
    defaults="TensorFlow Addons'; the paper trains BERT with weight_decay=0.01, leaving out biases and layer norms",
    tuning={
        "lr": ("log", 5e-4, 1e-1),
        "weight_decay": ("choice", 0.0, 1e-2, 1e-1),
        "exclude_vectors": ("choice", True),
    },
    claim="BERT with batches of 32,868 without degradation: from 3 days to 76 minutes on a TPUv3 Pod, with little "
    "tuning.",
    evidence="Trajectory equals a transcription of TensorFlow Addons' code and timm's code over 60 steps (1e-10); the "
    "step is lr·|x| in every layer. Large batches are not tested here.",
    status="proved",
)


class ScaleByTrustRatio(Transform):
    """The update at the size of the weights: φ(‖p‖)/‖u‖ u, per parameter tensor; the ratio is 1 where a side is 0.

    Args:
        clamp: bounds (γ_l, γ_u) of φ; None for φ(z) = z.
        max_ratio: largest ratio; None for no bound.
    """

    clamp: tuple[float, float] | None = None
    max_ratio: float | None = None

    scope = "tensor"

    def check(self) -> None:
        if self.clamp is not None and not any(callable(c) for c in self.clamp) and self.clamp[0] >= self.clamp[1]:
            self.refuse("clamp", "a pair of rising bounds", self.clamp)

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        size, length = vector_norm(p), vector_norm(u)
        if h.clamp is not None:
            size = size.clamp(*h.clamp)
        ratio = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
        if h.max_ratio is not None:
            ratio = ratio.clamp(max=h.max_ratio)
        return ratio * u, {}


class LAMB(Optimizer):
    """LAMB: for very large batches, transformers above all, with warm-up and a linear decay of the rate.

    Well-tuned Adam does as well at the batch sizes that made LAMB known (Nado et al., arXiv:2102.06356).

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate: the relative size of every layer's step.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the root.
        weight_decay: coefficient of the decay, added to the update before it is scaled.
        bias_correction: divide both means by 1 - β^t.
        clamp: bounds of the weights' norm in the ratio, such as (0.0, 10.0); None for no bounds.
        max_ratio: largest ratio of the weights' norm to the update's; None for no bound.
        exclude_vectors: leave biases and scales (fewer than two dimensions) to plain Adam without weight decay, as the
            authors do for BERT.

    Raises:
        ArgumentError: when a value breaks its rule, or the bounds of `clamp` do not rise.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.LAMB(model, lr=5e-3, weight_decay=0.01, exclude_vectors=True)

    Source: arXiv:1904.00962, algorithm 2; TensorFlow Addons.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        clamp: tuple[float, float] | None = None,
        max_ratio: float | None = None,
        exclude_vectors: bool = False,
        **options: Unpack[Options],
    ) -> None:
        layerwise: Transform = chain(DecoupledWeightDecay(weight_decay), ScaleByTrustRatio(clamp, max_ratio))
        if exclude_vectors:
            layerwise = mask(layerwise, has_matrix_shape)
        rule = chain(ScaleByAdam(betas, eps, bias_correction=bias_correction), layerwise)
        super().__init__(params, rule, lr=lr, **options)
