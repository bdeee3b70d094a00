"""The vectorised maths of the kernels: accuracy over all magnitudes, torch's special values, and vector code."""

import ctypes
import itertools
import math
import platform
import subprocess

import numpy as np
import pytest
import torch

from downslope._engine import build, kernels

TYPES = {torch.float32: "float", torch.float64: "double"}
# The largest error allowed, in units of the last place: float, double. The same table stands in maths.h.
ONE = {
    "exp": (1.1, 1.1),
    "expm1": (1.6, 2.1),
    "log": (0.9, 0.9),
    "log1p": (1.4, 1.4),
    "sigmoid": (1.5, 1.5),
    "tanh": (1.8, 1.9),
    "cos": (1.5, 1.8),
    "sin": (1.5, 1.8),
    "rsqrt": (1.5, 1.5),
    "sqrt": (0.5, 0.5),
    "reciprocal": (0.5, 0.5),
    "square": (0.5, 0.5),
}
EXACT = ("abs", "sign", "floor")
TWO = ("pow", "maximum", "minimum", "copysign")
WITHOUT_FUSED = 0.8
SPECIAL = [0.0, 1.0, 0.5, 2.0, 3.0, 1.5, 7.0, 100.0, 1e-30, math.inf]
PORTABLE = "-march=x86-64" if platform.machine() == "x86_64" else ""

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


def source():
    loops = []
    for c in TYPES.values():
        for name in (*ONE, *EXACT):
            loops.append((f"{name}_{c}", f"const {c}* x, {c}* out", f"ds::{name}(x[i])"))
        for name in TWO:
            loops.append((f"{name}_{c}", f"const {c}* x, const {c}* y, {c}* out", f"ds::{name}(x[i], y[i])"))
        three = f"const {c}* x, const {c}* y, const {c}* z, {c}* out"
        loops.append((f"clamp_{c}", three, "ds::clamp(x[i], y[i], z[i])"))
        loops.append((f"where_{c}", three, "ds::where(ds::isfinite(x[i]), y[i], ds::isnan(x[i]) ? z[i] : x[i])"))
    body = "".join(
        f'extern "C" void {name}({arguments}, long n) {{\n'
        f"#pragma omp simd\nfor (long i = 0; i < n; ++i) out[i] = {value};\n}}\n"
        for name, arguments, value in loops
    )
    return kernels.runtime() + body, len(loops)


@pytest.fixture(scope="module", params=["native", "portable"])
def lib(request):
    """The functions as loops, for this machine and for one without vector extensions or a fused multiply-add."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "portable":
            if not PORTABLE:
                pytest.skip("only x86-64 has machines without a fused multiply-add")
            patch.setattr(build, "_FLAGS", (*build._FLAGS, PORTABLE))
        library = build.load(source()[0])
    library.slack = WITHOUT_FUSED if request.param == "portable" else 0.0
    return library


def call(lib, name, *arguments):
    out = torch.empty_like(arguments[0])
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*arguments, out)]
    getattr(lib, f"{name}_{TYPES[out.dtype]}")(*pointers, ctypes.c_long(out.numel()))
    return out


def every_magnitude(dtype):
    """Numbers of all signs and exponents, subnormal and special ones too, and many of common size."""
    generator = torch.Generator().manual_seed(0)
    words = torch.arange(-(2**31), 2**31, 39119, dtype=torch.int64)
    raw = words.to(torch.int32).view(dtype) if dtype == torch.float32 else (words << 32 | words * 977).view(dtype)
    common = [torch.randn(20000, dtype=dtype, generator=generator) * size for size in (1e-3, 0.3, 1, 10, 100, 1000)]
    return torch.cat([raw, *common, torch.tensor([*SPECIAL, *(-x for x in SPECIAL), math.nan], dtype=dtype)])


def exact(name, x):
    """The function in the next wider precision."""
    x = x.double().numpy() if x.dtype == torch.float32 else x.numpy().astype(np.longdouble)
    small = np.exp(-np.abs(x))
    return {
        "sigmoid": lambda: np.where(x < 0, small, 1) / (1 + small),
        "rsqrt": lambda: 1 / np.sqrt(x),
    }.get(name, lambda: getattr(np, name)(x))()


def wide_power(x, y):
    with np.errstate(all="ignore"):
        return np.power(x.numpy().astype(np.longdouble), y.numpy().astype(np.longdouble))


def errors(got, wanted):
    """Distances in units of the last place that a result of this size has; 0 for the same special value."""
    info = np.finfo(got.numpy().dtype)
    got, wanted = got.numpy().astype(np.longdouble), wanted.astype(np.longdouble)
    exponent = np.frexp(np.where(np.isfinite(wanted), wanted, 0))[1] - 1
    unit = np.ldexp(np.longdouble(1), np.maximum(exponent, info.minexp) - info.nmant)
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | (np.isinf(got) & (np.abs(wanted) > info.max))
    with np.errstate(invalid="ignore"):  # infinity minus infinity, which `same` knows
        return np.where(same, 0, np.abs(got - wanted) / unit)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ONE)
def test_accuracy(lib, name, dtype):
    x = every_magnitude(dtype)
    if name in ("cos", "sin"):
        x = x[(x.abs() <= 1e5) | ~x.isfinite()]
    got = call(lib, name, x)
    with np.errstate(all="ignore"):
        distance = errors(got, exact(name, x))
    worst = distance.argmax()
    bound = ONE[name][dtype == torch.float64] + lib.slack * (name not in ("rsqrt", "sqrt", "reciprocal", "square"))
    assert distance[worst] <= bound, f"{name}({x[worst].item()!r}) = {got[worst].item()!r}"


@pytest.mark.parametrize("dtype", TYPES)
def test_accuracy_of_powers(lib, dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = (1e-3, 1, 10, 30, 100, 1000)[: 4 if dtype == torch.float32 else 6]
    x = torch.cat([(torch.randn(20000, dtype=dtype, generator=generator) * size).exp2() for size in sizes])
    y = torch.cat([torch.randn(20000, dtype=dtype, generator=generator) * 30 / size for size in sizes])
    assert (
        errors(call(lib, "pow", x, y), wide_power(x, y)).max() <= (1.2 if dtype == torch.float64 else 0.6) + lib.slack
    )


def specials(dtype):
    tiny = torch.finfo(dtype).tiny
    extreme = [torch.finfo(dtype).max, tiny, tiny * torch.finfo(dtype).eps, 2.0**24 + 2, 2.0**53, 1 - 2.0**-20]
    positive = [*SPECIAL, *extreme]
    return [*positive, *(-x for x in positive), math.nan]


def assert_same_bits(got, wanted, what):
    """Equal numbers, signs of zero included, and NaN where there is NaN."""
    same = (got == wanted) & (got.signbit() == wanted.signbit()) | (got.isnan() & wanted.isnan())
    where = (~same).nonzero().flatten().tolist()
    assert not where, [(*(x[i].item() for x in what), got[i].item(), wanted[i].item()) for i in where[:5]]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [*ONE, *EXACT])
def test_special_values_are_torchs(lib, name, dtype):
    exactly = (
        [*SPECIAL, *(-x for x in SPECIAL), math.nan]
        if name in (*EXACT, "sqrt")
        else [0.0, -0.0, math.inf, -math.inf, math.nan]
    )
    exactly += [-1.0, -2.0] if name in ("log", "log1p", "rsqrt") else []
    x = torch.tensor(exactly, dtype=dtype)
    assert_same_bits(call(lib, name, x), getattr(torch, name)(x), [x])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["maximum", "minimum", "copysign"])
def test_pairs_of_special_values_are_torchs(lib, name, dtype):
    x, y = (torch.tensor(column, dtype=dtype) for column in zip(*itertools.product(specials(dtype), repeat=2)))
    assert_same_bits(call(lib, name, x, y), getattr(torch, name)(x, y), [x, y])


@pytest.mark.parametrize("dtype", TYPES)
def test_powers_of_special_values_are_cs(lib, dtype):
    x, y = (torch.tensor(column, dtype=dtype) for column in zip(*itertools.product(specials(dtype), repeat=2)))
    got = call(lib, "pow", x, y)
    wide = wide_power(x, y)
    assert errors(got, wide).max() <= 1.2 + lib.slack
    assert np.array_equal(np.signbit(got.numpy())[~np.isnan(wide)], np.signbit(wide)[~np.isnan(wide)])


@pytest.mark.parametrize("dtype", TYPES)
def test_clamp_is_torchs(lib, dtype):
    values = [0.0, -0.0, 1.0, -1.0, 5.0, math.inf, -math.inf, math.nan]
    x, low, high = (torch.tensor(column, dtype=dtype) for column in zip(*itertools.product(values, repeat=3)))
    got, wanted = call(lib, "clamp", x, low, high), torch.clamp(x, low, high)
    assert_same_bits(got + 0.0, wanted + 0.0, [x, low, high])  # of two zeros either may be the greater


@pytest.mark.parametrize("dtype", TYPES)
def test_where_isfinite_and_isnan(lib, dtype):
    x = torch.tensor(specials(dtype), dtype=dtype)
    y, z = torch.full_like(x, 3.0), torch.full_like(x, 4.0)
    assert_same_bits(call(lib, "where", x, y, z), torch.where(x.isfinite(), y, torch.where(x.isnan(), z, x)), [x])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["cos", "sin"])
def test_waves_of_large_numbers_stay_between_minus_one_and_one(lib, name, dtype):
    x = torch.logspace(5, 300 if dtype == torch.float64 else 38, 5000, dtype=dtype)
    got = call(lib, name, torch.cat([x, -x]))
    assert (got.abs() <= 1).all()
    if dtype == torch.float32:
        x = torch.logspace(5, 8, 5000)
        torch.testing.assert_close(call(lib, name, x).double(), getattr(torch, name)(x.double()), rtol=2e-7, atol=1e-7)


def test_every_loop_is_vectorised(tmp_path):
    tool = build.compiler()
    if tool.clang:
        pytest.skip("g++ reports its loops")
    text, loops = source()
    (tmp_path / "loops.cpp").write_text(text)
    command = [*tool.command, *build._flags(tool), "-fopt-info-vec-optimized", "-c", "loops.cpp", "-o", "loops.o"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = text.splitlines()
    vectorised = {report.split(":")[1] for report in run.stderr.splitlines() if "loop vectorized" in report}
    scalar = [line for i, line in enumerate(lines, 1) if line.startswith("for (long i") and str(i) not in vectorised]
    assert not scalar
    assert len(vectorised) == loops
