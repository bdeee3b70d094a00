"""Low-bit state in kernels: the codes of a brute-force search, for every map, block and layout of a tensor's end."""

import ctypes
import math

import pytest
import torch

from downslope._engine import build, kernels
from downslope._engine.codebook import codebook

TYPES = {torch.float32: "float", torch.float64: "double"}

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


def dynamic_map(bits, signed):
    """The dynamic data type of arXiv:2110.02861: decades, each cut into twice the parts of the next lower one."""
    values = [0.0, 1.0]
    for decade in range(bits - 1):
        parts = 2 ** (bits - 1 - signed - decade)
        means = [10.0**-decade * (0.1 + 0.9 * (i + 0.5) / parts) for i in range(parts)]
        values += means + ([-mean for mean in means] if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32)


def irregular_map():
    """Values without any rule, 0 and 1 among them."""
    gaps = torch.rand(255, generator=torch.Generator().manual_seed(0)) + 0.05
    values = torch.cat([torch.zeros(1), gaps.cumsum(0)])
    values = (values - values[100]) / (values[-1] - values[100])
    return values


MAPS = {
    "dynamic 8": dynamic_map(8, True),
    "dynamic 8 unsigned": dynamic_map(8, False),
    "linear 8": (torch.arange(256) - 127) / 128,
    "irregular 8": irregular_map(),
    "dynamic 4": dynamic_map(4, True),
    "dynamic 4 unsigned": dynamic_map(4, False),
    "linear 4": torch.arange(1, 17) / 16,
}


def thresholds_of(values):
    """The middles between two values, rounded down to a float32."""
    middle = (values[1:].double() + values[:-1].double()) / 2
    below = torch.nextafter(middle.float(), torch.tensor(-math.inf))
    return torch.where(middle.float().double() > middle, below, middle.float())


class LowBit(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("book", ctypes.c_void_p),
        ("block", ctypes.c_int64),
    ]


class Stored:
    """A tensor stored by a map, with the kernel's functions and the same in plain torch."""

    def __init__(self, lib, values, n, block):
        self.lib, self.values, self.n, self.block = lib, values, n, block
        self.bits = 8 if len(values) == 256 else 4
        self.codes = torch.full((n if self.bits == 8 else (n + 1) // 2,), 205, dtype=torch.uint8)
        self.scales = torch.full((-(-n // block),), 777.0)
        self.book = codebook(values, thresholds_of(values))

    def run(self, what, tile, tensor):
        pointers = (self.codes.data_ptr(), self.scales.data_ptr(), self.book.data_ptr())
        base = LowBit(*pointers, self.block)
        function = getattr(self.lib, f"{what}_{TYPES[tensor.dtype]}_{self.bits}")
        for start in range(0, self.n, tile):
            size = ctypes.c_int64(min(tile, self.n - start))
            function(ctypes.byref(base), ctypes.c_int64(start), size, ctypes.c_void_p(tensor[start:].data_ptr()))

    def encode(self, x, tile):
        self.run("encode", tile, x)
        codes = self.codes
        return codes if self.bits == 8 else torch.stack((codes & 15, codes >> 4), dim=1).flatten()[: self.n]

    def decode(self, dtype, tile):
        out = torch.empty(self.n, dtype=dtype)
        self.run("decode", tile, out)
        return out

    def searched(self, x):
        """Codes and scales by comparing every ratio with every threshold."""
        codes, scales = [], []
        for piece in x.float().split(self.block):
            scale = piece.abs().max() if self.values[0] < 0 or not (piece < 0).any() else torch.tensor(math.nan)
            ratio = piece / scale if scale > 0 and scale.isfinite() else torch.zeros_like(piece)
            codes.append((ratio[:, None] > thresholds_of(self.values)).sum(dim=1).to(torch.uint8))
            scales.append(scale)
        return torch.cat(codes), torch.stack(scales)


@pytest.fixture(scope="module", params=["native", "portable"])
def lib(request):
    """The functions for this machine, and for one that has no permutations of bytes."""
    source = kernels.runtime()
    if request.param == "portable":
        source = source.replace("defined(__AVX512VBMI__)", "false")
        assert source != kernels.runtime()
    for c in TYPES.values():
        for bits in 8, 4:
            source += f"""
extern "C" void encode_{c}_{bits}(void* base, ds::i64 start, ds::i64 n, const {c}* in)
    {{ ds::store<{c}, ds::q{bits}>(base, nullptr, start, n, in); }}
extern "C" void decode_{c}_{bits}(const void* base, ds::i64 start, ds::i64 n, {c}* out)
    {{ ds::load<{c}, ds::q{bits}>(base, nullptr, start, n, out); }}
"""
    return build.load(source)


def assert_encodes(stored, x, tile=2048):
    codes, scales = stored.searched(x)
    got = stored.encode(x, tile)
    wrong = (got != codes).nonzero().flatten().tolist()
    assert not wrong, [(x[i].item(), got[i].item(), codes[i].item()) for i in wrong[:5]]
    torch.testing.assert_close(stored.scales, scales, rtol=0, atol=0, equal_nan=True)
    wanted = stored.values[codes.long()] * scales.repeat_interleave(stored.block)[: len(x)]
    torch.testing.assert_close(stored.decode(x.dtype, tile), wanted.to(x.dtype), rtol=0, atol=0, equal_nan=True)


def numbers(values, n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, dtype=dtype, generator=generator) * torch.randn(n, dtype=dtype, generator=generator).exp()
    return x if values[0] < 0 else x * x


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize(("block", "n"), [(2048, 5000), (2048, 4096), (128, 2049), (64, 1), (2, 37), (130, 1001)])
def test_codes_are_those_of_a_search(lib, name, dtype, block, n):
    values = MAPS[name]
    assert_encodes(Stored(lib, values, n, block), numbers(values, n, dtype), tile=2048 // block * block)


@pytest.mark.parametrize("name", MAPS)
def test_codes_at_and_around_every_threshold_and_value(lib, name):
    values = MAPS[name]
    exact = torch.cat([values, thresholds_of(values), torch.tensor([0.0, -0.0, 1.0, 1e-45, 1e-38, 1e-9])])
    if values[0] < 0:
        exact = torch.cat([exact, -exact])
    near = [torch.nextafter(exact, torch.tensor(end)) for end in (2.0, -2.0)]
    x = torch.cat([exact, *near])
    x = x[(x.abs() <= 1) & ((values[0] < 0) | (x >= 0))]
    for scale in 1.0, 2.0**-60, 2.0**100, 0.7, 3e-5:
        together = torch.cat([torch.tensor([1.0]), x]) * scale
        assert_encodes(Stored(lib, values, len(together), 4096), together, tile=4096)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_overflow_spoils_its_block_and_no_other(lib, name, bad):
    values = MAPS[name]
    x = numbers(values, 1000)
    x[301] = bad
    stored = Stored(lib, values, 1000, 128)
    assert_encodes(stored, x, tile=256)
    back = stored.decode(torch.float32, 256)
    assert not back[256:384].isfinite().any()
    assert back[:256].isfinite().all()
    assert back[384:].isfinite().all()


@pytest.mark.parametrize("name", ["dynamic 8 unsigned", "linear 4"])
def test_a_negative_number_spoils_a_block_without_sign(lib, name):
    values = MAPS[name]
    x = numbers(values, 512)
    x[7], x[200] = -1e-30, -0.0
    stored = Stored(lib, values, 512, 128)
    assert_encodes(stored, x)
    assert stored.scales.isnan().tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("n", [128, 127])
def test_zeros_and_the_smallest_numbers(lib, name, n):
    values = MAPS[name]
    assert_encodes(Stored(lib, values, n, 128), torch.zeros(n))
    assert_encodes(Stored(lib, values, n, 128), torch.full((n,), 1e-45))


def test_the_half_byte_after_an_odd_number_of_codes_is_zero(lib):
    for x in torch.ones(5), torch.zeros(5), torch.full((5,), math.nan):
        stored = Stored(lib, MAPS["dynamic 4"], 5, 128)
        stored.encode(x, 128)
        assert int(stored.codes[-1]) >> 4 == 0


def test_straight_lines_fit_the_regular_maps_only():
    lines = {
        name: int(codebook(values, thresholds_of(values))[5]) for name, values in MAPS.items() if len(values) == 256
    }
    assert lines == {"dynamic 8": 1, "dynamic 8 unsigned": 1, "linear 8": 1, "irregular 8": 0}


def test_a_map_that_no_table_holds_is_refused():
    values = dynamic_map(8, True)
    thresholds = thresholds_of(values)
    thresholds[127] = 0.0
    with pytest.raises(ValueError, match="must not be 0"):
        codebook(values, thresholds)
    thresholds = thresholds_of(values)
    thresholds[200] = torch.nextafter(thresholds[199], torch.tensor(1.0))
    with pytest.raises(ValueError, match="differ by more"):
        codebook(values, thresholds)
