"""AdaMod: Adam whose per-element rate may not exceed its own running mean.

    m_t = β1 m_{t-1} + (1 - β1) g_t
    v_t = β2 v_{t-1} + (1 - β2) g_t²
    η_t = α √(1 - β2^t) / ((1 - β1^t) (√v_t + ε))
    s_t = β3 s_{t-1} + (1 - β3) η_t               s_0 = 0: the bound starts low, a warm-up of about 1 / (1 - β3) steps
    θ_t = θ_{t-1} - min(η_t, s_t) ⊙ m_t - α λ θ_{t-1}

Paper: Ding, Ren, Luo & Sun, An Adaptive and Momental Bound Method for Stochastic Learning, 2019, arXiv:1910.12249,
Algorithm 1. A later version by Ding, Ren & Luo is at NLPCC 2023.
Memory: 3 tensors like the parameter.
Differs from the paper: there the bound is on α / (√v̂_t + ε), without the bias correction of m, and ε is added after
that of v, which variant="paper" follows; the weight decay is the code's.
Differs from the authors' code: the decay is taken from the same θ_{t-1}, and α out of the bound and multiplied in the
step, the same up to rounding. (Their docstring gives β3 = 0.9999 as default, their signature and README 0.999.)
Reduces to: Adam (AdamW with λ) when β3 = 0.
"""

from __future__ import annotations

from torch import Tensor, minimum
from typing_extensions import Unpack

from downslope._core import (
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
    key="adamod",
    name="AdaMod",
    exports=("AdaMod", "ScaleByAdaMod"),
    paper="Ding, Ren, Luo & Sun, An Adaptive and Momental Bound Method for Stochastic Learning, 2019",
    url="https://arxiv.org/abs/1910.12249",
    year=2019,
    code="https://github.com/lancopku/AdaMod @ d86640797b21",
    formula="eta = lr / (sqrt(v^) + eps); s = b3 s + (1-b3) eta; p -= min(eta, s) m + lr wd p",
    scope="element",
    state="3 tensors like the parameter",
    state_values=3.0,
    defaults="the authors' code",
    tuning={"lr": ("log", 1e-4, 1e-1), "beta3": ("choice", 0.999, 0.9999), "weight_decay": ("choice", 0.0, 5e-4)},
    claim="No extremely large rates at the start, so no warm-up is needed; beats Adam on DenseNet and Transformer.",
    evidence="Trajectory equals the authors' code over 60 steps (1e-12) with weight decay, other betas and a falling "
    "lr; no step exceeds s m; at lr 10 a quadratic's loss rises less than 10-fold, with Adam more than 100-fold.",
    status="proved",
)


class ScaleByAdaMod(Transform):
    """The running mean of the gradient, times Adam's rate or the running mean of that rate, whichever is less.

    Args:
        betas: decay rates of the running means of the gradient and of its square.
        beta3: decay rate of the running mean of the rate, which includes lr.
        eps: added to the root.
        variant: "code", or "paper" for a bound on the rate without the first mean's bias correction.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    beta3: float = 0.999
    eps: float = 1e-8
    variant: str = "code"

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
        Slot("exp_avg_lr", "s, the running mean of the rate", nonnegative=True),
    )

    def check(self) -> None:
        """The variants by name."""
        self.one_of("variant", "code", "paper")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        m = b1 * state.exp_avg + (1 - b1) * u
        v = b2 * state.exp_avg_sq + (1 - b2) * u * u
        correction1, correction2 = 1 - b1**h.step, 1 - b2**h.step
        if self.variant == "code":
            eta, direction = correction2**0.5 / correction1 / (v.sqrt() + h.eps), m
        else:
            eta, direction = 1 / ((v / correction2).sqrt() + h.eps), m / correction1
        s = h.beta3 * state.exp_avg_lr + (1 - h.beta3) * h.lr * eta
        bound = s / maths.maximum(h.lr, 1e-30)  # in units of lr, finite when lr is 0
        return minimum(eta, bound) * direction, {"exp_avg": m, "exp_avg_sq": v, "exp_avg_lr": s}


class AdaMod(Optimizer):
    """AdaMod: Adam without a warm-up schedule, for models on which Adam's first steps are too large.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        beta3: decay rate of the running mean of the rate; 1 / (1 - beta3) is about the length of the warm-up in steps.
        eps: added to the root.
        weight_decay: share of the parameter taken off per step, times lr.
        variant: "code", or "paper" for a bound on the rate without the first mean's bias correction.

    Raises:
        ArgumentError: for a value outside its range.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.AdaMod(model, lr=1e-3, beta3=0.999)

    Source: arXiv:1910.12249, Algorithm 1; https://github.com/lancopku/AdaMod.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        rule = chain(ScaleByAdaMod(betas, beta3, eps, variant), DecoupledWeightDecay(weight_decay))
        super().__init__(params, rule, lr=lr, **options)
