"""Codecs of low-bit state, in plain torch: block-wise 8- and 4-bit quantisation, and bfloat16 by stochastic rounding.

A tensor of n elements, read row by row, is cut into blocks of consecutive elements (8 bits: 2048, 4 bits: 128). A block
keeps the largest magnitude in it as a float32 scale, and for every element x the code of the value in a fixed map that
is nearest to x / scale:

    encode: scale = max |x|;  code = nearest(x / scale), the lower code where two are as near
    decode: x = map[code] · scale

8 bits: codes are uint8 in the shape of the tensor. 4 bits: uint8 of shape [ceil(n / 2)], element 2i in the low half of
byte i and element 2i + 1 in the high half. Scales: float32 of shape [ceil(n / block)]. All executors store this form.

Maps are the dynamic data type of Dettmers et al. (arXiv:2110.02861): behind the sign, e zero bits mean a factor of
10^-e, a one bit ends them, and the f bits left are the centres of 2^f equal parts of [0.1, 1]; 0 and 1 complete the
map. Without a sign there is one more bit for f. As there, no code stands for -1: a block whose largest magnitude is
negative gets it back as 0.993 (4 bits: 0.8875) times itself. At 4 bits, values that are never negative take the linear
map i / 16, i = 1 … 16, of Li et al. (arXiv:2309.01507): it has no zero, as a second moment that is rounded to zero
leaves only eps to divide by.

The 8-bit block is the paper's (bitsandbytes has since gone down to 256), the 4-bit one Li et al.'s. Differs from Li et
al.: second moments are scaled by blocks, as in their fused optimizer, not by rows and columns of a whole matrix.
Differs from bitsandbytes: maps are computed in float64 and may differ from its own in the last place of a float32.

Nothing hides an overflow: a block that holds NaN or infinity keeps a scale that is not finite, and all its values come
back not finite. So does a block with a negative value in a map without sign.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Codec", "dynamic_map", "linear_map", "random_bits", "stochastic_rounding"]

BLOCKS = {8: 2048, 4: 128}
"""Elements of a block by the number of bits."""


def dynamic_map(bits: int, signed: bool) -> tuple[float, ...]:
    """The 2^bits values of the dynamic data type in rising order, from -1 or 0 to 1."""
    exponents = bits - 1 if signed else bits  # bits behind the sign
    longest = bits - 1  # at most so many bits say the exponent, the one that ends it among them
    values = []
    for zeros in range(longest):
        parts = 2 ** (exponents - 1 - zeros)
        values += [10.0**-zeros * (0.1 + 0.9 * (i + 0.5) / parts) for i in range(parts)]
    negative = [-v for v in values] if signed else []
    return tuple(sorted([*negative, 0.0, *values, 1.0]))


def linear_map(bits: int) -> tuple[float, ...]:
    """i / 2^bits for i = 1 … 2^bits: no sign and no zero."""
    return tuple(i / 2**bits for i in range(1, 2**bits + 1))


@dataclass(frozen=True)
class Codec:
    """Encodes and decodes tensors at 8 or 4 bits.

    Args:
        bits: 8 or 4.
        signed: False for values that are never negative.
    """

    bits: int
    signed: bool

    @property
    def block(self) -> int:
        """Elements of a block."""
        return BLOCKS[self.bits]

    @functools.cached_property
    def map(self) -> Tensor:
        """The value of every code, rising, as float32."""
        values = linear_map(4) if (self.bits, self.signed) == (4, False) else dynamic_map(self.bits, self.signed)
        return torch.tensor(values, dtype=torch.float32)

    @functools.cached_property
    def thresholds(self) -> Tensor:
        """The largest float32 that has each code but the last: the middle between two values, rounded down."""
        middle = (self.map[1:].double() + self.map[:-1].double()) / 2
        nearest = middle.float()
        below = torch.nextafter(nearest, torch.full_like(nearest, -torch.inf))
        return torch.where(nearest.double() > middle, below, nearest)

    @property
    def zero(self) -> int:
        """The code of the value nearest to 0."""
        return int(self.map.abs().argmin())

    def code_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the codes of a tensor."""
        return shape if self.bits == 8 else ((_count(shape) + 1) // 2,)

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scales of a tensor."""
        return (-(-_count(shape) // self.block),)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of a tensor of any floating dtype and layout."""
        rows = _blocks(x.detach().reshape(-1).float(), self.block)
        scale = rows.abs().amax(dim=1)
        if not self.signed:
            scale = torch.where((rows < 0).any(dim=1), torch.nan, scale)
        usable = (scale > 0) & scale.isfinite()
        ratio = torch.where(usable[:, None], rows / scale[:, None], 0.0)
        codes = torch.bucketize(ratio, self.thresholds.to(x.device), out_int32=True).to(torch.uint8)
        codes = codes.flatten()[: x.numel()]
        return (codes.reshape(x.shape) if self.bits == 8 else _pack(codes)), scale

    def decode(self, codes: Tensor, scale: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a shape that codes and scales stand for, as float32."""
        n = _count(shape)
        each = codes.reshape(-1) if self.bits == 8 else _unpack(codes)[:n]
        values = self.map.to(codes.device).index_select(0, each.int())
        return (_blocks(values, self.block) * scale[:, None]).flatten()[:n].reshape(shape)


def random_bits(key: int, count: int, start: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """The hash of (key, index) for index = start … start + count - 1: int64 with values in [0, 2^32)."""
    index = torch.arange(start, start + count, dtype=torch.int64, device=device)
    h = _times(index & _LOW, 0x9E3779B1) ^ key ^ _times(index >> 32, 0x85EBCA77)
    h = _times(h ^ (h >> 16), 0x7FEB352D)
    h = _times(h ^ (h >> 15), 0x846CA68B)
    return h ^ (h >> 16)


def stochastic_rounding(x: Tensor, key: int, start: int = 0) -> Tensor:
    """`x` as bfloat16, rounded up or down at random so that the mean is `x`.

    The draw depends on the key (32 bits) and on an element's place, row by row, in the whole tensor, in which `x`
    begins at `start`: rounded in pieces, a tensor comes out the same. NaN and infinity stay what they are; a value
    beyond the largest bfloat16 may become infinite, as under any rounding up.
    """
    x = x.detach().float().contiguous()
    bits = x.view(torch.int32).to(torch.int64) & _LOW
    draw = random_bits(key, x.numel(), start, x.device).reshape(x.shape) & 0xFFFF
    high = torch.where(x.isfinite(), bits + draw, bits) >> 16
    rounded = torch.where(high >= 0x8000, high - 0x10000, high).to(torch.int16).view(torch.bfloat16)
    return rounded.masked_fill(x.isnan(), torch.nan)


_LOW = 0xFFFFFFFF


def _times(a: Tensor, b: int) -> Tensor:
    """The low 32 bits of a product."""
    return (a * b) & _LOW


def _count(shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)


def _blocks(flat: Tensor, block: int) -> Tensor:
    """One row a block; the last one is filled with zeros."""
    return F.pad(flat, (0, -flat.numel() % block)).view(-1, block)


def _pack(codes: Tensor) -> Tensor:
    pairs = F.pad(codes, (0, codes.numel() % 2)).view(-1, 2)
    return pairs[:, 0] | (pairs[:, 1] << 4)


def _unpack(packed: Tensor) -> Tensor:
    return torch.stack((packed & 15, packed >> 4), dim=1).flatten()
