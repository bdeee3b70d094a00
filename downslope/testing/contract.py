"""The contract: what every method must hold, whoever wrote it. Each check gets a `Case` and raises if it fails.

from downslope.testing import contract
for check in contract.CHECKS:
    check(contract.Case("my-method", lambda params: MyMethod(params, lr=0.01)))
"""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from downslope._checks import ArgumentError
from downslope._core import Optimizer
from downslope._engine.native import leaf_of
from downslope._engine.program import fuse
from downslope.testing.problems import PROBLEMS, Problem
from downslope.testing.tolerances import close

__all__ = ["CHECKS", "Case"]


@dataclass(frozen=True)
class Case:
    """A method under the contract.

    Args:
        name: for messages.
        make: builds the optimizer from a model, or from param groups of named parameters.
        problem: the tiny problem it is tried on.
    """

    name: str
    make: Callable[[Any], Optimizer]
    problem: str = "language"


def _problem(case: Case) -> Problem:
    return PROBLEMS[case.problem]()


def feed(opt: Optimizer, model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """One step of a loop that supplies whatever the method needs."""

    def closure() -> Tensor:
        opt.zero_grad()
        value = loss()
        value.backward()
        return value

    if "previous_gradient" in opt.needs:
        opt.step(closure)
        return
    if "curvature" in opt.needs and not opt.needs_graph and opt.steps % 3 == 0:
        closure()
        opt.observe_curvature(scale=4.0)
    opt.zero_grad()
    opt.backward(loss())
    opt.step()


def _train(
    case: Case,
    steps: int,
    arrange: Callable[[nn.Module], Any] = lambda model: model,
    dtype: torch.dtype = torch.float64,
    before_step: Callable[[nn.Module, int], None] = lambda model, t: None,
) -> tuple[nn.Module, Optimizer]:
    problem = _problem(case)
    model = problem.build(dtype)
    opt = case.make(arrange(model))
    _go_on(problem, model, opt, range(steps), before_step)
    return model, opt


def _go_on(
    problem: Problem,
    model: nn.Module,
    opt: Optimizer,
    steps: range,
    before_step: Callable[[nn.Module, int], None] = lambda model, t: None,
) -> None:
    for t in steps:
        before_step(model, t)
        feed(opt, model, functools.partial(problem.loss, model, t))


def _same(a: nn.Module, b: nn.Module, what: str, exact: bool = False) -> None:
    other = dict(b.named_parameters())
    for name, p in a.named_parameters():
        if exact:
            assert torch.equal(p, other[name]), f"{what}: {name} differs"
        else:
            close(p, other[name], f"{what}: {name}")


def gradients_are_left_alone(case: Case) -> None:
    """`p.grad` has the same values in the same tensor after a step."""
    problem = _problem(case)
    model = problem.build(torch.float64)
    opt = case.make(model)
    if "previous_gradient" in opt.needs or opt.needs_graph:
        return  # these loops run the backward pass inside step or replace a gradient by its detached self
    for t in range(3):
        opt.zero_grad()
        opt.backward(problem.loss(model, t))
        kept = {n: (p.grad, p.grad.clone()) for n, p in model.named_parameters() if p.grad is not None}
        opt.step()
        for name, p in model.named_parameters():
            if name in kept:
                grad, values = kept[name]
                assert p.grad is grad, f"the gradient of {name} was replaced"
                assert torch.equal(grad, values), f"the gradient of {name} was changed"


def state_is_its_own(case: Case) -> None:
    """Gradients that are zeroed in place between the steps change no state."""
    problem = _problem(case)
    models = []
    for to_none in (True, False):
        model = problem.build(torch.float64)
        opt = case.make(model)
        for t in range(4):
            feed(opt, model, functools.partial(problem.loss, model, t))
            opt.zero_grad(set_to_none=to_none)
        models.append(model)
    _same(models[0], models[1], "zeroed gradients", exact=True)


def order_does_not_matter(case: Case) -> None:
    """The same trajectory whatever the order of the parameters."""
    one, _ = _train(case, 6, lambda m: list(m.named_parameters()))
    two, _ = _train(case, 6, lambda m: list(m.named_parameters())[::-1])
    _same(one, two, "reversed parameters")


def groups_do_not_matter(case: Case) -> None:
    """The same trajectory whether the parameters stand in one group or in several, however they are split."""
    splits: dict[str, Callable[[list[Any]], list[list[Any]]]] = {
        "two groups": lambda members: [members[:2], members[2:]],
        "every other one": lambda members: [members[1::2], members[::2]],
        "a group each": lambda members: [[member] for member in members],
    }
    one, _ = _train(case, 6, lambda m: [{"params": list(m.named_parameters())}])
    for name, split in splits.items():

        def arrange(m: nn.Module, split: Callable[[list[Any]], list[list[Any]]] = split) -> list[dict[str, Any]]:
            return [{"params": part} for part in split(list(m.named_parameters())) if part]

        _same(one, _train(case, 6, arrange)[0], name)


def strided_gradients_are_taken(case: Case) -> None:
    """A gradient that is not contiguous gives the same step."""
    problem = _problem(case)
    models, opts = [], []
    for _ in range(2):
        model = problem.build(torch.float64)
        models.append(model)
        opts.append(case.make(model))
    if "previous_gradient" in opts[0].needs:
        return  # the closure makes the gradients
    for t in range(3):
        for strided, model, opt in zip((False, True), models, opts, strict=True):
            opt.zero_grad()
            opt.backward(problem.loss(model, t))
            for p in model.parameters():
                if strided and p.grad is not None:
                    wide = torch.zeros(*p.shape, 2, dtype=p.dtype)
                    wide[..., 0] = p.grad
                    p.grad = wide[..., 0]
            opt.step()
    _same(models[0], models[1], "strided gradients")


def absent_gradients_are_skipped(case: Case) -> None:
    """A parameter without a gradient keeps its value and its state; the others go on."""
    problem = _problem(case)
    model = problem.build(torch.float64)
    opt = case.make(model)
    if "previous_gradient" in opt.needs:
        return  # the closure makes the gradients
    present = dict.fromkeys(model.parameters(), 0)
    for t in range(7):
        opt.zero_grad()
        opt.backward(problem.loss(model, t))
        before = {p: (p.detach().clone(), copy.deepcopy(opt.state.get(p, {}))) for p in present}
        absent = {p for i, p in enumerate(present) if (i + t) % 3 == 1 or t == 5}
        for p in absent:
            p.grad = None
        opt.step()
        for name, p in model.named_parameters():
            value, state = before[p]
            present[p] += p not in absent
            if p in absent:
                assert torch.equal(p, value), f"{name} moved at step {t}"
                torch.testing.assert_close(opt.state.get(p, {}), state, rtol=0, atol=0)
            assert p.isfinite().all(), f"{name} at step {t}"
            assert opt.state[p]["step"] == present[p] if present[p] else not opt.state.get(p), f"{name} at step {t}"
        assert len(absent) == len(present) or any(not torch.equal(p, before[p][0]) for p in present), f"step {t}"
    assert opt.steps == 7


def resumes_bit_exactly(case: Case) -> None:
    """Saved at any tenth step and loaded into a new optimizer, by name in another order, it goes on bit for bit."""
    problem = _problem(case)
    model, opt = _train(case, 0, lambda m: list(m.named_parameters()))
    saved, path = {}, []
    for t in range(34):
        if t in (0, 1, 10, 20, 30):
            buffer = io.BytesIO()
            torch.save((model.state_dict(), opt.state_dict()), buffer)
            saved[t] = buffer.getvalue()
        _go_on(problem, model, opt, range(t, t + 1))
        path.append(copy.deepcopy(model))
    for at, content in saved.items():
        weights, state = torch.load(io.BytesIO(content))
        again = problem.build(torch.float64)
        again.load_state_dict(weights)
        members = list(again.named_parameters())
        fresh = case.make(members if opt._plan.is_global else members[::-1])
        fresh.load_state_dict(state)
        _go_on(problem, again, fresh, range(at, at + 4))
        _same(path[at + 3], again, f"resumed after {at} steps", exact=True)


def state_keeps_its_dtype(case: Case) -> None:
    """A half-precision parameter keeps float32 state, also through a save."""
    model, opt = _train(case, 2, dtype=torch.bfloat16)
    fresh = case.make(model)
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    for o in (opt, fresh):
        for p in model.parameters():
            for key, value in o.state.get(p, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point() and key != "previous_parameter":
                    assert value.dtype in (torch.float32, torch.float64), f"{key} is {value.dtype}"
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in model.parameters())


def schedulers_are_live(case: Case) -> None:
    """A learning rate of 0 set by a torch scheduler stops the parameters; a live one does not."""
    problem = _problem(case)
    model = problem.build(torch.float64)
    opt = case.make(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1.0 if t < 2 else 0.0)
    for t in range(4):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        feed(opt, model, functools.partial(problem.loss, model, t))
        still = all(torch.equal(p, before[n]) for n, p in model.named_parameters())
        assert still == (t >= 2), f"at step {t} the parameters {'stand still' if still else 'move'}"
        scheduler.step()


def copies_and_pickles(case: Case) -> None:
    """A deep copy and a pickle of (model, optimizer) go on as the original does."""
    problem = _problem(case)
    model, opt = _train(case, 2)
    twins = [copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))]
    _go_on(problem, model, opt, range(2, 5))
    for other, twin in twins:
        _go_on(problem, other, twin, range(2, 5))
        _same(model, other, "its copy", exact=True)


def maximize_is_the_negated_objective(case: Case) -> None:
    """`maximize=True` on -f walks the path of f."""
    problem = _problem(case)
    paths = []
    for sign in (1.0, -1.0):
        model = problem.build(torch.float64)
        opt = case.make(model)
        opt._maximize = sign < 0
        flipped = replace(problem, loss=lambda m, t, sign=sign: sign * problem.loss(m, t))  # type: ignore[misc]
        _go_on(flipped, model, opt, range(4))
        paths.append(model)
    _same(paths[0], paths[1], "maximize")


def stepping_in_backward_changes_nothing(case: Case) -> None:
    """Parameters, state and step count are bit for bit those of the ordinary loop, for all rules that allow it."""
    problem = _problem(case)
    model, opt = _train(case, 0)
    other, ordinary = _train(case, 0)
    signals = {getattr(node.transform, "curvature", None) for node in opt._plan.leaves()} | opt.needs
    if opt._plan.is_global or signals & {"hutchinson", "previous_gradient"}:
        try:
            opt.step_in_backward(model)
        except ArgumentError:
            return
        raise AssertionError("a rule that cannot step inside backward was not refused")
    opt.step_in_backward(model)
    for t in range(6):
        if "curvature" in opt.needs and t % 3 == 0:
            for m, o in ((model, opt), (other, ordinary)):
                gradients = torch.autograd.grad(problem.loss(m, t), list(m.parameters()))
                o.observe_curvature([4.0 * g.square() for g in gradients])
        for m, o in ((model, opt), (other, ordinary)):
            o.zero_grad()
            o.backward(problem.loss(m, t))
            assert o is ordinary or all(p.grad is None for p in m.parameters()), "a gradient is left"
            o.step()
    _same(model, other, "step in backward", exact=True)
    assert opt.steps == ordinary.steps
    saved, expected = opt.state_dict()["state"], ordinary.state_dict()["state"]
    torch.testing.assert_close(saved, expected, rtol=0, atol=0)


def manifest_tells_all(case: Case) -> None:
    """The manifest has one row a parameter and counts the bytes of state."""
    model, opt = _train(case, 2)
    manifest = opt.manifest()
    assert {row.parameter for row in manifest} == {name for name, _ in model.named_parameters()}
    held = sum(
        v.numel() * v.element_size()
        for p in model.parameters()
        for v in opt.state.get(p, {}).values()
        if isinstance(v, Tensor)
    )
    assert manifest.state_bytes == opt.state_bytes() == held
    assert all(row.rule and math.isfinite(row.lr) for row in manifest)


def maths_is_traceable(case: Case) -> None:
    """A kernel can be emitted for every element transform."""
    _, opt = _train(case, 0)
    for group, route in zip(opt.param_groups, opt._routes, strict=True):
        for node in opt._plan.on(route):
            if node.transform.scope != "element":
                continue
            for signals in {(), tuple(node.transform.needs)}:
                if signals or "previous_gradient" not in node.transform.needs:
                    fuse((leaf_of(node, group, signals),), 2, from_gradient=True, finishing=True, negated=False)


def executors_agree(case: Case) -> None:
    """The native executor does what the reference does over 50 steps, in float64 and in float32."""
    for dtype, steps in ((torch.float64, 50), (torch.float32, 10)):
        native, opt = _train(case, steps, dtype=dtype)
        reference, _ = _train(replace(case, make=lambda params: _referring(case.make(params))), steps, dtype=dtype)
        assert opt._native is not None, "there is no compiler here"
        _same(native, reference, f"native and reference in {str(dtype).removeprefix('torch.')}")


def _referring(opt: Optimizer) -> Optimizer:
    opt._native = None
    return opt


def converges(case: Case) -> None:
    """It makes the problem's loss smaller over 60 steps, and never turns it into NaN."""
    problem = _problem(case)
    start = problem.solved(problem.build(torch.float64))
    model, _ = _train(case, 60)
    end = problem.solved(model)
    assert math.isfinite(end), f"the loss became {end}"
    assert end < start, f"the loss went from {start:.4g} to {end:.4g}"


def zero_gradients_are_harmless(case: Case) -> None:
    """Gradients of exactly zero from the first step on give no NaN."""
    problem = _problem(case)
    model = problem.build(torch.float64)
    opt = case.make(model)
    for t in range(3):
        feed(opt, model, lambda t=t: 0.0 * problem.loss(model, t))  # type: ignore[misc]
    assert all(p.isfinite().all() for p in model.parameters())


CHECKS: tuple[Callable[[Case], None], ...] = (
    gradients_are_left_alone,
    state_is_its_own,
    order_does_not_matter,
    groups_do_not_matter,
    strided_gradients_are_taken,
    absent_gradients_are_skipped,
    resumes_bit_exactly,
    state_keeps_its_dtype,
    schedulers_are_live,
    copies_and_pickles,
    maximize_is_the_negated_objective,
    stepping_in_backward_changes_nothing,
    manifest_tells_all,
    maths_is_traceable,
    executors_agree,
    converges,
    zero_gradients_are_harmless,
)
