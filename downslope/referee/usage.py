"""Usage: the code to paste for a method with its tuned values. It runs as it stands, on a model of three layers."""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from downslope._registry import card, make

__all__ = ["code"]

PLAIN = """
for batch in batches:
    optimizer.zero_grad()
    loss = loss_of(batch)
    {backward}
    optimizer.step()
"""

CLOSED = """
for batch in batches:

    def closure():
        optimizer.zero_grad()
        loss = loss_of(batch)
        {backward}
        return loss

    optimizer.step(closure)  # it looks at a batch more than once
"""


def code(method: str, tuned: Mapping[str, Any] | None) -> str:
    """A program that builds the method with these hyperparameters and trains with it, the way the race did."""
    needs = _needs(method, tuned or {})
    arguments = "".join(f", {_argument(name, value)}" for name, value in (tuned or {}).items())
    try:
        build = f"ds.{card(method).exports[0]}(model{arguments})"
    except ValueError:  # a method of another catalogue
        build = f"ds.make({method!r}, model{arguments})"
    loop = CLOSED if needs is None or {"closure", "previous_gradient"} & needs else PLAIN
    backward = "optimizer.backward(loss)  # gives it what it needs besides gradients" if needs else "loss.backward()"
    return (
        "import torch\nimport downslope as ds\n\n"
        "# Yours: the model, its batches and its loss.\n"
        "model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))\n"
        "batches = [(torch.randn(16, 4), torch.randint(3, (16,))) for _ in range(10)]\n\n\n"
        "def loss_of(batch):\n"
        "    inputs, targets = batch\n"
        "    return torch.nn.functional.cross_entropy(model(inputs), targets)\n\n\n"
        f"optimizer = {build}\n{loop.format(backward=backward)}"
    )


def _argument(name: str, value: Any) -> str:
    """A keyword argument; a name that is none, as a stranger's race may have it, stays a text."""
    return f"{name}={value!r}" if name.isidentifier() and not iskeyword(name) else f"**{{{name!r}: {value!r}}}"


def _needs(method: str, hyper: Mapping[str, Any]) -> set[str] | None:
    """What the method asks of the training loop, which may depend on its hyperparameters; None if it cannot be told."""
    from torch import nn

    try:
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        return set(make(method, model, **hyper).needs)
    except (TypeError, ValueError):  # a method of another catalogue, or one that refuses so small a model
        return None
