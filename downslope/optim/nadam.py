"""NAdam: Adam whose momentum is Nesterov's, with a momentum coefficient that grows over time.

    μ_t = β1 (1 - 0.5 · 0.96^(t ψ))
    m_t = β1 m_{t-1} + (1 - β1) g_t
    v_t = β2 v_{t-1} + (1 - β2) g_t²
    m̂_t = μ_{t+1} m_t / (1 - μ_1 … μ_{t+1}) + (1 - μ_t) g_t / (1 - μ_1 … μ_t)
    v̂_t = v_t / (1 - β2^t)
    θ_t = θ_{t-1} - γ m̂_t / (√v̂_t + ε)

Paper: Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016, Algorithm 2; ψ is called momentum_decay.
Memory: 2 tensors like the parameter, and one number: the product of the μ_i really used, so that it stays right when
betas or momentum_decay change during training.
Differs from the paper: it averages with μ_t in the place of β1, and its v̂_t has one more factor β2; variant="paper"
does both. torch and Keras average with β1, which is the default here.
Differs from the authors' code: his TensorFlow code has another schedule, μ_t = β1 (1 - β1^(t-1)) / (1 - β1^t).
Compared with torch.optim.NAdam, which rounds the product of the μ_i to float32 even for float64 parameters: about 1e-8
after 60 steps.
Reduces to: Adam when β1 = 0.
"""

from __future__ import annotations

from torch import Tensor
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
)

CARD = Card(
    key="nadam",
    name="NAdam",
    exports=("NAdam", "ScaleByNAdam"),
    paper="Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016",
    url="https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
    year=2016,
    code="torch.optim.NAdam (2.13.0)",
    formula="mu = b1 (1 - 0.5 * 0.96^(psi t)); p -= lr (mu+ m / (1-prod mu+) + (1-mu) g / (1-prod mu)) / sqrt(v^)",
    scope="element",
    state="2 tensors like the parameter, 1 number",
    state_values=2.0,
    defaults="torch's, which are the paper's schedule (psi = 0.004) with Keras's lr = 0.002",
    tuning={
        "lr": ("log", 1e-4, 1e-2),
        "weight_decay": ("choice", 0.0, 1e-4, 1e-2),
    },
    claim="Nesterov momentum improves the speed of convergence and the quality of the models that Adam learns",
    evidence="60 steps equal torch.optim.NAdam; at beta1 = 0.98 it takes the swing out of Adam on a quadratic, at 0.9 "
    "it is slower there, as its momentum starts at half",
    status="proved",
)


class ScaleByNAdam(Transform):
    """Nesterov's momentum with a growing momentum coefficient, over the root of the second moment.

    Args:
        betas: decay rates of the two running means; the first is also the limit of μ_t.
        eps: added to the root.
        momentum_decay: ψ, how fast μ_t grows from β1 / 2 to β1; 0 keeps it at β1 / 2.
        variant: `"code"` (torch's) or `"paper"`, which averages the gradient with μ_t and divides by √(β2 v̂_t).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum_decay: float = 4e-3
    variant: str = "code"

    slots = (
        Slot("exp_avg", "m, the running mean of the gradient"),
        Slot("exp_avg_sq", "v, the running mean of its square", nonnegative=True),
        Slot("mu_product", "μ_1 … μ_t", shape="scalar", init=1.0),
    )

    def check(self) -> None:
        self.one_of("variant", "code", "paper")

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        mu = b1 * (1 - 0.5 * 0.96 ** (h.step * h.momentum_decay))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((h.step + 1) * h.momentum_decay))
        mu_product = state.mu_product * mu
        mean = mu if self.variant == "paper" else b1
        m = mean * state.exp_avg + (1 - mean) * u
        v = b2 * state.exp_avg_sq + (1 - b2) * u * u
        m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * u / (1 - mu_product)
        v_hat = (b2 * v if self.variant == "paper" else v) / (1 - b2**h.step)
        return m_hat / (v_hat.sqrt() + h.eps), {"exp_avg": m, "exp_avg_sq": v, "mu_product": mu_product}


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov momentum. Try it with a higher betas[0] than Adam bears.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square; the first is also the final momentum.
        eps: added to the root.
        weight_decay: coefficient of an L2 penalty, added to the gradient, unless it is decoupled.
        momentum_decay: how fast the momentum grows from half of betas[0] to all of it.
        decoupled_weight_decay: take weight_decay * lr off the parameter instead, as AdamW does.
        variant: `"code"` (torch's) or `"paper"`.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.NAdam(model, lr=2e-3)

    Source: Dozat 2016, Algorithm 2; torch.optim.NAdam.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        variant: str = "code",
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByNAdam(betas, eps, momentum_decay, variant)
        decoupled = chain(scale, DecoupledWeightDecay(weight_decay))
        rule = decoupled if decoupled_weight_decay else chain(L2(weight_decay), scale)
        super().__init__(params, rule, lr=lr, **options)
