"""Adan: Adam with Nesterov momentum made from differences of successive gradients.

With the code's betas, which are 1 - β of the paper:

    m_k = β1 m_{k-1} + (1 - β1) g_k
    v_k = β2 v_{k-1} + (1 - β2) (g_k - g_{k-1})      g_0 = g_1: the first difference is 0
    n_k = β3 n_{k-1} + (1 - β3) (g_k + β2 (g_k - g_{k-1}))²
    u_k = (m̂_k + β2 v̂_k) / (√n̂_k + ε)               ^ divides by 1 - β^k
    θ_{k+1} = (θ_k - η u_k) / (1 + λ η)

Paper: Xie, Zhou, Li, Lin & Yan, Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models, 2022,
arXiv:2208.06677, Algorithm 1.
Memory: 4 tensors like the parameter.
Differs from the paper: it corrects no bias but starts the means from the first gradient (m = g_1, n = g_1²) and v from
the first difference, which variant="paper" follows. Its restart, used in one experiment only, is left out.
Differs from the authors' code: k counts per parameter, theirs per group; the same when every parameter has a
gradient at every step. max_grad_norm is left out: put `ClipByGlobalNorm` in front.
Reduces to: Adam with betas (β1, β3) when β2 = 0, and AdamW with no_prox and λ.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from downslope._core import (
    Card,
    DecoupledWeightDecay,
    Hyper,
    Optimizer,
    Options,
    Params,
    ProximalDescend,
    Slot,
    State,
    Transform,
    Updates,
    chain,
    maths,
)

CARD = Card(
    key="adan",
    name="Adan",
    exports=("Adan", "ScaleByAdan"),
    paper="Xie, Zhou, Li, Lin & Yan, Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models, "
    "2022",
    url="https://arxiv.org/abs/2208.06677",
    year=2022,
    code="https://github.com/sail-sg/Adan @ 2c65beaf4007",
    formula="d = g - previous g; m, v, n = running means of g, d, (g + b2 d)^2; "
    "p = (p - lr (m^ + b2 v^) / (sqrt(n^) + eps)) / (1 + lr wd)",
    scope="element",
    state="4 tensors like the parameter",
    state_values=4.0,
    defaults="the authors' code; lr 5-10 times larger than AdamW's and weight decay 0.02 are advised",
    tuning={"lr": ("log", 1e-3, 1e-1), "weight_decay": ("choice", 0.0, 0.02)},
    claim="The quality of the best optimizers at half their training steps, for batches from 1k to 32k.",
    evidence="Trajectory equals the authors' code over 60 steps (1e-12) with both weight decays and a falling lr; on a "
    "noiseless quadratic fewer steps than Adam with the same decay of the mean (0.98), more than Adam with 0.9.",
    status="proved",
)


class ScaleByAdan(Transform):
    """The Adan direction (m̂ + β2 v̂) / (√n̂ + ε).

    Args:
        betas: decay rates of the means of the gradient, of its difference, and of the square of their sum.
        eps: added to the root.
        variant: "code", or "paper" for means that start from the first gradient, without bias correction.
    """

    betas: tuple[float, float, float] = (0.98, 0.92, 0.99)
    eps: float = 1e-8
    variant: str = "code"

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_diff", "v, the running mean of the gradient's difference"),
        Slot("exp_avg_sq", "n, the running mean of the square of gradient plus difference", nonnegative=True),
        Slot("previous_gradient", "the gradient of the step before"),
    )

    def check(self) -> None:
        """The variants by name."""
        self.one_of("variant", "code", "paper")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2, b3 = h.betas
        d = u - maths.where(h.step == 1, u, state.previous_gradient)
        m, v, n = state.exp_avg, state.exp_avg_diff, state.exp_avg_sq
        if self.variant == "paper":
            m, n = maths.where(h.step == 1, u, m), maths.where(h.step == 1, u * u, n)
            v = maths.where(h.step <= 2, d, v)
        m = b1 * m + (1 - b1) * u
        v = b2 * v + (1 - b2) * d
        n = b3 * n + (1 - b3) * (u + b2 * d) * (u + b2 * d)
        kept = {"exp_avg": m, "exp_avg_diff": v, "exp_avg_sq": n, "previous_gradient": u}
        root = n.sqrt()
        if self.variant == "code":
            m, v, root = m / (1 - b1**h.step), v / (1 - b2**h.step), root / (1 - b3**h.step) ** 0.5
        return (m + b2 * v) / (root + h.eps), kept


class Adan(Optimizer):
    """Adan: for training transformers and convolutional networks from scratch in fewer steps, where memory allows.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate; 5 to 10 times AdamW's.
        betas: decay rates of the means of the gradient, of its difference, and of the square of their sum (1 - β of
            the paper).
        eps: added to the root.
        weight_decay: the parameter is divided by 1 + lr * weight_decay after the step.
        no_prox: decay as AdamW instead, by lr * weight_decay of the parameter before the step.
        variant: "code", or "paper" for means that start from the first gradient, without bias correction.

    Raises:
        ArgumentError: for a value outside its range.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.Adan(model, lr=1e-2, weight_decay=0.02)

    Source: arXiv:2208.06677, Algorithm 1; https://github.com/sail-sg/Adan.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_prox: bool = False,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        decay = DecoupledWeightDecay(weight_decay) if no_prox else ProximalDescend(weight_decay)
        super().__init__(params, chain(ScaleByAdan(betas, eps, variant), decay), lr=lr, **options)
