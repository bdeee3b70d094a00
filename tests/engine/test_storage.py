"""State at low precision: what is stored how, that it resumes, and that training stays near full precision."""

import copy
import functools
import io
import itertools
import zlib

import pytest
import torch
from torch import nn

import downslope as ds
from downslope._engine.codecs import Codec, stochastic_rounding
from downslope._engine.item import Item
from downslope._engine.state import form_of
from downslope.testing import contract

FORMS = ["bfloat16", "8bit", "4bit"]
every_form = pytest.mark.parametrize("form", FORMS)


def in_form(form, info):
    """A function of the parameter: everything that may be is stored so."""
    return form


def everything(form):
    return functools.partial(in_form, form)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(128, 64)
        self.hidden = nn.Linear(64, 80)
        self.head = nn.Linear(80, 8)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(self.embed(x))))


def built(make, seed=0):
    torch.manual_seed(seed)
    model = Model()
    return model, make(model)


def train(model, opt, steps):
    for t in steps:
        rng = torch.Generator().manual_seed(t)
        x = torch.randint(128, (16,), generator=rng)
        opt.zero_grad()
        opt.backward(nn.functional.cross_entropy(model(x), x % 8))
        opt.step()


def one_weight(method, shape, **settings):
    p = nn.Parameter(torch.zeros(shape))
    opt = method([("hidden.weight", p)], **{"execution": "reference"} | settings)
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    opt.step()
    return p, opt


# ------------------------------------------------------------------------------------------------ size and form


@pytest.mark.parametrize(("form", "most"), [("float32", 8.0), ("bfloat16", 4.0), ("8bit", 2.1), ("4bit", 1.1)])
def test_bytes_a_parameter(form, most):
    p, opt = one_weight(ds.AdamW, (768, 1000), state_dtype=form)
    assert most * 0.9 < opt.state_bytes() / p.numel() <= most
    assert opt.state_bytes() == sum(v.nbytes for v in opt.state[p].values() if isinstance(v, torch.Tensor))
    assert opt.manifest().rows[0].storage == f"exp_avg {form}, exp_avg_sq {form}"


def test_entries_have_the_documented_form():
    p, opt = one_weight(ds.AdamW, (70, 101), state_dtype={"exp_avg": "8bit", "exp_avg_sq": "4bit"}, betas=(0.5, 0.5))
    state, n = opt.state[p], p.numel()
    assert set(state) == {"step", "exp_avg", "exp_avg.scale", "exp_avg_sq", "exp_avg_sq.scale"}
    m, v = 0.5 * p.grad, 0.5 * p.grad * p.grad
    for key, value, codec in [("exp_avg", m, Codec(8, True)), ("exp_avg_sq", v, Codec(4, False))]:
        codes, scale = codec.encode(value)
        assert torch.equal(state[key], codes)
        assert torch.equal(state[f"{key}.scale"], scale)
    assert state["exp_avg"].shape == (70, 101)
    assert state["exp_avg.scale"].shape == (-(-n // 2048),)
    assert state["exp_avg_sq"].shape == (n // 2,)
    assert state["exp_avg_sq.scale"].shape == (-(-n // 128),)


def test_rounding_follows_the_documented_key():
    p, opt = one_weight(ds.Lion, (64, 64), state_dtype=torch.bfloat16, seed=5, betas=(0.9, 0.3))
    key = zlib.crc32(b"5/1/hidden.weight/exp_avg")
    assert torch.equal(opt.state[p]["exp_avg"], stochastic_rounding(0.7 * p.grad, key))
    m, before = opt.state[p]["exp_avg"].float(), p.detach().clone()
    opt.step()
    key = zlib.crc32(b"5/2/hidden.weight/exp_avg")
    assert torch.equal(opt.state[p]["exp_avg"], stochastic_rounding(0.3 * m + 0.7 * p.grad, key))
    assert torch.equal(p, before - 1e-4 * (0.9 * m + 0.1 * p.grad).sign())


def test_small_tensors_and_embeddings_stay_and_the_manifest_says_why():
    model, opt = built(lambda m: ds.AdamW(m, state_dtype="8bit"))
    for _ in range(2):  # before the first step and after it
        told = {row.parameter: row.storage for row in opt.manifest()}
        assert told == {
            "embed.weight": "exp_avg float32, exp_avg_sq float32 (an embedding)",
            "hidden.weight": "exp_avg 8bit, exp_avg_sq 8bit",
            "hidden.bias": "exp_avg float32, exp_avg_sq float32 (fewer than 4096 elements)",
            "head.weight": "exp_avg float32, exp_avg_sq float32 (fewer than 4096 elements)",
            "head.bias": "exp_avg float32, exp_avg_sq float32 (fewer than 4096 elements)",
        }
        assert "hidden.bias" in str(opt.manifest())
        assert "exp_avg 8bit, exp_avg_sq 8bit" in str(opt.manifest())
        train(model, opt, range(1))
    assert opt.state[model.embed.weight]["exp_avg"].dtype == torch.float32
    assert opt.state[model.hidden.weight]["exp_avg"].dtype == torch.uint8


def test_a_dict_names_the_slots_and_a_function_decides_all():
    model, opt = built(lambda m: ds.AdamW(m, state_dtype={"exp_avg": "8bit"}))
    train(model, opt, range(1))
    told = {row.parameter: row.storage for row in opt.manifest()}
    assert told["hidden.weight"] == "exp_avg 8bit, exp_avg_sq float32"
    assert told["embed.weight"] == "exp_avg float32 (an embedding); exp_avg_sq float32"

    def decide(info):
        return {"exp_avg": "bfloat16"} if info.role == "embedding" else "4bit" if len(info.shape) == 1 else "float32"

    model, opt = built(lambda m: ds.AdamW(m, state_dtype=decide))
    train(model, opt, range(1))
    told = {row.parameter: row.storage for row in opt.manifest()}
    assert told["embed.weight"] == "exp_avg bfloat16, exp_avg_sq float32"
    assert told["hidden.weight"] == "exp_avg float32, exp_avg_sq float32"
    assert told["hidden.bias"] == told["head.bias"] == "exp_avg 4bit, exp_avg_sq 4bit"
    assert opt.state[model.head.bias]["exp_avg"].shape == (4,)


def test_the_whole_parameter_decides_not_a_shard():
    p, opt = one_weight(ds.AdamW, (64, 64), state_dtype="8bit")
    node = next(iter(opt._plan.leaves()))
    item = Item.of(p, opt.info(p), opt.param_groups[0], (), {}, 1.0, 0, {})
    item.stored_p = item.stored_p[:3]
    for slot in node.transform.kept():
        assert form_of(node, item, slot) == ("8bit", (3, 64))
    p, opt = one_weight(ds.AdamW, (63, 65), state_dtype="8bit")
    assert opt.state[p]["exp_avg"].dtype == torch.float32


def test_copies_of_the_parameter_stay_unless_they_are_named():
    rule = ds.chain(ds.ScaleByAdam(), ds.Descend(), ds.PolynomialAverage())
    one = functools.partial(one_weight, functools.partial(ds.Optimizer, rule=rule), (64, 64))
    p, opt = one(state_dtype="8bit")
    assert "average float32 (a copy of the parameter)" in opt.manifest().rows[0].storage
    p, opt = one(state_dtype={"average": "8bit"}, lr=0.1)
    assert opt.state[p]["average"].dtype == torch.uint8
    trained = p.detach().clone()
    with opt.swapped("average"):  # after one step the average is the parameter
        assert not torch.equal(p, trained)
        assert (p - trained).abs().max() <= 0.0071 * trained.abs().max()
    assert torch.equal(p, trained)


def test_numbers_and_indices_stay():
    p, opt = one_weight(ds.NovoGrad, (64, 64), state_dtype=everything("4bit"))
    assert opt.state[p]["exp_avg_sq"].dtype == torch.float32
    assert opt.state[p]["exp_avg"].dtype == torch.uint8
    p, opt = one_weight(ds.FRUGAL, (64, 64), state_dtype=everything("8bit"), density=0.5)
    assert opt.state[p]["indices"].dtype == torch.int64
    assert opt.state[p]["exp_avg"].shape == (64, 32)


@every_form
def test_subspaces_and_momenta_of_matrix_methods_too(form):
    p, opt = one_weight(ds.GaLore, (128, 96), rank=64, state_dtype=form)
    assert opt.manifest().rows[0].storage == f"basis {form}, exp_avg {form}, exp_avg_sq {form}"
    p, opt = one_weight(ds.GaLore, (128, 96), rank=8, state_dtype=form)
    assert opt.manifest().rows[0].storage == (
        "basis float32, exp_avg float32, exp_avg_sq float32 (fewer than 4096 elements)"
    )
    p, opt = one_weight(ds.Muon, (128, 96), state_dtype=form)
    assert opt.manifest().rows[0].storage == f"momentum_buffer {form}"


def test_a_subspace_that_starts_anew_forgets_its_scales():
    ps = [nn.Parameter(torch.zeros(64, 64)) for _ in range(2)]
    members = [(f"block{i}.weight", p) for i, p in enumerate(ps)]
    opt = ds.FRUGAL(members, selector="blocks", update_gap=2, density=0.5, state_dtype="8bit", lr=0.1)
    active, scales = [], []
    for _ in range(6):
        for p in ps:
            p.grad = torch.ones_like(p)
        opt.step()
        with_scales = [i for i, p in enumerate(ps) if "exp_avg.scale" in opt.state[p]]
        assert with_scales == [i for i, p in enumerate(ps) if opt.state[p]["exp_avg"].numel()]
        active += with_scales
        scales.append(float(opt.state[ps[with_scales[0]]]["exp_avg.scale"][0]))
    assert active == [1, 1, 0, 0, 1, 1]
    assert scales == pytest.approx([0.1, 0.19] * 3)


# ------------------------------------------------------------------------------------------------ refusals


def nothing_of(info):
    return None


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("16bit", r"AdamW: state_dtype must be 'float32', 'bfloat16', '8bit' or '4bit', a dict .* got '16bit'\."),
        (torch.float16, r"got torch\.float16"),
        (8, r"got 8\."),
        (None, r"got None\."),
        ({"exp_avg": "8"}, r"state_dtype\['exp_avg'\] must be 'float32', .* got '8'\."),
        ({"exp_av": "8bit"}, r"slots out of exp_avg, exp_avg_sq; got 'exp_av'\. Did you mean 'exp_avg'\?"),
        ({"max_exp_avg_sq": "8bit"}, r"slots out of exp_avg, exp_avg_sq; got 'max_exp_avg_sq'"),
        (nothing_of, r"state_dtype\(hidden\.weight\) must be .* of a parameter; got None\."),
        (lambda info: {"nothing": "8bit"}, r"state_dtype\(hidden\.weight\) must be given for slots"),
    ],
)
def test_what_is_no_form_is_refused_at_construction(asked, sentence):
    with pytest.raises(ds.ArgumentError, match=sentence):
        ds.AdamW([("hidden.weight", nn.Parameter(torch.zeros(4, 4)))], state_dtype=asked)


def test_a_group_cannot_have_its_own():
    p = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(ds.ArgumentError, match="state_dtype must be given to the constructor"):
        ds.AdamW([{"params": [p], "state_dtype": "8bit"}])


@pytest.mark.parametrize("ours", ["float32", *FORMS])
@pytest.mark.parametrize("theirs", ["float32", *FORMS])
@pytest.mark.parametrize("method", [ds.AdamW, functools.partial(ds.GaLore, rank=64)])
def test_a_state_of_another_form_is_refused(method, ours, theirs):
    p, saved = one_weight(method, (128, 96), state_dtype=theirs)
    fresh = method([("hidden.weight", p)], state_dtype=ours)
    if ours == theirs:
        fresh.load_state_dict(saved.state_dict())
        return
    key = r"(exp_avg|basis)"
    with pytest.raises(
        ds.ArgumentError, match=rf"the saved {key} of hidden.weight is stored as {theirs}, here it is {ours}; give"
    ):
        fresh.load_state_dict(saved.state_dict())
    assert not fresh.state.get(p)


def test_a_few_bytes_of_another_form_are_refused_too():
    """In a subspace the shape is not known beforehand, and few codes of 8 bits have as many scales as of 4."""
    p, saved = one_weight(ds.GaLore, (6, 5), rank=4, state_dtype=everything("8bit"))
    fresh = ds.GaLore([("hidden.weight", p)], rank=4, state_dtype=everything("4bit"))
    with pytest.raises(ds.ArgumentError, match="saved basis of hidden.weight is stored as 8bit, here it is 4bit"):
        fresh.load_state_dict(saved.state_dict())
    ds.GaLore([("hidden.weight", p)], rank=4, state_dtype=everything("8bit")).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg.scale"])
def test_damaged_codes_are_refused(key):
    p, opt = one_weight(ds.AdamW, (64, 100), state_dtype="8bit")
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][0][key] = saved["state"][0][key][:-1]
    with pytest.raises(ds.ArgumentError, match=r"has shape .*, expected|stored as 4bit, here it is 8bit"):
        ds.AdamW([("hidden.weight", p)], state_dtype="8bit").load_state_dict(saved)
    del saved["state"][0]["exp_avg.scale"]
    with pytest.raises(ds.ArgumentError, match="stored as uint8, here it is 8bit"):
        ds.AdamW([("hidden.weight", p)], state_dtype="8bit").load_state_dict(saved)


# ------------------------------------------------------------------------------------------------ saving


RESUMED = {
    "adamw": lambda m, form, execution: ds.AdamW(m, lr=0.01, state_dtype=form, execution=execution),
    "all of adamw": lambda m, form, execution: ds.AdamW(
        m, lr=0.01, amsgrad=True, state_dtype=everything(form), execution=execution
    ),
    "galore": lambda m, form, execution: ds.GaLore(m, rank=56, update_gap=7, state_dtype=form, execution=execution),
    "all of galore": lambda m, form, execution: ds.GaLore(
        m, rank=4, update_gap=7, state_dtype=everything(form), execution=execution
    ),
    "muon": lambda m, form, execution: ds.Muon(m, state_dtype=form, execution=execution),
    "frugal": lambda m, form, execution: ds.FRUGAL(
        m, lr=0.01, update_gap=7, density=0.9, state_dtype=form, execution=execution
    ),
}


@every_form
@pytest.mark.parametrize("name", RESUMED)
def test_resumes_bit_exactly_at_every_tenth_step(name, form):
    def make(model):
        return RESUMED[name](model, form, "reference" if name.startswith("all") else "auto")

    model, opt = built(make)
    saved = {}
    for t in range(30):
        if t % 10 == 0:
            buffer = io.BytesIO()
            torch.save((model.state_dict(), opt.state_dict()), buffer)
            saved[t] = buffer.getvalue()
        train(model, opt, range(t, t + 1))
    tensors = [v for v in opt.state[model.hidden.weight].values() if isinstance(v, torch.Tensor)]
    assert any(v.dtype in (torch.uint8, torch.bfloat16) for v in tensors)
    for at, content in saved.items():
        again, _ = built(make, seed=1)
        fresh = make(list(again.named_parameters())[::-1])
        weights, state = torch.load(io.BytesIO(content))
        again.load_state_dict(weights)
        fresh.load_state_dict(state)
        train(again, fresh, range(at, 30))
        for (key, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b), f"{key} after resuming at step {at}"
        for p, q in zip(model.parameters(), again.parameters(), strict=True):
            assert opt.state[p].keys() == fresh.state[q].keys()
            for key, value in opt.state[p].items():
                same = torch.equal(value, fresh.state[q][key]) if isinstance(value, torch.Tensor) else True
                assert same, key


KEYS = [card.key for card in ds.find("*") if card.ready]


@pytest.mark.parametrize(("key", "form"), list(zip(KEYS, itertools.cycle(FORMS))))
def test_every_method_resumes_bit_exactly(key, form):
    """In one form each, tensors of every size, float64 parameters; the maths as it is written."""
    make = functools.partial(ds.make, key, lr=0.01, state_dtype=everything(form), execution="reference")
    contract.resumes_bit_exactly(contract.Case(f"{key} {form}", make))


@every_form
@pytest.mark.parametrize("check", [contract.state_is_its_own, contract.manifest_tells_all, contract.converges])
@pytest.mark.parametrize("key", ["adamw", "muon", "grokfast-sgd"])
def test_the_contract_holds(key, check, form):
    def make(model):
        if key == "grokfast-sgd":  # its state has an axis more than the parameter
            rule = ds.chain(ds.GrokfastMA(window=3), ds.Trace())
            return ds.Optimizer(model, rule, lr=0.01, state_dtype=everything(form))
        return ds.make(key, model, lr=0.01, state_dtype=everything(form))

    check(contract.Case(f"{key} {form}", make))


@every_form
def test_copies_and_pickles(form):
    contract.copies_and_pickles(contract.Case(form, lambda m: ds.AdamW(m, lr=0.01, state_dtype=everything(form))))


# ------------------------------------------------------------------------------------------------ numbers


FLAGS = ({}, {"amsgrad": True}, {"amsbound": True}, {"variant": "paper"}, {"centered": True})


def test_slots_that_are_said_not_to_be_negative_never_are():
    """Over ten steps of every ready method with every flag that it has."""
    seen = set()
    for key, settings in itertools.product(KEYS, FLAGS):
        problem = contract.PROBLEMS["mlp"]()
        model = problem.build(torch.float32)
        try:
            opt = ds.make(key, model, lr=0.01, execution="reference", **settings)
        except (ds.UnknownArgument, ds.ArgumentError):
            continue
        for t in range(10):
            contract.feed(opt, model, functools.partial(problem.loss, model, t))
        for group, p in ((g, p) for g in opt.param_groups for p in g["params"]):
            for place in opt.places(p, group):
                if place.slot.nonnegative and place.key in opt.state[p]:
                    seen.add((key, place.key))
                    assert (opt.state[p][place.key] >= 0).all(), (key, place.key)
    known = {("adamw", "max_exp_avg_sq"), ("adabelief", "exp_avg_var"), ("adagrad", "sum"), ("adamod", "exp_avg_lr")}
    assert known <= seen


HALF_GAPS = {"8bit": 0.9 / 64 / 2 + 1e-6, "4bit": 0.225 / 2 + 1e-6, "bfloat16": 2**-7}
"""The largest error of a stored momentum as a share of the block's largest magnitude (bfloat16: of its own)."""


@every_form
def test_momentum_stays_within_the_codec_s_bound(form):
    """b <- mu (b + e) + g with |e| <= gap max|b|, the gradients given: the errors add up to this bound and no more."""
    mu, lr, steps, shape = 0.9, 0.1, 40, (64, 100)
    weights = {}
    for each in ("float32", form):
        p = nn.Parameter(torch.zeros(shape))
        opt = ds.SGD([("hidden.weight", p)], lr=lr, momentum=mu, state_dtype=each)
        rng, bound, error, largest = torch.Generator().manual_seed(0), 0.0, 0.0, 0.0
        for _ in range(steps):
            p.grad = torch.randn(shape, generator=rng)
            before = p.detach().clone()
            opt.step()
            error = mu * (error + HALF_GAPS[form] * largest)
            largest = float((before - p.detach()).abs().max()) / lr
            bound += lr * error
        weights[each] = p.detach()
    gap = float((weights[form] - weights["float32"]).abs().max())
    assert 0 < gap <= bound * 1.001


@every_form
def test_adamw_stays_within_the_codec_s_bound(form):
    """Interval arithmetic on m and v: gradients are given and have magnitudes in [1/2, 1], so v stays away from 0."""
    (b1, b2), eps, lr, steps, shape = (0.9, 0.99), 1e-8, 0.01, 20, (64, 64)
    relative = {"8bit": (0.9 / 128 + 1e-6, 0.9 / 256 + 1e-6), "4bit": (0.1125 + 1e-6, 1 / 32 + 1e-6)}
    m_gap, v_gap = relative.get(form, (2**-7, 2**-7))
    p = nn.Parameter(torch.zeros(shape))
    opt = ds.AdamW([("hidden.weight", p)], lr=lr, betas=(b1, b2), weight_decay=0.0, state_dtype=form)
    rng = torch.Generator().manual_seed(0)
    m, v, e_m, e_v = (torch.zeros(shape, dtype=torch.float64) for _ in range(4))
    low, high = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
    for t in range(1, steps + 1):
        sign = torch.randint(0, 2, shape, generator=rng) * 2 - 1
        g = (0.5 + 0.5 * torch.rand(shape, generator=rng)) * sign
        p.grad = g
        opt.step()
        g = g.double()
        e_m = b1 * (e_m + m_gap * (m.abs() + e_m).max()) if t > 1 else e_m
        e_v = b2 * (e_v + v_gap * (v + e_v).max()) if t > 1 else e_v
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        root_low, root_high = ((v - e_v).clamp(min=(1 - b2) * g * g).sqrt(), (v + e_v).sqrt())
        ends = [
            lr * x / (1 - b1**t) / (r / (1 - b2**t) ** 0.5 + eps)
            for x in (m - e_m, m + e_m)
            for r in (root_low, root_high)
        ]
        low, high = low - torch.stack(ends).amax(0), high - torch.stack(ends).amin(0)
    slack = 1e-5 * lr * steps
    assert (p.detach().double() >= low - slack).all()
    assert (p.detach().double() <= high + slack).all()


def test_state_of_float64_parameters_is_computed_in_float64():
    p = nn.Parameter(torch.zeros(64, 64, dtype=torch.float64))
    assert ds.SGD([p], momentum=0.5).manifest().rows[0].storage == "momentum_buffer float64"
    opt = ds.SGD([("hidden.weight", p)], lr=1.0, momentum=0.3, state_dtype="8bit")
    p.grad = torch.full_like(p, 1 / 3)
    opt.step()
    assert torch.equal(p, -p.grad)
    opt.step()  # the momentum went through float32
    assert torch.equal(p, -p.grad - (0.3 * p.grad.float().double() + p.grad))


@pytest.mark.parametrize("form", ["8bit", "4bit"])
def test_an_overflow_reaches_the_parameter(form):
    p, opt = one_weight(ds.AdamW, (64, 100), state_dtype=form)
    p.grad = torch.ones_like(p)
    p.grad[0, 0] = torch.inf
    opt.step()
    p.grad = torch.ones_like(p)
    opt.step()
    block = Codec(int(form[0]), True).block
    assert not p.detach().flatten()[:block].isfinite().any()
    assert p.detach().flatten()[block:].isfinite().all()


def test_a_slot_that_an_update_leaves_alone_is_not_stored_again():
    """Encoding anew would shrink a block whose largest value is negative."""
    p = nn.Parameter(torch.ones(64, 64))
    opt = ds.SophiaG([("hidden.weight", p)], state_dtype="4bit")
    opt.observe_curvature([-torch.ones(64, 64)])
    for _ in range(3):
        p.grad = torch.ones_like(p)
        opt.step()
        assert opt.state[p]["hessian.scale"][0] == pytest.approx(0.01)
