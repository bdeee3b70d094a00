"""AdamP against the paper's formulas, AdamW, its claim about weight norms and the authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch

import downslope as ds
from downslope.optim._projection import remove_radial
from downslope.testing import assert_agrees, load_fixtures, problems, trajectory

FIXTURES = load_fixtures(Path(__file__).parents[1] / "fixtures" / "adamp.json")


def tangential(u, w, eps):
    """u without its part along w."""
    w = w / (np.linalg.norm(w) + eps)
    return u - (w * u).sum() * w


def orthogonal(w, rng):
    """A random array that is orthogonal to w."""
    return tangential(rng.standard_normal(w.shape), w, 0.0)


def gradients(w, kind):
    """Three gradients for a weight: orthogonal to every row, to the whole only, or to nothing."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        if kind == "rows":
            yield np.stack([orthogonal(row, rng) for row in w])
        elif kind == "whole":
            yield np.stack([w[0], -w[1] * (w[0] @ w[0]) / (w[1] @ w[1])]) + 0.1 * np.stack(
                [orthogonal(r, rng) for r in w]
            )
        else:
            yield w + 0.1 * rng.standard_normal(w.shape)


# (a)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("kind", ["rows", "whole", "neither"])
def test_three_steps_by_hand(kind, nesterov):
    """The weight starts anew before each step, so that its gradients can be made orthogonal to it."""
    start = np.array([[1.0, -2.0, 0.5], [0.3, 0.2, 1.0]])
    lr, b1, b2, eps, wd, wd_ratio = 0.1, 0.8, 0.9, 1e-3, 0.5, 0.25
    p = torch.nn.Parameter(torch.tensor(start))
    opt = ds.AdamP([p], lr, betas=(b1, b2), eps=eps, weight_decay=wd, wd_ratio=wd_ratio, nesterov=nesterov)
    m, v = np.zeros_like(start), np.zeros_like(start)
    for t, g in enumerate(gradients(start, kind), start=1):
        with torch.no_grad():
            p.copy_(torch.tensor(start))
        p.grad = torch.tensor(g)
        opt.step()
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = (b1 * m + (1 - b1) * g if nesterov else m) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        ratio = 1.0 if kind == "neither" else wd_ratio
        if kind == "rows":
            u = np.stack([tangential(u[i], start[i], eps) for i in range(2)])
        elif kind == "whole":
            u = tangential(u, start, eps)
        x = start * (1 - lr * wd * ratio) - lr * u
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-13)


def test_the_threshold_is_delta_over_the_root_of_the_size():
    w, across = torch.tensor([[3.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    for cos, projected in [(0.049, True), (-0.049, True), (0.051, False), (-0.051, False)]:
        g = cos * w / 3 + (1 - cos**2) ** 0.5 * across
        assert bool(remove_radial(w, g, w, 0.1, 1e-8)[1]) == projected


# (b)
def test_without_a_threshold_it_is_adamw():
    settings = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    ours = trajectory(problems.convnet(), lambda m: ds.AdamP(m, 0.01, delta=0.0, **settings), 30, (30,))
    other = trajectory(problems.convnet(), lambda m: torch.optim.AdamW(m.parameters(), 0.01, **settings), 30, (30,))
    np.testing.assert_allclose(ours["losses"], other["losses"], rtol=1e-11)


def test_on_vectors_it_is_adam():
    ours = trajectory(problems.quadratic(), lambda m: ds.AdamP(m, 0.05), 30)
    other = trajectory(problems.quadratic(), lambda m: torch.optim.Adam(m.parameters(), 0.05), 30)
    np.testing.assert_allclose(ours["losses"], other["losses"], rtol=1e-11)


# (c)
def norms_and_steps(make, steps=300):
    """Norms of a weight on a noisy scale-invariant loss, and the radial part of its steps."""
    rng = np.random.default_rng(0)
    target = torch.tensor(rng.standard_normal((1, 20)))
    p = torch.nn.Parameter(torch.tensor(rng.standard_normal((1, 20))))
    with torch.no_grad():
        p /= p.norm()
    opt = make([p])
    norms, radial = [], []
    for _ in range(steps):
        opt.zero_grad()
        noise = torch.tensor(rng.standard_normal((1, 20)))
        (-(p / p.norm()) * (target + noise)).sum().backward()
        before = p.detach().clone()
        opt.step()
        radial.append(float(((p.detach() - before) * before).sum().abs() / before.norm()))
        norms.append(float(p.detach().norm()))
    return np.array(norms), np.array(radial)


def test_scale_invariant_weights_grow_less_and_steps_are_tangential():
    plain, _ = norms_and_steps(lambda p: ds.AdamW(p, 0.02, weight_decay=0.0))
    projected, radial = norms_and_steps(lambda p: ds.AdamP(p, 0.02))
    assert radial.max() < 1e-8
    assert projected[-1] - 1 < 0.5 * (plain[-1] - 1)


def test_trains_the_convnet():
    problem = problems.convnet()
    start = problem.solved(problem.build(torch.float64))
    assert trajectory(problem, lambda m: ds.AdamP(m, 0.02, weight_decay=0.01), 60)["losses"][-1] < 0.3 * start


# (d)
@pytest.mark.parametrize("name", FIXTURES)
def test_agrees_with_the_authors_code(name):
    case = FIXTURES[name]
    assert_agrees(case["trajectory"], lambda m: ds.AdamP(m, **case["settings"]), rtol=1e-10)


@pytest.mark.parametrize("execution", ["auto", "reference"])
@pytest.mark.parametrize("make", [ds.AdamP, ds.SGDP])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 2)])
def test_matrices_without_numbers_are_taken(make, shape, execution):
    p = torch.nn.Parameter(torch.ones(shape))
    opt = make([p], lr=0.1, execution=execution)
    p.grad = torch.ones(shape)
    opt.step()
    assert opt.steps == 1
    assert p.shape == shape
