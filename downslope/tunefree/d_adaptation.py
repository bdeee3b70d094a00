"""D-Adaptation for Adam: Adam whose step is d_k, a growing estimate of the distance from start to solution.

    c = sqrt(b2);  lambda_k = d_k lr_k;  s, m, v, r start at 0
    r_{k+1} = c r_k + (1 - c) lambda_k <g_k, s_k / (sqrt(v_k) + eps)>
    m_{k+1} = b1 m_k + (1 - b1) lambda_k g_k
    v_{k+1} = b2 v_k + (1 - b2) g_k^2
    s_{k+1} = c s_k + (1 - c) lambda_k g_k
    d^_{k+1} = r_{k+1} / ((1 - c) |s_{k+1}|_1);   d_{k+1} = max(d_k, min(d^_{k+1}, growth_rate d_k))
    x_{k+1} = x_k - m_{k+1} / (sqrt(v_{k+1}) + eps)

Paper: Defazio & Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023, the Adam variant.
Memory: three tensors per parameter, and two numbers in all. D-Adaptation of SGD is in `d_adaptation_sgd.py`.

Differs from the paper: the formulas above are read from the authors' code (version 3), in which the inner product of r
is taken in the norm of v_k, before the new gradient enters it; the paper's listing, known here from quotations alone,
has v_{k+1} there (`variant="paper"`). `growth_rate` is an addition. d is a lower bound of the distance in the theory of
dual averaging; with Adam's running means it is not (1.6 times the distance in the largest coordinate was seen on convex
problems).
Differs from the authors' code: p.grad is left as it is under weight decay. Their `layer_scale` is here the lr of the
group relative to the largest lr of all groups; they refuse groups whose lr differ (other than 0), and do not scale
decoupled decay by layer_scale. A group with lr 0 stands still, where theirs goes on with its last m and decay.
Reduces to: Adam without bias correction at learning rate lr * d0, when growth_rate = 1.
"""

from __future__ import annotations

import math

from torch import Tensor
from typing_extensions import Unpack

from downslope._core import (
    Apply,
    Card,
    GlobalTransform,
    Hyper,
    Optimizer,
    Options,
    Params,
    Slot,
    State,
    Updates,
    chain,
    maths,
)

__all__ = ["DAdaptAdam", "ScaleByDAdaptAdam"]

CARD = Card(
    key="d-adaptation",
    name="D-Adaptation (Adam)",
    exports=("DAdaptAdam", "ScaleByDAdaptAdam"),
    paper="Defazio & Mishchenko, Learning-Rate-Free Learning by D-Adaptation, ICML 2023",
    url="https://arxiv.org/abs/2301.07733",
    year=2023,
    code="https://github.com/facebookresearch/dadaptation @ c984980213a9",
    formula="Adam with lr = d; d = max(d, sum lambda <g, s> / |s|_1 in the norm of Adam's denominator)",
    scope="global",
    state="3 tensors",
    state_values=3.0,
    defaults="the authors'",
    tuning={"lr": ("choice", 0.5, 1.0, 2.0), "weight_decay": ("choice", 0.0, 0.01, 0.1)},
    claim="matches hand-tuned learning rates on more than a dozen problems without tuning",
    evidence="60 steps equal the authors' code; a small network's loss after 120 steps is within a factor 3 for all d0 "
    "from 1e-8 to 1e-2",
    status="partial: formulas from the authors' code, the paper's listing known from quotations alone",
    aliases=("dadapt-adam",),
)


def ratio(a: maths.Scalar, b: maths.Scalar) -> maths.Scalar:
    """a / b, and 0 where b is 0."""
    return maths.where(b > 0, a / maths.where(b > 0, b, 1.0), 0.0)


class ScaleByDAdaptAdam(GlobalTransform):
    """Adam's update times the adapted distance d times lr; end such a chain with `Apply`.

    Args:
        betas: decay rates of m and v; the square root of the second is that of s and r.
        eps: added to the root of v.
        weight_decay: of the parameters.
        d0: the first d; too small a value only costs some steps.
        growth_rate: the largest factor by which d grows in a step; 1.02 acts as a warm-up.
        decoupled_weight_decay: subtract lr * d * weight_decay * p (AdamW) instead of adding weight_decay * p to g.
        bias_correction: multiply lr by Adam's bias correction.
        variant: `"code"` divides by the root of v before this gradient in the inner product of r, `"paper"` after it.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    d0: float = 1e-6
    growth_rate: float = math.inf
    decoupled_weight_decay: bool = False
    bias_correction: bool = False
    variant: str = "code"

    fixed = ("growth_rate",)
    slots = (
        Slot("exp_avg", "m: running mean of lambda times the gradient"),
        Slot("exp_avg_sq", "v: running mean of the squared gradient", nonnegative=True),
        Slot("s", "running mean of lambda times the gradient, at the rate of v"),
    )
    shared = (
        Slot("d", "estimate of the distance to the solution", init=lambda self: self.d0),
        Slot("r", "running mean of lambda <g, s>"),
        Slot("rate", "lambda of the step in progress"),
        Slot("k", "steps that counted: some gradient was not 0"),
    )

    def check(self) -> None:
        if not self.growth_rate >= 1:
            self.refuse("growth_rate", "a number >= 1, or math.inf", self.growth_rate)
        self.one_of("variant", "code", "paper")

    def rate(self, shared: State, h: Hyper) -> maths.Scalar:
        """lambda_k = d lr, with Adam's bias correction if wanted; lr is the largest of the groups."""
        (b1, b2), k = h.betas, shared.k + 1
        correction = (1 - b2**k) ** 0.5 / (1 - b1**k) if self.bias_correction else 1.0
        return shared.d * h.max_lr * correction

    def measure(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[dict[str, Tensor], Updates]:
        b1, b2 = (maths.where(h.lr > 0, b, 1.0) for b in h.betas)  # a group with lr 0 stands still
        c, rate, scale = b2**0.5, self.rate(h.shared, h), ratio(h.lr, h.max_lr)
        g = u if self.decoupled_weight_decay else u + h.weight_decay * p
        m = b1 * state.exp_avg + (scale * rate * (1 - b1)) * g
        v = b2 * state.exp_avg_sq + (1 - b2) * g * g
        known = state.exp_avg_sq if self.variant == "code" else v
        inner = (g * (state.s / (known.sqrt() + h.eps))).sum()
        s = c * state.s + (rate * (1 - c)) * g
        sums = {"inner": scale * rate * inner, "s_l1": scale * s.abs().sum()}
        return sums, {"exp_avg": m, "exp_avg_sq": v, "s": s}

    def combine(self, sums: State, shared: State, h: Hyper) -> dict[str, float]:
        c, moved = h.betas[1] ** 0.5, sums.s_l1 > 0
        r = c * shared.r + (1 - c) * sums.inner
        d_hat = ratio(r, (1 - c) * sums.s_l1)
        d = maths.maximum(shared.d, maths.minimum(d_hat, self.growth_rate * shared.d))
        return {
            "d": d,
            "r": maths.where(moved, r, shared.r),
            "rate": maths.where(moved, self.rate(shared, h), 0.0),
            "k": shared.k + maths.where(moved, 1, 0),
        }

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        step = state.exp_avg / (state.exp_avg_sq.sqrt() + h.eps)
        if self.decoupled_weight_decay:
            step = step + h.shared.rate * ratio(h.lr, h.max_lr) * h.weight_decay * p
        return maths.where(h.lr > 0, 1.0, 0.0) * step, {}


class DAdaptAdam(Optimizer):
    """Adam that finds its own learning rate: for where Adam works and tuning is too dear; keep lr = 1 and a schedule.

    Args:
        params: the model, `model.named_parameters()`, tensors, or param groups.
        lr: factor on the adapted learning rate; a schedule acts on it (1). Groups scale relative to the largest.
        betas: decay rates of the running means of gradient and squared gradient (0.9, 0.999).
        eps: keeps the division finite (1e-8).
        weight_decay: weight decay coefficient (0).
        d0: first estimate of the distance to the solution; rarely needs changing (1e-6).
        growth_rate: the largest factor by which the estimate grows in a step (inf).
        decoupled_weight_decay: AdamW's decay instead of L2 (False).
        bias_correction: Adam's bias correction (False).
        variant: what the inner product of r is divided by: "code" the root of v_k, "paper" that of v_{k+1} ("code").
        options: `maximize`, `execution`, `seed`; see `ds.Options`.

    Raises:
        ArgumentError: in one sentence, for a value outside its range.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.DAdaptAdam(model, weight_decay=0.01, decoupled_weight_decay=True)
        >>> opt.d  # grows from d0
        1e-06

    Source: Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        growth_rate: float = math.inf,
        decoupled_weight_decay: bool = False,
        bias_correction: bool = False,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByDAdaptAdam(
            betas, eps, weight_decay, d0, growth_rate, decoupled_weight_decay, bias_correction, variant
        )
        super().__init__(params, chain(scale, Apply()), lr=lr, **options)

    @property
    def d(self) -> float:
        """The adapted estimate of the distance to the solution: lr * d is the learning rate in use."""
        return float(self.shared_values(ScaleByDAdaptAdam)["d"])
