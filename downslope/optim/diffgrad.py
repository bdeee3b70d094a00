"""diffGrad: Adam with a friction that up to halves the step of coordinates whose gradient hardly changes.

    m_t, v_t as in Adam
    ξ_t = 1 / (1 + exp(-|g_{t-1} - g_t|)),   g_0 = 0
    θ_t = θ_{t-1} - α ξ_t m_t / (1 - β1^t) · √(1 - β2^t) / (√v_t + ε)

Paper: Dubey et al., diffGrad: An Optimization Method for Convolutional Neural Networks, IEEE TNNLS 2020,
arXiv:1909.11015.
Memory: 3 tensors like the parameter: m, v and the previous gradient.
Differs from the paper: it adds ε to the bias-corrected root, √(v_t / (1 - β2^t)) + ε (variant="paper").
Differs from the authors' code: equal to diffGrad_v2.py. The older diffGrad.py, of the paper's experiments, kept a
reference to the gradient instead of a copy, so that ξ was 1/2 from the second step on; that bug is not offered.
Reduces to: Adam at half the learning rate from the second step on, when the gradient is constant (exactly so with
variant="paper").
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from downslope._core import L2, Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates, chain

CARD = Card(
    key="diffgrad",
    name="diffGrad",
    exports=("DiffGrad", "ScaleByDiffGrad"),
    paper="Dubey et al., diffGrad: An Optimization Method for Convolutional Neural Networks, IEEE TNNLS 2020",
    url="https://arxiv.org/abs/1909.11015",
    year=2019,
    code="https://github.com/shivram1987/diffGrad @ 73233ba47087 (diffGrad_v2.py)",
    formula="xi = sigmoid(|g_prev - g|); p -= lr xi m^ / (sqrt(v^) + eps)",
    scope="element",
    state="3 tensors like the parameter",
    state_values=3.0,
    defaults="the authors' code, which are Adam's",
    tuning={"lr": ("log", 1e-4, 1e-2), "weight_decay": ("choice", 0.0, 5e-4, 1e-2)},
    claim="beats SGDM, AdaGrad, AdaDelta, RMSProp, AMSGrad and Adam on CIFAR with ResNet; overshoots minima less",
    evidence="60 steps equal the authors' diffGrad_v2.py; the authors' 1-D function: overshoots less than Adam; "
    "the CIFAR results were not rerun",
    status="proved",
)


class ScaleByDiffGrad(Transform):
    """Adam's direction times the sigmoid of the last change of the gradient.

    Args:
        betas: decay rates of the two running means.
        eps: added to the root.
        variant: `"code"` adds ε before the bias of the root is corrected, `"paper"` after.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    variant: str = "code"

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
        Slot("previous_grad", "g_{t-1}, the gradient of the last step"),
    )

    def check(self) -> None:
        self.one_of("variant", "code", "paper")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        m = b1 * state.exp_avg + (1 - b1) * u
        v = b2 * state.exp_avg_sq + (1 - b2) * u * u
        xi = (state.previous_grad - u).abs().sigmoid()
        m_hat = m / (1 - b1**h.step)
        correction = (1 - b2**h.step) ** 0.5
        root = (v.sqrt() + h.eps) / correction if self.variant == "code" else v.sqrt() / correction + h.eps
        return xi * m_hat / root, {"exp_avg": m, "exp_avg_sq": v, "previous_grad": u}


class DiffGrad(Optimizer):
    """diffGrad: try it for convolutional networks where Adam overshoots.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the root.
        weight_decay: coefficient of an L2 penalty, added to the gradient.
        variant: `"code"` adds eps before the bias of the root is corrected, `"paper"` after.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.DiffGrad(model, lr=1e-3)

    Source: arXiv:1909.11015; the authors' diffGrad_v2.py.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, chain(L2(weight_decay), ScaleByDiffGrad(betas, eps, variant)), lr=lr, **options)
