"""The optimizer as torch users know it."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

import downslope as ds


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def work(model, opt, steps=3, **step):
    torch.manual_seed(1)
    for _ in range(steps):
        opt.zero_grad()
        model(torch.randn(6, 4)).square().mean().backward()
        opt.step(**step)
    return [p.detach().clone() for p in model.parameters()]


def test_is_a_torch_optimizer():
    opt = ds.AdamW(small().parameters(), lr=1e-3)
    assert isinstance(opt, torch.optim.Optimizer)
    assert opt.defaults["lr"] == 1e-3
    assert opt.param_groups[0]["betas"] == (0.9, 0.999)


def test_takes_a_model_names_tensors_and_groups_alike():
    paths = []
    for arrange in (
        lambda m: m,
        lambda m: m.named_parameters(),
        lambda m: m.parameters(),
        lambda m: [{"params": m[0].parameters()}, {"params": list(m[2].parameters())}],
        lambda m: [{"params": list(m[0].named_parameters("0"))}, {"params": list(m[2].named_parameters("2"))}],
    ):
        model = small()
        paths.append(work(model, ds.AdamW(arrange(model), lr=0.01)))
    for path in paths[1:]:
        assert all(torch.equal(a, b) for a, b in zip(paths[0], path, strict=True))


def test_groups_have_their_own_hyperparameters_and_structure():
    model = small()
    opt = ds.Adam([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "amsgrad": True}])
    before = model[0].weight.detach().clone()
    work(model, opt)
    assert torch.equal(before, model[0].weight)
    assert "max_exp_avg_sq" in opt.state[model[2].weight]
    assert "max_exp_avg_sq" not in opt.state[model[0].weight]


def test_add_param_group():
    model = small()
    opt = ds.SGD(model[0].parameters(), lr=0.1)
    opt.add_param_group({"params": model[2].parameters(), "lr": 0.2})
    work(model, opt)
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.2]
    assert len(opt.manifest()) == 4


def test_hyperparameters_are_live():
    model, twin = small(), small()
    opt, reference = ds.AdamW(model, lr=0.01), torch.optim.AdamW(twin.parameters(), lr=0.01)
    for o in (opt, reference):
        m = model if o is opt else twin
        work(m, o, 2)
        o.param_groups[0].update(lr=0.002, betas=(0.5, 0.6), weight_decay=0.3, eps=1e-3)
        work(m, o, 2)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_closure_and_hooks():
    model = small()
    opt = ds.SGD(model, lr=0.1)
    seen = []
    opt.register_step_pre_hook(lambda *_: seen.append("before"))
    opt.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        opt.zero_grad()
        loss = model(torch.ones(1, 4)).square().mean()
        loss.backward()
        return loss

    first = opt.step(closure)
    assert opt.step(closure) < first
    assert seen == ["before", "after"] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedulers.LambdaLR(o, lambda t: 0.9**t),
        lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.9),
        lambda o: schedulers.StepLR(o, 2),
        lambda o: schedulers.MultiStepLR(o, [2, 4]),
        lambda o: schedulers.ConstantLR(o),
        lambda o: schedulers.LinearLR(o),
        lambda o: schedulers.ExponentialLR(o, 0.9),
        lambda o: schedulers.PolynomialLR(o, 6),
        lambda o: schedulers.CosineAnnealingLR(o, 6),
        lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
        lambda o: schedulers.CyclicLR(o, 1e-3, 1e-2, cycle_momentum=True),
        lambda o: schedulers.OneCycleLR(o, 1e-2, total_steps=8),
        lambda o: schedulers.ReduceLROnPlateau(o, patience=0),
        lambda o: schedulers.SequentialLR(o, [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.5)], [3]),
        lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.5)]),
        lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=1e-3, anneal_epochs=2),
    ],
)
def test_every_torch_scheduler(make):
    """The same learning rates, betas and path as with torch's own AdamW."""
    runs = []
    for build in (ds.AdamW, torch.optim.AdamW):
        model = small()
        opt = build(model.parameters(), lr=5e-3)
        scheduler = make(opt)
        for t in range(5):
            work(model, opt, 1)
            scheduler.step(*([1.0 + t] if isinstance(scheduler, schedulers.ReduceLROnPlateau) else []))
        group = opt.param_groups[0]
        runs.append((list(model.parameters()), [group["lr"], *group["betas"]]))
    assert runs[0][1] == pytest.approx(runs[1][1])
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_grad_scaler_skips_steps_that_overflow():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad in (False, True, False):
        opt.zero_grad()
        scaler.scale(model(torch.ones(2, 4)).sum()).backward()
        if bad:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(opt)
        scaler.update()
    assert opt.steps == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_averaged_model():
    model = small()
    opt = ds.AdamW(model, lr=0.01)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        work(model, opt, 1)
        averaged.update_parameters(model)
    assert not torch.equal(averaged.module[0].weight, model[0].weight)


def test_complex_parameters_are_pairs_of_reals():
    z = nn.Parameter(torch.tensor([1 + 2j, -3 + 0.5j]))
    w = nn.Parameter(torch.view_as_real(z.detach()).clone())
    a, b = ds.Adam([z], lr=0.1), torch.optim.Adam([w], lr=0.1)
    for _ in range(3):
        for p, o in ((z, a), (w, b)):
            o.zero_grad()
            p.abs().square().sum().backward()
            o.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), w.detach())


def test_sparse_gradients_are_refused_before_anything_moves():
    layer, other = nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1)
    opt = ds.SGD([*other.parameters(), *layer.parameters()], lr=0.1)
    other(layer(torch.tensor([1]))).sum().backward()
    before = other.weight.detach().clone()
    with pytest.raises(ds.ArgumentError, match="sparse gradient of an unnamed parameter of shape .5, 2.; build"):
        opt.step()
    assert torch.equal(before, other.weight)


def test_half_precision_is_computed_in_float32():
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    opt = ds.AdamW([p], lr=1e-2)
    for _ in range(3):
        p.grad = torch.full_like(p, 1e-3)
        opt.step()
    assert opt.state[p]["exp_avg_sq"].dtype == torch.float32
    assert p.dtype == torch.bfloat16


def test_no_gradient_anywhere_is_a_step_without_movement():
    model = small()
    opt = ds.AdamW(model)
    opt.step()
    assert opt.steps == 1
    assert not opt.state[model[0].weight]


def test_copies_keep_their_own_parameters():
    model = small()
    opt = ds.AdamW(model, lr=0.1)
    work(model, opt)
    twin_model, twin = copy.deepcopy((model, opt))
    before = model[0].weight.detach().clone()
    work(twin_model, twin)
    assert torch.equal(before, model[0].weight)
    assert not torch.equal(before, twin_model[0].weight)


@pytest.mark.parametrize(
    ("build", "error", "sentence"),
    [
        (lambda m: ds.Adam(m, betas=(0.9, 1.0)), ds.ArgumentError, r"Adam: betas\[1\] must be in \[0, 1\); got 1.0"),
        (lambda m: ds.Adam(m, lr=-1), ds.ArgumentError, "Adam: lr must be a finite number >= 0; got -1"),
        (lambda m: ds.Adam(m, eps=float("nan")), ds.ArgumentError, "Adam: eps must be .* got nan"),
        (lambda m: ds.Adam(m, amsgrad="yes"), ds.ArgumentError, "Adam: amsgrad must be True or False; got 'yes'"),
        (
            lambda m: ds.Adam(m, weigth_decay=1),
            ds.UnknownArgument,
            "no argument 'weigth_decay'; did you mean 'weight_decay'",
        ),
        (lambda m: ds.Adam(m, fused=True), ds.UnknownArgument, "'fused': execution= picks"),
        (
            lambda m: ds.Adam(m, execution="gpu"),
            ds.ArgumentError,
            "execution must be one of 'auto', 'native', 'compiled', 'reference'; got 'gpu'",
        ),
        (lambda m: ds.Adam([]), ds.ArgumentError, "Adam: got an empty parameter list"),
        (lambda m: ds.Adam(m[0].weight), ds.ArgumentError, "Adam: params must be a model"),
        (lambda m: ds.Adam(set(m.parameters())), ds.ArgumentError, "in a fixed order"),
        (lambda m: ds.Adam([{"params": []}]), ds.ArgumentError, "group without parameters"),
        (lambda m: ds.Adam([{"lr": 1.0}]), ds.ArgumentError, "has no 'params'"),
        (lambda m: ds.Adam([{"params": m[0].weight}, {"params": m[0].weight}]), ds.ArgumentError, "more than once"),
        (
            lambda m: ds.Adam([{"params": m.parameters(), "beta": 1}]),
            ds.ArgumentError,
            "no 'beta'; did you mean 'betas'",
        ),
        (lambda m: ds.Adam([{"params": m.parameters(), "lr": -2}]), ds.ArgumentError, "lr must be .* got -2"),
        (
            lambda m: ds.Adam([{"params": m.parameters(), "role": "king"}]),
            ds.ArgumentError,
            "role must be one of hidden",
        ),
        (
            lambda m: ds.Adam([{"params": m.parameters(), "maximize": True}]),
            ds.ArgumentError,
            "maximize must be given to the",
        ),
        (lambda m: ds.Optimizer(m, ds.ScaleByAdam), ds.ArgumentError, "a transform"),
        (lambda m: ds.Optimizer(m, ds.chain(ds.ScaleByAdam)), ds.ArgumentError, "got the class ScaleByAdam itself"),
        (
            lambda m: ds.Optimizer(m, ds.chain(ds.Descend(), ds.ScaleByAdam())),
            ds.ArgumentError,
            "directions, then one step",
        ),
        (lambda m: ds.Optimizer(m, ds.every(2, ds.Descend())), ds.ArgumentError, "every: takes directions only"),
        (lambda m: ds.SGD(m, nesterov=True), ds.ArgumentError, "SGD: nesterov must be used with momentum > 0"),
        (lambda m: ds.make("adamm", m), ds.UnknownMethod, "no method 'adamm'; did you mean 'adam'"),
        (lambda m: ds.make("grokfast", m), ds.UnknownMethod, "'grokfast' is a part"),
    ],
)
def test_bad_input_is_one_sentence(build, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        build(small())
    assert "\n" not in str(caught.value)


def test_unknown_names_of_the_package_offer_the_nearest():
    with pytest.raises(AttributeError, match="did you mean 'AdamW'"):
        ds.AdamWW  # noqa: B018


def test_warns_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small()
        work(model, ds.AdamW(model))
