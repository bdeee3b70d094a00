"""The codecs of low-bit state against their definition, worked by other means."""

import itertools

import numpy as np
import pytest
import torch

from downslope._engine.codecs import Codec, random_bits, stochastic_rounding

CODECS = [Codec(bits, signed) for bits in (8, 4) for signed in (True, False)]
NAMES = [f"{c.bits} bits {'signed' if c.signed else 'unsigned'}" for c in CODECS]
every_codec = pytest.mark.parametrize("codec", CODECS, ids=NAMES)


def half_gaps(codec):
    """The largest distance from a number in the range of a map to its nearest value, -1 included where signed."""
    values = codec.map.double()
    ends = [float(values[0]) - (-1.0 if codec.signed else 0.0), 1.0 - float(values[-1])]
    return max(float((values[1:] - values[:-1]).max()) / 2, *ends)


# The facts of the paper's figures and of bitsandbytes' create_dynamic_map() at commit 95f9af30, and of the linear map.
@pytest.mark.parametrize(
    ("bits", "signed", "smallest", "first", "last_two", "total"),
    [
        (8, True, 5.5e-7, -0.99296875, (0.99296875, 1.0), 1.0),
        (8, False, 3.25e-7, 0.0, (0.996484375, 1.0), 0.55 * sum(2 ** (7 - e) * 10.0**-e for e in range(7)) + 1),
        (4, True, 0.0055, -0.8875, (0.8875, 1.0), 1.0),
        (4, False, 0.0625, 0.0625, (0.9375, 1.0), 8.5),
    ],
)
def test_facts_of_the_maps(bits, signed, smallest, first, last_two, total):
    values = Codec(bits, signed).map.double()
    assert len(values) == 2**bits
    assert (values[1:] > values[:-1]).all()
    assert values[0] == pytest.approx(first, rel=1e-6)
    assert tuple(values[-2:].tolist()) == pytest.approx(last_two, rel=1e-6)
    assert float(values[values > 0].min()) == pytest.approx(smallest, rel=1e-6)
    assert float(values.sum()) == pytest.approx(total, rel=1e-6)
    assert (0.0 in values.tolist()) == ((bits, signed) != (4, False))
    if signed:
        assert torch.equal(values[:-1], -values[:-1].flip(0))


def test_the_signed_map_of_4_bits_is_the_known_one():
    known = [0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875]
    expected = [*(-v for v in reversed(known)), 0.0, *known, 1.0]
    assert Codec(4, True).map.tolist() == pytest.approx(expected, rel=1e-6)


@every_codec
def test_the_code_is_the_nearest_and_the_lower_of_two(codec):
    """Brute force over all values, on ratios at, between and next to the values; float64 holds the gaps exactly."""
    values = codec.map.double()
    middles = ((values[1:] + values[:-1]) / 2).float()
    rng = torch.Generator().manual_seed(0)
    random = torch.rand(4000, generator=rng) * (2.0 if codec.signed else 1.0) - (1.0 if codec.signed else 0.0)
    small = random.sign() * random.abs() ** 4
    near = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (-2.0, 2.0)]
    ratios = torch.cat([random, small[small.abs() > 1e-7], codec.map, middles, *near])
    pieces = ratios.split(codec.block - 1)
    for piece in pieces:
        x = torch.cat([torch.ones(1), piece])  # so that the scale is 1
        codes, scale = codec.encode(x)
        assert scale.tolist() == [1.0]
        if codec.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=1).flatten()[: len(x)]
        expected = np.abs(x.double().numpy()[:, None] - values.numpy()).argmin(axis=1)  # the first of equals
        assert codes.tolist() == expected.tolist()


@every_codec
def test_the_ratio_is_a_division(codec):
    """Not a product with 1 / scale, which puts some numbers on the other side of a threshold."""
    differ = False
    for scale in np.float32([3.0, 0.7, 49.0, 1e-3]):
        x = np.concatenate([np.nextafter(codec.thresholds.numpy() * scale, scale), codec.thresholds.numpy() * scale])
        for piece in np.split(x, range(codec.block - 1, len(x), codec.block - 1)):
            ratio = (piece / scale).astype(np.float64)[:, None]
            expected = np.abs(ratio - codec.map.double().numpy()).argmin(axis=1)
            codes, _ = codec.encode(torch.from_numpy(np.concatenate([[scale], piece])).float())
            codes = codes if codec.bits == 8 else torch.stack((codes & 15, codes >> 4), dim=1).flatten()
            assert codes[1 : len(piece) + 1].tolist() == expected.tolist()
            product = (piece * (1 / scale)).astype(np.float64)[:, None]
            differ |= (np.abs(product - codec.map.double().numpy()).argmin(axis=1) != expected).any()
    assert differ or codec.bits == 4  # the numbers can tell the two apart


def test_ties_occur_and_go_down():
    """The middle of 0.1875 and 0.25 of the linear map is a float32."""
    codes, _ = Codec(4, False).encode(torch.tensor([1.0, 0.21875]))
    assert codes.tolist() == [15 | (2 << 4)]


@every_codec
@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 129), (2, 2048), (4097,), ()])
def test_decoding_is_within_half_a_gap(codec, shape):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=rng, dtype=torch.float64) * torch.rand(shape, generator=rng).exp()
    x = x if codec.signed else x.abs()
    codes, scale = codec.encode(x)
    n = x.numel()
    assert codes.dtype == torch.uint8
    assert tuple(codes.shape) == codec.code_shape(shape) == (shape if codec.bits == 8 else ((n + 1) // 2,))
    assert scale.dtype == torch.float32
    assert tuple(scale.shape) == codec.scale_shape(shape) == ((n + codec.block - 1) // codec.block,)
    back = codec.decode(codes, scale, shape)
    assert back.shape == shape
    largest = [x.flatten()[i : i + codec.block].abs().max() for i in range(0, n, codec.block)]
    assert scale.tolist() == pytest.approx([float(m) for m in largest], rel=1e-6)
    for i, bound in zip(range(0, n, codec.block), largest, strict=True):
        gap = (back.flatten()[i : i + codec.block] - x.flatten()[i : i + codec.block]).abs().max()
        assert gap <= (half_gaps(codec) + 1e-6) * bound


@every_codec
def test_the_largest_value_of_a_block_is_exact_where_it_is_positive(codec):
    x = torch.tensor([0.1, 3.7, 0.2])
    assert codec.decode(*codec.encode(x), (3,))[1] == x[1]


def test_halves_of_a_byte():
    """Element 2i in the low half, 2i + 1 in the high half, the last high half empty."""
    codes, scale = Codec(4, False).encode(torch.tensor([1 / 16, 16 / 16, 3 / 16]))
    assert codes.tolist() == [0 | (15 << 4), 2]
    assert scale.tolist() == [1.0]


@every_codec
def test_layout_does_not_matter(codec):
    x = torch.rand(40, 60, generator=torch.Generator().manual_seed(2))
    for strided in (x.t().contiguous().t(), torch.stack([x, x], dim=-1)[..., 0]):
        assert not strided.is_contiguous()
        for a, b in zip(codec.encode(strided), codec.encode(x), strict=True):
            assert torch.equal(a, b)


@every_codec
def test_zeros_are_exact(codec):
    x = torch.zeros(codec.block + 3)
    x[-1] = 2.0
    codes, scale = codec.encode(x)
    assert scale.tolist() == [0.0, 2.0]
    flat = codes if codec.bits == 8 else torch.cat([codes & 15, codes >> 4])
    assert codec.zero == int(flat[0])
    assert codec.decode(codes, scale, tuple(x.shape))[: codec.block].abs().sum() == 0


@every_codec
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nothing_hides_an_overflow(codec, bad):
    x = torch.ones(3 * codec.block)
    x[codec.block + 5] = bad
    codes, scale = codec.encode(x)
    back = codec.decode(codes, scale, tuple(x.shape)).view(3, -1)
    assert not scale[1].isfinite()
    assert not back[1].isfinite().any()
    assert (back[[0, 2]] == 1).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_negative_value_without_a_sign_is_not_silent(bits):
    codec = Codec(bits, False)
    x = torch.ones(2 * codec.block)
    x[3] = -1e-3
    back = codec.decode(*codec.encode(x), tuple(x.shape))
    assert back[: codec.block].isnan().all()
    assert (back[codec.block :] == 1).all()


def test_minus_zero_is_not_negative():
    codec = Codec(8, False)
    assert codec.decode(*codec.encode(torch.tensor([-0.0, 1.0])), (2,)).tolist() == [0.0, 1.0]


@every_codec
def test_an_empty_tensor(codec):
    codes, scale = codec.encode(torch.zeros(0, 4))
    assert scale.numel() == 0
    assert codec.decode(codes, scale, (0, 4)).shape == (0, 4)


# ------------------------------------------------------------------------------------- stochastic rounding


def hash_in_python(key, index):
    low = 2**32 - 1
    h = ((index & low) * 0x9E3779B1 & low) ^ key ^ ((index >> 32) * 0x85EBCA77 & low)
    h ^= h >> 16
    h = h * 0x7FEB352D & low
    h ^= h >> 15
    h = h * 0x846CA68B & low
    return h ^ h >> 16


@pytest.mark.parametrize("start", [0, 5, 2**32 - 3, 3 * 2**32 + 7])
@pytest.mark.parametrize("key", [0, 1, 0xDEADBEEF, 2**32 - 1])
def test_the_hash(key, start):
    assert random_bits(key, 6, start).tolist() == [hash_in_python(key, start + i) for i in range(6)]


def test_the_hash_stays_what_it_was():
    assert random_bits(12345, 3).tolist() == [2435775735, 478296883, 127120873]


def test_rounding_adds_the_draw_and_cuts():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    x[:4] = torch.tensor([-0.0, 1e-40, -3e38, 0.1])
    bits = [int(b) & (2**32 - 1) for b in x.view(torch.int32)]
    expected = [((b + (hash_in_python(77, i) & 0xFFFF)) & 0xFFFF0000) >> 16 for i, b in enumerate(bits)]
    got = stochastic_rounding(x, 77).view(torch.int16)
    assert [int(b) & 0xFFFF for b in got] == expected


def test_the_mean_of_the_rounding_is_the_number():
    """Over n keys the mean of the rounded values is off by sigma = gap sqrt(q (1 - q) / n) and less than 5 of them."""
    x = torch.tensor([1.0 + 2**-7 * q for q in (0.1, 0.25, 0.5, 0.9)] + [-3.0 - 2**-6 * 0.3])
    n = 4000
    rounded = torch.stack([stochastic_rounding(x, key * 2654435761 % 2**32) for key in range(n)]).double()
    gap = torch.tensor([2**-7] * 4 + [2**-6], dtype=torch.float64)
    q = torch.tensor([0.1, 0.25, 0.5, 0.9, 0.3], dtype=torch.float64)
    sigma = gap * (q * (1 - q) / n).sqrt()
    assert ((rounded.mean(0) - x.double()).abs() < 5 * sigma).all()
    assert ((rounded - x.double()).abs() < gap).all()


def test_the_mean_over_elements_too():
    n = 100_000
    x = torch.full((n,), 1.0 + 2**-7 * 0.3)
    rounded = stochastic_rounding(x, 9).double()
    share = float((rounded > 1.0).double().mean())
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5


def test_what_bfloat16_holds_stays():
    x = torch.randn(500, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16).float()
    x[:3] = torch.tensor([torch.inf, -torch.inf, 0.0])
    assert torch.equal(stochastic_rounding(x, 3).float(), x)
    nan = torch.tensor([0x7F800001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert stochastic_rounding(nan, 3).view(torch.int16).tolist() == [0x7FC0] * 3


def test_pieces_and_layout_round_alike():
    x = torch.randn(30, 41, generator=torch.Generator().manual_seed(4))
    whole = stochastic_rounding(x, 11)
    parts, start = [], 0
    for part in x.split([7, 0, 13, 10]):
        parts.append(stochastic_rounding(part, 11, start))
        start += part.numel()
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(stochastic_rounding(x.t().contiguous().t(), 11), whole)
    assert not torch.equal(stochastic_rounding(x, 12), whole)


def test_keys_are_independent():
    """The shares of elements that two keys both round up, and that one alone does, are those of independent draws."""
    n, q = 50_000, 0.5
    x = torch.full((n,), 1.0 + 2**-7 * q)
    up = [stochastic_rounding(x, key).float() > 1 for key in (1, 2, 3, 1000)]
    for a, b in itertools.combinations(up, 2):
        both = float((a & b).double().mean())
        assert abs(both - q * q) < 5 * (q * q * (1 - q * q) / n) ** 0.5


def test_rounding_does_not_stall_where_the_nearest_does():
    """v <- 0.999 v + 0.001 g with constant g = 2: to the nearest, v = 1 never leaves; at random it follows the mean.

    The noise of v at the end: every step adds at most a variance of (gap / 2)^2, and 0.999 forgets it in 500 steps.
    """
    n, steps = 256, 500
    at_random = torch.ones(n, dtype=torch.bfloat16)
    to_nearest = torch.ones(n, dtype=torch.bfloat16)
    exact = 1.0
    for t in range(steps):
        at_random = stochastic_rounding(0.999 * at_random.float() + 0.001 * 2.0, key=7919 * t + 1)
        to_nearest = (0.999 * to_nearest.float() + 0.001 * 2.0).to(torch.bfloat16)
        exact = 0.999 * exact + 0.001 * 2.0
    assert (to_nearest == 1).all()
    sigma = (2**-7 / 2) * (1 / (1 - 0.999**2)) ** 0.5 / n**0.5
    assert abs(float(at_random.double().mean()) - exact) < 5 * sigma
    assert exact > 1.35
