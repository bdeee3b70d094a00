"""The native executor against the reference executor, and what it must notice between two steps."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import downslope as ds
from downslope._core import Descend, Transform, chain
from downslope._engine import native
from downslope.testing.tolerances import close

RULES = {
    "element": lambda **k: ds.chain(ds.ScaleByAdam(**k), ds.DecoupledWeightDecay(0.1)),
    "two passes": lambda **k: ds.chain(ds.ScaleByAdam(**k), ds.ScaleByTrustRatio()),
    "rows": lambda **k: ds.ScaleByAdamP(weight_decay=0.1, **k),
    "scalar state": lambda **k: ds.ScaleByNAdam(**k),
    "before a global one": lambda **k: ds.chain(ds.L2(0.1), ds.ClipByGlobalNorm(0.5), ds.ScaleByAdam(**k)),
    "every": lambda **k: ds.chain(ds.every(2, ds.ScaleByLion()), ds.ScaleByAdam(**k)),
}


def pair(shapes, rule, dtype=torch.float32, **options):
    """The same parameters under both executors."""
    torch.manual_seed(0)
    values = [torch.randn(shape, dtype=torch.float32).to(dtype) for shape in shapes]
    made = []
    for execution in ("native", "reference"):
        params = [nn.Parameter(v.clone()) for v in values]
        names = [(f"layer{i}.weight", p) for i, p in enumerate(params)]
        made.append((params, ds.Optimizer(names, rule, lr=0.01, execution=execution, **options)))
    return made


def walk(made, steps, change=lambda params, opt, t: None, arrange=lambda g: g):
    for t in range(steps):
        for params, opt in made:
            rng = torch.Generator().manual_seed(t)
            for p in params:
                g = torch.randn(p.shape, generator=rng).to(p.dtype)
                p.grad = arrange(g) if p.ndim else g
            change(params, opt, t)
            opt.step()


def agree(made):
    (ours, fast), (theirs, slow) = made
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        close(a, b, f"parameter {i}")
        mine, other = fast.state.get(a, {}), slow.state.get(b, {})
        assert set(mine) == set(other)
        for key, value in other.items():
            if isinstance(value, torch.Tensor):
                assert mine[key].dtype == value.dtype
                close(mine[key].to(b.dtype), value.to(b.dtype), f"{key} of parameter {i}")
            else:
                assert mine[key] == value


SHAPES = [(5, 3), (7,), (), (0,), (0, 4), (4, 3, 2, 2), (1, 1), (3000, 2), (1, 40000), (2, 33000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", RULES)
def test_it_does_what_the_reference_does(rule, dtype):
    made = pair(SHAPES, RULES[rule](), dtype)
    walk(made, 6)
    agree(made)
    assert {row.executor for row in made[0][1].manifest()} == {"native"}


def bits(x):
    return x.detach().contiguous().view(torch.int16)


@pytest.mark.parametrize("arrange", [lambda g: g, lambda g: transposed(g)], ids=["dense", "transposed"])
def test_stochastic_rounding_draws_the_same_bits(arrange):
    made = pair([(50, 70), (300, 130), (7,)], ds.ScaleByLion(), torch.bfloat16, stochastic_rounding=True, seed=3)
    walk(made, 12, arrange=arrange)
    agree(made)
    same = [float((bits(a) == bits(b)).float().mean()) for a, b in zip(made[0][0], made[1][0], strict=True)]
    assert min(same) > 0.99, same
    rounded = pair([(50, 70)], ds.ScaleByLion(), torch.bfloat16)
    walk(rounded, 12)
    assert not torch.equal(rounded[0][0][0], made[0][0][0])


@pytest.mark.parametrize("arrange", [lambda g: g, lambda g: transposed(g)], ids=["dense", "transposed"])
@pytest.mark.parametrize("rule", ["element", "two passes", "before a global one"])
def test_bfloat16_state_is_the_same_bits(rule, arrange):
    made = pair([(50, 100), (300, 130), (7,)], RULES[rule](), state_dtype="bfloat16")
    walk(made, 12, arrange=arrange)
    for a, b in zip(*(params for params, _ in made), strict=True):
        assert float(((a - b).abs() > 1e-5).float().mean()) < 0.01  # sums in another order may flip a rounding
    for key in ("exp_avg", "exp_avg_sq"):
        a, b = (opt.state[params[1]][key] for params, opt in made)
        assert a.dtype == b.dtype == torch.bfloat16
        assert float((bits(a) == bits(b)).float().mean()) > 0.99
    assert {row.executor for row in made[0][1].manifest()} == {"native"}


@pytest.mark.parametrize("arrange", [lambda g: g, lambda g: transposed(g)], ids=["dense", "transposed"])
@pytest.mark.parametrize("form", ["8bit", "4bit"])
@pytest.mark.parametrize("rule", ["element", "two passes", "before a global one", "rows"])
def test_low_bit_state_has_the_same_codes(rule, form, arrange):
    made = pair([(50, 100), (300, 131), (7,)], RULES[rule](), state_dtype=form)
    walk(made, 12, arrange=arrange)
    for a, b in zip(*(params for params, _ in made), strict=True):
        assert float(((a - b).abs() > 1e-5).float().mean()) < 0.01  # sums in another order may flip a code
    for key in ("exp_avg", "exp_avg_sq"):
        a, b = (opt.state[params[1]][key] for params, opt in made)
        assert a.dtype == b.dtype == torch.uint8
        assert float((a == b).float().mean()) > 0.99
        scales = [opt.state[params[1]][key + ".scale"] for params, opt in made]
        torch.testing.assert_close(*scales, rtol=1e-2, atol=0)
    expected = "native, reference for scale_by_adam_p" if rule == "rows" else "native"
    assert made[0][1].manifest().rows[0].executor == expected


def transposed(g):
    return g.t().contiguous().t() if g.ndim == 2 else g


def spread(g):
    wide = g.new_zeros(*g.shape, 2)
    wide[..., 0] = g
    return wide[..., 0]


@pytest.mark.parametrize(
    "arrange", [transposed, spread, lambda g: g[:1].expand_as(g)], ids=["T", "strided", "expanded"]
)
@pytest.mark.parametrize("rule", ["element", "rows"])
def test_gradients_of_any_stride(rule, arrange):
    made = pair([(5, 3), (70, 50), (6,), (4, 3, 2)], RULES[rule](), torch.float64)
    walk(made, 4, arrange=arrange)
    agree(made)


@pytest.mark.parametrize("rule", ["element", "rows"])
def test_parameters_of_any_stride(rule):
    made = pair([(50, 70), (8, 4, 3, 3)], RULES[rule](), torch.float64)
    for params, _ in made:
        params[0].data = params[0].data.t()
        params[1].data = params[1].data.to(memory_format=torch.channels_last)
    walk(made, 4)
    agree(made)


def test_complex_parameters():
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.complex128)
    ends = []
    for execution in ("native", "reference"):
        p = nn.Parameter(start.clone())
        opt = ds.AdamW([p], lr=0.1, execution=execution)
        for t in range(4):
            p.grad = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(t))
            opt.step()
        ends.append(p)
    assert torch.allclose(*ends, rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, 1e-42])
@pytest.mark.parametrize("rule", ["element", "two passes", "rows"])
def test_extreme_gradients_go_the_same_way(rule, bad):
    made = pair([(40, 50)], RULES[rule]())

    def spoil(params, opt, t):
        if t == 1:
            params[0].grad[3, 4] = bad

    walk(made, 3, spoil)
    for a, b in zip(made[0][0], made[1][0], strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- between two steps


def replace_state(params, opt, t):
    if t == 3:
        opt.state[params[0]] = {
            k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in opt.state[params[0]].items()
        }


def replace_moment(params, opt, t):
    if t == 3:
        opt.state[params[1]]["exp_avg"] = torch.ones_like(params[1])


def widen_moment(params, opt, t):
    if t == 3:
        opt.state[params[1]]["exp_avg"] = opt.state[params[1]]["exp_avg"].double()


def forget_state(params, opt, t):
    if t == 3:
        del opt.state[params[0]]


def count_again(params, opt, t):
    if t == 3:
        opt.state[params[0]]["step"] = 0


def move_parameter(params, opt, t):
    if t == 3:
        params[0].data = params[0].data.clone() * 2


def drop_gradient(params, opt, t):
    if t in (2, 4):
        params[0].grad = None


def stride_gradient(params, opt, t):
    if t in (3, 5):
        params[0].grad = params[0].grad.t().contiguous().t()


def widen_gradient(params, opt, t):
    if t == 3:
        params[0].grad_dtype = None
        params[0].grad = params[0].grad.double()


def change_numbers(params, opt, t):
    group = opt.param_groups[0]
    group.update(lr=0.1 / (t + 1), betas=(0.5 + 0.05 * (t % 7), 0.9), weight_decay=0.01 * t)
    if "max_norm" in group:
        group["max_norm"] = 0.3 + 0.1 * t


def change_structure(params, opt, t):
    opt.param_groups[0]["amsgrad"] = t >= 3


def add_group(params, opt, t):
    if t == 3:
        params.append(nn.Parameter(torch.ones(3)))
        params[-1].grad = torch.ones(3)
        opt.add_param_group({"params": [("late", params[-1])], "lr": 0.5})


def take_parameter_away(params, opt, t):
    if t == 3:
        opt.param_groups[0]["params"] = opt.param_groups[0]["params"][1:]


def swap_parameter(params, opt, t):
    if t == 3:
        params[0] = nn.Parameter(torch.ones(5, 3))
        params[0].grad = torch.ones(5, 3)
        opt.param_groups[0]["params"][0] = params[0]


def load_older_state(params, opt, t):
    if t == 2:
        opt.kept = copy.deepcopy(opt.state_dict())
    if t == 4:
        opt.load_state_dict(opt.kept)


def turn_round(params, opt, t):
    opt._maximize = t >= 3


CHANGES = [
    replace_state,
    replace_moment,
    widen_moment,
    forget_state,
    count_again,
    move_parameter,
    drop_gradient,
    stride_gradient,
    widen_gradient,
    change_numbers,
    change_structure,
    add_group,
    take_parameter_away,
    swap_parameter,
    load_older_state,
    turn_round,
]


@pytest.mark.parametrize("rule", ["element", "before a global one"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_two_steps_is_noticed(change, rule):
    made = pair([(5, 3), (7,)], RULES[rule]())
    walk(made, 7, change)
    agree(made)


def test_numbers_that_change_build_nothing(monkeypatch):
    (params, opt), _ = made = pair([(5, 3), (7,)], RULES["element"]())
    walk(made, 2)
    monkeypatch.setattr(native, "load", None)  # would fail
    monkeypatch.setattr(native, "emit", None)
    walk(made, 50, change_numbers)
    agree(made)
    assert opt.state[params[0]]["step"] == 52


@pytest.mark.parametrize("rule", ["element", "two passes", "scalar state", "before a global one"])
def test_an_unchanged_step_takes_the_short_way(rule, monkeypatch):
    (_, opt), _ = made = pair([(5, 3), (7,)], RULES[rule]())
    walk(made, 2)
    monkeypatch.setattr(opt._native, "step", None)  # would fail
    walk(made, 5, change_numbers)
    agree(made)


def test_gradients_are_not_kept_alive():
    (params, opt), _ = made = pair([(5, 3)], RULES["element"]())
    walk(made, 3)
    for p in params:
        p.grad = None
    p = params[0]
    p.grad = torch.ones(5, 3)
    storage = weakref.ref(p.grad.untyped_storage())
    seen = weakref.ref(p.grad)
    opt.step()
    opt.step()
    p.grad = None
    gc.collect()
    assert seen() is None
    assert storage() is None


def test_autograd_notices_that_parameters_have_moved():
    p = nn.Parameter(torch.ones(3))
    opt = ds.AdamW([p], lr=0.1, execution="native")
    loss = (p * p).sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("rule", ["two passes", "rows"])
def test_the_number_of_threads_changes_no_bit(rule):
    before = torch.get_num_threads()
    ends = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            (params, _), _ = made = pair([(300, 700), (1, 150000)], RULES[rule]())
            walk(made[:1], 3)
            ends.append(params)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True))


# ---------------------------------------------------------------- what cannot be emitted


class Sorted(Transform):
    """Not elementwise, whatever it says."""

    def update(self, u, p, state, h):
        return u.flatten().sort().values.reshape(u.shape), {}


class Branching(Transform):
    """Python's `if` on a value."""

    def update(self, u, p, state, h):
        return (u if h.step > 2 else -u), {}


@pytest.mark.parametrize("odd", [Sorted(), Branching()], ids=["sorted", "branching"])
def test_other_maths_runs_in_the_reference_executor_between_kernels(odd):
    made = pair([(5, 3), (7,)], chain(ds.ScaleByAdam(), odd, ds.DecoupledWeightDecay(0.1), Descend()))
    walk(made, 5)
    agree(made)
    name = type(odd).__name__.lower()
    assert {row.executor for row in made[0][1].manifest()} == {f"native, reference for {name}"}


def test_without_a_compiler_the_reference_executor_runs(monkeypatch):
    monkeypatch.setattr("downslope._core.options.unavailable", lambda: "there is no C++ compiler.")
    p = nn.Parameter(torch.ones(3))
    opt = ds.AdamW([p], lr=0.1)
    p.grad = torch.ones(3)
    opt.step()
    assert opt.manifest().rows[0].executor == "reference"
    with pytest.raises(ds.ArgumentError, match="there is no C"):
        ds.AdamW([p], lr=0.1, execution="native")
