"""What a kernel needs to know of a low-bit codec: values and thresholds, laid out as `kernels/lowbit.h` reads them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["codebook"]

_CELL_BITS = range(23, 11, -1)  # a cell's threshold has 24 bits in the table; narrower cells would outgrow the cache


def codebook(values: Tensor, thresholds: Tensor) -> Tensor:
    """The tables of a codec of 8 or 4 bits, as int32.

    Args:
        values: the value of every code, rising, float32, shape [256] or [16].
        thresholds: the largest ratio that has each code but the last, float32, shape [255] or [15].

    Raises:
        ValueError: if a threshold is 0, or two lie so close that no table of reasonable size tells them apart.
    """
    values, thresholds = values.float().contiguous(), thresholds.float().contiguous()
    zero_code = int((thresholds < 0).sum())
    has_sign = int(values[0] < 0)
    if len(values) == 16:
        codes = torch.arange(256)
        pairs = torch.stack((values[codes & 15], values[codes >> 4]), dim=1)
        floats = torch.cat([thresholds, torch.zeros(1), pairs.flatten()])
        return torch.cat([_header(zero_code, has_sign), floats.view(torch.int32)])
    low, shift, first, cells = _cells(thresholds)
    lines = _lines(thresholds.double())
    header = _header(low, shift, -first, zero_code, has_sign, int(lines is not None))
    drawn = torch.zeros(5, 32) if lines is None else torch.tensor(lines, dtype=torch.float32).T.contiguous()
    bounded = torch.cat([thresholds, torch.tensor([torch.inf])])
    parts = [header, values, _planes(values), _planes(bounded), drawn.flatten(), cells]
    return torch.cat([part.view(torch.int32) for part in parts])


def _header(*entries: int) -> Tensor:
    return torch.tensor([*entries, *[0] * (16 - len(entries))], dtype=torch.int32)


def _order(floats: Tensor) -> Tensor:
    """The bits of floats as integers in the order of the floats."""
    raw = floats.view(torch.int32)
    return torch.where(raw < 0, raw ^ 0x7FFFFFFF, raw).long()


def _cells(thresholds: Tensor) -> tuple[int, int, int, Tensor]:
    """The cells of `lowbit.h`: `low`, the bits of a cell, the number of the first cell, and the table."""
    smallest = thresholds.abs().min()
    if smallest < torch.finfo(torch.float32).tiny:
        raise ValueError(f"thresholds must not be 0 or subnormal; got {smallest.item()!r}.")
    low, one = int(_order(smallest)), int(_order(torch.tensor(1.0)))
    folded = _fold(_order(thresholds), low)
    fits = [bits for bits in _CELL_BITS if (folded >> bits).unique().numel() == len(folded)]
    if not fits:
        raise ValueError("thresholds must differ by more than a few units in the last place.")
    shift = fits[0]
    ends = _fold(torch.tensor([~one, one]), low) >> shift
    numbers = torch.arange(int(ends[0]), int(ends[1]) + 1)
    rest = (1 << shift) - 1
    codes = torch.searchsorted(folded, numbers << shift)
    limits = torch.full_like(numbers, rest)
    limits[(folded >> shift) - numbers[0]] = folded & rest
    return low, shift, int(numbers[0]), (limits << 8 | codes).to(torch.int32)


def _fold(order: Tensor, low: int) -> Tensor:
    return order - order.clamp(-low, low)


def _planes(floats: Tensor) -> Tensor:
    """The first bytes of all floats, then the second ones, and so on."""
    return floats.contiguous().view(torch.uint8).view(-1, 4).T.flatten().contiguous()


_Line = tuple[float, float]  # slope and offset


def _lines(thresholds: Tensor) -> list[tuple[float, ...]] | None:
    """Break, slope below and above it, offset below and above it, of each octave; None if two lines do not suffice.

    The octaves of a magnitude are [2^-31, 2^-30) with all below, ..., [0.5, 1), [1, 2).
    """
    positive, negative = thresholds[thresholds > 0], -thresholds[thresholds < 0].flip(0)
    if len(negative) > len(positive) or not torch.allclose(negative, positive[: len(negative)], rtol=1e-6, atol=0):
        return None
    marks, lines = positive.tolist(), []
    for octave in range(-31, 1):
        start, end = 2.0**octave if octave > -31 else 0.0, 2.0 ** (octave + 1)
        inside = [mark for mark in marks if start <= mark < end]
        breaks = [end, *((a + b) / 2 for a, b in zip(inside, inside[1:]))]
        for at in breaks:
            below, above = _line(marks, start, at), _line(marks, at, end)
            if below and above:
                lines.append((at, below[0], above[0], below[1], above[1]))
                break
        else:
            return None
    return lines


def _line(marks: list[float], start: float, end: float, margin: float = 0.05) -> _Line | None:
    """A line whose whole part, from start to end, is the number of marks below or one less; None if there is none."""
    before, inside = sum(mark < start for mark in marks), [mark for mark in marks if start <= mark < end]
    slope = (len(inside) - 1) / (inside[-1] - inside[0]) if len(inside) > 1 else 0.0
    offset = before + 0.5 - (slope * inside[0] if inside else 0.0)
    points = [(start, before - 1, before), (end, before + len(inside) - 1, before + len(inside))]
    points += [(mark, before + i, before + i) for i, mark in enumerate(inside)]
    fits = all(low + margin <= slope * x + offset <= high + 1 - margin for x, low, high in points)
    return (slope, offset) if fits else None
