"""MARS-Lion: the sign of the momentum of a gradient that is corrected by how it changed since the last step.

    c_t = g_t + gamma b1 / (1 - b1) (g_t - ∇f(x_{t-1}, ξ_t)),  c_t = c_t / max(1, ‖c_t‖)        as in MARS-AdamW
    m_t = b1 m_{t-1} + (1 - b1) c_t
    p  -= lr (sign(m_t) + wd p)

Paper: Yuan, Liu, Wu, Zhou & Gu, "MARS: Unleashing the Power of Variance Reduction for Training Large Models", ICML
2025, arXiv:2411.10438, Algorithms 1 and 3.
Memory: two tensors like the parameter; one is the last gradient, or in exact mode the last parameter.
Differs from the paper: as `mars.py` says: the first correction, and the parameters that are not matrices.
Differs from the authors' code: `betas` are Lion's two rates, of which theirs uses the first for both; equal ones, the
default, are theirs. For the rest as `mars.py` says.
Reduces to: Lion for gamma = 0 without clipping.
"""

from __future__ import annotations

from typing_extensions import Unpack

from downslope._core import Card, DecoupledWeightDecay, Optimizer, Options, Params, chain
from downslope.estimator.mars import VarianceReducedGradient, matrices_and_rest
from downslope.optim.adam import ScaleByAdam
from downslope.optim.lion import ScaleByLion

__all__ = ["MARSLion"]

CARD = Card(
    key="mars-lion",
    name="MARS-Lion",
    exports=("MARSLion",),
    paper="Yuan, Liu, Wu, Zhou & Gu, MARS: Unleashing the Power of Variance Reduction for Training Large Models, "
    "ICML 2025",
    url="https://arxiv.org/abs/2411.10438",
    year=2024,
    code="https://github.com/AGI-Arena/MARS @ 4831e28eba86",
    formula="c = g + gamma b1/(1-b1) (g - g_prev); c /= max(1, |c|); m = b1 m + (1-b1) c; p -= lr (sign(m) + wd p)",
    scope="tensor",
    state="2 tensors",
    state_values=2.0,
    defaults="the authors' code, which shares them with MARS-AdamW and advises to tune the lr anew",
    tuning={
        "lr": ("log", 1e-5, 1e-3),
        "gamma": ("choice", 0.0, 0.01, 0.025, 0.05),
        "weight_decay": ("choice", 0.0, 0.01, 0.1),
    },
    claim="GPT-2 large: validation loss 2.534, against 2.565 of Lion, 2.568 of AdamW and 2.511 of MARS-AdamW",
    evidence="trajectories equal the authors' code, approximate and exact, over 60 steps; the claim was not rerun",
    status="proved",
)


class MARSLion(Optimizer):
    """MARS-Lion: the sign of the momentum of the variance-reduced gradient.

    Use it in place of Lion; the authors tuned MARS-AdamW and advise to tune the lr anew for this one. Parameters that
    are not matrices follow AdamW, as in `MARS`, unless `optimize_1d`.

    Args:
        params: the model, named parameters, tensors, or param groups.
        lr: learning rate of the matrices (of all parameters, with `optimize_1d`).
        betas: Lion's two rates; equal ones, the default, give the authors' rule.
        weight_decay: decoupled weight decay.
        gamma: strength of the correction.
        exact: take the correction at the previous parameters, with `step(closure)`; see `MARS` for the loop.
        optimize_1d: correct the gradients of all parameters.
        lr_1d, betas_1d, eps, weight_decay_1d: of the parameters that are not matrices, unless `optimize_1d`.
        variant: first step: `"code"` corrects against zero, `"paper"` not at all.
        **options: see `Options`.

    Raises:
        ArgumentError: for a value outside of its range, or `exact` without a closure, in one sentence.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = ds.MARSLion(model, lr=3e-4)
        >>> model(torch.randn(8, 4)).square().mean().backward()
        >>> opt.step()

    Source: arXiv:2411.10438, Algorithms 1 and 3; https://github.com/AGI-Arena/MARS.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 3e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        exact: bool = False,
        optimize_1d: bool = False,
        lr_1d: float = 3e-3,
        betas_1d: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay_1d: float = 0.1,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        corrected = chain(
            VarianceReducedGradient(gamma, betas, exact=exact, variant=variant),
            ScaleByLion(betas),
            DecoupledWeightDecay(weight_decay),
        )
        plain = chain(ScaleByAdam(betas_1d, eps), DecoupledWeightDecay(weight_decay_1d))
        rates = lr if optimize_1d else {"matrix": lr, "vector": lr_1d}
        super().__init__(params, matrices_and_rest(corrected, plain, optimize_1d), lr=rates, tied=("betas",), **options)
