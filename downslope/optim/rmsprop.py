"""RMSprop: the gradient over the running root mean square of itself.

    n_t = α n_{t-1} + (1 - α) g_t²
    centered:  a_t = α a_{t-1} + (1 - α) g_t;  d_t = n_t - a_t²
    otherwise: d_t = n_t
    b_t = μ b_{t-1} + g_t / (√d_t + ε)
    θ_t = θ_{t-1} - γ b_t

Paper: Tieleman & Hinton, Lecture 6.5: rmsprop, Coursera 2012 (plain); Graves, Generating Sequences With Recurrent
Neural Networks, 2013, arXiv:1308.0850, equations 38 to 45 (centered, with momentum).
Memory: 1 tensor like the parameter, one more if centered, one more with momentum.
Differs from the paper: the lecture has α = 0.9 and no ε. Graves puts ε inside the root (eps_inside_root=True,
TensorFlow's way too), and the learning rate inside the buffer, so that a change of it acts late; here it acts at once.
Differs from the authors' code: there is none; compared with torch.optim.RMSprop, which is the same except that here
rounding cannot make d_t negative, and so the step NaN. (Centered, a float32 gradient beyond 1e19 overflows a_t² and
makes the step NaN, where torch's is 0.)
Reduces to: SGD with momentum and learning rate γ / ε as ε -> ∞; sign descent when α = ε = μ = 0.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from downslope._core import L2, Card, Hyper, Optimizer, Options, Params, Slot, State, Transform, Updates, chain
from downslope.optim.sgd import Trace

CARD = Card(
    key="rmsprop",
    name="RMSprop",
    exports=("RMSprop", "ScaleByRMSprop"),
    paper="Tieleman & Hinton, Lecture 6.5: rmsprop, Coursera 2012",
    url="https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf",
    year=2012,
    code="torch.optim.RMSprop (2.13.0)",
    formula="v = a v + (1-a) g^2; b = momentum b + g / (sqrt(v) + eps); p -= lr b",
    scope="element",
    state="1 tensor like the parameter (+1 if centered, +1 with momentum)",
    state_values=1.0,
    defaults="torch's (the lecture has alpha = 0.9)",
    tuning={"lr": ("log", 1e-5, 1e-1), "alpha": ("choice", 0.9, 0.95, 0.99), "momentum": ("choice", 0.0, 0.9)},
    claim="the step no longer depends on the size of the gradient, and mini-batches may be used, unlike in rprop",
    evidence="60 steps equal torch.optim.RMSprop; steps do not depend on the scale of the loss; "
    "centered survives a constant float32 gradient",
    status="proved",
)


class ScaleByRMSprop(Transform):
    """The gradient over the root of the running mean of its square (or of its variance, if centered).

    Args:
        alpha: decay rate of the running means.
        eps: added to the root.
        centered: divide by the running standard deviation instead of the root mean square.
        eps_inside_root: add ε under the root instead.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    centered: bool = False
    eps_inside_root: bool = False

    slots = (
        Slot("square_avg", "n, the running mean of the squared gradient", nonnegative=True),
        Slot("grad_avg", "a, the running mean of the gradient", when=lambda self: self.centered),
    )

    def check(self) -> None:
        if self.alpha >= 1:
            self.refuse("alpha", "in [0, 1)", self.alpha)

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        n = h.alpha * state.square_avg + (1 - h.alpha) * u * u
        d, kept = n, {"square_avg": n}
        if self.centered:
            a = kept["grad_avg"] = h.alpha * state.grad_avg + (1 - h.alpha) * u
            d = (n - a * a).clamp(min=0.0)
        return u / ((d + h.eps).sqrt() if self.eps_inside_root else d.sqrt() + h.eps), kept


class RMSprop(Optimizer):
    """RMSprop: at home in reinforcement learning and recurrent networks; elsewhere prefer Adam.

    Args:
        params: the model, its named parameters, tensors, or param groups.
        lr: learning rate.
        alpha: decay rate of the running mean of the squared gradient.
        eps: added to the root.
        weight_decay: coefficient of an L2 penalty, added to the gradient.
        momentum: decay rate of the buffer of scaled gradients; 0 keeps no buffer.
        centered: divide by the running standard deviation of the gradient.
        eps_inside_root: add eps under the root, as Graves and TensorFlow do.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = ds.RMSprop(model, lr=1e-3, alpha=0.9)

    Source: Tieleman & Hinton 2012; arXiv:1308.0850; torch.optim.RMSprop.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        eps_inside_root: bool = False,
        **options: Unpack[Options],
    ) -> None:
        scale = ScaleByRMSprop(alpha, eps, centered, eps_inside_root)
        trace = (Trace(momentum),) if momentum else ()
        super().__init__(params, chain(L2(weight_decay), scale, *trace), lr=lr, **options)
