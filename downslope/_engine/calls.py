"""Calls of a compiled function: on one tensor in its own layout, or on many small ones in one buffer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from downslope._engine.traced import WIDTH, Source, Traced

__all__ = ["alone", "strides", "together"]

Tensors = dict[Source, Tensor]

_P = Source("p")
_LEAST = 2 * WIDTH
"""Length of the shortest buffer: longer than the vector of numbers, so that no compiler takes the two for one size."""


def strides(p: Tensor) -> tuple[int, ...]:
    """The layout in which a function sees a parameter and its state: its own, or row-major where that has gaps."""
    if p.is_contiguous():
        return p.stride()
    order = sorted(range(p.ndim), key=lambda i: (p.stride()[i], p.shape[i]), reverse=True)
    if p.permute(order).is_contiguous():
        return p.stride()
    return torch.empty(p.shape, device="meta").stride()


def alone(traced: Traced, backend: str, vector: Tensor, stored: Tensors, flat: bool) -> Tensors:
    """Run a function on one parameter; what it writes is written, what it returns is returned."""
    p = stored[_P]
    layout = strides(p)
    laid = {source: _laid(stored[source], p.shape, layout) for source in traced.sources}
    inputs = [_line(laid[source]) if flat else laid[source] for source in traced.sources]
    outputs = traced(backend, vector, inputs)
    for source in traced.written:
        if laid[source] is not stored[source]:
            stored[source].copy_(laid[source])
    whole = (x.as_strided(p.shape, layout) if flat and x.ndim else x for x in outputs)
    return dict(zip(traced.returned, whole, strict=True))


def together(traced: Traced, backend: str, vector: Tensor, stored: Sequence[Tensors]) -> list[Tensors]:
    """Run an elementwise function on many parameters at once, by way of one buffer for each of its inputs."""
    sizes = [each[_P].numel() for each in stored]
    rest = max(0, _LEAST - sum(sizes))
    buffers = {source: _joined([each[source] for each in stored], sizes, rest) for source in traced.sources}
    outputs = traced(backend, vector, list(buffers.values()))
    for source in traced.written:
        targets = [each[source] for each in stored]
        torch._foreach_copy_(targets, _parts(buffers[source], targets, sizes))
    shapes = [each[_P] for each in stored]
    parts = [_parts(x, shapes, sizes) for x in outputs]
    return [dict(zip(traced.returned, each, strict=True)) for each in zip(*parts, strict=True)] or [{} for _ in stored]


def _laid(x: Tensor, shape: torch.Size, layout: tuple[int, ...]) -> Tensor:
    """A tensor of the parameter's shape in its layout, any other one in rows; a copy where it is not so already."""
    if x.shape != shape:
        return x.contiguous()
    if x.stride() == layout:
        return x
    return torch.empty_strided(shape, layout, dtype=x.dtype, device=x.device).copy_(x)


def _line(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,)) if x.ndim else x


def _joined(tensors: Sequence[Tensor], sizes: Sequence[int], rest: int) -> Tensor:
    """All elements in one row, those of scalars repeated, and `rest` zeros behind them."""
    if any(x.numel() != n for x, n in zip(tensors, sizes, strict=True)):
        tensors = [x.expand(n) for x, n in zip(tensors, sizes, strict=True)]
    row: Tensor = _flatten_dense_tensors(tensors)
    return torch.cat((row, row.new_zeros(rest))) if rest else row


def _parts(row: Tensor, like: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """The pieces of a buffer in the shapes of the tensors that it was joined from."""
    if any(x.numel() != n for x, n in zip(like, sizes, strict=True)):
        return [piece[0] for piece in row[: sum(sizes)].split(list(sizes))]
    return list(_unflatten_dense_tensors(row, like))
