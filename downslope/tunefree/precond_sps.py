"""PSPS: the stochastic Polyak step along a preconditioned gradient; no learning rate to set.

    p -= (f(p) - f*) / ‖g‖²_{B⁻¹}  B⁻¹ g        ‖g‖²_{B⁻¹} = Σ g B⁻¹ g over the whole model, f the loss of the batch

    Hutchinson:  D_0 = mean of 100 estimates z ⊙ (H z);  D_t = b2 D_{t-1} + (1 - b2) z ⊙ (H z);  B = max(|D|, α)
    Adam:        v_t = b2 v_{t-1} + (1 - b2) g²;  B = sqrt(v̂_t) + eps
    AdaGrad:     v_t = v_{t-1} + g²;              B = sqrt(v_t) + eps
    none:        B = 1, the stochastic Polyak step (SPS)

    α is `min_curvature`. With slack s ≥ 0, for data that cannot be fitted to f* (λ is `slack_strength`):
    L1:  γ = max(0, f - f* - s + λ) / (1 + ‖g‖²_{B⁻¹});     step = min(γ, (f - f*) / ‖g‖²_{B⁻¹});  s = max(0, s - λ + γ)
    L2:  step = max(0, f - f* - s/(1+λ)) / (‖g‖²_{B⁻¹} + 1/(1+λ));  s = (s + step) / (1 + λ)

The Polyak step is a transform of its own, `PolyakStep`: behind any transform that gives a descent direction u it takes
the step (f - f*) / ⟨g, u⟩.

Paper: Abdukhakimov, Xiang, Kamzolov & Takáč, "Stochastic Gradient Descent with Preconditioned Polyak Step-size",
arXiv:2310.02093.
Memory: one tensor like the parameter (Hutchinson, AdaGrad), two (Adam), none (none).
Differs from the paper: only its abstract and the authors' code could be read; the rules of Adam and AdaGrad are those
of the authors' notebooks (ScaledSPS and SANIA), where Adam has no momentum.
Differs from the authors' code: the norm is summed over all param groups, where theirs takes the last group's; the first
D is the mean of the first draws alone, where theirs mixes in one draw more with weight 1 - b2; λ enters L1 as in the
code. The step is 0 where f < f*, and where ‖g‖² is below 1e-13 (there the slack stays too, as in theirs). `eps` is
SANIA's; their notebooks of PSPS have 1e-8 for Adam and 1e-10 for AdaGrad.
Reduces to: SGD with lr = f / ‖g‖² for preconditioner none. Without slack and `max_step` a constant factor in B
cancels, so that the bias correction of Adam's B matters through eps only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from downslope._checks import refuse
from downslope._core import (
    Card,
    GlobalTransform,
    Hyper,
    Optimizer,
    Options,
    Params,
    Slot,
    State,
    Transform,
    Updates,
    chain,
    maths,
)
from downslope.optim.adagrad import ScaleByAdagrad
from downslope.optim.adam import ScaleByAdam

__all__ = ["PSPS", "PolyakStep", "PreconditionByHutchinson"]

CARD = Card(
    key="precond-sps",
    name="PSPS",
    exports=("PSPS", "PolyakStep", "PreconditionByHutchinson"),
    paper="Abdukhakimov, Xiang, Kamzolov & Takáč, Stochastic Gradient Descent with Preconditioned Polyak Step-size, "
    "2023",
    url="https://arxiv.org/abs/2310.02093",
    year=2023,
    code="https://github.com/fxrshed/ScaledSPS @ 46517ee6a46f",
    formula="p -= (f(p) - f*) / |g|^2_{B^-1} B^-1 g, B the diagonal of Hutchinson, Adam or AdaGrad",
    scope="global",
    needs=("loss", "curvature"),
    state="1 tensor (Hutchinson, AdaGrad), 2 (Adam), none (none)",
    state_values=1.0,
    defaults="the authors' code",
    tuning={"preconditioner": ("choice", "hutchinson", "adam", "adagrad"), "slack": ("choice", "none", "l1", "l2")},
    claim="better than SPS on badly scaled and ill-conditioned data, without a learning rate to tune",
    evidence="trajectories equal the authors' class (no preconditioner, Hutchinson, both slacks) over 60 steps; least "
    "squares with features scaled over two decades: fitted in 20 steps (SPS 373), as without scaling; over six decades "
    "Hutchinson's noise drowns the small features and the claim fails, with the exact diagonal it holds",
    status="partial: only the paper's abstract was read; Adam and AdaGrad are proved by notebooks alone",
    aliases=("psps",),
)

PRECONDITIONERS = ("hutchinson", "adam", "adagrad", "none")
SLACKS = ("none", "l1", "l2")
SMALLEST_NORM = 1e-13


class PreconditionByHutchinson(Transform):
    """g / max(|D|, min_curvature), D a running mean of Hutchinson's estimates of the Hessian's diagonal.

    Args:
        beta2: decay rate of the running mean.
        min_curvature: the smallest |D| that is divided by.
        update_every: steps from one estimate to the next.
        first_samples: how many draws the first estimate is the mean of.
    """

    beta2: float = 0.999
    min_curvature: float = 0.1
    update_every: int = 1
    first_samples: int = 100

    needs = frozenset({"curvature"})
    curvature = "hutchinson"
    slots = (Slot("hessian", "D: running mean of the estimates of the Hessian's diagonal"),)

    def update(self, g: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        hessian = state.hessian
        if h.curvature is not None:
            mean = h.beta2 * state.hessian + (1 - h.beta2) * h.curvature
            hessian = maths.where(h.step == 1, h.curvature, mean)
        return g / maths.maximum(hessian.abs(), h.min_curvature), {"hessian": hessian}


class PolyakStep(GlobalTransform):
    """Scales a descent direction u by (loss - f*) / ⟨g, u⟩, so that the linear model of the loss reaches f*.

    Args:
        f_star: the smallest loss that a batch can have; 0 where the data can be fitted.
        slack_strength: λ of the slack.
        max_step: largest step size (the cap of SPS_max, Loizou et al. 2021), None for no cap.
        slack: `"none"`, `"l1"` or `"l2"`.

    Example:
        >>> rule = ds.chain(ds.ScaleByRMSprop(), ds.PolyakStep())
        >>> opt = ds.Optimizer(torch.nn.Linear(2, 1), rule, lr=1.0)
    """

    f_star: float = 0.0
    slack_strength: float = 0.01
    max_step: float | None = None
    slack: str = "none"

    needs = frozenset({"loss"})
    shared = (Slot("step_size", "the Polyak step size"), Slot("slack", "s: how far above f* the loss may stay"))

    def check(self) -> None:
        """Refuse an unknown slack."""
        if self.slack not in SLACKS:
            self.refuse("slack", "'none', 'l1' or 'l2'", self.slack)

    def measure(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Mapping[str, Tensor], Updates]:
        return {"norm_sq": (h.grad * u).sum()}, {}

    def combine(self, sums: Any, shared: Any, h: Hyper) -> Mapping[str, Any]:
        gap, strength, s = maths.maximum(h.loss - h.f_star, 0.0), h.slack_strength, shared.slack
        norm_sq = maths.maximum(sums.norm_sq, SMALLEST_NORM)
        step = gap / norm_sq
        if self.slack == "l1":
            damped = maths.maximum(gap - s + strength, 0.0) / (1 + norm_sq)
            step, s = maths.minimum(damped, step), maths.maximum(s - strength + damped, 0.0)
        elif self.slack == "l2":
            shrink = 1 / (1 + strength)
            step = maths.maximum(gap - shrink * s, 0.0) / (norm_sq + shrink)
            s = shrink * (s + step)
        if h.max_step is not None:
            step = maths.minimum(step, h.max_step)
        moves = sums.norm_sq >= SMALLEST_NORM
        return {"step_size": maths.where(moves, step, 0.0), "slack": maths.where(moves, s, shared.slack)}

    def update(self, u: Tensor, p: Tensor, state: State, h: Hyper) -> tuple[Tensor, Updates]:
        return h.shared.step_size * u, {}


class PSPS(Optimizer):
    """Stochastic Polyak step along a preconditioned gradient.

    Use it for convex problems that the model can fit (the loss of every batch can reach `f_star`), above all with badly
    scaled features, where it needs no tuning at all. Hutchinson's estimate is noisy where scales differ by more than
    about three decades; a diagonal that you can compute is better and enters by `observe_curvature`. Deep networks that
    do not fit their data need a slack or `max_step`, or another method. The loss must be that which was differentiated.

    Args:
        params: the model, named parameters, tensors, or param groups.
        lr: factor on the step; 1 is the paper's.
        preconditioner: `"hutchinson"` (scales with the features, so that their scale does not matter), `"adam"`,
            `"adagrad"`, or `"none"` for plain SPS.
        beta2: decay rate of the preconditioner's running mean (Hutchinson, Adam).
        min_curvature: smallest curvature that is divided by (Hutchinson).
        eps: added to the preconditioner (Adam, AdaGrad).
        f_star: the smallest loss that a batch can have.
        slack: `"none"`, `"l1"` or `"l2"`: lets the loss stay above `f_star`.
        slack_strength: λ of the slack; the larger, the larger the steps.
        max_step: largest Polyak step size, None for no cap; a safeguard where the data cannot be fitted.
        update_every: steps from one Hutchinson estimate to the next.
        first_samples: how many draws the first estimate is the mean of, each about a backward pass.
        **options: see `Options`; `seed` is that of the random signs.

    Raises:
        ArgumentError: for a value outside of its range, or a step without the loss, in one sentence.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> opt = ds.PSPS(model)
        >>> for _ in range(20):
        ...     opt.zero_grad()
        ...     loss = torch.nn.functional.mse_loss(model(x), y)
        ...     opt.backward(loss)  # loss.backward(), with the graph that Hutchinson needs
        ...     opt.step(loss=loss)

        Without Hutchinson, `loss.backward(); opt.step(loss=loss)`, or `opt.step(closure)`.

    Source: arXiv:2310.02093; https://github.com/fxrshed/ScaledSPS.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        *,
        preconditioner: str = "hutchinson",
        beta2: float = 0.999,
        min_curvature: float = 0.1,
        eps: float = 1e-6,
        f_star: float = 0.0,
        slack: str = "none",
        slack_strength: float = 0.01,
        max_step: float | None = None,
        update_every: int = 1,
        first_samples: int = 100,
        **options: Unpack[Options],
    ) -> None:
        before: dict[str, tuple[Transform, ...]] = {
            "hutchinson": (PreconditionByHutchinson(beta2, min_curvature, update_every, first_samples),),
            "adam": (ScaleByAdam((0.0, beta2), eps),),
            "adagrad": (ScaleByAdagrad(eps=eps),),
            "none": (),
        }
        if preconditioner not in PRECONDITIONERS:
            refuse("PSPS", "preconditioner", f"one of {', '.join(map(repr, PRECONDITIONERS))}", preconditioner)
        rule = chain(*before[preconditioner], PolyakStep(f_star, slack_strength, max_step, slack))
        super().__init__(params, rule, lr=lr, **options)
