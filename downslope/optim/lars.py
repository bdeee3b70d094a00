"""LARS: SGD with momentum in which every layer's step is a fixed share of the size of its weights.

    λ = η ‖w‖ / (‖g‖ + β ‖w‖ + ε)                 one number per parameter tensor
    v_{t+1} = μ v_t + γ_t λ (g + β w)
    w_{t+1} = w_t - v_{t+1}

Paper: You, Gitman & Ginsburg, Large Batch Training of Convolutional Networks, 2017, arXiv:1708.03888, algorithm 1 with
the local rate of equation 6. Clipping to min(λ, γ) is LARC, of NVIDIA's Caffe.
Memory: 1 tensor like the parameter, none without momentum.
Differs from the paper: ε in the denominator, as in the PyTorch codes (eps=0 is the paper's). Where ‖w‖ or ‖g‖ is 0 the
gradient goes through unscaled and undecayed, as in apex and solo-learn; Caffe and torchlars add the decay there,
unscaled. The paper's poly(2) schedule and warm-up are the user's.
Differs from the authors' code: theirs (Caffe, C++) had this form when the paper appeared, the rate inside the momentum
buffer; its last version leaves β out of λ and multiplies λ by 1 - μ. The PyTorch codes have the rate outside the buffer
(`lr_in_momentum=False`), the same at a constant rate. TensorFlow's contrib code has this λ; SimCLR's divides by
‖g + β w‖.
Reduces to: normalised SGD, ‖step‖ = γ η ‖w‖, when μ = β = ε = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm
from typing_extensions import Unpack

from downslope._core import (
    Apply,
    Card,
    Hyper,
    Optimizer,
    Options,
    Params,
    ScaleByLearningRate,
    State,
    Transform,
    Updates,
    chain,
    mask,
)
from downslope.optim._exclusion import has_matrix_shape
from downslope.optim.sgd import Trace

CARD = Card(
    key="lars",
    name="LARS",
    exports=("LARS", "ScaleByLARS"),
    paper="You, Gitman & Ginsburg, Large Batch Training of Convolutional Networks, 2017",
    url="https://arxiv.org/abs/1708.03888",
    year=2017,
    code="https://github.com/vturrisi/solo-learn @ 9187ea39c2c3 (not the authors')",
    formula="l = eta |w|/(|g| + wd |w|); v = mu v + lr l (g + wd w); w -= v",
    scope="tensor",
    state="1 tensor like the parameter (none without momentum)",
    state_values=1.0,
    defaults="trust coefficient 0.001 and momentum 0.9: the paper's; weight decay off (the paper: 5e-4), eps from the "
    "PyTorch codes, lr from timm",
    tuning={"lr": ("log", 0.5, 50.0), "weight_decay": ("choice", 0.0, 5e-5, 5e-4), "exclude_vectors": ("choice", True)},
    claim="Scales AlexNet to batches of 8K and ResNet-50 to 32K without loss of accuracy.",
    evidence="Trajectory equals solo-learn's code over 60 steps (1e-10), all flags, and a transcription of SimCLR's "
    "for a falling rate inside the buffer; the step is eta·lr·|w| in every layer. Large batches are not tested here.",
    status="partial: the authors' code (Caffe) was read, not run; compared with independent code",
)


class ScaleByLARS(Transform):
    """The gradient with its weight decay, scaled to a share of the size of the weights.

    Args:
        trust_coefficient: η, the share of the weights' norm that a step of rate 1 has.
        weight_decay: β, the coefficient of an L2 penalty.
        eps: added to the denominator.
        clip: LARC: use the local rate itself, at most the learning rate, instead of their product.
    """

    trust_coefficient: float = 1e-3
    weight_decay: float = 0.0
    eps: float = 1e-8
    clip: bool = False

    scope = "tensor"

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        w, g = vector_norm(p), vector_norm(u)
        rate = h.trust_coefficient * w / (g + h.weight_decay * w + h.eps)
        if self.clip:
            rate = (rate / h.lr).clamp(max=1.0)
        return torch.where((w > 0) & (g > 0), rate * (u + h.weight_decay * p), u), {}


class LARS(Optimizer):
    """LARS: for very large batches, with warm-up and a polynomial or cosine decay of the rate.

    Well-tuned Nesterov momentum does as well at the batch sizes that made LARS known (Nado et al., arXiv:2102.06356).

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: global learning rate; times `trust_coefficient` it is the relative size of a step.
        momentum: decay rate of the momentum buffer; 0 keeps no buffer.
        weight_decay: coefficient of an L2 penalty, added to the gradient and to the denominator of the local rate.
        trust_coefficient: share of the weights' norm that a step of rate 1 has.
        eps: added to the denominator of the local rate.
        nesterov: Nesterov's form of the momentum; needs momentum > 0.
        clip: LARC: every layer's rate is min(local rate, lr); use an ordinary SGD rate then.
        exclude_vectors: leave biases and scales (fewer than two dimensions) to plain momentum without weight decay, as
            is common practice; the paper adapts them too.
        lr_in_momentum: the rate enters the momentum buffer (the paper); False: it multiplies the buffer (torch).

    Raises:
        ArgumentError: when a value breaks its rule, or nesterov is asked for without momentum.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> rate = ds.LinearDecay(10.0, total=1000, warmup=100)
        >>> opt = ds.LARS(model, rate, weight_decay=5e-5, exclude_vectors=True)

    Source: arXiv:1708.03888, algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        clip: bool = False,
        exclude_vectors: bool = False,
        lr_in_momentum: bool = True,
        **options: Unpack[Options],
    ) -> None:
        scale: Transform = ScaleByLARS(trust_coefficient, weight_decay, eps, clip)
        trace = Trace(momentum, 0.0, nesterov)
        if nesterov and momentum == 0:
            trace.refuse("nesterov", "used with momentum > 0", momentum)
        if exclude_vectors:
            scale = mask(scale, has_matrix_shape)
        if not momentum:
            rule = chain(scale)
        elif lr_in_momentum:
            rule = chain(scale, ScaleByLearningRate(), trace, Apply())
        else:
            rule = chain(scale, trace)
        super().__init__(params, rule, lr=lr, **options)
