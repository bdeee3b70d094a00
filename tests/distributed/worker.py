"""One of the processes of the tests here: trains tiny models under FSDP2 and DDP and writes down where they end.

`python worker.py RANK PROCESSES FOLDER`; the first process writes FOLDER/results.pt, a dict of one result per check.
"""

import functools
import importlib.util
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn import functional as F

import downslope as ds
from downslope.testing import contract

STEPS, SAVED_AT = 4, 2
CHECKS = {}


def _contract_tables():
    path = Path(__file__).parents[1] / "test_contract.py"
    spec = importlib.util.spec_from_file_location("contract_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = _contract_tables()
CASES = {TABLES.name_of(case): case for case in TABLES.CASES}
RULES = {
    "clip": lambda: ds.chain(ds.ClipByGlobalNorm(0.05), ds.ScaleByAdam()),
    "clip the largest": lambda: ds.chain(ds.ClipByGlobalNorm(0.01, norm_type=float("inf")), ds.ScaleByAdam()),
    "autoclip": lambda: ds.chain(ds.AutoClip(), ds.ScaleByAdam()),
    "grokfast": lambda: ds.chain(ds.GrokfastMA(3, full_window=False), ds.ScaleByAdam()),
    "perpgrad": lambda: ds.chain(ds.OrthogonalGradient(), ds.ScaleByAdam()),
    "lookahead": lambda: ds.chain(ds.ScaleByAdam(), ds.Descend(), ds.Lookahead(2)),
    "average": lambda: ds.chain(ds.ScaleByDoG(reps_rel=1e-2), ds.Descend(), ds.PolynomialAverage()),
    "every": lambda: ds.every(2, ds.chain(ds.ScaleByMuon(ns_dtype="parameter"))),
}
MATRICES = {"every"}  # rules for matrices alone
for kind in ("rows", "coordinates", "svd", "random", "blocks"):
    CASES[f"frugal {kind}"] = ("frugal", {"selector": kind, "update_gap": 2, "density": 0.5})
FORMS = {"8bit": lambda info: "8bit", "4bit": lambda info: "4bit", "bfloat16": lambda info: "bfloat16"}
for key in ("adamw", "muon", "galore"):
    CASES |= {f"{key} {form}": (key, {"state_dtype": asked}) for form, asked in FORMS.items()}
CASES["muon exactly"] = ("muon", {"ns_dtype": "parameter"})  # bfloat16 would make much of a rounding error
CASES["galore full"] = ("galore", {"side": "full", "rank": 2, "update_gap": 2})

HALVES = (
    *("adamw", "lamb", "muon exactly", "galore", "mars exact=True", "d-adaptation", "clip", "autoclip"),
    *("precond-sps preconditioner=none", "precond-sps preconditioner=adam slack=l1"),
)
EMITTED = (
    "adamw",
    "lion",
    "novograd",
    "lamb",
    "muon",
    "galore",
    "clip",
    "d-adaptation",
    "mars exact=True",
    "adamw 8bit",
    "muon 4bit",
)
IN_BACKWARD = ("adamw", "lion")
WHOLE_STATE = ("adamw", "muon", "galore", "adamw 8bit", "swats")
ABSENT = ("lamb", "muon", "clip", "galore")
LAYOUTS = ("adamw", "lamb", "muon", "galore full", "frugal", "clip", "d-adaptation", "precond-sps preconditioner=none")
REFUSED = ("sophia-h", "precond-sps")
CHECKPOINTED = [
    *(key for key in TABLES.KEYS if key not in REFUSED),
    *("mars exact=True", "precond-sps preconditioner=none", "swats tolerance=1e-09 weight_decay=0.1", "galore full"),
    *("frugal svd", "frugal coordinates", "adamw bfloat16", "adamw 8bit", "muon 4bit", "galore 8bit"),
    *RULES,
]


class Net(nn.Module):
    """Over two processes: 11 and 9 rows do not divide evenly, and of single rows the second process holds none."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 9)
        self.norm = nn.LayerNorm(9)
        self.narrow = nn.Linear(9, 1)
        self.head = nn.Linear(1, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.narrow(self.norm(torch.tanh(self.hidden(self.embedding(tokens)))))))


def build(dtype=torch.float64):
    torch.manual_seed(0)
    return Net().to(dtype)


def loss_of(model, t, part=slice(None)):
    rng = torch.Generator().manual_seed(t)
    x, y = torch.randint(0, 11, (24,), generator=rng), torch.randint(0, 3, (24,), generator=rng)
    return F.cross_entropy(model(x[part]), y[part])


def make(name, model, execution="reference"):
    """The optimizer of a case of the contract, or of a rule of the table above."""
    if name in RULES:
        members = model if isinstance(model, list) else named(model)
        members = [(n, p) for n, p in members if p.ndim > 1 or name not in MATRICES]
        return ds.Optimizer(members, RULES[name](), lr=0.01, execution=execution)
    key, settings = CASES[name]
    settings = {"lr": 0.01, **TABLES.SETTINGS.get(key, {}), **settings}
    return ds.make(key, model, execution=execution, **settings)


def named(model):
    return getattr(model, "module", model).named_parameters()


def train(opt, model, steps, part=slice(None)):
    for t in steps:
        contract.feed(opt, model, functools.partial(loss_of, model, t, part))


def values(model):
    """The whole parameters by name."""
    found = {n: p.detach() for n, p in named(model)}
    return {n: (p.full_tensor() if hasattr(p, "full_tensor") else p).clone() for n, p in found.items()}


def alone(name, steps=STEPS, execution="reference"):
    """What one process does."""
    model = build()
    opt = make(name, model, execution)
    train(opt, model, range(steps))
    return model, opt


def sharded(dtype=torch.float64):
    from torch.distributed.fsdp import fully_shard

    model = build(dtype)
    fully_shard(model.hidden)
    fully_shard(model)
    return model


def replicated():
    return nn.parallel.DistributedDataParallel(build())


WRAPPED = {"fsdp": sharded, "ddp": replicated}


NAMES = {"fsdp": (*CASES, *RULES), "ddp": [TABLES.name_of(case) for case in TABLES.CASES]}


def half():
    return slice(12 * dist.get_rank(), 12 * dist.get_rank() + 12)


def check(function):
    CHECKS[function.__name__] = function
    return function


def path_of(wrapper, name, part=slice(None), execution="reference"):
    """Where a case ends under a wrapper, or the sentence with which it is refused."""
    model = WRAPPED[wrapper]()
    try:
        opt = make(name, model, execution)
    except ds.ArgumentError as error:
        return str(error)
    train(opt, model, range(STEPS), part)
    return values(model)


@check
def same_batch(folder):
    """Every process sees the same batch, so that gradients are those of one process bit for bit."""
    return {(wrapper, name): path_of(wrapper, name) for wrapper, names in NAMES.items() for name in names}


@check
def kernels(folder):
    """With emitted kernels where there is a compiler, on pieces of tensors."""
    return {name: path_of("fsdp", name, execution="auto") for name in EMITTED}


@check
def in_backward(folder):
    """Parameters that move inside backward, as fully_shard gives each its gradient there."""
    found = {}
    for name in IN_BACKWARD:
        model = sharded()
        opt = make(name, model)
        with opt.step_in_backward(model):
            train(opt, model, range(STEPS))
        found[name] = values(model)
    return found


@check
def rounding(folder):
    """Parameters in bfloat16, rounded stochastically."""
    return values(in_half(sharded))


def in_half(build):
    """Where a model in bfloat16 ends."""
    model = build(torch.bfloat16)
    opt = ds.AdamW(model, lr=1e-3, stochastic_rounding=True, execution="reference")
    train(opt, model, range(STEPS))
    return model


@check
def halves(folder):
    """Every process sees its half of the batch."""
    return {(wrapper, name): path_of(wrapper, name, half()) for wrapper in WRAPPED for name in HALVES}


@check
def absent_gradients(folder):
    """A gradient that is there on the first process only, and one that is nowhere."""
    found = {}
    for name in ABSENT:
        model = sharded()
        opt = make(name, model)
        for t in range(STEPS):
            opt.zero_grad()
            opt.backward(loss_of(model, t))
            model.norm.bias.grad = None
            if t % 2 and dist.get_rank() == 1:
                model.hidden.weight.grad = None
            opt.step()
        found[name] = values(model)
    return found


@check
def other_layouts(folder):
    """Meshes of two axes, parameters left whole beside sharded ones, columns instead of rows."""
    from torch.distributed.fsdp import fully_shard

    def replicas(shape):
        def wrap(model):
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
            fully_shard(model, mesh=mesh)

        return wrap

    def mixed(model):
        fully_shard(model, ignored_params={model.hidden.weight, model.head.bias})

    layouts = {"2x1": replicas((2, 1)), "1x2": replicas((1, 2)), "mixed": mixed}
    found = {}
    for layout, wrap in layouts.items():
        for name in LAYOUTS:
            model = build()
            wrap(model)
            train(make(name, model), model, range(STEPS))
            found[layout, name] = values(model)
    return found | {("columns", name): by_columns(name) for name in LAYOUTS}


def by_columns(name):
    """Where a case ends with parameters cut along their last axis, as tensor parallel layers are."""
    mesh, model = init_device_mesh("cpu", (dist.get_world_size(),)), build()
    cut = {n: nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(p.ndim - 1)])) for n, p in named(model)}
    opt = make(name, list(cut.items()))
    for t in range(STEPS):
        whole = {n: p.detach().full_tensor().requires_grad_() for n, p in cut.items()}
        loss = loss_of(functools.partial(torch.func.functional_call, model, whole), t)
        grads = torch.autograd.grad(loss, list(whole.values()))
        for p, grad in zip(cut.values(), grads, strict=True):
            p.grad = distribute_tensor(grad, mesh, [Replicate()])  # as autograd may leave it
        opt.step(loss=loss)
    return {n: p.detach().full_tensor() for n, p in cut.items()}


@check
def example(folder):
    """The last loss of the script in examples/."""
    path = Path(__file__).parents[2] / "examples" / "fsdp.py"
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.train(10)


@check
def state_and_manifest(folder):
    """Placements of state, and what the manifest says."""
    found = {}
    for wrapper in WRAPPED:
        model = WRAPPED[wrapper]()
        opt = make("muon", model)
        train(opt, model, range(1))
        states = {opt.info(p).name: opt.state[p] for p in opt.parameters()}
        kinds = {n: {k: type(v).__name__ for k, v in state.items()} for n, state in states.items()}
        found[wrapper] = {"rows": [vars(row) for row in opt.manifest()], "kinds": kinds, "bytes": opt.state_bytes()}
    return found


@check
def refusals(folder):
    """Sentences about what cannot be right."""
    from torch.distributed.fsdp import fully_shard

    model = build()
    fully_shard(model)
    attempts = {
        "subspace": lambda: ds.Optimizer(model, ds.project(ds.ClipByGlobalNorm(1.0), ds.SingularSubspace())),
        "loss": lambda: make("precond-sps preconditioner=none", list(build().named_parameters())),
        "function": lambda: ds.Optimizer(model, OwnShape()),
        "codes": lambda: ds.DAdaptAdam(model, state_dtype=lambda info: "8bit"),
        "in backward": lambda: make("lamb", model).step_in_backward(model),
    }
    return {name: sentence(attempt) for name, attempt in attempts.items()}


class OwnShape(ds.Transform):
    """An elementwise rule that claims a shape of its own for its state."""

    slots = (ds.Slot("pairs", "nothing", shape=lambda self, p: (2, *p.shape)),)

    def update(self, u, p, state, h):
        return u, {}


def sentence(attempt):
    try:
        attempt()
    except ds.ArgumentError as error:
        return str(error)
    return "not refused"


def states(model, opt):
    return {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, opt)}


def save(checkpoint, trained):
    """One checkpoint of many pairs of model and optimizer, by name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*intent is to save in a single process")
        dcp.save({name: states(*pair) for name, pair in trained.items()}, checkpoint_id=checkpoint)


def resumed(checkpoint, build):
    """Models of `build()` and their optimizers that went on from a checkpoint to the end, by name."""
    pairs = {}
    for name in CHECKPOINTED:
        model = build()
        pairs[name] = model, make(name, model)
    saved = {name: states(*pair) for name, pair in pairs.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*intent is to load in a single process")
        dcp.load(saved, checkpoint_id=checkpoint)
    for name, (model, opt) in pairs.items():
        set_model_state_dict(model, saved[name]["model"])
        set_optimizer_state_dict(model, opt, saved[name]["optimizer"])
        train(opt, model, range(SAVED_AT, STEPS))
    return {name: (values(model), opt.steps, steps_of(opt)) for name, (model, opt) in pairs.items()}


def steps_of(opt):
    """What the parameters' own counts of steps are."""
    return {opt.state[p]["step"] for p in opt.parameters()}


@check
def whole_state(folder):
    """States go from whole parameters to sharded ones and back by `load_state_dict`, half-way."""
    found = {}
    for name in WHOLE_STATE:
        model, opt = alone(name, SAVED_AT)
        for build_next in (sharded, build):
            saved, weights = opt.state_dict(), values(model)
            model = build_next()
            set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
            opt = make(name, model)
            opt.load_state_dict(saved)
            train(opt, model, [opt.steps])
        found[name] = values(model)
    return found


@check
def averages(folder):
    """The average beside the run, put in place of sharded parameters."""
    model = sharded()
    opt = make("average", model)
    train(opt, model, range(STEPS))
    with opt.swapped("average"):
        return values(model)


@check
def checkpoints(folder):
    """Two processes leave a checkpoint for one, and go on where one has stopped."""
    trained = {}
    for name in CHECKPOINTED:
        model = sharded()
        trained[name] = model, make(name, model)
        train(trained[name][1], model, range(SAVED_AT))
    save(folder / "two", trained)
    return resumed(folder / "one", sharded)


def main(rank, processes, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes, timeout=timedelta(seconds=60)
    )
    results = {name: function(folder) for name, function in CHECKS.items()}
    if rank == 0:
        torch.save(results, folder / "results.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
