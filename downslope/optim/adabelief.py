"""AdaBelief: Adam that divides by the gradient's deviation from its own running mean, the lack of "belief" in it.

    m_t = β1 m_{t-1} + (1 - β1) g_t;                    m̂_t = m_t / (1 - β1^t)
    s_t = β2 s_{t-1} + (1 - β2) (g_t - m_t)² + ε;       ŝ_t = s_t / (1 - β2^t)
    θ_t = θ_{t-1} - α m̂_t / (√ŝ_t + ε)

The ε inside s_t stays in the state and adds up to ε / (1 - β2), so ε here acts like the square of Adam's. By default
the step is rectified as RAdam's: while ρ_t <= 5 it is α m̂_t, later it is α r_t m̂_t √(1 - β2^t) / (√s_t + ε).

Paper: Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, NeurIPS 2020,
arXiv:2010.07468, Algorithm 2.
Memory: 2 tensors like the parameter, 3 with amsgrad.
Differs from the paper: it has no rectification (rectify=False). Its image results have ε = 1e-8 and, on CIFAR, an L2
penalty (decoupled_weight_decay=False); those were the defaults of the authors' release 0.0.5, changed in 0.1.0 to what
is here.
Differs from the authors' code: equal to release 0.2.1, but with rectify and amsgrad together theirs keeps the maximum
and does not use it; here it is used. fixed_decay without decoupled decay does nothing there and is refused here. Their
weight_decouple is called decoupled_weight_decay.
Reduces to: SGD with learning rate α / (√(ε / (1 - β2)) + ε) when β1 = 0, without rectification.
"""

from __future__ import annotations

from torch import Tensor, maximum, zeros_like
from typing_extensions import Unpack

from downslope._core import (
    L2,
    Apply,
    Card,
    DecoupledWeightDecay,
    Hyper,
    Optimizer,
    Options,
    Params,
    ScaleByLearningRate,
    Slot,
    State,
    Transform,
    Updates,
    chain,
    maths,
)
from downslope.optim.radam import rectification

CARD = Card(
    key="adabelief",
    name="AdaBelief",
    exports=("AdaBelief", "ScaleByAdaBelief"),
    paper="Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, NeurIPS 2020",
    url="https://arxiv.org/abs/2010.07468",
    year=2020,
    code="https://github.com/juntang-zhuang/Adabelief-Optimizer @ 2855178eff67 (adabelief-pytorch 0.2.1)",
    formula="s = b2 s + (1-b2)(g-m)^2 + eps; p -= lr r m^ / (sqrt(s^) + eps)",
    scope="element",
    state="2 tensors like the parameter (3 with amsgrad)",
    state_values=2.0,
    defaults="the authors' releases 0.1.0 to 0.2.1; rectify=False for the paper's",
    tuning={
        "lr": ("log", 1e-4, 1e-2),
        "eps": ("choice", 1e-8, 1e-12, 1e-16),
        "weight_decay": ("choice", 0.0, 1e-4, 1e-2),
        "rectify": ("choice", True, False),
    },
    claim="fast as Adam, generalises as SGD, stable in GANs",
    evidence="60 steps equal adabelief-pytorch 0.2.1; sooner at the minimum of |x| + |y| than Adam; "
    "the ImageNet and GAN results were not rerun",
    status="proved",
)


class ScaleByAdaBelief(Transform):
    """The running mean of the gradient over the root of the gradient's running squared deviation from it.

    Args:
        betas: decay rates of the two running means.
        eps: added to s at every step, and to its root.
        amsgrad: divide by the root of the largest s so far.
        rectify: multiply by RAdam's r_t once ρ_t > 5.
        degenerated_to_sgd: before that, the direction is m̂; otherwise it is 0.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-16
    amsgrad: bool = False
    rectify: bool = True
    degenerated_to_sgd: bool = True

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot(
            "exp_avg_var",
            "s, the running mean of its squared deviation from m, with the ε of every step",
            nonnegative=True,
        ),
        Slot("max_exp_avg_var", "the largest s so far", when=lambda self: self.amsgrad, nonnegative=True),
    )

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        m = b1 * state.exp_avg + (1 - b1) * u
        s = b2 * state.exp_avg_var + (1 - b2) * (u - m) * (u - m) + h.eps
        kept = {"exp_avg": m, "exp_avg_var": s}
        if self.amsgrad:
            s = kept["max_exp_avg_var"] = maximum(state.max_exp_avg_var, s)
        m_hat = m / (1 - b1**h.step)
        correction = (1 - b2**h.step) ** 0.5
        if not self.rectify:
            return m_hat / (s.sqrt() / correction + h.eps), kept
        tractable, r = rectification(h.step, b2)
        adaptive = r * correction / (s.sqrt() + h.eps)
        early = m_hat if self.degenerated_to_sgd else zeros_like(m_hat)
        return maths.where(tractable, m_hat * adaptive, early), kept


class AdaBelief(Optimizer):
    """AdaBelief: try it where Adam trains faster but SGD ends better. Choose eps first; it matters more than Adam's.

    The authors advise eps=1e-8 without rectify where SGD beats Adam (convolutional networks) and eps=1e-16 with rectify
    where Adam beats SGD (transformers, GANs). Clip by norm, not by element: a constant gradient makes the step explode.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its squared deviation.
        eps: added to the squared deviation at every step, and to its root.
        weight_decay: share of the parameter taken off per step, times lr.
        amsgrad: divide by the largest running squared deviation so far.
        decoupled_weight_decay: if False, weight_decay is the coefficient of an L2 penalty, added to the gradient.
        fixed_decay: take off the share weight_decay whatever lr is; needs decoupled_weight_decay.
        rectify: RAdam's rectification of the first steps.
        degenerated_to_sgd: with rectify, take the first steps by momentum alone, or else skip them.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.AdaBelief(model, lr=1e-3, eps=1e-8, rectify=False, weight_decay=1e-2)

    Source: arXiv:2010.07468, Algorithm 2; the authors' adabelief-pytorch 0.2.1.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        fixed_decay: bool = False,
        rectify: bool = True,
        degenerated_to_sgd: bool = True,
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByAdaBelief(betas, eps, amsgrad, rectify, degenerated_to_sgd)
        if fixed_decay and not decoupled_weight_decay:
            scale.refuse("fixed_decay", "used with decoupled_weight_decay=True", fixed_decay)
        decay = DecoupledWeightDecay(weight_decay)
        rule = chain(scale, decay) if decoupled_weight_decay else chain(L2(weight_decay), scale)
        rule = chain(scale, ScaleByLearningRate(), decay, Apply()) if fixed_decay else rule
        super().__init__(params, rule, lr=lr, **options)
