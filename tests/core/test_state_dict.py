"""Saving and loading: by name, with every dtype, or a refusal that changes nothing."""

import copy

import pytest
import torch
from torch import nn

import downslope as ds


def trained(steps=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    opt = ds.AdamW(model, lr=0.01)
    for _ in range(steps):
        opt.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        opt.step()
    return model, opt


def test_has_torch_s_form():
    _, opt = trained()
    saved = opt.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert saved["param_groups"][0]["rule"] == "ScaleByAdam > DecoupledWeightDecay > Descend"


def test_names_decide_not_the_order():
    model, opt = trained()
    fresh = ds.AdamW(list(model.named_parameters())[::-1])
    fresh.load_state_dict(opt.state_dict())
    for p in model.parameters():
        assert torch.equal(fresh.state[p]["exp_avg"], opt.state[p]["exp_avg"])
    assert fresh.param_groups[0]["lr"] == 0.01
    assert fresh.steps == 3


def test_order_decides_without_names():
    model, _ = trained(0)
    opts = [ds.SGD(model.parameters(), lr=0.1, momentum=0.9) for _ in range(2)]
    model(torch.ones(1, 3)).sum().backward()
    opts[0].step()
    opts[1].load_state_dict(opts[0].state_dict())
    for p in model.parameters():
        assert torch.equal(opts[1].state[p]["momentum_buffer"], opts[0].state[p]["momentum_buffer"])


def test_dtypes_are_kept():
    model, opt = trained()
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].to(torch.float64)
    fresh = ds.AdamW(model)
    fresh.load_state_dict(saved)
    assert fresh.state[model[0].weight]["exp_avg"].dtype == torch.float64
    assert fresh.state[model[0].weight]["exp_avg_sq"].dtype == torch.float32


def test_loaded_state_is_a_copy():
    model, opt = trained()
    fresh = ds.AdamW(model)
    fresh.load_state_dict(opt.state_dict())
    fresh.state[model[0].weight]["exp_avg"].zero_()
    assert opt.state[model[0].weight]["exp_avg"].abs().sum() > 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda s: s.pop("state"), "must have 'state' and 'param_groups'"),
        (lambda s: s["param_groups"].append(s["param_groups"][0]), "has 2 param groups, this optimizer has 1"),
        (lambda s: s["param_groups"][0].update(rule="Trace > Descend"), "saved by the rule 'Trace > Descend'"),
        (lambda s: s["param_groups"][0].pop("betas"), "lacks betas"),
        (lambda s: s["param_groups"][0]["param_names"].__setitem__(0, "x.weight"), "no param group with exactly these"),
        (
            lambda s: s["state"][0].update(exp_avg=torch.zeros(4, 4)),
            r"exp_avg of 0.weight has shape \(4, 4\), expected",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(damage, sentence):
    model, opt = trained()
    saved = copy.deepcopy(opt.state_dict())
    damage(saved)
    fresh = ds.AdamW(model, lr=0.5)
    with pytest.raises(ds.ArgumentError, match=sentence):
        fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["lr"] == 0.5
    assert fresh.steps == 0


def test_load_hooks_run():
    model, opt = trained()
    fresh, seen = ds.AdamW(model), []
    fresh.register_load_state_dict_pre_hook(lambda o, s: seen.append("before"))
    fresh.register_load_state_dict_post_hook(lambda o: seen.append("after"))
    fresh.load_state_dict(opt.state_dict())
    assert seen == ["before", "after"]


def test_a_group_with_parameters_put_in_by_hand_is_matched_by_order():
    """It has fewer names than parameters, as torch keeps them apart."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

    def grown():
        opt = ds.AdamW(model[0], lr=0.1)
        opt.param_groups[0]["params"].extend(model[1].parameters())
        return opt

    opt, again = grown(), grown()
    model(torch.ones(1, 2)).sum().backward()
    opt.step()
    again.load_state_dict(opt.state_dict())
    assert all(torch.equal(opt.state[p]["exp_avg"], again.state[p]["exp_avg"]) for p in model.parameters())
    with pytest.raises(ds.ArgumentError, match="param group 0 has 2 parameters, the saved one has 4"):
        ds.AdamW(model[0]).load_state_dict(opt.state_dict())
