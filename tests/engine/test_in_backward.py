"""Step inside backward: the ordinary loop's numbers with one gradient at a time; what cannot work is refused."""

import copy
import doctest
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import downslope as ds


def small(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def batch(t, dtype=torch.float64):
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(t), dtype=dtype)


def loss_of(model, t=0):
    return model(batch(t, next(model.parameters()).dtype)).square().mean()


def work(model, opt, steps=range(1), loss=loss_of, scheduler=None):
    for t in steps:
        loss(model, t).backward()
        opt.step()
        opt.zero_grad()
        if scheduler is not None:
            scheduler.step()


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(ours, theirs):
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


def twins(make, build=small):
    """Two models with an optimizer each, the first of which steps in backward."""
    models = [build(), build()]
    opts = [make(model) for model in models]
    opts[0].step_in_backward(models[0])
    return list(zip(models, opts, strict=True))


def assert_same_path(make, build=small, loss=loss_of, steps=5, schedule=None):
    pairs = twins(make, build)
    for model, opt in pairs:
        work(model, opt, range(steps), loss, schedule(opt) if schedule else None)
    (ours, opt), (theirs, ordinary) = pairs
    assert_same(ours, theirs)
    assert opt.steps == ordinary.steps == steps
    saved, expected = opt.state_dict(), ordinary.state_dict()
    assert saved["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(saved["state"], expected["state"], rtol=0, atol=0)


class ByLoss(ds.Transform):
    """The gradient times the loss."""

    needs = frozenset({"loss"})

    def update(self, u, p, state, h):
        return u * h.loss, {}


class Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise KeyboardInterrupt


# ------------------------------------------------------------------ the same path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_single(dtype):
    assert_same_path(lambda m: ds.AdamW(m, lr=0.01), lambda: small(dtype))


def test_groups_maximize_and_schedules_of_every_kind():
    def make(model):
        groups = [{"params": model[0], "lr": 0.1}, {"params": model[2:], "weight_decay": ds.Cosine(0.1, total=5)}]
        return ds.AdamW(groups, lr=ds.LinearDecay(0.01, total=6, warmup=2), maximize=True)

    assert_same_path(make)
    assert_same_path(
        lambda m: ds.AdaBelief(m.parameters(), lr=0.01),
        schedule=lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=9),
    )


def test_the_first_parameter_moves_by_the_schedule_of_its_step():
    model = small()
    opt = ds.SGD(model, lr=lambda t: (0.5, 0.0, 0.25)[t])
    opt.step_in_backward(model)
    for expected in (0.5, 0.0, 0.25):
        bias, grads = model[4].bias.detach().clone(), torch.autograd.grad(loss_of(model), model[4].bias)
        loss_of(model).backward()
        assert torch.equal(model[4].bias, bias - expected * grads[0])
        opt.step()


def test_absent_gradients_frozen_and_unfrozen_layers():
    def loss(model, t):
        if t >= 2:
            model[2].requires_grad_(t != 4)
        return loss_of(model if t % 2 else nn.Sequential(nn.Linear(4, 8, dtype=torch.float64), *model[1:]), t)

    def build():
        model = small()
        model[2].requires_grad_(False)
        return model

    seen = []
    for model, opt in twins(lambda m: ds.AdamW(m, lr=0.01), build):
        for t in range(6):
            torch.manual_seed(t)
            work(model, opt, [t], loss)
        seen.append(model)
    assert_same(*seen)
    assert not torch.equal(build()[2].weight, seen[0][2].weight)


@pytest.mark.parametrize("execution", ["auto", "reference"])
def test_a_model_of_one_parameter(execution):
    """Its only gradient is the whole step, which the executors remember."""
    assert_same_path(
        lambda m: ds.AdamW(m, lr=0.01, execution=execution),
        lambda: nn.ParameterDict({"weight": torch.ones(4, 3)}),
        lambda m, t: (m.weight - t).square().sum(),
    )


def test_what_changes_between_steps_is_seen():
    """A parameter that is put into another group by hand, memory that moves, and a loaded state."""

    def path(in_backward):
        model = small()
        groups = [{"params": model[0].parameters()}, {"params": model[2:].parameters(), "lr": 0.1}]
        opt = ds.AdamW(groups, lr=0.01)
        if in_backward:
            opt.step_in_backward(model)
        work(model, opt, range(2))
        opt.param_groups[1]["params"].append(opt.param_groups[0]["params"].pop())
        work(model, opt, range(2, 4))
        model[2].weight.data = model[2].weight.detach().clone()
        opt.state[model[4].weight]["exp_avg"] = torch.ones_like(model[4].weight)
        opt.param_groups[0]["weight_decay"] = 0.5
        work(model, opt, range(4, 6))
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
        work(model, opt, range(6, 8))
        return model

    assert_same(path(True), path(False))


def test_tied_parameters():
    def build():
        model = small()
        model[2].weight = nn.Parameter(model[2].weight.detach().clone())
        model.insert(3, nn.Linear(8, 8, dtype=torch.float64))
        model[3].weight = model[2].weight
        return model

    assert_same_path(lambda m: ds.AdamW(m, lr=0.01), build)


def test_complex_and_scalar_parameters():
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.z = nn.Parameter(torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128))
            self.gain = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    assert_same_path(
        lambda m: ds.AdamW(m, lr=0.01), Waves, lambda m, t: (m.gain * (m.z - t).abs().square().sum() - 1).square()
    )


def test_a_rule_that_needs_the_loss_gets_it_from_backward():
    def make(model):
        return ds.Optimizer(model, ds.chain(ByLoss(), ds.ScaleByAdam()), lr=0.01)

    (ours, opt), (theirs, ordinary) = pairs = twins(make)
    for t in range(4):
        for model, each in pairs:
            each.backward(loss_of(model, t))
            each.step()
            each.zero_grad()
    assert_same(ours, theirs)
    before = parameters(ours)
    with pytest.raises(
        ds.ArgumentError, match=r"Optimizer: needs the loss of the batch; call optimizer.backward\(loss\)"
    ):
        loss_of(ours).backward()
    assert all(map(torch.equal, before, ours.parameters()))


def test_two_optimizers_on_one_model():
    def path(in_backward):
        model = small()
        opts = [
            ds.Muon([{"params": model[2].weight, "role": "hidden"}], lr=0.02),
            ds.AdamW([*model[0].parameters(), model[2].bias], lr=0.01),
        ]
        if in_backward:
            for opt in opts:
                opt.step_in_backward(model)
        for t in range(4):
            loss_of(model, t).backward()
            for opt in opts:
                opt.step()
                opt.zero_grad()
        assert model[4].weight.grad is not None  # belongs to neither of them
        return model

    assert_same(path(True), path(False))


def test_gradients_set_by_hand_and_parameters_added_by_hand_move_in_step():
    def path(in_backward):
        model = small()
        opt = ds.AdamW(model[0].parameters(), lr=0.01)
        if in_backward:
            opt.step_in_backward(model)
        opt.add_param_group({"params": model[4].weight, "lr": 0.1})
        opt.param_groups[0]["params"].extend(model[2].parameters())
        for t in range(3):
            loss_of(model, t).backward()
            if in_backward:
                assert model[4].weight.grad is None
                assert (model[2].weight.grad is None) == (t > 0)
            opt.step()
            opt.zero_grad()
            model[0].weight.grad = torch.ones_like(model[0].weight)
            opt.step()
            opt.zero_grad()
        return model

    assert_same(path(True), path(False))


def test_hooks_and_steps_are_those_of_the_ordinary_loop():
    for model, opt in twins(lambda m: ds.AdamW(m, lr=0.01)):
        calls = []
        opt.register_step_pre_hook(lambda opt, args, kwargs, calls=calls: calls.append(("pre", opt.steps)))
        opt.register_step_post_hook(lambda opt, args, kwargs, calls=calls: calls.append(("post", opt.steps)))
        work(model, opt, range(2))
        assert calls == [("pre", 0), ("post", 1), ("pre", 1), ("post", 2)]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers(reentrant):
    def loss(model, t):
        x = batch(t).requires_grad_()
        return model[2:](checkpoint(model[:2], x, use_reentrant=reentrant)).square().mean()

    assert_same_path(lambda m: ds.AdamW(m, lr=0.01), loss=loss)


def test_the_loss_of_a_backward_that_raised_is_forgotten():
    def path(interrupted):
        model = small()
        opt = ds.Optimizer(model, ByLoss(), lr=0.01)
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                opt.backward(Breaks.apply(loss_of(model, 3)))
        opt.backward(loss_of(model))
        opt.step()
        return model

    assert_same(path(True), path(False))


# ------------------------------------------------------------------ the memory


def live_bytes(model):
    return sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("in_backward", [True, False])
def test_gradients_alive_are_no_more_than_the_two_largest_parameters(in_backward):
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(10)), nn.Linear(6, 8))
    seen = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(live_bytes(model)))
    opt = ds.AdamW(model, lr=0.01)
    if in_backward:
        opt.step_in_backward(model)
    for _ in range(2):
        opt.zero_grad()
        model(torch.ones(3, 6)).sum().backward()
        opt.step()
    sizes = sorted(p.numel() * p.element_size() for p in model.parameters())
    assert len(seen) == 2 * len(sizes)
    assert (max(seen) <= sum(sizes[-2:])) == in_backward
    assert max(seen) == (sizes[-1] if in_backward else sum(sizes))
    assert (live_bytes(model) == 0) == in_backward


def test_autograd_notices_that_a_parameter_has_moved():
    """Autograd refuses a backward through a parameter that it still needs; it must know that the parameter moved."""
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    versions = [p._version for p in model.parameters()]
    loss_of(model).backward()
    assert all(p._version > v for p, v in zip(model.parameters(), versions, strict=True))


# ------------------------------------------------------------------ undoing, copying, saving


def test_it_can_be_undone_and_entered_again():
    (ours, opt), (theirs, ordinary) = pairs = twins(lambda m: ds.AdamW(m, lr=0.01))
    handle = opt._in_backward
    for model, each in pairs:
        work(model, each, range(2))
    handle.remove()
    handle.remove()
    loss_of(ours).backward()
    assert all(p.grad is not None for p in ours.parameters())
    opt.zero_grad()
    for model, each in pairs:
        work(model, each, range(2, 4))
    with opt.step_in_backward(ours) as handle:
        for model, each in pairs:
            work(model, each, range(4, 6))
        assert opt._in_backward is handle
    assert opt._in_backward is None
    assert_same(ours, theirs)


def test_undone_after_a_backward_the_step_still_ends_once():
    (ours, opt), (theirs, ordinary) = pairs = twins(lambda m: ds.AdamW(m, lr=0.01))
    loss_of(ours).backward()
    opt._in_backward.remove()
    opt.step()
    work(theirs, ordinary)
    for model, each in pairs:
        work(model, each, range(1, 3))
    assert_same(ours, theirs)
    assert opt.steps == ordinary.steps


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("amid", [False, True], ids=["between steps", "amid a step"])
def test_copies_step_in_backward_too(copied, amid):
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    work(model, opt, range(2))
    if amid:
        loss_of(model, 2).backward()
    other, twin = copied((model, opt))
    if amid:
        with pytest.raises(ds.ArgumentError, match="second backward"):
            loss_of(other).backward()
        for each in (opt, twin):
            each.zero_grad()
            each.step()
    before = parameters(model)
    for m, o in ((other, twin), (model, opt)):
        loss_of(m, 3).backward()
        assert live_bytes(m) == 0
        o.step()
        assert m is model or all(map(torch.equal, before, model.parameters()))
    assert_same(other, model)
    assert twin.steps == opt.steps


def test_resumed_with_or_without_it_the_path_is_the_same():
    for resumed_in_backward in (False, True):
        model, straight = small(), small()
        opt = ds.AdamW(model, lr=0.01)
        with opt.step_in_backward(model):
            work(model, opt, range(3))
        again = ds.AdamW(model, lr=0.01)
        again.load_state_dict(opt.state_dict())
        if resumed_in_backward:
            again.step_in_backward(model)
        work(model, again, range(3, 5))
        work(straight, ds.AdamW(straight, lr=0.01), range(5))
        assert_same(model, straight)


def test_an_optimizer_that_is_dropped_leaves_the_model_alone():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    work(model, opt)
    gone = weakref.ref(opt)
    gc.disable()
    try:
        del opt
        assert gone() is None
    finally:
        gc.enable()
    before = parameters(model)
    loss_of(model).backward()
    assert all(map(torch.equal, before, model.parameters()))
    assert all(p.grad is not None and not p._post_accumulate_grad_hooks for p in model.parameters())


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda m: ds.Optimizer(m, ds.chain(ds.ClipByGlobalNorm(1.0), ds.ScaleByAdam())),
            "as ClipByGlobalNorm needs the",
        ),
        (lambda m: ds.DoG(m), "as ScaleByDoG needs the gradients of all parameters at once; call step"),
        (lambda m: ds.MARS(m, exact=True), r"needs the gradient at the previous parameters; call step\(closure\)"),
        (lambda m: ds.SophiaH(m), "as ScaleBySophia needs the graph of the gradients"),
        (lambda m: ds.AdamW([*m.parameters(), nn.Parameter(torch.ones(3))]), "model must hold all parameters"),
    ],
)
def test_rules_and_models_that_cannot_work_are_refused_at_the_call(make, reason):
    model = small()
    opt = make(model)
    with pytest.raises(ds.ArgumentError, match=reason):
        opt.step_in_backward(model)
    assert opt._in_backward is None
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_models_that_hide_or_delay_gradients_are_refused():
    embedding = nn.Sequential(nn.Embedding(3, 2, sparse=True))
    with pytest.raises(
        ds.ArgumentError, match="AdamW: cannot take sparse gradients; build its Embedding with sparse=False"
    ):
        ds.AdamW(embedding).step_in_backward(embedding)
    with pytest.raises(ds.ArgumentError, match="AdamW: model must be the module that is trained; got list"):
        ds.AdamW(embedding).step_in_backward(list(embedding.parameters()))

    class DistributedDataParallel(nn.Sequential):
        """As torch's, which needs a process group."""

    wrapped = DistributedDataParallel(small())
    with pytest.raises(ds.ArgumentError, match="averages gradients after they have arrived; shard the model"):
        ds.AdamW(wrapped[0]).step_in_backward(wrapped)


def test_a_second_handle_is_refused():
    model = small()
    first, second = ds.AdamW(model), ds.SGD(model[:3])
    handle = first.step_in_backward(model)
    with pytest.raises(ds.ArgumentError, match="AdamW: its parameters move in backward already"):
        first.step_in_backward(model)
    with pytest.raises(ds.ArgumentError, match="SGD: 0.weight already moves in backward by another optimizer"):
        second.step_in_backward(model)
    handle.remove()
    second.step_in_backward(model)


def test_accumulating_is_refused_before_anything_moves_twice():
    (ours, opt), (theirs, ordinary) = twins(lambda m: ds.AdamW(m, lr=0.01))
    loss_of(ours).backward()
    before = parameters(ours)
    with pytest.raises(ds.ArgumentError, match=r"AdamW: a second backward came before step\(\), and gradients cannot"):
        loss_of(ours, 1).backward()
    with pytest.raises(ds.ArgumentError, match="4.bias has moved in backward and has a gradient again"):
        opt.step()
    assert all(map(torch.equal, before, ours.parameters()))
    assert opt.steps == 0
    opt.zero_grad()
    opt.step()
    work(theirs, ordinary)
    for model, each in ((ours, opt), (theirs, ordinary)):
        work(model, each, [1])
    assert_same(ours, theirs)


def test_a_second_backward_over_other_parameters_is_refused_too():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    model[4](torch.ones(1, 8, dtype=torch.float64)).sum().backward()
    before = parameters(model)
    with pytest.raises(ds.ArgumentError, match="second backward"):
        model[0](batch(0)).sum().backward()
    assert all(map(torch.equal, before, model.parameters()))


def test_after_a_backward_that_raised_midway_the_next_one_is_refused_until_step():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    start = parameters(model)
    with pytest.raises(KeyboardInterrupt):
        model[4](Breaks.apply(model[:4](batch(0)))).sum().backward()
    moved = [not torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True)]
    assert moved == [False] * 4 + [True] * 2
    before = parameters(model)
    with pytest.raises(ds.ArgumentError, match=r"second backward came before step\(\)"):
        model[:3](batch(0)).sum().backward()
    assert all(map(torch.equal, before, model.parameters()))
    opt.zero_grad()
    opt.step()
    assert opt.steps == 1
    assert [opt.state.get(p, {}).get("step") for p in model.parameters()] == [None] * 4 + [1] * 2
    work(model, opt, range(2))


def test_loading_a_state_gives_up_the_open_step():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    work(model, opt)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict())
    loss_of(model).backward()
    model.load_state_dict(weights)
    opt.load_state_dict(state)
    work(model, opt, range(1, 3))
    straight = small()
    work(straight, ds.AdamW(straight, lr=0.01), range(3))
    assert_same(model, straight)


def test_closures_are_refused_before_they_run():
    model = small()
    opt = ds.AdamW(model)
    opt.step_in_backward(model)
    with pytest.raises(ds.ArgumentError, match=r"AdamW: step takes no closure where parameters move in backward; call"):
        opt.step(lambda: pytest.fail("it ran"))


def test_hyperparameters_that_change_after_backward_are_refused():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    opt.step_in_backward(model)
    loss_of(model).backward()
    opt.param_groups[0]["lr"] = 0.1
    with pytest.raises(ds.ArgumentError, match="AdamW: lr changed after backward, in which the parameters have moved"):
        opt.step()
    opt.param_groups[0]["lr"] = 0.01
    opt.step()
    opt.param_groups[0]["lr"] = 0.1
    work(model, opt)


def test_a_scheduled_value_that_something_else_set_is_refused_before_anything_moves():
    model = small()
    opt = ds.AdamW(model, lr=ds.LinearDecay(1e-3, total=10))
    opt.step_in_backward(model)
    opt.param_groups[0]["lr"] = 0.5
    before = parameters(model)
    with pytest.raises(ds.ArgumentError, match="lr follows"):
        loss_of(model).backward()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_grad_scaler_is_refused_in_the_first_step(unscaled):
    model = small(torch.float32)
    opt = ds.AdamW(model)
    handle = opt.step_in_backward(model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model)).backward()
    if unscaled:
        scaler.unscale_(opt)
    with pytest.raises(
        ds.ArgumentError, match="AdamW: the parameters have moved by the scaled gradients of a GradScaler"
    ):
        scaler.step(opt)
    handle.remove()
    opt.step()
    off = torch.amp.GradScaler("cpu", enabled=False)
    opt.step_in_backward(model)
    off.scale(loss_of(model)).backward()
    off.step(opt)
    assert opt.steps == 2


def test_sparse_gradients_are_refused_in_backward():
    model = nn.Embedding(3, 2)
    opt = ds.AdamW(model)
    opt.step_in_backward(model)
    before = parameters(model)
    with pytest.raises(ds.ArgumentError, match="cannot take the sparse gradient of weight"):
        nn.functional.embedding(torch.tensor([0]), model.weight, sparse=True).sum().backward()
    assert all(map(torch.equal, before, model.parameters()))


def test_a_layer_used_in_two_reentrant_segments_is_refused():
    layer = nn.Linear(4, 4)
    opt = ds.SGD(layer, lr=0.1)
    handle = opt.step_in_backward(layer)
    out = torch.ones(2, 4, requires_grad=True)
    for _ in range(2):
        out = checkpoint(layer, out, use_reentrant=True)
    with pytest.raises(ds.ArgumentError, match="second backward .* use_reentrant=False"):
        out.sum().backward()
    handle.remove()
    head = nn.Linear(4, 2)
    opt = ds.SGD([*head.parameters(), *layer.parameters()], lr=0.1)
    opt.step_in_backward(nn.Sequential(layer, head))
    out = head(
        checkpoint(layer, checkpoint(layer, out.detach().requires_grad_(), use_reentrant=True), use_reentrant=True)
    )
    with pytest.raises(ds.ArgumentError, match="SGD: the gradient of .* came twice in one backward"):
        out.sum().backward()


def test_a_gradient_freed_by_another_hook_is_refused():
    model = small()
    model[4].bias.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    ds_opt = ds.AdamW(model)
    ds_opt.step_in_backward(model)
    with pytest.raises(ds.ArgumentError, match="another hook has freed the gradient of 4.bias"):
        loss_of(model).backward()


def test_gradients_of_one_process_of_many_are_refused(monkeypatch):
    model = small()
    opt = ds.AdamW(model)
    opt.step_in_backward(model)
    before = parameters(model)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ds.ArgumentError, match="is that of one process of 2 while it arrives; shard the model"):
        loss_of(model).backward()
    assert all(map(torch.equal, before, model.parameters()))


def test_sharded_parameters_whose_rule_needs_whole_tensors_are_refused(monkeypatch):
    model = small()
    opt = ds.AdamP(model)
    handle = opt.step_in_backward(model)
    monkeypatch.setattr(opt, "_divided", True)
    with pytest.raises(
        ds.ArgumentError, match="AdamP: cannot step inside backward, as its rule needs whole tensors and"
    ):
        loss_of(model).backward()
    handle.remove()
    with pytest.raises(
        ds.ArgumentError, match="AdamP: cannot step inside backward, as its rule needs whole tensors and"
    ):
        opt.step_in_backward(model)
    elementwise = ds.AdamW(model)
    monkeypatch.setattr(elementwise, "_divided", True)
    elementwise.step_in_backward(model).remove()


def test_curvature_is_given_as_an_estimate():
    model = small()
    opt = ds.make("sophia", model, lr=0.01)
    opt.step_in_backward(model)
    with pytest.raises(ds.ArgumentError, match="no gradients are left where parameters move in backward; give the"):
        opt.observe_curvature()
    opt.observe_curvature([torch.ones_like(p) for p in model.parameters()])
    work(model, opt)
    assert all("observed_curvature" not in opt.state[p] for p in model.parameters())


def test_the_example_of_the_docstring_runs():
    text = ds.Optimizer.step_in_backward.__doc__
    parsed = doctest.DocTestParser().get_doctest(text, {"ds": ds, "torch": torch}, "step_in_backward", None, 0)
    assert parsed.examples
    assert doctest.DocTestRunner().run(parsed).failed == 0
