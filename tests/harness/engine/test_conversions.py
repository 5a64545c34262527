"""Conversions between number formats: one rounding, to nearest even; saturation; bits."""

# ruff: noqa: D103 - jit functions of one line that stand for a conversion
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import words
from tridiff.harness.engines.spec import EngineSpec

Elementwise = Callable[..., torch.Tensor]
NAN, INF = math.nan, math.inf
NARROW = [torch.bfloat16, torch.float16]
FLOATS = [*NARROW, torch.float32, torch.float64]
RAW = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def to_bf16(x):
    return x.to(tl.bfloat16)


@triton.jit
def to_fp16(x):
    return x.to(tl.float16)


@triton.jit
def to_fp32(x):
    return x.to(tl.float32)


@triton.jit
def to_fp64(x):
    return x.to(tl.float64)


@triton.jit
def to_int8(x):
    return x.to(tl.int8)


@triton.jit
def to_int16(x):
    return x.to(tl.int16)


@triton.jit
def to_int32(x):
    return x.to(tl.int32)


@triton.jit
def to_int64(x):
    return x.to(tl.int64)


@triton.jit
def to_uint8(x):
    return x.to(tl.uint8)


@triton.jit
def to_uint32(x):
    return x.to(tl.uint32)


@triton.jit
def to_uint64(x):
    return x.to(tl.uint64)


TO_FLOAT = {torch.bfloat16: to_bf16, torch.float16: to_fp16, torch.float32: to_fp32, torch.float64: to_fp64}
TO_SIGNED = {torch.int8: to_int8, torch.int16: to_int16, torch.int32: to_int32, torch.int64: to_int64}
TO_UNSIGNED = {torch.uint8: to_uint8, torch.uint32: to_uint32, torch.uint64: to_uint64}


def every(dtype: torch.dtype) -> torch.Tensor:
    """All 65536 numbers of a 16-bit format."""
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Bit patterns, all NaNs alike."""
    return torch.where(torch.isnan(tensor), torch.full_like(tensor, NAN), tensor).view(RAW[tensor.element_size()])


def nearest(value: Fraction, dtype: torch.dtype) -> float:
    """The number of `dtype` nearest to `value`, ties to even, by exact arithmetic; infinity beyond the range."""
    info = torch.finfo(dtype)
    binade = Fraction(2) ** (value.numerator.bit_length() - value.denominator.bit_length())
    if binade > abs(value):
        binade /= 2
    quantum = max(binade, Fraction(info.smallest_normal)) * Fraction(info.eps)
    rounded = round(value / quantum) * quantum  # round() of a Fraction breaks ties to even
    return math.copysign(INF, value) if abs(rounded) > Fraction(info.max) else float(rounded)


def middles(dtype: torch.dtype) -> torch.Tensor:
    """float64 numbers halfway between neighbours of a 16-bit format, the largest and what would follow it included."""
    positive = torch.arange(0, int(torch.tensor(torch.finfo(dtype).max, dtype=dtype).view(torch.int16)) + 1)
    low = positive.to(torch.int16).view(dtype).double()
    step = torch.cat([low[1:] - low[:-1], low[-1:] - low[-2:-1]])
    return low + step / 2


@pytest.mark.operations("arith.extf")
@pytest.mark.parametrize("source", NARROW, ids=str)
@pytest.mark.parametrize("target", [torch.float32, torch.float64], ids=str)
def test_extension_is_exact(elementwise: Elementwise, source: torch.dtype, target: torch.dtype) -> None:
    """Every bf16 and fp16 number has the same value in a wider format."""
    x = every(source)

    assert torch.equal(bits(elementwise(TO_FLOAT[target], x, dtype=target)), bits(x.to(target)))


@pytest.mark.operations("arith.truncf")
@pytest.mark.parametrize("target", NARROW, ids=str)
def test_truncation_of_float32(elementwise: Elementwise, target: torch.dtype) -> None:
    """To nearest even: at every tie, one float32 beside it on either side, and everywhere else."""
    ties = middles(target).float()
    x = torch.cat([ties, torch.nextafter(ties, torch.tensor(INF)), torch.nextafter(ties, torch.tensor(-INF))])
    anything = torch.from_numpy(words(0, "x", 1 << 16).astype(np.int32)).view(torch.float32)
    x = torch.cat([x, -x, anything])

    assert torch.equal(bits(elementwise(TO_FLOAT[target], x, dtype=target)), bits(x.to(target)))


@pytest.mark.operations("arith.truncf")
@pytest.mark.parametrize("target", [*NARROW, torch.float32], ids=str)
def test_truncation_of_float64_rounds_once(elementwise: Elementwise, target: torch.dtype) -> None:
    """A float64 just beside a tie goes to its own side, although the float32 between them is the tie."""
    ties = torch.tensor([1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-150, 2.0**100], dtype=torch.float64)
    ties = middles(target)[::509] if target in NARROW else ties
    x = torch.cat([ties, torch.nextafter(ties, torch.tensor(INF).double()), torch.nextafter(ties, torch.tensor(0.0).double())])
    x = torch.cat([x, -x])

    result = elementwise(TO_FLOAT[target], x, dtype=target)

    assert [repr(value) for value in result.tolist()] == [repr(_signed(nearest(Fraction(v), target), v)) for v in x.tolist()]


def _signed(magnitude: float, sign: float) -> float:
    return math.copysign(magnitude, sign)


def hard_integers(width: int) -> list[int]:
    """Integers at and around the ties of every format, and at the ends of the range."""
    found = {0, 1, 2**width - 1}
    for power in range(width):
        for digits in (8, 11, 24, 53):
            tie = 2**power + 2 ** max(power - digits, 0)
            found |= {tie - 1, tie, tie + 1, tie + 2 ** max(power - digits + 1, 0)}
    return sorted(value for value in found if value < 2**width)


@pytest.mark.operations("arith.sitofp")
@pytest.mark.parametrize("target", FLOATS, ids=str)
@pytest.mark.parametrize("source", [torch.int16, torch.int32, torch.int64], ids=str)
def test_signed_integers(elementwise: Elementwise, source: torch.dtype, target: torch.dtype) -> None:
    """Rounded once, to nearest even, from all bits of the integer."""
    values = hard_integers(8 * source.itemsize - 1)
    values += [-value for value in values] + [torch.iinfo(source).min]

    result = elementwise(TO_FLOAT[target], torch.tensor(values, dtype=source), dtype=target)

    assert result.tolist() == [nearest(Fraction(value), target) for value in values]


@pytest.mark.operations("arith.uitofp")
@pytest.mark.parametrize("target", FLOATS, ids=str)
@pytest.mark.parametrize("source", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_unsigned_integers(elementwise: Elementwise, source: torch.dtype, target: torch.dtype) -> None:
    """Likewise, up to 2^64 - 1."""
    values = hard_integers(8 * source.itemsize)

    result = elementwise(TO_FLOAT[target], torch.tensor(values, dtype=source), dtype=target)

    assert result.tolist() == [nearest(Fraction(value), target) for value in values]


def kept(value: float, made: torch.dtype, dtype: torch.dtype) -> int:
    """Toward zero, limited to the range of what the instruction makes, NaN 0; then as many lower bits as `dtype` has."""
    info, width = torch.iinfo(made), torch.iinfo(dtype).bits
    whole = 0 if math.isnan(value) else info.max if value > info.max else info.min if value < info.min else int(value)
    low = whole & ((1 << width) - 1)
    return low - (1 << width) if torch.iinfo(dtype).min and low >> (width - 1) else low


def to_integer_cases() -> list[Any]:
    """(jit function, target), each marked with its operation."""
    signed = [pytest.param(f, t, marks=pytest.mark.operations("arith.fptosi"), id=str(t)) for t, f in TO_SIGNED.items()]
    return signed + [pytest.param(f, t, marks=pytest.mark.operations("arith.fptoui"), id=str(t)) for t, f in TO_UNSIGNED.items()]


def limits_and_beyond(source: torch.dtype, target: torch.dtype) -> torch.Tensor:
    """Halves, the limits of `target` and beside them, what is far beyond, infinities and NaN; both signs."""
    info = torch.iinfo(target)
    around = [0.0, 0.5, 0.99, 1.0, 1.5, 2.5, 100.7, 300.0, 40000.0, 7e4, float(info.max), float(info.max) / 2, 3e38, INF, NAN]
    x = torch.tensor([*around, *(-value for value in around), float(info.min)], dtype=torch.float64).to(source)
    ends = [torch.nextafter(x, torch.tensor(limit, dtype=source)) for limit in (INF, -INF)]
    return torch.cat([x, *ends])


@pytest.mark.parametrize("source", FLOATS, ids=str)
@pytest.mark.parametrize(("function", "target"), to_integer_cases())
def test_floats_to_integers(elementwise: Elementwise, function: Any, target: torch.dtype, source: torch.dtype) -> None:
    """gfx942 makes 32 bits and more, saturated, and keeps the lower ones: 300 is 44 as int8, -1 is 255 as uint8."""
    x = limits_and_beyond(source, target)
    made = target if target.itemsize >= 4 else torch.int32

    result = elementwise(function, x, dtype=target)

    assert result.tolist() == [kept(value, made, target) for value in x.tolist()]


@pytest.mark.parametrize(
    ("to", "made"), [(torch.int8, torch.int16), (torch.uint8, torch.uint16), (torch.int32, torch.int32)], ids=str
)
def test_floats_to_integers_on_nvidia(run: Callable[..., None], to: torch.dtype, made: torch.dtype) -> None:
    """sm_90 makes 16 bits of what goes to 8, so that -1 is 0 as uint8."""
    x = limits_and_beyond(torch.float32, to)
    out = torch.zeros(x.numel(), dtype=to)

    run(cut_to_integers, (1,), x, out, x.numel(), spec=EngineSpec(target="sm_90"))

    assert out.tolist() == [kept(value, made, to) for value in x.tolist()]


NVIDIA_NAN = {
    (torch.float32, torch.int32): 0,
    (torch.float32, torch.uint32): 0,
    (torch.float32, torch.int64): -(2**63),
    (torch.bfloat16, torch.int64): -(2**63),
    (torch.float16, torch.uint64): 2**63,
    (torch.float64, torch.int32): -(2**31),
    (torch.float64, torch.uint32): 2**31,
    (torch.float64, torch.int16): -(2**15),
    (torch.float64, torch.int8): 0,
    (torch.float64, torch.int64): -(2**63),
}


@pytest.mark.parametrize(("source", "to"), NVIDIA_NAN, ids=str)
def test_nan_to_integers_on_nvidia(run: Callable[..., None], source: torch.dtype, to: torch.dtype) -> None:
    """The sign bit alone where 64 bits are involved, of which int8 keeps nothing; else 0 (PTX ISA, cvt; measured for float32)."""
    x = torch.tensor([math.nan, -math.nan, 3.7], dtype=source)
    out = torch.ones(3, dtype=to)

    run(cut_to_integers, (1,), x, out, 3, spec=EngineSpec(target="sm_90"))

    assert out.tolist() == [NVIDIA_NAN[source, to]] * 2 + [3]


@triton.jit
def cut_to_integers(x, out, size):
    i = tl.arange(0, 256)
    tl.store(out + i, tl.load(x + i, mask=i < size).to(out.dtype.element_ty), mask=i < size)


@triton.jit
def bf16_toward_zero(x):
    return x.to(tl.bfloat16, fp_downcast_rounding="rtz")


@triton.jit
def fp16_toward_zero(x):
    return x.to(tl.float16, fp_downcast_rounding="rtz")


def toward_zero(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest number, or where that is larger in magnitude the one before it."""
    near = x.to(dtype)
    over = near.double().abs() > x.double().abs()
    return torch.where(over, (near.view(torch.int16) - 1).view(dtype), near)


@pytest.mark.operations("tt.fp_to_fp")
@pytest.mark.parametrize(("function", "target"), [(bf16_toward_zero, torch.bfloat16), (fp16_toward_zero, torch.float16)], ids=str)
def test_truncation_toward_zero(elementwise: Elementwise, function: Any, target: torch.dtype) -> None:
    """Never away from zero: what overflows gives the largest number; infinities and NaN stay."""
    ties = middles(target).float()
    x = torch.cat([ties, torch.nextafter(ties, torch.tensor(INF)), torch.nextafter(ties, torch.tensor(-INF))])
    x = torch.cat([x, -x, torch.tensor([3.4e38, -3.4e38, 1e-45, -1e-45])])

    assert torch.equal(elementwise(function, x, dtype=target).view(torch.int16), toward_zero(x, target).view(torch.int16))
    assert [f"{v:g}" for v in elementwise(function, torch.tensor([INF, -INF, NAN]), dtype=target).tolist()] == [
        "inf",
        "-inf",
        "nan",
    ]


@pytest.mark.parametrize(("target", "bits_of_nan"), [("gfx942", [0x7F80, 0x7FC0]), ("sm_90", [0x7FFF, 0x7FFF])])
def test_nan_toward_zero(run: Callable[..., None], target: str, bits_of_nan: list[int]) -> None:
    """AMD's sequence cuts the bits, which makes an infinity of a NaN that has only low ones; NVIDIA has one NaN."""
    x, out = torch.tensor([0x7F800001, 0x7FC00000], dtype=torch.int32).view(torch.float32), torch.zeros(2, dtype=torch.bfloat16)

    run(cut_two, (1,), x, out, spec=EngineSpec(target=target))

    assert out.view(torch.int16).tolist() == bits_of_nan


@triton.jit
def cut_two(x, out):
    i = tl.arange(0, 2)
    tl.store(out + i, tl.load(x + i).to(tl.bfloat16, fp_downcast_rounding="rtz"))


@triton.jit
def bf16_to_fp16(x):
    return x.to(tl.float16)


@triton.jit
def fp16_to_bf16(x):
    return x.to(tl.bfloat16)


@pytest.mark.parametrize(("function", "source", "target"), [(bf16_to_fp16, *NARROW), (fp16_to_bf16, *NARROW[::-1])], ids=str)
def test_between_halves(elementwise: Elementwise, function: Any, source: torch.dtype, target: torch.dtype) -> None:
    """One rounding, to nearest even: Triton 3.7 goes through float32, which is exact, 3.9 has an operation for it."""
    x = every(source)

    assert torch.equal(bits(elementwise(function, x, dtype=target)), bits(x.float().to(target)))


@triton.jit
def bits_of_float32(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float32_of_bits(x):
    return x.to(tl.float32, bitcast=True)


@triton.jit
def bits_of_16(x):
    return x.to(tl.int16, bitcast=True)


@triton.jit
def bf16_of_bits(x):
    return x.to(tl.bfloat16, bitcast=True)


@triton.jit
def fp16_of_bits(x):
    return x.to(tl.float16, bitcast=True)


@pytest.mark.operations("tt.bitcast")
@pytest.mark.parametrize(
    ("function", "source", "target"),
    [
        (bits_of_float32, torch.float32, torch.int32),
        (float32_of_bits, torch.int32, torch.float32),
        (bits_of_16, torch.bfloat16, torch.int16),
        (bits_of_16, torch.float16, torch.int16),
        (bf16_of_bits, torch.int16, torch.bfloat16),
        (fp16_of_bits, torch.int16, torch.float16),
        (bf16_of_bits, torch.float16, torch.bfloat16),
    ],
    ids=str,
)
def test_bitcast(elementwise: Elementwise, function: Any, source: torch.dtype, target: torch.dtype) -> None:
    """Bits stay, those of signalling NaNs too."""
    raw = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)
    x = raw.view(source) if source.itemsize == 2 else (raw.int() * 65537).view(source)

    result = elementwise(function, x, dtype=target)

    assert torch.equal(result.view(RAW[target.itemsize]), x.view(RAW[target.itemsize]))


@triton.jit
def copy(x):
    return x


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_copy_keeps_bits(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """A kernel that only moves 16-bit floats moves every NaN unchanged."""
    x = every(dtype)

    assert torch.equal(elementwise(copy, x).view(torch.int16), x.view(torch.int16))


@triton.jit
def plus_tenth(x):
    return (x + tl.full(x.shape, 0.1, x.dtype)).to(tl.float64) + (tl.full(x.shape, 0.1, x.dtype) > x).to(tl.float64)


@pytest.mark.operations("arith.constant")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_constants_are_rounded(elementwise: Elementwise, dtype: torch.dtype) -> None:
    """0.1 is the number of the format next to it, not the digits that the IR prints."""
    tenth = torch.tensor(0.1, dtype=dtype)

    result = elementwise(plus_tenth, torch.stack([torch.tensor(0.0, dtype=dtype), tenth, -tenth]), dtype=torch.float64)

    assert result.tolist() == [tenth.item() + 1, (tenth + tenth).item(), 1.0]


@triton.jit
def special_constants(x):
    return tl.where(x == 0, float("inf"), tl.where(x == 1, float("-inf"), tl.where(x == 2, float("nan"), 3.0e38)))


@pytest.mark.operations("arith.constant")
def test_special_constants(elementwise: Elementwise) -> None:
    """Infinities and NaN, which the IR prints as bit patterns."""
    result = elementwise(special_constants, torch.arange(4), dtype=torch.float32)

    assert [f"{value:g}" for value in result.tolist()] == ["inf", "-inf", "nan", "3e+38"]
