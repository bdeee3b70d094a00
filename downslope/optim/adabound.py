"""AdaBound: Adam whose per-element rate is clipped between two bounds that close on the rate of SGD.

    m_t = β1 m_{t-1} + (1 - β1) g_t
    v_t = β2 v_{t-1} + (1 - β2) g_t²              AMSBound: the largest v so far takes the place of v_t
    η_t = Clip(α √(1 - β2^t) / ((1 - β1^t) (√v_t + ε)), η_l(t), η_u(t))
    η_l(t) = α* (1 - 1 / (γ t + 1)),   η_u(t) = α* (1 + 1 / (γ t)),   α* = final_lr · α / (α at the start)
    θ_t = θ_{t-1} - η_t ⊙ m_t

Paper: Luo, Xiong, Liu & Sun, Adaptive Gradient Methods with Dynamic Bound of Learning Rate, ICLR 2019,
arXiv:1902.09843, Algorithms 2 (AdaBound) and 3 (AMSBound).
Memory: 2 tensors like the parameter, 3 with amsbound.
Differs from the paper: the paper corrects no bias, which variant="paper" follows; it divides η_t by √t, which is a
schedule of the learning rate here, as α and both bounds scale with it; its final rate α* knows no schedule.
Differs from the authors' code: α is taken out of the clip and multiplied in the step, the same up to rounding. Their
AdaBoundW, whose decay α does not multiply, is left out: with DecoupledWeightDecay(λ) in the chain the decay is αλ.
Reduces to: Adam (AMSGrad) as γ → 0; SGD with the running mean of the gradient and rate final_lr as γ t → ∞.
"""

from __future__ import annotations

from torch import Tensor, maximum
from typing_extensions import Unpack

from downslope._core import L2, Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates, chain, maths

CARD = Card(
    key="adabound",
    name="AdaBound / AMSBound",
    exports=("AdaBound", "ScaleByAdaBound"),
    paper="Luo, Xiong, Liu & Sun, Adaptive Gradient Methods with Dynamic Bound of Learning Rate, ICLR 2019",
    url="https://arxiv.org/abs/1902.09843",
    year=2019,
    code="https://github.com/Luolc/AdaBound @ 2e928c3007a2",
    formula="eta = clip(lr / (sqrt(v^) + eps), f (1 - 1/(gamma t + 1)), f (1 + 1/(gamma t))), "
    "f = final_lr lr / first lr; p -= eta m",
    scope="element",
    state="2 tensors like the parameter (3 with amsbound)",
    state_values=2.0,
    defaults="the authors' code; the bounds are the paper's, with 1 - b2 = gamma",
    tuning={
        "lr": ("log", 1e-4, 1e-2),
        "final_lr": ("log", 1e-2, 1.0),
        "gamma": ("choice", 1e-3),
        "weight_decay": ("choice", 0.0, 5e-4),
    },
    claim="As fast as Adam at the start of training and as good as SGD at its end; converges where Adam does not.",
    evidence="Trajectory equals the authors' code over 60 steps (1e-12) with amsbound, weight decay, other bounds and "
    "a falling lr; goes to the right end of the 3-periodic example on which Adam goes to the wrong one.",
    status="proved",
)


class ScaleByAdaBound(Transform):
    """The running mean of the gradient, times Adam's rate clipped between the bounds; the step multiplies by lr.

    Args:
        betas: decay rates of the running means of the gradient and of its square.
        final_lr: rate on which the bounds close, at the reference learning rate.
        gamma: how fast they close; at step 1/gamma the upper bound is twice final_lr and the lower half of it.
        eps: added to the root.
        amsbound: use the largest running mean square so far.
        reference_lr: learning rate at which final_lr holds; None is the group's lr at construction.
        variant: "code", or "paper" for no bias correction.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    final_lr: float = 0.1
    gamma: float = 1e-3
    eps: float = 1e-8
    amsbound: bool = False
    reference_lr: float | None = None
    variant: str = "code"

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
        Slot("max_exp_avg_sq", "the largest v so far", when=lambda self: self.amsbound, nonnegative=True),
    )

    def check(self) -> None:
        """Refuse what the bounds cannot be formed with."""
        if not callable(self.gamma) and not 0 < self.gamma < 1:
            self.refuse("gamma", "in (0, 1)", self.gamma)
        self.one_of("variant", "code", "paper")

    def check_lr(self, lr: float) -> None:
        """The bounds scale with lr over its first value."""
        if lr == 0 and self.reference_lr is None:
            self.refuse("lr", "> 0 at construction", lr, "Or give reference_lr, the lr at which final_lr holds.")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        m = b1 * state.exp_avg + (1 - b1) * u
        v = b2 * state.exp_avg_sq + (1 - b2) * u * u
        kept = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsbound:
            v = kept["max_exp_avg_sq"] = maximum(state.max_exp_avg_sq, v)
        correction = (1 - b2**h.step) ** 0.5 / (1 - b1**h.step) if self.variant == "code" else 1.0
        final = h.final_lr / (h.initial_lr if h.reference_lr is None else h.reference_lr)
        lower = final * (1 - 1 / (h.gamma * h.step + 1))
        upper = final * (1 + 1 / (h.gamma * h.step))
        rate = maths.minimum(maths.maximum(correction / (v.sqrt() + h.eps), lower), upper)
        return rate * m, kept


class AdaBound(Optimizer):
    """AdaBound: where Adam learns fast but SGD ends better, such as convolutional image classifiers.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: Adam's learning rate, which rules at the start.
        betas: decay rates of the running means of the gradient and of its square.
        final_lr: SGD's learning rate, which rules at the end; it follows a schedule of lr in proportion.
        gamma: how fast the bounds close, per step.
        eps: added to the root.
        weight_decay: coefficient of an L2 penalty, added to the gradient.
        amsbound: use the largest running mean square so far.
        reference_lr: learning rate at which final_lr holds; None is the group's lr at construction. Give the peak when
            lr is a schedule that warms up.
        variant: "code", or "paper" for no bias correction.

    Raises:
        ArgumentError: for a value outside its range, and for lr 0 at construction without reference_lr.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.AdaBound(model, lr=1e-3, final_lr=0.1)

    Source: arXiv:1902.09843, Algorithms 2 and 3; https://github.com/Luolc/AdaBound.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsbound: bool = False,
        reference_lr: float | None = None,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByAdaBound(betas, final_lr, gamma, eps, amsbound, reference_lr, variant)
        super().__init__(params, chain(L2(weight_decay), scale), lr=lr, **options)
