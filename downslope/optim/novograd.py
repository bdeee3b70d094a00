"""NovoGrad: momentum of gradients that are normalised per layer, with one second moment per layer.

    v_t = β2 v_{t-1} + (1 - β2) ‖g_t‖²              v_1 = ‖g_1‖²; one number per parameter tensor
    m_t = β1 m_{t-1} + (g_t/(√v_t + ε) + d w_t)      m_0 = 0
    w_{t+1} = w_t - λ_t m_t

Averaging multiplies what enters m by 1 - β1; AMSGrad puts the largest v so far in the place of v_t.

Paper: Ginsburg, Castonguay, Hrinchuk, Kuchaiev, Leary, Lavrukhin, Li, Nguyen, Zhang & Cohen, Stochastic Gradient
Methods with Layer-wise Adaptive Moments for Training of Deep Networks, 2019, arXiv:1905.11286, algorithm 1.
Memory: 1 tensor like the parameter and 1 number (2 with amsgrad).
Differs from the paper: v starts at ‖g‖² of the first gradient that is not zero, as in the authors' code; ε stands in
the first step too.
Differs from the authors' code: nothing against NVIDIA's PyTorch code (NeMo), which overwrites the gradients, as this
does not; its luc flag (a layer-wise bound of the rate) is left out. NVIDIA's TensorFlow code (OpenSeq2Seq) has √(v +
ε) and never stores v, so that it acts with β2 = 0, which the PyTorch Jasper of DeepLearningExamples sets; apex's
FusedNovoGrad corrects biases and, without reg_inside_moment, normalises after the momentum.
Reduces to: normalised SGD with momentum, ‖g‖ taken out of every step, when β2 = 0 and ε = d = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from downslope._core import Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates

CARD = Card(
    key="novograd",
    name="NovoGrad",
    exports=("NovoGrad", "ScaleByNovoGrad"),
    paper="Ginsburg et al., Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep "
    "Networks, 2019",
    url="https://arxiv.org/abs/1905.11286",
    year=2019,
    code="https://github.com/NVIDIA/NeMo @ 8cfedd720346",
    formula="v = b2 v + (1-b2)|g|^2 per layer, v_1 = |g|^2; m = b1 m + g/(sqrt(v) + eps) + wd w; w -= lr m",
    scope="tensor",
    state="1 tensor like the parameter and 1 number (2 with amsgrad)",
    state_values=1.0,
    defaults="NVIDIA's PyTorch code; the betas are the paper's",
    tuning={"lr": ("log", 1e-3, 1e-1), "weight_decay": ("choice", 0.0, 1e-4, 1e-3, 1e-2)},
    claim="On par with or better than tuned SGD with momentum, Adam and AdamW; robust to the learning rate; half of "
    "Adam's memory.",
    evidence="Trajectory equals NVIDIA's PyTorch code over 60 steps (1e-10), all flags; state is half of Adam's; steps "
    "do not depend on the scale of the loss and are bounded. On tiny problems the range of rates that train is no "
    "wider than SGD's; accuracy on large tasks is not tested here.",
    status="proved",
)


class ScaleByNovoGrad(Transform):
    """The NovoGrad direction: momentum of layer-wise normalised gradients with their weight decay.

    Args:
        betas: decay rates of the momentum and of the layer's second moment.
        eps: added to the root.
        weight_decay: coefficient of the decay, added to the normalised gradient.
        grad_averaging: multiply what enters the momentum by 1 - β1.
        amsgrad: divide by the largest second moment so far.
    """

    betas: tuple[float, float] = (0.95, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_averaging: bool = False
    amsgrad: bool = False

    scope = "tensor"
    slots = (
        Slot("exp_avg", "m, the momentum of normalised gradients"),
        Slot("exp_avg_sq", "v, the running mean of the gradient's squared norm", shape="scalar"),
        Slot("max_exp_avg_sq", "the largest v so far", shape="scalar", when=lambda self: self.amsgrad),
    )

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        b1, b2 = h.betas
        squared_norm = u.square().sum()
        v = b2 * state.exp_avg_sq + (1 - b2) * squared_norm
        v = torch.where(state.exp_avg_sq == 0, squared_norm, v)
        kept = {"exp_avg_sq": v}
        if self.amsgrad:
            v = kept["max_exp_avg_sq"] = torch.maximum(state.max_exp_avg_sq, v)
        entering = u / (v.sqrt() + h.eps) + h.weight_decay * p
        if self.grad_averaging:
            entering = (1 - b1) * entering
        m = kept["exp_avg"] = b1 * state.exp_avg + entering
        return m, kept


class NovoGrad(Optimizer):
    """NovoGrad: Adam's convenience at half its memory; known from speech recognition.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate; a step in a steady direction is lr/(1 - β1) long, whatever the size of the layer.
        betas: decay rates of the momentum and of the layer's second moment.
        eps: added to the root.
        weight_decay: coefficient of the decay, inside the momentum but beside the normalised gradient.
        grad_averaging: multiply what enters the momentum by 1 - β1; take a larger lr then.
        amsgrad: divide by the largest second moment so far.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.NovoGrad(model, lr=0.01, weight_decay=1e-3)

    Source: arXiv:1905.11286, algorithm 1; NVIDIA/NeMo.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        rule = ScaleByNovoGrad(betas, eps, weight_decay, grad_averaging, amsgrad)
        super().__init__(params, rule, lr=lr, **options)
