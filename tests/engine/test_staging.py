"""Reading and writing tiles of stored tensors: every format, any layout, and the bits of torch."""

import ctypes
import itertools

import pytest
import torch

from downslope._engine import build, kernels

COMPUTING = {torch.float32: "float", torch.float64: "double"}
STORED = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
PAIRS = [pair for pair in itertools.product(COMPUTING, STORED) if pair != (torch.float32, torch.float64)]
KEY = 0x9ABCDEF1

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def lib():
    lines = [kernels.runtime()]
    for compute, stored in PAIRS:
        c, s = COMPUTING[compute], STORED[stored]
        lines.append(f"""
extern "C" void load_{c}_{s}(const void* base, const ds::i64* layout, ds::i64 start, ds::i64 n, {c}* out)
    {{ ds::load<{c}, ds::{s}>(base, layout, start, n, out); }}
extern "C" void store_{c}_{s}(void* base, const ds::i64* layout, ds::i64 start, ds::i64 n, const {c}* in)
    {{ ds::store<{c}, ds::{s}>(base, layout, start, n, in); }}
""")
    lines += [
        f"""
extern "C" void stochastic_{c}(void* base, const ds::i64* layout, ds::i64 start, ds::i64 n, const {c}* in, ds::u32 key,
                               ds::u64 index)
    {{ ds::store_stochastic<{c}>(base, layout, start, n, in, key, index); }}
"""
        for c in COMPUTING.values()
    ]
    return build.load("".join(lines))


def layout_of(tensor):
    return (ctypes.c_int64 * (1 + 2 * tensor.ndim))(tensor.ndim, *tensor.shape, *tensor.stride())


def call(function, tensor, layout, start, n, tile, *more):
    pointer = ctypes.c_void_p
    arguments = [pointer(tensor.data_ptr()), layout, ctypes.c_int64(start), ctypes.c_int64(n), pointer(tile.data_ptr())]
    function(*arguments, *more)


def through_tiles(tensor, size):
    return [(start, min(size, tensor.numel() - start)) for start in range(0, tensor.numel(), size)]


def loaded(lib, tensor, compute, layout, tile=7):
    out = torch.full((tensor.numel(),), 77.0, dtype=compute)
    function = getattr(lib, f"load_{COMPUTING[compute]}_{STORED[tensor.dtype]}")
    for start, n in through_tiles(tensor, tile):
        call(function, tensor, layout, start, n, out[start:])
    return out


def every_half(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


def hard_floats():
    """Every sign, exponent and pattern near a rounding boundary of 16-bit formats."""
    top = torch.arange(2**16, dtype=torch.int64)
    low = torch.tensor([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    raw = (top[:, None] << 16 | low).flatten()
    return torch.where(raw >= 2**31, raw - 2**32, raw).to(torch.int32).view(torch.float32)


VIEWS = {
    "matrix": lambda b: b[:60].view(5, 12),
    "transposed": lambda b: b[:60].view(5, 12).T,
    "permuted": lambda b: b[:60].view(3, 4, 5).permute(2, 0, 1),
    "part": lambda b: b[:100].view(10, 10)[2:8, 3:9],
    "every other": lambda b: b[:64:2],
    "one column": lambda b: b[:40].view(10, 4)[:, 1:2],
    "channels last": lambda b: b[:48].view(2, 2, 3, 4).to(memory_format=torch.channels_last),
    "scalar": lambda b: b[5],
    "one": lambda b: b[5:6].view(1, 1),
}
EXPANDED = {"expanded": lambda b: b[:6].view(6, 1).expand(6, 11), "constant": lambda b: b[3].expand(4, 4)}


@pytest.mark.parametrize(("compute", "stored"), PAIRS)
def test_load_any_layout(lib, compute, stored):
    base = torch.randn(128, generator=torch.Generator().manual_seed(0)).to(stored)
    for view in (VIEWS | EXPANDED).values():
        tensor = view(base)
        assert torch.equal(loaded(lib, tensor, compute, layout_of(tensor)), tensor.flatten().to(compute))
    assert torch.equal(loaded(lib, base, compute, None), base.to(compute))


@pytest.mark.parametrize(("compute", "stored"), PAIRS)
def test_store_any_layout_and_nothing_else(lib, compute, stored):
    values = torch.randn(128, dtype=compute, generator=torch.Generator().manual_seed(0))
    function = getattr(lib, f"store_{COMPUTING[compute]}_{STORED[stored]}")
    for view in (*VIEWS.values(), lambda b: b):
        tensor = view(torch.full((128,), 0.25, dtype=stored))
        everything = torch.empty(0, dtype=stored).set_(tensor.untyped_storage())
        wanted = everything.clone()
        expected = torch.as_strided(wanted, tensor.shape, tensor.stride(), tensor.storage_offset())
        expected.copy_(values[: tensor.numel()].view(tensor.shape))
        for start, n in through_tiles(tensor, 7):
            call(function, tensor, None if tensor.numel() == 128 else layout_of(tensor), start, n, values[start:])
        assert torch.equal(everything, wanted)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compute", COMPUTING)
def test_every_16_bit_number_is_read(lib, compute, stored):
    tensor = every_half(stored)
    torch.testing.assert_close(
        loaded(lib, tensor, compute, None, 2048), tensor.to(compute), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compute", COMPUTING)
def test_writing_rounds_as_torch_does(lib, compute, stored):
    values = hard_floats().to(compute)
    out = torch.empty(values.numel(), dtype=stored)
    call(getattr(lib, f"store_{COMPUTING[compute]}_{STORED[stored]}"), out, None, 0, values.numel(), values)
    wanted = values.to(stored)
    number = ~wanted.isnan()
    assert torch.equal(out.isnan(), ~number)
    assert torch.equal(out.view(torch.int16)[number], wanted.view(torch.int16)[number])


def noise(key, index):
    """The hash of the storage format, in 64-bit integers."""
    word = 0xFFFFFFFF
    h = ((index & word) * 0x9E3779B1 & word) ^ key ^ ((index >> 32) * 0x85EBCA77 & word)
    h = (h ^ h >> 16) * 0x7FEB352D & word
    h = (h ^ h >> 15) * 0x846CA68B & word
    return (h ^ h >> 16) & 0xFFFF


def rounded_stochastically(values, key, index):
    raw = values.float().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    random = torch.tensor([noise(key, index + i) for i in range(values.numel())])
    raw = torch.where(values.float().isfinite(), raw + random, raw) >> 16
    return torch.where(raw >= 2**15, raw - 2**16, raw).to(torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize("index", [0, 12345, 2**32 - 1000, 2**40 + 17])
@pytest.mark.parametrize("compute", COMPUTING)
def test_stochastic_rounding_is_the_stated_hash(lib, compute, index):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-45, 3.4e38, 1.0])
    values = torch.cat([torch.randn(2000, generator=torch.Generator().manual_seed(1)), special]).to(compute)
    wanted = rounded_stochastically(values, KEY, index)
    function = getattr(lib, f"stochastic_{COMPUTING[compute]}")
    out = torch.empty(values.numel(), dtype=torch.bfloat16)
    strided = torch.empty(values.numel(), 3, dtype=torch.bfloat16)[:, 1]
    for target, layout in (out, None), (strided, layout_of(strided)):
        for start, n in through_tiles(values, 511):
            more = ctypes.c_uint32(KEY), ctypes.c_uint64(index + start)
            call(function, target, layout, start, n, values[start:], *more)
        number = ~values.isnan()
        assert torch.equal(target[number], wanted[number])
        assert target[~number].isnan().all()


def test_stochastic_rounding_is_right_on_average(lib):
    value, n = 1.0 + 2.0**-9, 1 << 16  # a quarter of the way from 1 to the next bfloat16
    out = torch.empty(n, dtype=torch.bfloat16)
    call(lib.stochastic_float, out, None, 0, n, torch.full((n,), value), ctypes.c_uint32(KEY), ctypes.c_uint64(0))
    up = (out.float() > 1).float().mean().item()
    assert abs(up - 0.25) < 5 * (0.25 * 0.75 / n) ** 0.5


def test_a_nan_with_its_payload_in_the_low_bits_stays_nan(lib):
    nan = torch.tensor([0x7F800001, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    out = torch.zeros(2, dtype=torch.bfloat16)
    call(lib.stochastic_float, out, None, 0, 2, nan, ctypes.c_uint32(KEY), ctypes.c_uint64(0))
    assert out.isnan().all()
    for stored in torch.bfloat16, torch.float16:
        out = torch.zeros(2, dtype=stored)
        call(getattr(lib, f"store_float_{STORED[stored]}"), out, None, 0, 2, nan)
        assert out.isnan().all()
