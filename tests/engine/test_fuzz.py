"""Every ready method on random tensors: shapes, layouts, dtypes, hyperparameters, groups, orders, absent gradients.

The examples are the same in every run. `DOWNSLOPE_FUZZ=200 pytest tests/engine/test_fuzz.py` tries 200 new ones a test.
"""

import inspect
import io
import os
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import downslope as ds
from downslope.testing.tolerances import close

KEYS = [card.key for card in ds.find("*") if card.ready]
MORE = int(os.environ.get("DOWNSLOPE_FUZZ", "0"))
MATRICES = [(3, 4), (1, 1), (5, 1), (2, 3, 2), (3, 2, 3, 3), (4099, 2)]
SHAPES = [*MATRICES, (), (0,), (1,), (7,), (70001,), (0, 3), (3, 0, 2)]
LAYOUTS = ["plain", "transposed", "strided", "offset", "channels_last"]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
FORMS = ["float32", "8bit", "float32", "4bit", "float32", "bfloat16"]
KINDS = ["normal", "zeros", "sparse", "constant", "rank one"]


def fuzz(examples):
    return settings(
        max_examples=MORE or examples,
        derandomize=not MORE,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Case:
    """A method with its hyperparameters, its parameters, and what their gradients are like at every step."""

    key: str
    hyper: dict
    shapes: tuple
    layouts: tuple
    dtype: torch.dtype
    seed: int
    kinds: tuple
    scales: tuple
    absent: tuple
    maximize: bool
    execution: str
    state_dtype: str
    stochastic_rounding: bool

    @property
    def steps(self):
        return len(self.scales)


def hyperparameters(key):
    ranges = ds.card(key).tuning or {}
    strategies = {name: _values(*each) for name, each in ranges.items()}
    if "lr" in strategies and "lr" in inspect.signature(type(make_any(key)).__init__).parameters:
        scheduled = strategies["lr"].map(lambda lr: ds.LinearDecay(lr, total=9, warmup=3))
        strategies["lr"] = st.one_of(strategies["lr"], scheduled)
    return st.fixed_dictionaries({}, optional=strategies)


def make_any(key):
    return ds.make(key, [("hidden.weight", nn.Parameter(torch.ones(2, 2)))])


def _values(kind, *bounds):
    if kind == "choice":
        return st.sampled_from(bounds)
    return st.integers(*bounds) if kind == "int" else st.floats(*bounds)


def one_of(key, choices):
    """Any of the choices, or, as every one is a kernel to build, the one whose turn it is with this method."""
    return st.sampled_from(choices if MORE else [choices[KEYS.index(key) % len(choices)]])


@st.composite
def cases(draw, key, dtypes=DTYPES, scales=(-3, 3), forms=("float32",)):
    shapes = (draw(st.sampled_from(MATRICES)), *draw(st.lists(st.sampled_from(SHAPES), max_size=3)))
    steps, n = draw(st.integers(1, 5)), len(shapes)
    each_step = {"min_size": steps, "max_size": steps}
    return Case(
        key=key,
        hyper=draw(hyperparameters(key)),
        shapes=shapes,
        layouts=tuple(draw(st.lists(st.sampled_from(LAYOUTS), min_size=2 * n, max_size=2 * n))),
        dtype=draw(one_of(key, dtypes)),
        seed=draw(st.integers(0, 2**16)),
        kinds=tuple(draw(st.lists(st.sampled_from(KINDS), **each_step))),
        scales=tuple(10.0**e for e in draw(st.lists(st.integers(*scales), **each_step))),
        absent=tuple(draw(st.lists(st.sets(st.integers(1, 3)), **each_step))),
        maximize=draw(one_of(key, [True, False])),
        execution=draw(st.sampled_from(["auto", "reference"])),
        state_dtype=draw(one_of(key, forms)),
        stochastic_rounding=draw(one_of(key, [False, True])),
    )


def laid_out(x, layout):
    """The same numbers in other places of memory."""
    if layout == "transposed" and x.ndim:
        return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    if layout == "strided" and x.ndim:
        return torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]
    if layout == "offset" and x.ndim:
        return torch.cat([torch.zeros(1, dtype=x.dtype), x.flatten()])[1:].view(x.shape)
    if layout == "channels_last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    return x.clone()


def drawn(kind, shape, dtype, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng, dtype=torch.float64)
    if kind == "zeros":
        x = torch.zeros_like(x)
    elif kind == "sparse":
        x = x * (torch.rand(shape, generator=rng) < 0.1)
    elif kind == "constant":
        x = torch.ones_like(x)
    elif kind == "rank one" and x.ndim:
        x = x.sum(tuple(range(1, x.ndim)), keepdim=True).expand(shape) if x.ndim > 1 else x.abs()
    return x.to(dtype)


class Run:
    """A case at work: `step(t)` takes its step t."""

    def __init__(self, case, order=None, cuts=(), rates=False):
        self.case = case
        self.params = []
        for i, shape in enumerate(case.shapes):
            start = drawn("normal", shape, case.dtype, case.seed + i)
            self.params.append(nn.Parameter(laid_out(start, case.layouts[2 * i])))
        names = [
            "hidden.weight",
            *(f"layer{i}.{'weight' if len(s) > 1 else 'bias'}" for i, s in enumerate(case.shapes[1:])),
        ]
        members = list(zip(names, self.params, strict=True))
        members = [members[i] for i in order] if order else members
        bounds = [0, *sorted({c for c in cuts if 0 < c < len(members)}), len(members)]
        groups = [{"params": members[a:b]} for a, b in zip(bounds, bounds[1:])]
        for i, group in enumerate(groups if rates else ()):
            group["lr"] = 1e-3 * (i + 1)
        try:
            self.opt = ds.make(
                case.key,
                groups if len(groups) > 1 or rates else members,
                maximize=case.maximize,
                execution=case.execution,
                state_dtype=case.state_dtype,
                stochastic_rounding=case.stochastic_rounding,
                **case.hyper,
            )
        except ds.ArgumentError:  # hyperparameters that do not go together
            assume(False)
        self.by_hand = not self.opt.needs & {"loss", "previous_gradient"} and not self.opt.needs_graph

    def gradients(self, t):
        case = self.case
        for i, p in enumerate(self.params):
            if i in case.absent[t]:
                yield p, None
            else:
                g = case.scales[t] * drawn(case.kinds[t], p.shape, case.dtype, case.seed + 1000 * (t + 1) + i)
                yield p, laid_out(g, case.layouts[2 * i + 1])

    def loss(self, t):
        return sum((p * g).sum() + 0.05 * p.square().sum() for p, g in self.gradients(t) if g is not None)

    def step(self, t):
        opt = self.opt
        self.observe(t)
        opt.zero_grad()
        if "previous_gradient" in opt.needs:
            opt.step(lambda: self._closure(t))
        elif self.by_hand:
            for p, g in self.gradients(t):
                p.grad = g
            opt.step()
        else:
            opt.backward(self.loss(t))
            opt.step()

    def observe(self, t):
        if "curvature" in self.opt.needs and self.by_hand and t % 2 == 0:
            curvature = [drawn("normal", p.shape, p.dtype, t + i).abs() for i, p in enumerate(self.params)]
            names = [self.opt.info(p).name for p in self.params]
            self.opt.observe_curvature(dict(zip(names, curvature, strict=True)))

    def _closure(self, t):
        self.opt.zero_grad()
        loss = self.loss(t)
        loss.backward()
        return loss

    def all(self, steps=None):
        for t in range(self.case.steps) if steps is None else steps:
            self.step(t)
        return self


def assert_same(a, b, exact=True):
    for i, (p, q) in enumerate(zip(a.params, b.params, strict=True)):
        if exact:
            assert torch.equal(p, q), f"parameter {i}"
        else:
            close(p, q, f"parameter {i}")


@pytest.mark.parametrize("key", KEYS)
def test_finite_gradients_give_finite_numbers_and_are_left_alone(key):
    @fuzz(4)
    @given(cases(key, scales=(-18, 12)))
    def check(case):
        run = Run(case)
        for t in range(case.steps):
            before = [p.detach().clone() for p in run.params]
            run.step(t)
            if run.by_hand:
                for (_, g), p in zip(run.gradients(t), run.params, strict=True):
                    assert g is None if p.grad is None else torch.equal(p.grad, g)
                    assert p.grad is None or p.grad._version == 0
            for i, (p, old) in enumerate(zip(run.params, before, strict=True)):
                assert p.dtype == case.dtype
                assert p.isfinite().all(), f"parameter {i} at step {t}"
                assert i not in case.absent[t] or torch.equal(p, old)
                for name, value in run.opt.state.get(p, {}).items():
                    assert not isinstance(value, torch.Tensor) or value.isfinite().all(), f"{name} at step {t}"
        assert run.opt.steps == case.steps

    check()


@pytest.mark.parametrize("key", KEYS)
def test_layout_order_and_groups_change_nothing(key):
    @fuzz(3)
    @given(cases(key, dtypes=[torch.float64]), st.permutations(range(4)), st.sets(st.integers(1, 3)))
    def check(case, order, cuts):
        case = replace(case, execution="reference")  # the other is compared with it below
        plain = Run(replace(case, layouts=("plain",) * len(case.layouts))).all()
        assert_same(Run(case).all(), plain, exact=False)
        order = [i for i in order if i < len(case.shapes)]
        assert_same(Run(case, order, cuts).all(), Run(case).all(), exact=False)

    check()


@pytest.mark.parametrize("key", KEYS)
def test_executors_agree(key):
    @fuzz(4)
    @given(cases(key), st.sets(st.integers(1, 3)), st.booleans())
    def check(case, cuts, rates):
        rates &= key not in ("muon", "sinkgd")  # one lr for several rules is refused
        native, reference = (
            Run(replace(case, execution=name), cuts=cuts, rates=rates).all() for name in ("native", "reference")
        )
        assert_same(native, reference, exact=False)

    check()


@pytest.mark.parametrize("key", KEYS)
def test_resuming_at_any_step_is_exact(key):
    @fuzz(3)
    @given(cases(key, forms=FORMS), st.integers(0, 4), st.permutations(range(4)))
    def check(case, at, order):
        at = min(at, case.steps)
        straight, stopped = Run(case).all(), Run(case).all(range(at))
        buffer = io.BytesIO()
        torch.save(stopped.opt.state_dict(), buffer)
        buffer.seek(0)
        order = None if stopped.opt._plan.is_global else [i for i in order if i < len(case.shapes)]
        again = Run(case, order)
        for p, q in zip(again.params, stopped.params, strict=True):
            p.data.copy_(q.detach())
        again.opt.load_state_dict(torch.load(buffer, weights_only=True))
        assert_same(again.all(range(at, case.steps)), straight)

    check()


@pytest.mark.parametrize("key", KEYS)
def test_stepping_in_backward_changes_nothing(key):
    @fuzz(3)
    @given(cases(key, forms=FORMS))
    def check(case):
        ours, theirs = Run(case), Run(case)
        model = nn.ParameterList(ours.params)
        try:
            ours.opt.step_in_backward(model)
        except ds.ArgumentError:
            return
        for t in range(case.steps):
            for run in (ours, theirs):
                run.observe(t)
                run.loss(t).backward()
                run.opt.step()
                run.opt.zero_grad()
        assert_same(ours, theirs)

    check()
