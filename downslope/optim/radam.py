"""RAdam: Adam that waits with its adaptive step until the variance of that step can be trusted.

    m_t, v_t as in Adam;  m̂_t = m_t / (1 - β1^t)
    ρ_∞ = 2 / (1 - β2) - 1
    ρ_t = ρ_∞ - 2 t β2^t / (1 - β2^t)
    if ρ_t > 5:  r_t = √((ρ_t - 4)(ρ_t - 2) ρ_∞ / ((ρ_∞ - 4)(ρ_∞ - 2) ρ_t))
                 θ_t = θ_{t-1} - α r_t m̂_t √(1 - β2^t) / (√v_t + ε)
    else:        θ_t = θ_{t-1} - α m̂_t

Paper: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020, arXiv:1908.03265, Algorithm 2.
Memory: 2 tensors like the parameter.
Differs from the paper: the threshold is 5, not 4 (variant="paper"): with β2 = 0.999 the adaptive steps start at step 6
instead of 5. The paper has no ε (eps=0).
Differs from the authors' code: their package skips the steps below the threshold (degenerated_to_sgd=False), with
weight decay and all, whereas their paper, their experiments and torch take them with momentum alone, as is the default
here; decay always goes on here. They test ρ_t >= 5 where torch has ρ_t > 5, which no usual β2 can tell apart.
Differs from torch.optim.RAdam: weight decay is decoupled, as in the authors' code; decoupled_weight_decay=False is
torch's.
Reduces to: SGD when β1 = 0 and β2 < 2/3, since then ρ_∞ < 5; Adam as r_t -> 1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, zeros_like
from typing_extensions import Unpack

from downslope._core import (
    L2,
    Card,
    DecoupledWeightDecay,
    Hyper,
    Optimizer,
    Options,
    Params,
    Slot,
    State,
    Transform,
    Updates,
    chain,
    maths,
)

CARD = Card(
    key="radam",
    name="RAdam",
    exports=("RAdam", "ScaleByRAdam"),
    paper="Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020",
    url="https://arxiv.org/abs/1908.03265",
    year=2019,
    code="https://github.com/LiyuanLucasLiu/RAdam @ d9fd30a33789; torch.optim.RAdam (2.13.0)",
    formula="p -= lr r m^ sqrt(1-b2^t) / (sqrt(v) + eps) if rho > 5 else lr m^",
    scope="element",
    state="2 tensors like the parameter",
    state_values=2.0,
    defaults="the authors' code, but degenerated_to_sgd=True as in the paper, its experiments and torch",
    tuning={"lr": ("log", 3e-4, 1e-1), "weight_decay": ("choice", 0.0, 1e-4, 1e-2)},
    claim="no warmup needed; less sensitive to the learning rate than Adam in vision and language",
    evidence="60 steps equal the authors' code and torch.optim.RAdam; rectified early steps have the variance of late "
    "ones (Monte Carlo); the translation results were not rerun",
    status="proved",
)


def rectification(step: Any, beta2: Any, threshold: float = 5.0) -> tuple[Any, Any]:
    """Whether ρ_t is above the threshold at this step, and r_t."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    tractable = rho > threshold
    # Below the threshold r_t is not used; 5 stands in for both lengths there, so that the root stays real.
    a, b = maths.where(tractable, rho, 5.0), maths.where(tractable, rho_inf, 5.0)
    return tractable, ((a - 4) * (a - 2) * b / ((b - 4) * (b - 2) * a)) ** 0.5


class ScaleByRAdam(Transform):
    """Adam's direction times r_t, or the momentum alone while the variance of the former is intractable.

    Args:
        betas: decay rates of the two running means.
        eps: added to √v, before its bias is corrected.
        degenerated_to_sgd: below the threshold, the direction is m̂; otherwise it is 0.
        variant: `"code"` for the threshold 5, `"paper"` for 4.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    degenerated_to_sgd: bool = True
    variant: str = "code"

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
    )

    def check(self) -> None:
        self.one_of("variant", "code", "paper")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        m = b1 * state.exp_avg + (1 - b1) * u
        v = b2 * state.exp_avg_sq + (1 - b2) * u * u
        m_hat = m / (1 - b1**h.step)
        tractable, r = rectification(h.step, b2, 4.0 if self.variant == "paper" else 5.0)
        adaptive = r * (1 - b2**h.step) ** 0.5 / (v.sqrt() + h.eps)
        early = m_hat if self.degenerated_to_sgd else zeros_like(m_hat)
        return maths.where(tractable, m_hat * adaptive, early), {"exp_avg": m, "exp_avg_sq": v}


class RAdam(Optimizer):
    """RAdam: Adam without learning-rate warmup. Try it where Adam diverges or stalls without one.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the root.
        weight_decay: share of the parameter taken off per step, times lr.
        decoupled_weight_decay: if False, weight_decay is the coefficient of an L2 penalty, added to the gradient.
        degenerated_to_sgd: take the first steps by momentum alone, or else skip them.
        variant: `"code"` or `"paper"`, which starts the adaptive steps a little earlier.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.RAdam(model, lr=1e-3, weight_decay=1e-4)

    Source: arXiv:1908.03265, Algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True,
        degenerated_to_sgd: bool = True,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByRAdam(betas, eps, degenerated_to_sgd, variant)
        decoupled = chain(scale, DecoupledWeightDecay(weight_decay))
        rule = decoupled if decoupled_weight_decay else chain(L2(weight_decay), scale)
        super().__init__(params, rule, lr=lr, **options)
