"""Signals: what some rules need besides the gradient, and how an ordinary loop supplies it.

`loss` comes from the closure or from `step(loss=…)`; `curvature` from a second backward pass on sampled labels
(`observe_curvature`) or from the graph of the gradients (Hutchinson); `previous_gradient` from running the closure at
the parameters before the last step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from downslope._checks import ArgumentError
from downslope._core.plan import Node
from downslope._engine.item import seeded
from downslope._engine.sharded import mean_loss

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = ["Signals"]


class Signals:
    """Collects the signals of one step."""

    def __init__(self, plan: Node) -> None:
        leaves = list(plan.leaves())
        self.needs = frozenset(need for node in leaves for need in node.transform.needs)
        self._hutchinson = [n.transform for n in leaves if getattr(n.transform, "curvature", None) == "hutchinson"]
        self._loss: float | None = None
        self._curvature: dict[Tensor, Tensor] = {}
        self._previous: dict[Tensor, Tensor] = {}

    def graph_due(self, step: int) -> bool:
        """Whether step number `step` needs gradients that have a graph."""
        return any((step - 1) % getattr(t, "update_every", 1) == 0 for t in self._hutchinson)

    def backward(self, opt: Optimizer, loss: Tensor) -> None:
        """Differentiate the loss and keep what the rule needs of it; repeated calls accumulate."""
        due = self.graph_due(opt.steps + 1)
        before = self._loss
        if "loss" in self.needs:  # known in time for a step inside backward
            self._loss = (before or 0.0) + float(loss.detach())
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Using backward.. with create_graph")
                loss.backward(create_graph=due)
        except BaseException:
            self._loss = before
            raise
        if due:
            self._draw(opt, has_graph=True)

    @torch.no_grad()
    def observe(self, opt: Optimizer, estimate: Mapping[str, Tensor] | Sequence[Tensor] | None, scale: float) -> None:
        """Keep an estimate of the curvature in the state of each parameter until the coming step."""
        owner = type(opt).__name__
        if "curvature" not in self.needs:
            raise ArgumentError(f"{owner}: makes no use of curvature; drop observe_curvature().")
        params = opt.parameters()
        if estimate is None and opt._in_backward is not None:
            raise ArgumentError(f"{owner}: no gradients are left where parameters move in backward; give the estimate.")
        if estimate is None:
            found = {p: scale * p.grad.detach().square() for p in params if p.grad is not None}
        elif isinstance(estimate, Mapping):
            by_name = {opt.info(p).name: p for p in params}
            unknown = sorted(set(estimate) - {n for n in by_name if n is not None})
            if unknown:
                raise ArgumentError(f"{owner}: observe_curvature got unknown parameter names: {unknown[:3]}.")
            found = {by_name[name]: value for name, value in estimate.items()}
        else:
            found = dict(zip(params, estimate, strict=True))
        for p, value in found.items():
            if value.shape != p.shape:
                raise ArgumentError(
                    f"{owner}: the curvature of {opt.info(p).label} must have its shape {tuple(p.shape)}; "
                    f"got {tuple(value.shape)}."
                )
            opt.state[p]["observed_curvature"] = value.detach().clone()

    def collect(self, opt: Optimizer, closure: Callable[[], Any] | None, loss: Any) -> Any:
        """Run the closure as often as the rule needs and keep the signals; returns what the closure returned.

        Raises:
            ArgumentError: when the rule needs what the loop did not supply; nothing has moved then.
        """
        previous: dict[Tensor, Tensor] = {}
        if "previous_gradient" in self.needs:
            if closure is None:
                self._missing(opt, "the gradient at the previous parameters", "call step(closure)")
            previous = _gradients_at_previous(opt, closure)
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        self._keep_parameters(opt)
        self._previous = previous  # now, as the closure zeroes the gradients, which clears the signals
        loss = returned if loss is None else loss
        if loss is not None:
            self._loss = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        self.require_loss(opt, "call optimizer.backward(loss), step(loss=loss) or step(closure)")
        if "loss" in self.needs and self._loss is not None:
            self._loss = mean_loss(type(opt).__name__, self._loss, opt.parameters(), opt.replicas)
        if self.graph_due(opt.steps + 1) and not self._curvature:
            self._draw(opt)
        return returned

    def require_loss(self, opt: Optimizer, remedy: str) -> None:
        """Refuse a step of a rule that needs the loss and does not know it."""
        if "loss" in self.needs and self._loss is None:
            self._missing(opt, "the loss of the batch", remedy)

    def fill(self, opt: Optimizer) -> None:
        """Signals that say nothing, for a step that only makes the state."""
        self._loss = 0.0
        self._keep_parameters(opt)

    def _keep_parameters(self, opt: Optimizer) -> None:
        if "previous_gradient" in self.needs:
            for p in opt.parameters():
                opt.state[p]["previous_parameter"] = p.detach().clone()

    def absent(self, opt: Optimizer) -> bool:
        """Whether the coming step gets nothing but gradients."""
        if not self.needs:
            return True
        given = self._curvature or any("observed_curvature" in state for state in opt.state.values())
        return self.needs == {"curvature"} and not given

    def of(self, state: dict[str, Any], p: Tensor, sign: float) -> dict[str, Any]:
        """The signals for one parameter; `sign` is -1 where the objective is maximised."""
        signals: dict[str, Any] = {}
        if "loss" in self.needs:
            assert self._loss is not None
            signals["loss"] = sign * self._loss
        if "curvature" in self.needs:
            observed, drawn = state.pop("observed_curvature", None), self._curvature.get(p)
            signals["curvature"] = observed if drawn is None else sign * drawn
        if "previous_gradient" in self.needs:
            grad = torch.zeros_like(p) if p.grad is None else p.grad
            signals["previous_gradient"] = sign * self._previous.get(p, grad)
        return signals

    def clear(self) -> None:
        """Drop what belongs to one step alone."""
        self._loss, self._curvature, self._previous = None, {}, {}

    def _draw(self, opt: Optimizer, has_graph: bool = False) -> None:
        """Add the mean of z ⊙ (H z) over random signs z, from the graph of the gradients, which is then freed."""
        params = [p for p in opt.parameters() if p.grad is not None]
        params = [p for p in params if "observed_curvature" not in opt.state[p]]
        constant = [p for p in params if p.grad is not None and not p.grad.requires_grad]
        for p in constant:
            if has_graph:  # a gradient that depends on no parameter
                self._curvature.setdefault(p, torch.zeros_like(p))
            else:
                what = f"the graph of the gradient of {opt.info(p).label} at this step"
                self._missing(opt, what, "call optimizer.backward(loss) in place of loss.backward()")
        params = [p for p in params if p.grad is not None and p.grad.requires_grad]
        if not params:
            return
        which = "first_samples" if opt.steps == 0 else "samples"
        draws = max(int(getattr(t, which, 1)) for t in self._hutchinson)
        generators = [seeded(opt.seed, opt.steps + 1, opt.info(p), p.device) for p in params]
        grads = [p.grad for p in params if p.grad is not None]
        for draw in range(draws):
            signs = [_random_signs(p, generator) for p, generator in zip(params, generators, strict=True)]
            with torch.enable_grad():
                last = draw == draws - 1
                try:
                    products = torch.autograd.grad(grads, params, signs, retain_graph=not last, allow_unused=True)
                except RuntimeError as error:
                    if "is not implemented" not in str(error):
                        raise
                    what = f"a second derivative of every layer ({error})"
                    remedy = (
                        "where that is attention, run the model under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
                    )
                    self._missing(opt, what, remedy)
            for p, z, hz in zip(params, signs, products, strict=True):
                if hz is not None:
                    self._curvature[p] = self._curvature.get(p, 0.0) + z * hz / draws
        for p in params:
            assert p.grad is not None
            p.grad = p.grad.detach()  # the same numbers, without the graph

    @staticmethod
    def _missing(opt: Optimizer, what: str, remedy: str) -> NoReturn:
        raise ArgumentError(f"{type(opt).__name__}: needs {what}; {remedy}.")


def _random_signs(p: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, p.shape, generator=generator, device=p.device).to(p.dtype) * 2 - 1


def _gradients_at_previous(opt: Optimizer, closure: Callable[[], Any]) -> dict[Tensor, Tensor]:
    """The closure's gradients at the parameters before the last step, under the random state of the coming one."""
    params = opt.parameters()
    now = {p: p.detach().clone() for p in params}
    found: dict[Tensor, Tensor] = {}
    if any("previous_parameter" in opt.state[p] for p in params):
        try:
            for p in params:
                p.copy_(opt.state[p].get("previous_parameter", p))
            with torch.random.fork_rng(), torch.enable_grad():
                closure()
            found = {p: p.grad.detach().clone() for p in params if p.grad is not None}
        finally:
            for p in params:
                p.copy_(now[p])
    return found
