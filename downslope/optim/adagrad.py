"""Adagrad: each coordinate's step shrinks with the root of the sum of its squared gradients.

    G_t = G_{t-1} + g_t²,   G_0 = initial_accumulator_value
    θ_t = θ_{t-1} - η / (1 + (t - 1) lr_decay) · g_t / (√G_t + δ)

Paper: Duchi, Hazan & Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 2011:
the diagonal case in the form of composite mirror descent, without regulariser and constraint; δ is called eps.
Memory: 1 tensor like the parameter.
Differs from the paper: it has no lr_decay and no initial_accumulator_value; both are later additions, off by default.
Differs from the authors' code: there is none; compared with torch.optim.Adagrad. There initial_accumulator_value is
part of the state; here it is added under the root, so that each param group can have its own. The numbers are the
same.
Reduces to: SGD with learning rate η / √G_0 as G_0 -> ∞.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from downslope._core import L2, Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates, chain

CARD = Card(
    key="adagrad",
    name="Adagrad",
    exports=("Adagrad", "ScaleByAdagrad"),
    paper="Duchi, Hazan & Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011",
    url="https://jmlr.org/papers/v12/duchi11a.html",
    year=2011,
    code="torch.optim.Adagrad (2.13.0)",
    formula="G += g^2; p -= lr / (1 + (t-1) lr_decay) g / (sqrt(G) + eps)",
    scope="element",
    state="1 tensor like the parameter",
    state_values=1.0,
    defaults="torch's",
    tuning={"lr": ("log", 1e-3, 1.0), "weight_decay": ("choice", 0.0, 1e-4, 1e-2)},
    claim="regret as good as the best fixed scaling of the coordinates in hindsight; gains most on sparse features",
    evidence="60 steps equal torch.optim.Adagrad; on badly scaled online losses within the paper's regret bound and "
    "below SGD at any of four learning rates; unmoved by the scale of a coordinate",
    status="proved",
)


class ScaleByAdagrad(Transform):
    """The gradient over the root of the sum of all its squares so far.

    Args:
        lr_decay: the direction is divided by 1 + (t - 1) lr_decay.
        initial_accumulator_value: G_0, what the sum of squares starts from.
        eps: δ, added to the root.
    """

    lr_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    slots = (Slot("sum", "G - G_0, the sum of the squared gradients", nonnegative=True),)

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        total = state.sum + u * u
        root = (h.initial_accumulator_value + total).sqrt()
        return u / (root + h.eps) / (1 + (h.step - 1) * h.lr_decay), {"sum": total}


class Adagrad(Optimizer):
    """Adagrad: for sparse features, such as bags of words, and for convex problems. Its steps only ever shrink.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        lr_decay: step t has learning rate lr / (1 + (t - 1) lr_decay).
        weight_decay: coefficient of an L2 penalty, added to the gradient.
        initial_accumulator_value: what the sum of squared gradients starts from; larger makes the first steps smaller.
        eps: added to the root.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.Adagrad(model, lr=0.1)

    Source: Duchi, Hazan & Singer 2011, diagonal case; torch.optim.Adagrad.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        *,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByAdagrad(lr_decay, initial_accumulator_value, eps)
        super().__init__(params, chain(L2(weight_decay), scale), lr=lr, **options)
