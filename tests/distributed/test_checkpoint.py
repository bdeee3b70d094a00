"""Torch's checkpoint functions in one process: what they make of a fresh optimizer, and what they cannot load."""

import warnings

import pytest
import torch
from torch import nn

import downslope as ds

dcp = pytest.importorskip("torch.distributed.checkpoint")
functions = pytest.importorskip("torch.distributed.checkpoint.state_dict")


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def work(model, opt, steps):
    for t in steps:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(t))
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step(loss=loss)


def pair(make, steps=0):
    model = small()
    opt = make(model)
    work(model, opt, range(steps))
    return model, opt


def states(model, opt):
    return {"model": model.state_dict(), "optimizer": functions.get_optimizer_state_dict(model, opt)}


def saved(folder, make, steps):
    """A checkpoint after some steps, and the pair that was saved."""
    model, opt = pair(make, steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save in a single process")
        dcp.save(states(model, opt), checkpoint_id=folder)
    return model, opt


def loaded(folder, make):
    model, opt = pair(make)
    found = states(model, opt)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*load in a single process")
        dcp.load(found, checkpoint_id=folder)
    model.load_state_dict(found["model"])
    functions.set_optimizer_state_dict(model, opt, found["optimizer"])
    return model, opt


def assert_same(a, b):
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_asking_a_fresh_optimizer_for_its_state_takes_no_step():
    """Torch makes the state by a step on gradients of zero; the first real one is the first all the same."""
    plain, asked = pair(lambda m: ds.DoG(m, lr=1.0)), pair(lambda m: ds.DoG(m, lr=1.0))
    found = functions.get_optimizer_state_dict(*asked)
    assert set(found["state"]["0.weight"]) == {"x0", "step"}
    assert asked[1].steps == 0
    for model, opt in (plain, asked):
        work(model, opt, range(3))
    assert_same(plain[0], asked[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda m: ds.AdamW(m, lr=ds.LinearDecay(1e-2, total=10, warmup=3)),
        lambda m: ds.PSPS(m, preconditioner="adam"),
        lambda m: ds.Optimizer(m, ds.chain(ds.AutoClip(), ds.ScaleByAdam()), lr=0.01),
        lambda m: ds.Optimizer(m, ds.chain(ds.every(3, ds.GrokfastEMA()), ds.ScaleByAdam()), lr=0.01),
        lambda m: ds.make("galore", m, rank=2),
    ],
    ids=["schedule", "loss", "growing history", "every", "subspace"],
)
def test_checkpoints_go_on(tmp_path, make):
    model, opt = saved(tmp_path, make, 4)
    again, fresh = loaded(tmp_path, make)
    assert fresh.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
    for each in ((model, opt), (again, fresh)):
        work(*each, range(4, 7))
    assert_same(model, again)


def test_state_that_a_fresh_optimizer_lacks_is_not_lost_without_a_word(tmp_path):
    def make(model):
        return ds.SWATS(model, lr=0.01, betas=(0.9, 0.9), tolerance=1.0)

    model, opt = saved(tmp_path, make, 4)
    assert opt.shared_values(ds.ProjectionTrigger)["switched"]
    with pytest.raises(ds.ArgumentError, match="save it whole"):
        loaded(tmp_path, make)
    whole = functions.get_optimizer_state_dict(model, opt, options=functions.StateDictOptions(full_state_dict=True))
    again, fresh = pair(make)
    again.load_state_dict(model.state_dict())
    fresh.load_state_dict(whole)
    for each in ((model, opt), (again, fresh)):
        work(*each, range(4, 7))
    assert_same(model, again)


def test_names_decide_where_torch_puts_them_for_numbers():
    """The saved `param_names` are in the saved order, the ids that torch gives in that of this optimizer."""
    model, opt = pair(lambda m: ds.AdamW(m.named_parameters(), lr=0.01), 3)
    found = functions.get_optimizer_state_dict(model, opt)
    again, fresh = pair(lambda m: ds.AdamW(list(m.named_parameters())[::-1], lr=0.01))
    again.load_state_dict(model.state_dict())
    functions.set_optimizer_state_dict(again, fresh, found)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(opt.state[p]["exp_avg"], fresh.state[q]["exp_avg"])
