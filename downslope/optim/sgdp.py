"""SGDP: SGD with momentum without the part of its step that only lengthens scale-invariant weights.

    b_t = μ b_{t-1} + (1 - τ) g_t,   b_0 = 0
    u_t = b_t, or g_t + μ b_t (Nesterov)
    q_t = u_t - (ŵ·u_t) ŵ and r = wd_ratio   if |cos(w, g_t)| < δ/√dim(w),  ŵ = w/(‖w‖ + ε)
    q_t = u_t and r = 1                      else
    w_{t+1} = w_t - α (q_t + λ r/(1 - μ) w_t)
    b_t = q_t where u_t = b_t (variant "code")

Paper: Heo, Chun, Oh, Han, Yun, Kim, Uh & Ha, AdamP: Slowing Down the Slowdown for Momentum Optimizers on
Scale-invariant Weights, ICLR 2021, arXiv:2006.08217.
Memory: 1 tensor like the parameter.
Differs from the paper: as the authors' code does, the test is made per output channel first (every channel must pass),
then for the whole weight; the decay stands beside the momentum, with a wd_ratio, and is divided by 1 - μ, so that λ has
the strength that it has inside a momentum buffer. Without Nesterov the authors' code projects the momentum buffer
itself (an update in place of a tensor that is the buffer), with Nesterov and in the paper's algorithm it does not;
`variant="paper"` never does.
Differs from the authors' code: nothing but rounding (the decay and the step are taken in one subtraction).
Reduces to: SGD with momentum when δ = 0, λ = 0 and τ = 0. With τ > 0 torch's first step is not dampened, this one is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from downslope._core import Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates
from downslope.optim._projection import remove_radial

CARD = Card(
    key="sgdp",
    name="SGDP",
    exports=("SGDP", "ScaleBySGDP"),
    paper="Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights, ICLR 2021",
    url="https://arxiv.org/abs/2006.08217",
    year=2020,
    code="https://github.com/clovaai/AdamP @ 7f6f0383ff6a",
    formula="b = mu b + (1-tau) g; if |cos(w,g)| < delta/sqrt(dim): b -= (w^.b) w^, wd *= wd_ratio; w -= lr (b + "
    "wd/(1-mu) w)",
    scope="tensor",
    state="1 tensor like the parameter",
    state_values=1.0,
    defaults="the authors' code, whose lr has no default; their example has lr=0.1, momentum=0.9, nesterov, "
    "weight_decay=1e-5",
    tuning={
        "lr": ("log", 1e-3, 1.0),
        "momentum": ("choice", 0.9, 0.95),
        "nesterov": ("choice", True),
        "weight_decay": ("log", 1e-6, 1e-3),
    },
    claim="Uniform gains over SGD with momentum; the effective step of scale-invariant weights no longer decays early.",
    evidence="Trajectory equals the authors' code over 60 steps (1e-10), all flags, with projections per channel, as a "
    "whole and none; on a noisy scale-invariant loss the weights grow less than half as much as with SGD.",
    status="proved",
)


class ScaleBySGDP(Transform):
    """The momentum of SGD, projected where the weight is scale-invariant, with its weight decay.

    Args:
        momentum: decay rate of the sum of gradients.
        dampening: share of every gradient that is kept out of the sum.
        weight_decay: coefficient of the decay, divided by 1 - momentum.
        nesterov: look ahead, by adding the gradient to momentum times the sum.
        eps: added to the norm of a weight.
        delta: threshold of the test for scale invariance; 0 never projects.
        wd_ratio: share of the weight decay that scale-invariant weights get.
        variant: `"code"` projects the buffer too where it is the update, `"paper"` does not.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    eps: float = 1e-8
    delta: float = 0.1
    wd_ratio: float = 0.1
    variant: str = "code"

    scope = "tensor"
    slots = (Slot("momentum_buffer", "b, the decaying sum of gradients"),)

    def check(self) -> None:
        self.one_of("variant", "code", "paper")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        g = u
        b = h.momentum * state.momentum_buffer + (1 - h.dampening) * g
        q, invariant = remove_radial(g + h.momentum * b if self.nesterov else b, g, p, h.delta, h.eps)
        kept = q if self.variant == "code" and not self.nesterov else b
        decay = h.weight_decay / (1 - h.momentum) * p
        return q + torch.where(invariant, h.wd_ratio * decay, decay), {"momentum_buffer": kept}


class SGDP(Optimizer):
    """SGDP: SGD with momentum for networks with normalisation layers, where most weights are scale-invariant.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        momentum: decay rate of the momentum buffer.
        dampening: share of every gradient that is kept out of the buffer.
        weight_decay: share of the parameter taken off per step, times lr/(1 - momentum).
        nesterov: Nesterov's form of the momentum.
        eps: added to the norm of a weight.
        delta: threshold of the test for scale invariance, as |cos(weight, gradient)| times the root of the size.
        wd_ratio: share of the weight decay that scale-invariant weights get.
        variant: without Nesterov `"code"` projects the momentum buffer too, `"paper"` only the step.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4, bias=False), torch.nn.LayerNorm(4))
        >>> opt = ds.SGDP(model, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-5)

    Source: arXiv:2006.08217; clovaai/AdamP.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-1,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        rule = ScaleBySGDP(momentum, dampening, weight_decay, nesterov, eps, delta, wd_ratio, variant)
        super().__init__(params, rule, lr=lr, **options)
