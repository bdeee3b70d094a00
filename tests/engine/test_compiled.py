"""The compiled executor: the same numbers as the reference executor, one compilation for all values, nothing silent."""

import functools
import gc
import weakref

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import downslope as ds
from downslope._checks import ArgumentError
from downslope._core import GlobalTransform, Slot, Transform
from downslope._engine import batches, compiled, traced
from downslope.testing import contract
from downslope.testing.problems import PROBLEMS
from downslope.testing.tolerances import close

# Settings that suit the tiny problems; methods that are not named here run with lr=0.01 and their other defaults.
SETTINGS = {
    "d-adaptation": {"lr": 1.0, "d0": 1e-3},
    "d-adaptation-sgd": {"lr": 1.0, "d0": 1e-2},
    "dog": {"lr": 1.0, "reps_rel": 1e-2},
    "ldog": {"lr": 1.0, "reps_rel": 1e-2},
    "lars": {"lr": 1.0, "trust_coefficient": 0.02},
    "swats": {"betas": (0.9, 0.9), "tolerance": 0.02},  # switches at step 2
}
METHODS = [card.key for card in ds.find("*") if card.ready]


# torch's own, when Inductor is imported
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """Dynamo alone, as tracing is what is tested mostly; programs of other tests are forgotten. Returns a setter."""
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_known", {})
    monkeypatch.setattr(compiled, "_probed", {})

    def choose(backend):
        monkeypatch.setattr(compiled, "BACKEND", backend)

    choose("eager")
    return choose


def train(make, problem, steps, dtype=torch.float32, **options):
    model = PROBLEMS[problem]().build(dtype)
    opt = make(model, **options)
    for t in range(steps):
        contract.feed(opt, model, functools.partial(PROBLEMS[problem]().loss, model, t))
    return model, opt


def assert_agree(make, problem="mlp", steps=50, dtype=torch.float32):
    """Parameters and state after some steps; returns the compiled optimizer."""
    want, reference = train(make, problem, steps, dtype, execution="reference")
    got, opt = train(make, problem, steps, dtype, execution="compiled")
    for (name, p), q in zip(got.named_parameters(), want.parameters(), strict=True):
        close(p, q, name)
        mine, theirs = opt.state[p], reference.state[q]
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert not isinstance(theirs[key], torch.Tensor) or mine[key].dtype == theirs[key].dtype
            close(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key]), f"{key} of {name}")
    return opt


@pytest.mark.parametrize("key", METHODS)
def test_every_method_agrees_with_the_reference_and_is_compiled(key):
    opt = assert_agree(functools.partial(ds.make, key, **{"lr": 0.01, **SETTINGS.get(key, {})}))
    assert all(row.executor.startswith("compiled") for row in opt.manifest())


@pytest.mark.parametrize("key", ["adamw", "adabelief", "diffgrad", "lion", "lamb"])
def test_agrees_through_inductor(key, compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiler("inductor")
    opt = assert_agree(functools.partial(ds.make, key, lr=0.01, weight_decay=0.1))
    assert {row.executor for row in opt.manifest()} == {"compiled"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_agree(dtype):
    clipped = ds.chain(ds.ClipByGlobalNorm(0.1), ds.ScaleByAdam(), ds.DecoupledWeightDecay(0.1))
    for rule in (clipped, ds.chain(ds.ScaleByNAdam(), ds.CautiousMask()), ds.chain(ds.every(2, ds.ScaleByLion()))):
        assert_agree(functools.partial(ds.Optimizer, rule=rule, maximize=True), steps=8, dtype=dtype)


def random_steps(opt, params, steps=3, grads=lambda g: g):
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for p in params:
            p.grad = grads(torch.randn(p.shape, generator=rng, dtype=p.dtype))
        opt.step()


def compare_on(make_params, make, **how):
    """The same random gradients on twice the same parameters; returns those of the compiled executor."""
    want, got = make_params(), make_params()
    random_steps(make(want, execution="reference"), want, **how)
    random_steps(opt := make(got, execution="compiled"), got, **how)
    for p, q in zip(got, want, strict=True):
        as_real = torch.view_as_real if p.is_complex() else torch.detach
        close(as_real(p), as_real(q), f"a parameter of shape {tuple(p.shape)}")
    return got, opt


def leaves(*tensors):
    return [nn.Parameter(x.clone() if x.is_contiguous() else x) for x in tensors]


@pytest.mark.parametrize("key", ["nadam", "lamb"])
@pytest.mark.parametrize("small", [1, 1 << 16], ids=["alone", "together"])
def test_any_shape_and_layout(key, small, monkeypatch):
    monkeypatch.setitem(batches.LIMITS, "cpu", batches.Limits(small, 1 << 18))

    def params():
        rng = torch.Generator().manual_seed(1)
        made = [torch.randn(shape, generator=rng) for shape in ((), (1,), (0, 3), (200,), (7, 5, 3))]
        gaps = torch.randn(30, 40, generator=rng)[::2, 1:21]
        return leaves(*made, torch.randn(20, 30, generator=rng).T, gaps)

    def strided(grad):
        wide = torch.zeros(*grad.shape, 2)
        wide[..., 0] = grad
        return wide[..., 0]

    for grads in (lambda g: g, strided):
        compare_on(params, functools.partial(ds.make, key, lr=0.1), grads=grads)


def test_complex_parameters():
    def params():
        return leaves(torch.ones(4, 3, dtype=torch.complex64), torch.ones(300, dtype=torch.complex64))

    compare_on(params, functools.partial(ds.AdamW, lr=0.1))


@pytest.mark.parametrize("state_dtype", ["8bit", "bfloat16"])
def test_state_at_low_precision(state_dtype):
    def params():
        return leaves(torch.linspace(-1, 1, 6000), torch.ones(8, 3))

    make = functools.partial(ds.AdamW, lr=0.1, state_dtype=state_dtype)
    got, opt = compare_on(params, make)
    assert opt.state[got[0]]["exp_avg"].dtype == (torch.uint8 if state_dtype == "8bit" else torch.bfloat16)
    rows = [row.executor for row in opt.manifest()]
    assert rows == ["compiled (in reference: storage decodes and encodes exp_avg, exp_avg_sq)", "compiled"]


def test_parameters_rounded_at_random():
    def params():
        return leaves(torch.linspace(-1, 1, 500).to(torch.bfloat16), torch.ones(4))

    for rule in (ds.chain(ds.ScaleByAdam()), ds.chain(ds.ClipByGlobalNorm(0.1), ds.ScaleByAdam())):
        make = functools.partial(ds.Optimizer, rule=rule, lr=1e-3, stochastic_rounding=True)
        got, _ = compare_on(params, make, steps=5)
        nearest = params()
        random_steps(ds.Optimizer(nearest, rule, lr=1e-3, execution="compiled"), nearest, 5)
        assert not torch.equal(got[0], nearest[0])


def test_a_step_inside_backward():
    models = []
    for execution in ("reference", "compiled"):
        model = PROBLEMS["mlp"]().build(torch.float32)
        opt = ds.AdamW(model, lr=0.01, execution=execution)
        with opt.step_in_backward(model):
            for t in range(4):
                opt.zero_grad()
                PROBLEMS["mlp"]().loss(model, t).backward()
                opt.step()
        models.append(model)
    for p, q in zip(models[1].parameters(), models[0].parameters(), strict=True):
        close(p, q, "stepped inside backward")


def test_tensors_are_updated_in_place():
    params = leaves(torch.ones(100_000), torch.ones(3, 3))
    opt = ds.AdamW(params, execution="compiled")
    random_steps(opt, params, 1)
    held = [p for p in params] + [opt.state[p][k] for p in params for k in ("exp_avg", "exp_avg_sq")]
    places, before = [x.data_ptr() for x in held], [x.clone() for x in held]
    random_steps(opt, params, 1)
    assert [x.data_ptr() for x in held] == places
    assert not any(torch.equal(x, y) for x, y in zip(held, before, strict=True))


def test_large_tensors_need_no_room_of_their_own(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiler("inductor")
    params = leaves(torch.ones(1_000_000))
    opt = ds.AdaBelief(params, maximize=True, weight_decay=0.1, execution="compiled")
    random_steps(opt, params, 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        opt.step()
    allocated = sum(max(e.self_cpu_memory_usage, 0) for e in profile.events())
    assert allocated < 0.01 * params[0].numel() * 4


class MatricesOnly(GlobalTransform):
    """Halves matrices, and only them."""

    def measure(self, u, p, state, h):
        return {}, {}

    def combine(self, sums, shared, h):
        return {}

    def update(self, u, p, state, h):
        return (0.5 * u if p.ndim == 2 else u), {}


def test_a_global_rule_that_asks_for_the_dimensions_sees_them():
    make = functools.partial(ds.Optimizer, rule=ds.chain(MatricesOnly()), lr=0.1)
    compare_on(lambda: leaves(torch.ones(3, 2), torch.ones(6), torch.ones(2, 2)), make)


def test_hyperparameters_may_be_tensors():
    paths = []
    for execution in ("reference", "compiled"):
        params = leaves(torch.ones(3, 2))
        opt = ds.AdamW(params, execution=execution)
        opt.param_groups[0]["lr"] = torch.tensor(0.1)
        random_steps(opt, params, 3)
        paths.append(params[0])
    close(paths[1], paths[0], "the parameter")
    assert opt.manifest().rows[0].executor == "compiled"


# ---------------------------------------------------------------- what is compiled, and how often


def change(opt, t):
    for group in opt.param_groups:
        group["lr"] = 1e-3 * (1 + t % 7)
        group["betas"] = (0.9 - 1e-5 * t, 0.99 + 1e-6 * t)
        group["weight_decay"] = 1e-4 * (t % 11)


@pytest.mark.parametrize("key", ["adamw", "adabelief", "lamb"])
def test_changing_hyperparameters_compile_nothing(key, compiler):
    counter = CompileCounter()
    compiler(counter)
    params = leaves(torch.ones(70_000), torch.ones(20, 10), torch.ones(7))
    opt = ds.make(key, params, execution="compiled")
    random_steps(opt, params, 1)
    first = counter.frame_count
    assert first == {"adamw": 2, "adabelief": 2, "lamb": 3}[key]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for t in range(1000):
            change(opt, t)
            opt.step()
    assert counter.frame_count == first


def test_elementwise_rules_are_compiled_once_for_all_shapes(compiler, monkeypatch):
    counter = CompileCounter()
    compiler(counter)
    monkeypatch.setitem(batches.LIMITS, "cpu", batches.Limits(1000, 1500))
    params = leaves(*(torch.ones(n, 20) for n in (1, 2, 3, 50, 60, 77, 100, 101)), torch.ones(2, 3, 4), torch.ones(()))
    random_steps(ds.AdamW(params, execution="compiled"), params, 3)
    random_steps(ds.AdamW(params, lr=0.1, eps=1e-4, execution="compiled"), params, 3)
    assert counter.frame_count == 2  # alone and together


def test_small_tensors_take_one_call(compiler):
    calls = []

    def counting(graph, _):
        return lambda *args: (calls.append(1), graph(*args))[1]

    compiler(counting)
    params = leaves(*(torch.ones(n % 17 + 1) for n in range(200)))
    opt = ds.AdamW([{"params": params[:100]}, {"params": params[100:], "lr": 0.1}], execution="compiled")
    random_steps(opt, params, 1)
    assert len(calls) == 2  # one a group


def test_batches_are_limited(monkeypatch):
    monkeypatch.setitem(batches.LIMITS, "cpu", batches.Limits(1000, 100))
    seen = []
    together = compiled.together
    monkeypatch.setattr(compiled, "together", lambda *args: (seen.append(len(args[-1])), together(*args))[1])
    params = leaves(*(torch.ones(40) for _ in range(5)))
    random_steps(ds.AdamW(params, execution="compiled"), params, 1)
    assert seen == [2, 2, 1]


def test_numbers_that_an_operation_takes_as_plain_numbers_only(monkeypatch):
    """The eps of a cosine similarity: each value has a program, until there are too many."""
    monkeypatch.setattr(compiled, "VARIANTS", 2)
    texts, paths = [], []
    for execution in ("reference", "compiled"):
        params = leaves(torch.linspace(-1, 1, 12).reshape(3, 4))
        opt = ds.AdamP(params, lr=0.1, execution=execution)
        for eps in (1e-8, 1e-3, 1e-8, 0.1):
            opt.param_groups[0]["eps"] = eps
            random_steps(opt, params, 1)
            texts.append(opt.manifest().rows[0].executor)
        paths.append(params[0])
    close(paths[1], paths[0], "the parameter")
    assert texts[4:7] == ["compiled"] * 3
    assert "keeps changing a hyperparameter" in texts[7]


# ---------------------------------------------------------------- steps that repeat the last one


@pytest.fixture
def walks(monkeypatch):
    """The steps that walked through the rule."""
    seen = []
    step = compiled.Compiled.step
    monkeypatch.setattr(compiled.Compiled, "step", lambda self, *args: (seen.append(1), step(self, *args))[1])
    return seen


def one_thing(what, opt, params, t):
    """Something that happens between two steps; whether the rule must be walked through for it."""
    if what == "nothing":
        return False
    if what == "lr":
        opt.param_groups[0]["lr"] = 0.01 * t
        return False
    if what == "moved":  # as when a model goes to another device and back
        params[0].data = params[0].data.clone()
        opt.state[params[0]]["exp_avg"] = opt.state[params[0]]["exp_avg"].clone()
        return False
    if what == "structure":
        opt.param_groups[0]["eps_hat"] = not opt.param_groups[0]["eps_hat"]
    elif what == "absent":
        params[0].grad = None
    elif what == "added":
        params.append(nn.Parameter(torch.ones(2, 2)))
        params[-1].grad = torch.ones(2, 2)
        opt.add_param_group({"params": [params[-1]]})
    elif what == "loaded":
        opt.load_state_dict(opt.state_dict())
        return False
    elif what == "maximize":
        opt._maximize = not opt._maximize
    elif what == "state":
        del opt.state[params[0]]["exp_avg"]
    elif what == "dtype":
        params[0].data = params[0].data.to(torch.bfloat16)
        params[0].grad = params[0].grad.to(torch.bfloat16)
    return True


EVENTS = ["nothing", "lr", "moved", "structure", "absent", "added", "loaded", "maximize", "state", "dtype"]


@pytest.mark.parametrize("what", EVENTS)
def test_a_repeated_step_sees_what_has_changed(what, walks):
    def path(execution):
        params = leaves(torch.ones(3, 4), torch.linspace(0, 1, 70_000), torch.ones(()))
        opt = ds.AdamW(params, lr=0.1, weight_decay=0.1, execution=execution)
        random_steps(opt, params, 3)
        before = len(walks)
        walked = one_thing(what, opt, params, 3)
        opt.step()
        new = len(walks) - before
        random_steps(opt, params, 2)
        return params, opt, walked, new

    want, _, _, _ = path("reference")
    walks.clear()
    got, opt, walked, new = path("compiled")
    assert new == walked
    for p, q in zip(got, want, strict=True):
        close(p, q, what)
    late = {"absent": (got[0], 1), "added": (got[-1], 3)}.get(what, (None, 0))
    assert all(opt.state[p]["step"] == opt.steps - (late[1] if p is late[0] else 0) for p in got)


def test_a_repeated_step_keeps_nothing_alive():
    params = leaves(torch.ones(3, 4))
    opt = ds.AdamW(params, execution="compiled")
    random_steps(opt, params, 3)
    grad, old = weakref.ref(params[0].grad), weakref.ref(opt.state[params[0]]["exp_avg"].untyped_storage())
    opt.zero_grad()
    opt.state.clear()
    gc.collect()
    assert grad() is None
    assert old() is None


# ---------------------------------------------------------------- what is not compiled


class Branching(Transform):
    """Branches on a number that may change at every step."""

    threshold: float = 1.0

    slots = (Slot("exp_avg", "a mean"),)

    def update(self, u, p, state, h):
        return (u if h.lr > h.threshold else 2 * u), {"exp_avg": u + state.exp_avg}


class Noisy(Transform):
    """Draws random numbers."""

    def update(self, u, p, state, h):
        return u + torch.randn(u.shape, generator=h.generator()), {}


class Reading(Transform):
    """Reads a value."""

    def update(self, u, p, state, h):
        return u * u.sum().item(), {}


@pytest.mark.parametrize(
    ("part", "why"),
    [(Branching(), "branches on a value"), (Noisy(), "reads h.generator"), (Reading(), "_local_scalar_dense")],
    ids=lambda each: type(each).__name__,
)
def test_what_cannot_be_compiled_is_run_by_the_reference_and_said(part, why):
    rule = ds.chain(part, ds.ScaleByAdam())
    _, opt = compare_on(lambda: leaves(torch.ones(3, 2)), functools.partial(ds.Optimizer, rule=rule, lr=0.1))
    text = opt.manifest().rows[0].executor
    assert text.startswith(f"compiled (in reference: {type(part).__name__}")
    assert why in text


def test_the_manifest_before_a_step_and_of_what_only_the_reference_takes():
    empty = leaves(torch.ones(0))
    opt = ds.SGD(empty, execution="compiled")
    assert opt.manifest().rows[0].executor == "compiled (no step yet)"
    random_steps(opt, empty, 1)
    assert opt.manifest().rows[0].executor.startswith("reference (")
    model, opt = train(ds.Muon, "language", 1, execution="compiled")
    by_name = {row.parameter: row.executor for row in opt.manifest()}
    assert by_name["hidden.weight"] == "compiled (in reference: ScaleByMuon uses mm)"
    assert by_name["norm.weight"] == "compiled"


def test_a_compiler_that_fails_is_said(compiler):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    compiler(broken)
    with pytest.warns(UserWarning, match="could not be compiled .* it is run eagerly"):
        _, opt = compare_on(lambda: leaves(torch.ones(3, 2)), functools.partial(ds.AdamW, lr=0.1))
    assert "no compiler here" in opt.manifest().rows[0].executor


def test_a_step_in_a_cuda_graph_is_refused(monkeypatch):
    params = leaves(torch.ones(3))
    opt = ds.AdamW(params)
    params[0].grad = torch.ones(3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ArgumentError, match="AdamW: a step cannot be captured in a CUDA graph"):
        opt.step()
    assert torch.equal(params[0], torch.ones(3))
    assert opt.steps == 0


def test_capturable_is_refused_in_one_sentence():
    with pytest.raises(TypeError, match="AdamW: has no argument 'capturable': .* CUDA graph"):
        ds.AdamW(leaves(torch.ones(3)), capturable=True)


def test_more_numbers_than_the_vector_holds(monkeypatch):
    monkeypatch.setattr(traced, "WIDTH", 3)
    _, opt = compare_on(lambda: leaves(torch.ones(3, 2)), functools.partial(ds.AdamW, lr=0.1))
    assert "reads more than 3 numbers" in opt.manifest().rows[0].executor
