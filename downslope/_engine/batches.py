"""Batches: what was put off for an item, and which items a compiled function takes together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from torch import Tensor

from downslope._core.plan import Node
from downslope._engine.item import Item
from downslope._engine.traced import WIDTH

__all__ = ["LIMITS", "How", "Limits", "Waiting", "batches", "form", "is_flat"]


class Limits(NamedTuple):
    """Elements below which a tensor is processed together with others, and elements processed together at most."""

    small: int
    together: int


LIMITS = {"cpu": Limits(1 << 14, 1 << 18), "cuda": Limits(1 << 18, 1 << 22)}
"""On the CPU, where a call (some 40 µs) costs as much as copying to a buffer and back. On CUDA, where copying is a
hundred times faster, no more than it takes to have few calls and small buffers; that was reasoned, not measured."""


class Waiting(NamedTuple):
    """A transform that was put off, what it will see as `h.step` and `h.shared`, and whether on flattened tensors."""

    node: Node
    step: int
    shared: SimpleNamespace | None
    flat: bool


class How(NamedTuple):
    """How a function is used: to write the parameter or for an update; on flattened tensors; on many at once."""

    final: bool
    flat: bool
    together: bool = False

    @classmethod
    def of(cls, batch: Sequence[Item], final: bool) -> How:
        """How the function for a batch is used."""
        if not is_flat(batch[0]):
            return cls(final, flat=False)
        return cls(final, flat=True, together=len(batch) > 1 or batch[0].stored_p.numel() < 2 * WIDTH)


def is_flat(item: Item) -> bool:
    """Whether all that was put off for an item may see it flattened."""
    return all(each.flat for each in item.deferred)


def form(item: Item) -> Any:
    """What of the tensors of an item decides which operations a function consists of."""
    p, made, incoming = item.stored_p, item.made, item.incoming
    signals = tuple((k, v.dtype if isinstance(v, Tensor) else type(v)) for k, v in item.signals.items())
    return p.device, p.dtype, item.stored_grad.dtype, made is None or made.dtype, incoming is None, signals, item.sign


def batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items one by one where they are large or not flat, the others in batches of limited size."""
    limits = LIMITS.get(items[0].stored_p.device.type, LIMITS["cuda"])
    batch: list[Item] = []
    size = 0
    for item in items:
        n = item.stored_p.numel()
        if n >= limits.small or not is_flat(item):
            yield [item]
            continue
        if batch and size + n > limits.together:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += n
    if batch:
        yield batch
