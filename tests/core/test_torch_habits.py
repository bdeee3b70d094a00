"""What user code does with a torch optimizer, from NumPy learning rates to checkpoints under wrappers."""

import collections
import copy
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import downslope as ds


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def work(model, opt, steps=1):
    for t in range(steps):
        torch.manual_seed(t)
        opt.zero_grad()
        model(torch.randn(6, 4)).square().mean().backward()
        opt.step()


class Whole(ds.Projector):
    """The whole space as its subspace."""

    def due(self, step):
        return step == 1

    def refresh(self, u, p, state, h):
        return {}

    def down(self, u, state):
        return u

    def up(self, v, state, template):
        return v


class CountCombines(ds.GlobalTransform):
    shared = (ds.Slot("n", "calls of combine", init=0),)

    def measure(self, u, p, state, h):
        return {"sum": u.sum()}, {}

    def combine(self, sums, shared, h):
        return {"n": shared.n + 1}


# ------------------------------------------------------------------ wrong numbers without a word


def test_partition_without_a_rule_for_a_parameter_is_refused():
    """Today the parameter is set to its gradient."""
    with pytest.raises(ds.ArgumentError, match="partition: the rules must be given for"):
        ds.Optimizer(small(), ds.partition({"hidden": ds.ScaleByAdam()}), lr=0.01)


@pytest.mark.parametrize("wrap", [lambda r: ds.project(r, Whole()), lambda r: ds.split(r, ds.chain(), Whole())])
def test_global_transforms_in_a_subspace_see_all_parameters(wrap):
    params = [nn.Parameter(torch.zeros(2, 2)) for _ in range(3)]
    clip = ds.Optimizer(params, wrap(ds.ClipByGlobalNorm(1.0)), lr=1.0)
    for p in params:
        p.grad = torch.full_like(p, 5.0)
    clip.step()
    assert torch.cat([p.detach().flatten() for p in params]).norm() == pytest.approx(1.0, rel=1e-5)
    count = ds.Optimizer(params, wrap(CountCombines()), lr=1.0)
    count.step()
    assert count.shared_values(CountCombines)["n"] == 1


def test_no_two_transforms_on_one_route_share_a_slot():
    """Today the last ScaleByAdam and the second of `other` keep their means in the same tensors."""
    adam = ds.ScaleByAdam
    opt = ds.Optimizer(small(), ds.chain(ds.partition({"hidden": adam(), "other": ds.chain(adam(), adam())}), adam()))
    for route in opt._plan.routes:
        slots = [key for n in opt._plan.leaves() if route in n.routes for key in n.slots.values()]
        assert len(slots) == len(set(slots))


def test_a_model_with_frozen_layers_can_be_unfrozen_as_with_torch():
    model = small()
    model[0].requires_grad_(False)
    opt = ds.AdamW(model, lr=0.1)
    work(model, opt)
    before = model[0].weight.detach().clone()
    model[0].requires_grad_(True)
    work(model, opt)
    assert not torch.equal(before, model[0].weight)


def test_the_first_value_of_a_warm_up_is_not_the_base_learning_rate():
    """AdaBound's bounds are final_lr·lr/base_lr: with the first value of the warm-up, 100 times too wide."""
    opt = ds.AdaBound(small(), lr=ds.LinearDecay(1e-3, total=1000, warmup=100))
    assert opt.param_groups[0]["base_lr"] == 1e-3


def test_a_closure_that_raises_leaves_the_previous_parameters_alone():
    def path(interrupted):
        model = small()
        opt = ds.make("mars", model, lr=0.01, exact=True)

        def closure(fail=()):
            closure.calls += 1
            opt.zero_grad()
            loss = model(torch.ones(2, 4)).square().mean()
            loss.backward()
            if closure.calls in fail:
                raise KeyboardInterrupt
            return loss

        closure.calls = 0
        opt.step(closure)
        opt.step(closure)
        if interrupted:
            closure.calls = 0
            with pytest.raises(KeyboardInterrupt):
                opt.step(lambda: closure(fail=(2,)))
        opt.step(closure)
        return model[0].weight

    assert torch.equal(path(False), path(True))


# ------------------------------------------------------------------ what user code relies on


@pytest.mark.parametrize("with_named", [True, False])
def test_subclasses_pass_keywords_on(with_named):
    class Plain(ds.AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    class Tagged(ds.AdamW):
        def __init__(self, params, tag=None, **kwargs):
            super().__init__(params, **kwargs)
            self.tag = tag

    cls = Tagged if with_named else Plain
    assert cls(small(), lr=0.5, weight_decay=0.1).param_groups[0]["lr"] == 0.5
    with pytest.raises(ds.UnknownArgument, match=f"{cls.__name__}: has no argument 'weight_decy'"):
        cls(small(), weight_decy=0.1)


def test_get_and_set_optimizer_state_dict():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    work(model, opt, 3)
    saved = copy.deepcopy(get_optimizer_state_dict(model, opt))
    twin = copy.deepcopy(model)
    again = ds.AdamW(twin, lr=0.01)
    set_optimizer_state_dict(twin, again, optim_state_dict=saved)
    assert again.steps == 3
    work(model, opt, 2)
    work(twin, again, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_groups_added_later_take_schedules():
    model = small()
    opt = ds.AdamW(model[0], lr=ds.LinearDecay(1e-3, total=100))
    work(model, opt, 3)
    opt.add_param_group({"params": model[2]})
    work(model, opt)
    assert opt.param_groups[0]["lr"] == opt.param_groups[1]["lr"]


def test_a_refused_step_leaves_schedules_and_curvature_alone():
    layer, embedding = nn.Linear(2, 1), nn.Embedding(3, 2, sparse=True)
    opt = ds.make("sophia", [*layer.parameters(), *embedding.parameters()], lr=ds.LinearDecay(1e-3, total=100))
    for sparse in (False, False, True, False):
        opt.zero_grad()
        layer(embedding.weight[:1]).sum().backward() if not sparse else embedding(torch.tensor([0])).sum().backward()
        if sparse:
            layer.weight.grad = torch.ones_like(layer.weight)
            opt.state[layer.weight]["observed_curvature"] = torch.ones_like(layer.weight)
            with pytest.raises(ds.ArgumentError, match="sparse"):
                opt.step()
            assert "observed_curvature" in opt.state[layer.weight]
        else:
            opt.step()
    assert opt.steps == 3


@pytest.mark.parametrize("first", [1e-3, ds.LinearDecay(1e-3, total=10)])
def test_a_run_can_be_resumed_with_another_schedule(first):
    model = small()
    opt = ds.AdamW(model, lr=first)
    work(model, opt, 3)
    longer = ds.LinearDecay(1e-3, total=20)
    again = ds.AdamW(model, lr=longer)
    again.load_state_dict(opt.state_dict())
    work(model, again)
    assert again.param_groups[0]["lr"] == longer(3)


def test_state_can_be_reset_under_a_schedule():
    model = small()
    opt = ds.AdamW(model, lr=ds.LinearDecay(1e-3, total=100))
    work(model, opt, 3)
    opt.state = collections.defaultdict(dict)
    work(model, opt)
    assert opt.steps == 1


def test_a_scheduler_that_the_saved_run_had_not_does_not_block_loading():
    model = small()
    opt = ds.AdamW(model, lr=1e-3)
    work(model, opt)
    again = ds.AdamW(model, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(again, 1, 0.5)
    again.load_state_dict(opt.state_dict())
    work(model, again)
    scheduler.step()


def test_the_state_of_torchs_own_adamw_is_refused_in_plain_words():
    model = small()
    with pytest.raises(ds.ArgumentError, match="was not saved by an optimizer of downslope"):
        ds.AdamW(model).load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())


@pytest.mark.parametrize(
    "wrapped", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "parallel"]
)
def test_names_are_the_same_with_and_without_wrappers(wrapped):
    model = small()
    opt, again = ds.AdamW(wrapped(model)), ds.AdamW(model)
    assert [row.parameter for row in opt.manifest()] == [row.parameter for row in again.manifest()]
    assert [row.role for row in opt.manifest()] == [row.role for row in again.manifest()]
    again.load_state_dict(opt.state_dict())


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"beta": 1}, {"amsgrad": 3, "lr": "x"}])
def test_a_refused_group_leaves_nothing_behind(bad):
    model = small()
    opt = ds.AdamW(model[0])
    with pytest.raises(ds.ArgumentError):
        opt.add_param_group({"params": model[2], **bad})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": model[2]})
    work(model, opt)


def test_a_group_refused_by_the_rules_own_check_leaves_nothing_behind():
    model = small()
    opt = ds.AdaBound(model[0])
    with pytest.raises(ds.ArgumentError, match="lr must be > 0"):
        opt.add_param_group({"params": model[2], "lr": 0.0})
    assert len(opt.param_groups) == 1
    work(model, opt)


def test_parameters_put_into_a_group_by_hand_are_trained():
    """As programs do that grow or replace parameters (pruning, Gaussian splatting)."""
    model = small()
    opt = ds.AdamW(model[0].parameters(), lr=0.1)
    opt.param_groups[0]["params"].extend(model[2].parameters())
    before = model[2].weight.detach().clone()
    work(model, opt)
    assert not torch.equal(before, model[2].weight)
    assert len(opt.manifest()) == 4


@pytest.mark.parametrize("lr", [np.float64(0.1), np.float32(0.1), np.int64(1), torch.tensor(0.1)])
def test_numpy_and_tensor_scalars_become_numbers(lr):
    model = small()
    opt = ds.AdamW(model, lr=lr, weight_decay=lr)
    work(model, opt)
    assert type(opt.param_groups[0]["lr"]) in (int, float)
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    ("hyper", "rule"),
    [
        ({"betas": (0.9,)}, "betas must be 2 numbers"),
        ({"betas": 0.9}, "betas must be 2 numbers"),
        ({"betas": None}, "betas must be 2 numbers"),
        ({"eps": (1e-8,)}, "eps must be one number"),
        ({"eps": None}, "eps must be one number"),
        ({"lr": (0.1, 0.2)}, "lr must be one number"),
        ({"lr": None}, "lr must be one number"),
    ],
)
def test_the_form_of_a_hyperparameter_is_checked_at_construction(hyper, rule):
    with pytest.raises(ds.ArgumentError, match=rule):
        ds.AdamW(small(), **hyper)
    with pytest.raises(ds.ArgumentError, match=rule):
        ds.AdamW([{"params": small(), **hyper}])


def test_whole_numbers_are_whole():
    class Waits(ds.Transform):
        patience: int = 3

        def update(self, u, p, state, h):
            return u, {}

    with pytest.raises(ds.ArgumentError, match="patience must be a whole number; got 2.5"):
        Waits(2.5)


def test_mask_refuses_a_string():
    with pytest.raises(ds.ArgumentError, match="mask: where must be a function or a tuple of roles"):
        ds.mask(ds.ScaleByAdam(), "hidden")


def test_global_hyperparameters_bind_only_the_groups_that_the_transform_sees():
    rule = ds.partition(
        {"a": ds.ClipByGlobalNorm(1.0), "b": ds.ClipByGlobalNorm(5.0)},
        by=lambda info: "a" if info.name.startswith("0") else "b",
    )
    model = small()
    opt = ds.Optimizer(model, rule, lr=0.1)
    work(model, opt, 2)
    assert [g["max_norm"] for g in opt.param_groups] == [1.0, 5.0]


def test_a_partition_is_asked_only_for_parameters_that_reach_it():
    inner = ds.partition({"x": ds.chain()}, by=lambda info: {"0.weight": "x"}[info.name])
    rule = ds.partition({"a": inner, "b": ds.chain()}, by=lambda info: "a" if info.name == "0.weight" else "b")
    model = small()
    work(model, ds.Optimizer(model, rule, lr=0.1))


def test_a_scheduler_of_momentum_is_refused_by_torch_where_a_group_has_none():
    rule = ds.partition({"hidden": ds.ScaleByAdam(), "other": ds.chain()})
    with pytest.raises(ValueError, match="must support momentum"):
        torch.optim.lr_scheduler.OneCycleLR(ds.Optimizer(small(), rule, lr=0.1), 0.1, total_steps=10)


def test_a_weight_may_be_above_one():
    """`alpha` of AdEMAMix is 5, and a method of another package cannot change the glossary."""

    class Mix(ds.Transform):
        alpha: float = 5.0

        def update(self, u, p, state, h):
            return h.alpha * u, {}

    Mix()


def test_step_keeps_no_second_copy_of_all_parameters():
    code = """
    import torch, downslope as ds
    live = []
    class Probe(ds.Transform):
        scope = "tensor"
        def update(self, u, p, state, h):
            import gc
            from downslope._engine.item import Item
            live.append(sum(isinstance(o, Item) for o in gc.get_objects()))
            return u.flatten().reshape(u.shape), {}  # no kernel is emitted for this
    ps = [torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(20)]
    for p in ps: p.grad = torch.ones_like(p)
    ds.Optimizer(ps, Probe()).step()
    assert max(live) <= 3, live
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]


def test_sharded_parameters_are_taken(monkeypatch):
    from torch.distributed.fsdp import fully_shard

    for key, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(key, value)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = small()
        fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        work(model, ds.AdamW(model), 2)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["gone", "taken key", "taken name", "no literal"])
def test_a_faulty_package_does_not_take_the_library_down(tmp_path, kind):
    """Today one bad entry point makes every name of downslope unreachable, or replaces ds.AdamW."""
    import downslope.optim.adam as adam

    text = Path(adam.__file__).read_text()
    text = {
        "gone": "",
        "taken key": text.replace('("Adam", "ScaleByAdam")', '("Adam9",)'),
        "taken name": text.replace('key="adam"', 'key="mine"').replace('("Adam", "ScaleByAdam")', '("AdamW",)'),
        "no literal": text.replace("year=2014", "year=int(2014)"),
    }[kind]
    info = tmp_path / "stranger-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[downslope.methods]\nmine = stranger_package.mine\n")
    if text:
        (tmp_path / "stranger_package").mkdir()
        (tmp_path / "stranger_package" / "__init__.py").touch()
        (tmp_path / "stranger_package" / "mine.py").write_text(text)
    path = os.pathsep.join([str(Path(ds.__file__).parents[1]), str(tmp_path)])
    code = "import downslope as ds; print(ds.AdamW.__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.strip().startswith("downslope."), done.stderr[-300:]
    assert "stranger_package" in done.stderr


def test_no_room_takes_the_name_of_something_public():
    """Importing a module of a room puts the room's name on the package, over whatever stood there."""
    from downslope._registry import ROOMS

    assert not set(ROOMS) & {name for names in ds._HOMES.values() for name in names}
    ds.Lookahead  # noqa: B018
    assert callable(ds.wrap)


@pytest.mark.filterwarnings("ignore")  # Dynamo's own
def test_a_training_step_under_torch_compile_is_the_same():
    def train(model, opt):
        opt.zero_grad()
        model(torch.ones(3, 4)).square().mean().backward()
        opt.step()

    ends = []
    for wrapped in (train, torch.compile(train, backend="eager")):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        opt = ds.AdamW(model, lr=0.1)
        for _ in range(3):
            wrapped(model, opt)
        ends.append(model.weight)
    assert torch.equal(*ends)
