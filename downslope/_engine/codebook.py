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
    lines = _lines(thresholds)
    header = _header(low, shift, -first, zero_code, has_sign, int(lines is not None))
    drawn = torch.zeros(5, 32, dtype=torch.int16) if lines is None else lines
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


def _lines(thresholds: Tensor) -> Tensor | None:
    """Breaks, slopes and offsets below and above them, of 32 octaves; None if two lines an octave do not suffice.

    Slopes and offsets are in 1/256 of a code. That the lines say the right code or the one before is checked for every
    key, by the smallest and the largest float that has it.
    """
    least, most = _steps(thresholds)
    positive = thresholds[thresholds > 0].double()
    rows = []
    for octave in range(32):
        keys = slice(octave << 10, (octave + 1) << 10)
        places = (positive * 2.0 ** (31 - octave) - 1) * 1024  # of the thresholds, in keys of this octave
        before = int((places < 0).sum()) if octave else 0
        row = _two_lines(places[before:][places[before:] < 1024].tolist(), before, least[:, keys], most[:, keys])
        if row is None:
            return None
        rows.append([octave << 10 | row[0], *row[1:]])
    return torch.tensor(rows).T.to(torch.int16)


def _steps(thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most steps away from the code of 0 that a key may say, for positive and for negative ratios.

    Going down there is one step less than thresholds, because the line says the code or the one above.
    """
    words = torch.arange((31 << 10) + 1, dtype=torch.int32) + (96 << 10) << 13
    first, last = words.view(torch.float32), (words | 0x1FFF).view(torch.float32).clamp(max=1.0)
    first[0] = 0.0
    up, down = thresholds[thresholds > 0], -thresholds[thresholds < 0].flip(0)
    least = [torch.searchsorted(up, last) - 1, torch.searchsorted(down, last, right=True) - 1]
    most = [torch.searchsorted(up, first), torch.searchsorted(down, first, right=True)]
    most[1][most[1] == len(down)] = 255  # more steps down than there are codes end at the last one
    return torch.stack(least), torch.stack(most)


def _two_lines(places: list[float], before: int, least: Tensor, most: Tensor) -> tuple[int, ...] | None:
    """The break and the two lines of an octave, from the places of its thresholds; None if there are none that fit."""
    keys = torch.arange(least.shape[1])
    for end in [1023, *(int((a + b) / 2) for a, b in zip(places, places[1:]))]:
        below = sum(place <= end for place in places)
        lines = _line(places[:below], before), _line(places[below:], before + below)
        slope, offset = (torch.where(keys > end, lines[1][i], lines[0][i]) for i in (0, 1))
        steps = (offset + (keys * slope >> 10) & 0xFFFF) >> 8
        if ((steps >= least) & (steps <= most)).all():
            return end, lines[0][0], lines[1][0], lines[0][1], lines[1][1]
    return None


def _line(places: list[float], before: int) -> tuple[int, int]:
    """Slope per octave and offset, in 1/256, of the line that rises by 1 from each of these thresholds to the next."""
    if not places:
        return 0, 256 * before + 128
    slope = (len(places) - 1) / (places[-1] - places[0]) if len(places) > 1 else 0.0
    return round(256 * 1024 * slope), round(256 * (before + 0.5 - slope * (places[0] - 0.5)))
