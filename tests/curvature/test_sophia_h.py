"""Sophia-H against the paper's formulas, its limits, its properties and a co-author's trajectories."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import downslope as ds
from downslope.testing import assert_agrees, load_fixtures
from downslope.testing.problems import PROBLEMS

FIXTURES = load_fixtures(Path(__file__).parents[1] / "fixtures" / "sophia-h.json")


def vector(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


# ---------------------------------------------------------------------------- (a) the paper's formulas


@pytest.mark.parametrize("bias_correction", [False, True])
def test_three_steps_by_hand(bias_correction):
    lr, b1, b2, rho, eps, wd = 0.1, 0.9, 0.8, 2.0, 1e-12, 0.1
    diagonal, w = np.array([2.0, 0.5, -1.0]), np.array([1.0, -2.0, 0.3])  # for a diagonal Hessian z ⊙ (H z) is exact
    p = vector(*w)
    opt = ds.SophiaH(
        [p], lr, betas=(b1, b2), rho=rho, eps=eps, weight_decay=wd, update_every=2, bias_correction=bias_correction
    )
    m, h = np.zeros(3), np.zeros(3)
    for t in (1, 2, 3):
        assert opt.needs_graph == (t % 2 == 1)
        opt.zero_grad()
        opt.backward(0.5 * (torch.tensor(diagonal) * p * p).sum())
        opt.step()
        m = b1 * m + (1 - b1) * diagonal * w
        h = b2 * h + (1 - b2) * diagonal if t % 2 == 1 else h
        m_hat = m / (1 - b1**t) if bias_correction else m
        w = w - lr * wd * w - lr * np.clip(m_hat / np.maximum(rho * h, eps), -1, 1)
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12)


def test_the_draw_is_z_times_hessian_times_z():
    a, b, c = 3.0, 1.0, 0.7
    hessian = torch.tensor([[a, c], [c, b]], dtype=torch.float64)
    seen = set()
    for seed in range(20):
        p = vector(1.0, 2.0)
        opt = ds.SophiaH([p], betas=(0.9, 0.0), seed=seed)
        opt.backward(0.5 * p @ hessian @ p)
        opt.step()
        seen.add(tuple(round(x, 9) for x in opt.state[p]["hessian"].tolist()))
    assert seen == {(3.7, 1.7), (2.3, 0.3)}  # signs alike and signs unlike


# ---------------------------------------------------------------------------- (b) limits


def test_with_the_same_curvature_it_is_sophia_g():
    problem = PROBLEMS["mlp"]()
    models = problem.build(torch.float64), problem.build(torch.float64)
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "rho": 0.5, "eps": 1e-12, "weight_decay": 0.1}
    opts = ds.SophiaH(models[0], **settings), ds.SophiaG(models[1], **settings, variant="paper")
    rng = np.random.default_rng(6)
    for t in range(20):
        curvature = [torch.from_numpy(rng.standard_normal(tuple(p.shape))) for p in models[0].parameters()]
        for model, opt in zip(models, opts, strict=True):
            opt.zero_grad()
            problem.loss(model, t).backward()
            opt.observe_curvature(curvature)
            opt.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------------- (c) properties


def steps_to_converge(condition: float, make) -> int:
    scales = torch.logspace(0, np.log10(condition), 6, dtype=torch.float64)
    p = vector(*[1.0] * 6)
    opt = make(p)
    for t in range(1, 401):
        opt.zero_grad()
        loss = 0.5 * (scales * p * p).sum()
        opt.backward(loss)
        opt.step()
        if p.detach().abs().max() < 1e-3:
            return t
    return 10**9


def test_convergence_does_not_depend_on_the_condition_number():
    def sophia(p):
        return ds.SophiaH([p], lr=0.1, betas=(0.5, 0.5), rho=0.5, weight_decay=0.0)

    assert steps_to_converge(10, sophia) <= 100
    assert steps_to_converge(1e6, sophia) == pytest.approx(steps_to_converge(10, sophia), abs=2)


def test_no_coordinate_moves_more_than_lr():
    problem = PROBLEMS["convnet"]()
    model = problem.build(torch.float64)
    opt = ds.SophiaH(model, lr=0.01, weight_decay=0.0, rho=1.0, update_every=3)
    for t in range(10):
        before = [p.detach().clone() for p in model.parameters()]
        opt.zero_grad()
        opt.backward(problem.loss(model, t))
        opt.step()
        for p, old in zip(model.parameters(), before, strict=True):
            assert (p - old).abs().max() <= 0.01 + 1e-12


def test_it_trains():
    problem = PROBLEMS["convnet"]()
    model = problem.build(torch.float64)
    opt, first = ds.SophiaH(model, 0.01, rho=1.0), problem.solved(model)
    for t in range(80):
        opt.zero_grad()
        opt.backward(problem.loss(model, t))
        opt.step()
    assert problem.solved(model) < 0.4 * first


def test_refusals():
    p = vector(1.0)
    with pytest.raises(ds.ArgumentError, match="update_every"):
        ds.SophiaH([p], update_every=0)
    opt = ds.SophiaH([p])
    (p * p).sum().backward()
    with pytest.raises(ds.ArgumentError, match="graph"):
        opt.step()


# ---------------------------------------------------------------------------- (d) a co-author's trajectories


@pytest.mark.parametrize("name", list(FIXTURES))
def test_agrees_with_levanter(name):
    """Its probes are normal numbers and it refreshes after the step, so the loop brings the estimates."""
    case = FIXTURES[name]
    s, k, draws = case["settings"], case["k"], np.random.default_rng(case["probe_seed"])
    scale = ds.ScaleBySophia(tuple(s["betas"]), s["rho"], s["eps"], "paper", bias_correction=True)
    rule = ds.chain(scale, ds.DecoupledWeightDecay(s["weight_decay"]))
    count = itertools.count(1)

    def step(model, opt, loss):
        params = list(model.parameters())
        value = loss()
        grads = torch.autograd.grad(value, params, create_graph=True)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.detach()
        estimate = None
        if next(count) % k == 0:
            z = [torch.from_numpy(draws.standard_normal(tuple(p.shape))) for p in params]
            estimate = [a * b for a, b in zip(z, torch.autograd.grad(grads, params, grad_outputs=z), strict=True)]
        opt.step()
        if estimate is not None:
            opt.observe_curvature(estimate)
        return value.detach()

    assert_agrees(case["trajectory"], lambda m: ds.Optimizer(m, rule, lr=s["lr"]), rtol=1e-9, step=step)


def test_a_layer_without_a_second_derivative_is_named_with_the_way_out():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 8), torch.randn(1, 1, 4, 8)

    def step() -> None:
        model.zero_grad()
        opt = ds.SophiaH(model, lr=1e-3)
        h = model(x)
        opt.backward(F.scaled_dot_product_attention(h, h, h).square().mean())
        opt.step()

    told = pytest.raises(ds.ArgumentError, match=r"SophiaH: needs a second derivative of every layer \(.*attention")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), told:
        step()
    with sdpa_kernel(SDPBackend.MATH):
        step()
