"""MARS-AdamW: AdamW on a gradient that is corrected by how it changed since the last step.

    c_t = g_t + gamma b1 / (1 - b1) (g_t - ∇f(x_{t-1}, ξ_t))
    c_t = c_t / max(1, ‖c_t‖)                                   per tensor
    m_t = b1 m_{t-1} + (1 - b1) c_t
    v_t = b2 v_{t-1} + (1 - b2) c_t²
    p  -= lr (m̂_t / (sqrt(v̂_t) + eps) + wd p)

    exact: the gradient of the same batch ξ_t at the parameters before the last step, one more backward pass a step
    approximate (default): the last gradient, ∇f(x_{t-1}, ξ_{t-1})

The correction is a transform of its own, `VarianceReducedGradient`, for any rule that keeps a momentum.

Paper: Yuan, Liu, Wu, Zhou & Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", ICML
2025, arXiv:2411.10438, Algorithms 1 and 2.
Memory: three tensors like the parameter; one is the last gradient, or in exact mode the last parameter.
Differs from the paper: the first correction is taken against zero, not against the first gradient (x_0 = x_1), as in
the authors' code; `variant="paper"` takes the paper's. As in the code, the clip is per tensor; the paper writes it for
the whole vector. Parameters that are not matrices follow AdamW without the correction, with `lr_1d`, `betas_1d` and
`weight_decay_1d`; `optimize_1d=True` corrects all.
Differs from the authors' code: the last gradient is kept as a value, where theirs keeps `p.grad` itself and loses the
correction under `zero_grad(set_to_none=False)`; in exact mode the optimizer runs the closure at the old parameters,
where their loop looks one batch ahead (the same gradients). `lr` and `lr_1d` have schedules of their own; theirs scales
`lr_1d` by the schedule of `lr`. MARS-Shampoo is not here.
Reduces to: AdamW for gamma = 0 without clipping; with exact gradients, gamma = 1 and no clipping, m is the momentum of
STORM.
"""

from __future__ import annotations

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
    Slot,
    State,
    Transform,
    Updates,
    chain,
    maths,
    partition,
)
from downslope.optim.adam import ScaleByAdam

__all__ = ["MARS", "VarianceReducedGradient"]

CARD = Card(
    key="mars",
    name="MARS-AdamW",
    exports=("MARS", "VarianceReducedGradient"),
    paper="Yuan, Liu, Wu, Zhou & Gu, MARS: Unleashing the Power of Variance Reduction for Training Large Models, "
    "ICML 2025",
    url="https://arxiv.org/abs/2411.10438",
    year=2024,
    code="https://github.com/AGI-Arena/MARS @ 4831e28eba86",
    formula="c = g + gamma b1/(1-b1) (g - g_prev); c /= max(1, |c|); AdamW on c",
    scope="tensor",
    needs=(),
    state="3 tensors",
    state_values=3.0,
    defaults="the authors' code",
    tuning={
        "lr": ("log", 1e-4, 1e-2),
        "gamma": ("choice", 0.0, 0.01, 0.025, 0.05),
        "weight_decay": ("choice", 0.0, 0.01, 0.1),
    },
    claim="MARS-AdamW trains GPT-2 models to a lower loss than AdamW in the same number of steps, by a large margin",
    evidence="trajectories equal the authors' code, approximate and exact, over 60 steps; on a noisy "
    "quadratic the exact momentum is closer to the true gradient than Adam's. The claim on GPT-2 has not been "
    "reproduced here",
    status="proved",
    aliases=("mars-adamw",),
)

VARIANTS = ("code", "paper")


class VarianceReducedGradient(Transform):
    """The gradient plus a multiple of its change since the last step; first in a chain.

    Args:
        gamma: strength of the correction; 0 leaves the gradient as it is (but clipped).
        betas: the first is the decay rate of the momentum that follows; with `tied=("betas",)` an optimizer keeps one
            value for both. The others are not used.
        max_norm: largest norm of the corrected gradient of a tensor.
        exact: compare with the gradient of the same batch at the previous parameters (the optimizer then needs
            `step(closure)`), not with the last gradient.
        clip: whether to clip to `max_norm` at all.
        variant: first step: `"code"` corrects against zero, `"paper"` not at all.

    Example:
        >>> rule = ds.chain(ds.VarianceReducedGradient(0.025, (0.9, 0.99)), ds.ScaleByLion((0.9, 0.99)))
        >>> opt = ds.Optimizer(torch.nn.Linear(2, 1), rule, lr=1e-4, tied=("betas",))
    """

    gamma: float = 0.025
    betas: tuple[float, ...] = (0.95, 0.99)
    max_norm: float = 1.0
    exact: bool = False
    clip: bool = True
    variant: str = "code"

    scope = "tensor"
    slots = (Slot("last_grad", "the gradient of the last step", when=lambda self: not self.exact),)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The gradient at the previous parameters, in exact mode."""
        return frozenset({"previous_gradient"}) if self.exact else frozenset()

    def check(self) -> None:
        """Refuse an unknown variant."""
        self.one_of("variant", *VARIANTS)

    def update(self, g: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1 = h.betas[0]
        previous = h.previous_gradient if self.exact else state.last_grad
        before_the_first = torch.zeros_like(g) if self.variant == "code" else g
        previous = maths.where(h.step == 1, before_the_first, previous)
        c = g + h.gamma * b1 / (1 - b1) * (g - previous)
        if self.clip:
            c = c * (h.max_norm / maths.maximum(c.norm(), h.max_norm))
        return c, {} if self.exact else {"last_grad": g}


def _shape(info: ParamInfo) -> str:
    return "matrix" if len(info.shape) == 2 else "vector"


def matrices_and_rest(corrected: Transform, plain: Transform, optimize_1d: bool) -> Transform:
    """`corrected` for matrices and `plain` for the rest, or `corrected` for all."""
    return corrected if optimize_1d else partition({"matrix": corrected, "vector": plain}, by=_shape)


class MARS(Optimizer):
    """MARS-AdamW: AdamW on the variance-reduced gradient.

    Use it in place of AdamW where gradients are noisy, as in language model pre-training; it costs a tensor more than
    AdamW. The authors train GPT-2 with about ten times AdamW's lr (6e-3 for 125M parameters, 2e-3 for 770M) and
    clip the gradient's norm to 1 before the step. `exact=True` doubles the cost of a step for a slight gain.

    Parameters that are not matrices (biases, norms; convolutions too, as in the authors' code) stand in param groups
    of their own, which follow AdamW with `lr_1d`, `betas_1d` and `weight_decay_1d`.

    Args:
        params: the model, named parameters, tensors, or param groups.
        lr: learning rate of the matrices (of all parameters, with `optimize_1d`).
        betas: decay rates of the running means of the corrected gradient and of its square.
        eps: added to the root of the mean square.
        weight_decay: decoupled weight decay.
        amsgrad: divide by the largest mean square so far.
        gamma: strength of the correction.
        exact: take the correction at the previous parameters, with `step(closure)`.
        optimize_1d: correct the gradients of all parameters.
        lr_1d, betas_1d, weight_decay_1d: of the parameters that are not matrices, unless `optimize_1d`.
        variant: first step: `"code"` corrects against zero, `"paper"` not at all.
        **options: see `Options`.

    Raises:
        ArgumentError: for a value outside of its range, or `exact` without a closure, in one sentence.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> opt = ds.MARS(model, lr=6e-3, exact=True)
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(3):
        ...     loss = opt.step(closure)  # runs the closure at the previous and at the present parameters

        A module that changes in its forward pass (the averages of BatchNorm) changes twice a step in exact mode.
        Without `exact`, `loss.backward(); opt.step()` is enough.

    Source: arXiv:2411.10438, Algorithms 1 and 2; https://github.com/AGI-Arena/MARS.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 3e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        gamma: float = 0.025,
        exact: bool = False,
        optimize_1d: bool = False,
        lr_1d: float = 3e-3,
        betas_1d: tuple[float, float] = (0.9, 0.95),
        weight_decay_1d: float = 0.1,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        corrected = chain(
            VarianceReducedGradient(gamma, betas, exact=exact, variant=variant),
            ScaleByAdam(betas, eps, amsgrad),
            DecoupledWeightDecay(weight_decay),
        )
        plain = chain(ScaleByAdam(betas_1d, eps, amsgrad), DecoupledWeightDecay(weight_decay_1d))
        rates = lr if optimize_1d else {"matrix": lr, "vector": lr_1d}
        super().__init__(params, matrices_and_rest(corrected, plain, optimize_1d), lr=rates, tied=("betas",), **options)
