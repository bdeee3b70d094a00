"""NovoGrad against the paper's formulas, its limits, its properties and NVIDIA's PyTorch code."""

from pathlib import Path

import numpy as np
import pytest
import torch

import downslope as ds
from downslope.testing import assert_agrees, load_fixtures, problems, trajectory

FIXTURES = load_fixtures(Path(__file__).parents[1] / "fixtures" / "novograd.json")


# (a)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("grad_averaging", [False, True])
def test_three_steps_by_hand(grad_averaging, amsgrad):
    w, gs = np.array([[3.0, -4.0]]), [np.array([g]) for g in ([6.0, -8.0], [0.2, 0.1], [-0.3, 0.4])]
    lr, b1, b2, eps, wd = 0.1, 0.8, 0.5, 1e-3, 0.05
    p = torch.nn.Parameter(torch.tensor(w))
    opt = ds.NovoGrad([p], lr, betas=(b1, b2), eps=eps, weight_decay=wd, grad_averaging=grad_averaging, amsgrad=amsgrad)
    v, top, m = None, 0.0, np.zeros_like(w)
    for g in gs:
        p.grad = torch.tensor(g)
        opt.step()
        v = (g**2).sum() if v is None else b2 * v + (1 - b2) * (g**2).sum()
        top = max(top, v)
        entering = g / (np.sqrt(top if amsgrad else v) + eps) + wd * w
        m = b1 * m + (1 - b1 if grad_averaging else 1.0) * entering
        w = w - lr * m
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-13)


def test_the_first_step_is_the_normalised_gradient():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    opt = ds.NovoGrad([p], 0.1, eps=0.0)
    p.grad = torch.tensor([30.0, -40.0], dtype=torch.float64)
    opt.step()
    np.testing.assert_allclose(p.detach().numpy(), [-0.06, 0.08], rtol=1e-14)
    assert float(opt.state[p]["exp_avg_sq"]) == 2500.0


def test_the_second_moment_starts_at_the_first_gradient_that_is_not_zero():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = ds.NovoGrad([p], 0.1)
    for g in ([0.0, 0.0], [3.0, 4.0]):
        p.grad = torch.tensor(g, dtype=torch.float64)
        opt.step()
    assert float(opt.state[p]["exp_avg_sq"]) == 25.0


# (b)
def test_without_memory_of_the_norm_it_is_sgd_on_normalised_gradients():
    problem = problems.mlp()
    one, two = problem.build(torch.float64), problem.build(torch.float64)
    ours = ds.NovoGrad(one, 0.02, betas=(0.9, 0.0), eps=0.0)
    theirs = torch.optim.SGD(two.parameters(), 0.02, momentum=0.9)
    for t in range(30):
        for model, opt in ((one, ours), (two, theirs)):
            opt.zero_grad()
            problem.loss(model, t).backward()
        for p in two.parameters():
            p.grad /= p.grad.norm()
        ours.step()
        theirs.step()
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-13)


# (c)
def test_keeps_half_of_the_state_of_adam():
    def state_bytes(make):
        model = torch.nn.Linear(100, 100, bias=False)
        opt = make(model)
        model(torch.ones(1, 100)).sum().backward()
        opt.step()
        return opt.state_bytes()

    adam = state_bytes(lambda m: ds.Adam(m, 1e-3))
    assert 0.5 * adam <= state_bytes(lambda m: ds.NovoGrad(m, 1e-3)) < 0.501 * adam


def test_steps_do_not_depend_on_the_scale_of_the_loss():
    problem, ends = problems.mlp(), []
    for scale in (1.0, 1e5):
        model = problem.build(torch.float64)
        opt = ds.NovoGrad(model, 0.01, eps=0.0)
        for t in range(20):
            opt.zero_grad()
            (scale * problem.loss(model, t)).backward()
            opt.step()
        ends.append(model.hidden.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)


def test_trains_the_convnet_and_a_far_too_large_rate_does_bounded_harm():
    """A step is at most lr/((1 - β1) √(1 - β2)) long, so 60 steps cannot explode; SGD's, long as the gradient, do.

    The range of rates that train well is about as wide as that of SGD here (64-fold on all tiny problems), not wider.
    """
    problem = problems.convnet()
    start = problem.solved(problem.build(torch.float64))
    assert trajectory(problem, lambda m: ds.NovoGrad(m, 0.03), 60)["losses"][-1] < 0.1 * start
    problem = problems.mlp()
    assert max(trajectory(problem, lambda m: ds.NovoGrad(m, 2.0), 60)["losses"]) < 1e4
    assert max(trajectory(problem, lambda m: ds.SGD(m, 2.0, momentum=0.95), 60)["losses"]) > 1e20


# (d)
@pytest.mark.parametrize("name", FIXTURES)
def test_agrees_with_nvidias_code(name):
    case = FIXTURES[name]
    assert_agrees(case["trajectory"], lambda m: ds.NovoGrad(m, **case["settings"]), rtol=1e-10)
