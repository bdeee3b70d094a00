"""Swapping: what a rule keeps for each parameter, an average say, stands in the parameter's place for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from downslope._checks import ArgumentError
from downslope._engine.sharded import sharded_like
from downslope._engine.storage import held

if TYPE_CHECKING:
    from downslope._core.optimizer import Optimizer

__all__ = ["swapped"]


@contextmanager
def swapped(opt: Optimizer, slot: str) -> Iterator[None]:
    """As `Optimizer.swapped`; the parameters come back also after an error."""
    members = [(p, opt.places(p, group)) for group in opt.param_groups for p in group["params"]]
    values = [(p, held(found, opt.state.get(p, {}), slot, p.dtype)) for p, found in members]
    kept = {p: value for p, value in values if value is not None}
    if not kept:
        raise ArgumentError(f"{type(opt).__name__}: keeps no {slot!r} for any parameter.")
    before = {p: p.detach().clone() for p in kept}
    try:
        with torch.no_grad():
            for p, value in kept.items():
                p.copy_(sharded_like(value, p))
        yield
    finally:
        with torch.no_grad():
            for p, value in before.items():
                p.copy_(value)
