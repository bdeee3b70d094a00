"""Adam: the running mean of the gradient over the root of its running mean square.

    m_t = β1 m_{t-1} + (1 - β1) g_t
    v_t = β2 v_{t-1} + (1 - β2) g_t²
    m̂_t = m_t / (1 - β1^t)
    v̂_t = v_t / (1 - β2^t)
    θ_t = θ_{t-1} - α m̂_t / (√v̂_t + ε)

AMSGrad puts the largest v so far in the place of v_t.

Paper: Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980, Algorithm 1.
AMSGrad: Reddi, Kale & Kumar, On the Convergence of Adam and Beyond, ICLR 2018, arXiv:1904.09237, Algorithm 2.
Memory: 2 tensors like the parameter, 3 with amsgrad.
Differs from the paper: AMSGrad corrects the bias of the largest v, as torch does; its paper corrects none.
Differs from the authors' code: there is none; compared with torch.optim.Adam, which is the same.
Reduces to: RMSprop with bias correction when β1 = 0; sign descent when β1 = β2 = ε = 0.
"""

from __future__ import annotations

from torch import Tensor, maximum
from typing_extensions import Unpack

from downslope._core import L2, Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates, chain

CARD = Card(
    key="adam",
    name="Adam",
    exports=("Adam", "ScaleByAdam"),
    paper="Kingma & Ba, Adam: A Method for Stochastic Optimization, ICLR 2015",
    url="https://arxiv.org/abs/1412.6980",
    year=2014,
    code="torch.optim.Adam 2.13.0",
    formula="m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr m^ / (sqrt(v^) + eps)",
    scope="element",
    state="2 tensors like the parameter (3 with amsgrad)",
    state_values=2.0,
    defaults="the paper's, section 2; torch has the same",
    tuning={"lr": ("log", 1e-4, 1e-1), "weight_decay": ("choice", 0.0, 1e-4, 1e-3)},
    claim="Little tuning, little memory, invariant to the scale of the gradient; works on sparse and noisy problems.",
    evidence="Trajectory equals torch.optim.Adam over 60 steps (1e-12), with amsgrad, weight decay and maximize.",
    status="proved",
)


class ScaleByAdam(Transform):
    """The Adam direction m̂ / (√v̂ + ε).

    Args:
        betas: decay rates of the two running means.
        eps: added to the root.
        amsgrad: divide by the largest v so far.
        bias_correction: divide both means by 1 - β^t; without it the first steps are shorter.
        eps_hat: add ε to √v before the bias correction, as the end of the paper's section 2 does.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    bias_correction: bool = True
    eps_hat: bool = False

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
        Slot("max_exp_avg_sq", "the largest v so far", when=lambda self: self.amsgrad, nonnegative=True),
    )

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        m = b1 * state.exp_avg + (1 - b1) * u
        v = b2 * state.exp_avg_sq + (1 - b2) * u * u
        kept = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            v = kept["max_exp_avg_sq"] = maximum(state.max_exp_avg_sq, v)
        correction1 = 1 - b1**h.step if self.bias_correction else 1.0
        correction2 = 1 - b2**h.step if self.bias_correction else 1.0
        if self.eps_hat:
            return m / correction1 * correction2**0.5 / (v.sqrt() + h.eps), kept
        return m / correction1 / (v.sqrt() / correction2**0.5 + h.eps), kept


class Adam(Optimizer):
    """Adam: the default choice where no weight decay is wanted; with it, prefer `AdamW`.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the root; raise it (1e-6 … 1) where tiny gradients make large steps.
        weight_decay: coefficient of an L2 penalty, added to the gradient.
        amsgrad: divide by the largest running mean square so far.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.Adam(model, lr=1e-3)

    Source: arXiv:1412.6980, Algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, chain(L2(weight_decay), ScaleByAdam(betas, eps, amsgrad)), lr=lr, **options)
