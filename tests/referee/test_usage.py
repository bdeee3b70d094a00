from __future__ import annotations

import ast

import pytest
import torch

from downslope._registry import cards
from downslope.referee.usage import code

READY = sorted({c.key for c in cards().values() if c.ready})


@pytest.mark.parametrize("key", READY)
def test_the_code_to_paste_trains(key: str):
    text = code(key, {"lr": 0.01} if key in ("adamw", "sgd") else {})
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(text, key, "exec"), names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    assert all(p.grad is None or torch.isfinite(p).all() for p in model.parameters())
    assert list(names["optimizer"].param_groups)  # type: ignore[attr-defined]


def test_it_builds_what_was_tuned():
    text = code("adamw", {"lr": 0.00271, "betas": (0.9, 0.95)})
    assert "optimizer = ds.AdamW(model, lr=0.00271, betas=(0.9, 0.95))" in text
    assert "loss.backward()" in text
    names: dict[str, object] = {}
    exec(text, names)
    assert names["optimizer"].param_groups[0]["lr"] == 0.00271  # type: ignore[attr-defined]


def test_what_a_method_needs_is_in_it():
    assert "optimizer.backward(loss)" in code("sophia", {})
    assert "optimizer.step(closure)" in code("mars", {"exact": True})
    unknown = code("method-of-mine", {"lr": 0.1})
    assert "ds.make('method-of-mine', model, lr=0.1)" in unknown
    assert "optimizer.step(closure)" in unknown


def test_a_strangers_names_and_values_do_not_become_code():
    text = code("adamw", {"lr=1); print(1)#": 0.1, "class": "'); print(2)#"})
    line = next(line for line in text.splitlines() if line.startswith("optimizer"))
    call = ast.parse(line).body[0].value  # type: ignore[attr-defined]
    assert [k.arg for k in call.keywords] == [None, None]
    assert len(ast.parse(text).body) == len(ast.parse(code("adamw", {})).body)
