"""Lookahead: every k steps go back part of the way, to a point between the start of those steps and their end.

    theta: the parameter that the inner rule moves (fast);  phi: the slow one, phi_0 = theta_0
    theta_t = inner step from theta_{t-1}
    every k-th step:  phi <- phi + alpha (theta_t - phi);  theta_t <- phi

Paper: Zhang, Lucas, Hinton & Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019, Algorithm 1.
Memory: one tensor per parameter.

Differs from the paper: in nothing known.
Differs from the authors' code: only their default is here, `pullback_momentum="none"`: the inner rule's state is left
alone. (In their "pullback" the cached momentum is, after the first pull, the live buffer itself, so that it scales the
momentum by alpha (2 - alpha) instead of mixing it with the old one.) k counts the steps in which the parameter had a
gradient.
Reduces to: the inner rule when alpha = 1 or k is never reached; when k = 1, the inner rule
at learning rate alpha * lr (where lr multiplies its step and nothing else).
"""

from __future__ import annotations

from torch import Tensor

from downslope._core import Card, Hyper, Slot, State, Transform, Updates, maths

__all__ = ["Lookahead"]

CARD = Card(
    key="lookahead",
    name="Lookahead",
    exports=("Lookahead",),
    paper="Zhang, Lucas, Hinton & Ba, Lookahead Optimizer: k steps forward, 1 step back, NeurIPS 2019",
    url="https://arxiv.org/abs/1907.08610",
    year=2019,
    code="https://github.com/michaelrzhang/lookahead @ c4fd85f73cda",
    formula="every k steps: slow += alpha (p - slow); p = slow",
    scope="element",
    state="1 tensor",
    state_values=1.0,
    defaults="the authors' code (k 5, alpha 0.8); the paper's ImageNet and translation runs use alpha 0.5",
    tuning={"k": ("choice", 5, 10), "alpha": ("choice", 0.5, 0.8)},
    claim="improves stability and lowers the variance of its inner optimizer at negligible cost",
    evidence="60 steps equal the authors' code around SGD and Adam; on a noisy quadratic the stationary variance is "
    "the paper's closed form",
    status="partial: the momentum options 'reset' and 'pullback' of the authors' code are not here",
    ready=False,
)


class Lookahead(Transform):
    """Pulls the parameters back towards slow weights after every k steps; stands behind the step.

    Use it around a rule that is run at a high learning rate. Between two pulls the slow weights, which usually
    generalise better, can be evaluated under `with opt.swapped("slow"):`.

    Args:
        k: steps of the inner rule between two pulls (5).
        alpha: share of the way that is kept, 0 to 1; 1 is the inner rule alone (0.8).

    Raises:
        ArgumentError: in one sentence, for a value outside its range.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> rule = ds.chain(ds.ScaleByAdam(), ds.Descend(), ds.Lookahead())  # ds.wrap(ds.ScaleByAdam(), ds.Lookahead())
        >>> opt = ds.Optimizer(model, rule, lr=1e-3)

    Source: Zhang, Lucas, Hinton & Ba 2019, https://arxiv.org/abs/1907.08610
    """

    k: int = 5
    alpha: float = 0.8

    stage = "parameter"
    slots = (Slot("slow", "phi: the slow weights", init="param"),)

    def check(self) -> None:
        """A share cannot be above 1."""
        if self.alpha > 1:
            self.refuse("alpha", "in [0, 1]", self.alpha)

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        synced = h.alpha * u + (1 - h.alpha) * state.slow
        due = h.step % self.k == 0
        return maths.where(due, synced, u), {"slow": maths.where(due, synced, state.slow)}
