"""AdamP: Adam without the part of its step that only lengthens scale-invariant weights.

    m_t = β1 m_{t-1} + (1 - β1) g_t,   v_t = β2 v_{t-1} + (1 - β2) g_t²
    u_t = m̂_t / (√v̂_t + ε)
    q_t = u_t - (ŵ·u_t) ŵ and r = wd_ratio   if |cos(w, g_t)| < δ/√dim(w),  ŵ = w/(‖w‖ + ε)
    q_t = u_t and r = 1                      else
    w_{t+1} = w_t - α (q_t + λ r w_t)

Paper: Heo, Chun, Oh, Han, Yun, Kim, Uh & Ha, AdamP: Slowing Down the Slowdown for Momentum Optimizers on
Scale-invariant Weights, ICLR 2021, arXiv:2006.08217.
Memory: 2 tensors like the parameter.
Differs from the paper: as the authors' code does, the test is made per output channel first (every channel must pass),
then for the whole weight; vectors are never projected; Nesterov's form is offered. The bias correction, the
weight decay and its wd_ratio are the code's, the algorithm as printed has none.
Differs from the authors' code: nothing but rounding (the decay and the step are taken in one subtraction).
Reduces to: AdamW when δ = 0, and on vectors; Adam when λ = 0 too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from downslope._core import Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates
from downslope.optim._projection import remove_radial

CARD = Card(
    key="adamp",
    name="AdamP",
    exports=("AdamP", "ScaleByAdamP"),
    paper="Heo et al., AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights, ICLR 2021",
    url="https://arxiv.org/abs/2006.08217",
    year=2020,
    code="https://github.com/clovaai/AdamP @ 7f6f0383ff6a",
    formula="u = Adam direction; if |cos(w,g)| < delta/sqrt(dim): u -= (w^.u) w^, wd *= wd_ratio; w -= lr (u + wd w)",
    scope="tensor",
    state="2 tensors like the parameter",
    state_values=2.0,
    defaults="the authors' code; their example has weight_decay=0.01",
    tuning={"lr": ("log", 1e-4, 3e-2), "weight_decay": ("log", 1e-3, 3e-1)},
    claim="Uniform gains over the baselines on 13 benchmarks of vision, language and audio.",
    evidence="Trajectory equals the authors' code over 60 steps (1e-10), all flags, with projections per channel, as a "
    "whole and none; on a noisy scale-invariant loss the weights grow less than half as much as with AdamW.",
    status="proved",
)


class ScaleByAdamP(Transform):
    """The Adam direction, projected where the weight is scale-invariant, with its weight decay.

    Args:
        betas: decay rates of the two running means.
        eps: added to the root, and to the norm of a weight.
        weight_decay: coefficient of the decay beside the gradient.
        delta: threshold of the test for scale invariance; 0 never projects.
        wd_ratio: share of the weight decay that scale-invariant weights get.
        nesterov: look ahead, with β1 m + (1 - β1) g in the place of m.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    delta: float = 0.1
    wd_ratio: float = 0.1
    nesterov: bool = False

    scope = "tensor"
    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
    )

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        g, (b1, b2) = u, h.betas
        m = b1 * state.exp_avg + (1 - b1) * g
        v = b2 * state.exp_avg_sq + (1 - b2) * g * g
        root = v.sqrt() / (1 - b2**h.step) ** 0.5 + h.eps
        ahead = b1 * m + (1 - b1) * g if self.nesterov else m
        q, invariant = remove_radial(ahead / (1 - b1**h.step) / root, g, p, h.delta, h.eps)
        decay = h.weight_decay * p
        return q + torch.where(invariant, h.wd_ratio * decay, decay), {"exp_avg": m, "exp_avg_sq": v}


class AdamP(Optimizer):
    """AdamP: AdamW for networks with normalisation layers, where most weights are scale-invariant.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the root, and to the norm of a weight.
        weight_decay: share of the parameter taken off per step, times lr.
        delta: threshold of the test for scale invariance, as |cos(weight, gradient)| times the root of the size.
        wd_ratio: share of the weight decay that scale-invariant weights get.
        nesterov: look ahead by one step of the first running mean.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4, bias=False), torch.nn.LayerNorm(4))
        >>> opt = ds.AdamP(model, lr=1e-3, weight_decay=0.01)

    Source: arXiv:2006.08217; clovaai/AdamP.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        rule = ScaleByAdamP(betas, eps, weight_decay, delta, wd_ratio, nesterov)
        super().__init__(params, rule, lr=lr, **options)
