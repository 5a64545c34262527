"""FP8: what every code means, rounding to it, and what each target's conversions do. Evidence: number_formats.md."""

# ruff: noqa: D103 - jit functions of one line that stand for a conversion
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu import fp8
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.fp8_lowering import encoder
from tridiff.harness.engines.cpu.target import RELEASE, Target
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]
Numbers = torch.Tensor
NAN, INF = math.nan, math.inf

E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz
ELEMENTS = {"f8E4M3FN": E4M3FN, "f8E4M3FNUZ": E4M3FNUZ, "f8E5M2": E5M2, "f8E5M2FNUZ": E5M2FNUZ}
FNUZ = [E4M3FNUZ, E5M2FNUZ]
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
TO = {E4M3FN: tl.float8e4nv, E4M3FNUZ: tl.float8e4b8, E5M2: tl.float8e5, E5M2FNUZ: tl.float8e5b16} | {
    F32: tl.float32,
    F16: tl.float16,
    BF16: tl.bfloat16,
    torch.float64: tl.float64,
}
LARGEST = {E4M3FN: 0x7E, E4M3FNUZ: 0x7F, E5M2: 0x7B, E5M2FNUZ: 0x7F}


@triton.jit
def convert(x, out, size, to: tl.constexpr, how: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(x + i, mask=i < size)
    tl.store(out + i, value.to(to, fp_downcast_rounding=how), mask=i < size)


def converted(run: Run, x: Numbers, to: torch.dtype, target: str, how: str | None = None) -> Numbers:
    """`x` converted by a kernel for `target`."""
    out = torch.zeros(x.numel(), dtype=to)
    run(convert, (triton.cdiv(x.numel(), 1024),), x, out, x.numel(), TO[to], how, 1024, spec=EngineSpec(target=target))
    return out


def codes(run: Run, x: Numbers, to: torch.dtype, target: str, how: str | None = None) -> Numbers:
    """Likewise, as codes."""
    return converted(run, x, to, target, how).view(torch.uint8)


def every_code(dtype: torch.dtype) -> Numbers:
    """All 256."""
    return torch.arange(256).to(torch.uint8).view(dtype)


def every_half(dtype: torch.dtype) -> Numbers:
    """All 65,536 numbers of fp16 or bf16."""
    return torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)


def grid(dtype: torch.dtype) -> Numbers:
    """The finite numbers from 0 up, in order: their index is their code."""
    return every_code(dtype)[: LARGEST[dtype] + 1].double()


def hard(dtype: torch.dtype) -> Numbers:
    """float32: each number of the format, each tie, their neighbours; overflow, subnormals and random bits; both signs."""
    numbers = grid(dtype)
    ties = torch.cat([(numbers[1:] + numbers[:-1]) / 2, (numbers[-1] + (numbers[-1] - numbers[-2]) / 2)[None]])
    near = torch.cat([numbers, ties, numbers[-1:] * 2, torch.tensor([65504.0, 65520.0, 1e10, 3.4e38])]).float()
    near = torch.cat([near, torch.nextafter(near, torch.tensor(INF)), torch.nextafter(near, torch.tensor(0.0))])
    bits = torch.arange(0, 0x7F80_0000, 65_537 * 3, dtype=torch.int64).to(torch.int32).view(torch.float32)
    near = torch.cat([near, torch.tensor([1e-45, 1e-38]), bits])
    return torch.cat([near, -near])


def expected(x: Numbers, dtype: torch.dtype, *, infinity: int, nan: int | None = None) -> Numbers:
    """Codes of `x` by search among the format's numbers: nearest, ties to even codes, finite numbers saturate.

    `infinity`, `nan`: their codes without a sign; a NaN keeps its sign unless the format has one NaN or `nan` is None.
    """
    numbers = grid(dtype)
    top = LARGEST[dtype]
    magnitude = x.double().abs()
    low = (torch.searchsorted(numbers, magnitude.nan_to_num(0.0), right=True) - 1).clamp(0, top - 1)
    below, above = magnitude - numbers[low], numbers[low + 1] - magnitude
    result = low + ((above < below) | ((above == below) & (low % 2 == 1))).long()
    result = torch.where(magnitude.isinf(), infinity, result.clamp(max=top))
    sign = 128 * torch.signbit(x).long()
    if dtype in FNUZ:
        sign = torch.where((result == 0) | (result == 128), 0, sign)
    result = result + sign
    if nan is None:
        return torch.where(x.isnan(), 0x7F, result).to(torch.uint8)
    return torch.where(x.isnan(), nan + (0 if dtype in FNUZ else sign), result).to(torch.uint8)


def specials(dtype: torch.dtype = F32) -> Numbers:
    """Zeros, infinities and NaN of both signs."""
    nan = torch.tensor([NAN], dtype=dtype)
    return torch.cat([torch.tensor([0.0, -0.0, INF, -INF], dtype=dtype), nan, nan.copysign(torch.tensor(-1.0, dtype=dtype))])


@pytest.mark.parametrize(("element", "dtype"), ELEMENTS.items(), ids=str)
def test_every_code_means_what_torch_says(element: str, dtype: torch.dtype) -> None:
    """All 256, bit for bit, signs of zeros included, any NaN being as good as another."""
    ours = torch.from_numpy(fp8.values(element).copy())
    theirs = every_code(dtype).float()

    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(7.0).view(torch.int32), theirs.nan_to_num(7.0).view(torch.int32))


NATIVE = [
    ("gfx942", E4M3FNUZ, 0x80, 0x80),
    ("gfx942", E5M2FNUZ, 0x80, 0x80),
    ("gfx950", E4M3FN, 0x7F, 0x7F),
    ("gfx950", E5M2, 0x7C, 0x7E),
    ("gfx950", E4M3FNUZ, 0x80, 0x80),
    ("sm_90", E4M3FN, 0x7E, None),
    ("sm_90", E5M2, 0x7B, None),
    ("sm_100", E4M3FN, 0x7E, None),
]
SOFTWARE = [
    (arch, dtype, top, nan) for arch in ("gfx942", "gfx1200") for dtype, top, nan in ((E4M3FN, 0x7E, 0x7F), (E5M2, 0x7B, 0x7E))
]


@pytest.mark.operations("tt.fp_to_fp")
@pytest.mark.parametrize(("target", "dtype", "infinity", "nan"), [*NATIVE, *SOFTWARE], ids=str)
def test_float32_to_fp8(run: Run, target: str, dtype: torch.dtype, infinity: int, nan: int | None) -> None:
    """Nearest even at every tie and beside it, subnormals, saturation; infinities and NaN as the target has them."""
    x = torch.cat([hard(dtype), specials()])

    assert torch.equal(codes(run, x, dtype, target), expected(x, dtype, infinity=infinity, nan=nan))


@pytest.mark.parametrize("source", [F16, BF16], ids=str)
@pytest.mark.parametrize(("target", "dtype", "infinity", "nan"), [*NATIVE, *SOFTWARE], ids=str)
def test_halves_to_fp8(run: Run, target: str, dtype: torch.dtype, infinity: int, nan: int | None, source: torch.dtype) -> None:
    """All fp16 and bf16 numbers; AMD's sequence from fp16 to e4m3fn makes NaN of what lies between 464 and 480."""
    x = every_half(source)
    wanted = expected(x, dtype, infinity=infinity, nan=nan)
    if source is F16 and dtype is E4M3FN and target.startswith("gfx") and target != "gfx950":
        missed = (x.abs() > 464) & (x.abs() < 480)
        assert missed.sum() == 126
        wanted = torch.where(missed, 0x7F + 128 * torch.signbit(x).long(), wanted).to(torch.uint8)

    assert torch.equal(codes(run, x, dtype, target), wanted)


@pytest.mark.parametrize("dtype", FNUZ, ids=str)
@pytest.mark.parametrize("arch", ["gfx90a", "gfx1100", "gfx1200"])
def test_float32_to_fnuz_went_through_fp16(arch: str, dtype: torch.dtype) -> None:
    """Rounded twice, by Triton before 3.8; what overflows fp16 saturates, by the mode bit of these kernels."""
    (element,) = (name for name, of in ELEMENTS.items() if of is dtype)
    x = torch.cat([hard(dtype), specials()])
    half = x.half().float()
    half = torch.where(half.isinf() & x.isfinite(), 65504.0 * x.sign(), half)
    wanted = expected(half, dtype, infinity=0x80, nan=0x80)

    once = expected(x, dtype, infinity=0x80, nan=0x80)

    for release, codes_then in (((3, 7), wanted), ((3, 8), once)):
        convert_then = encoder("f32", element, "rtne", Target("hip", arch, release=release))
        with np.errstate(over="ignore"):
            assert convert_then(x.numpy()).tolist() == codes_then.tolist()
    assert not torch.equal(wanted, once)


def cut_to_half(x: Numbers) -> Numbers:
    """float32 to fp16 toward zero, by float64 arithmetic."""
    half = x.half()
    over = half.double().abs() > x.double().abs()
    return torch.where(over, (half.view(torch.int16) - 1).view(F16), half)


@pytest.mark.parametrize("dtype", [E4M3FN, E5M2], ids=str)
def test_sm_89_cuts_float32_to_fp16_first(run: Run, dtype: torch.dtype) -> None:
    """Just above a tie the fp16 number is the tie, which goes to even."""
    x = torch.cat([hard(dtype), specials()])
    wanted = expected(cut_to_half(x), dtype, infinity=LARGEST[dtype])

    assert torch.equal(codes(run, x, dtype, "sm_89"), wanted)
    assert not torch.equal(wanted, expected(x, dtype, infinity=LARGEST[dtype]))


def test_sm_80_rounds_half_up(run: Run) -> None:
    """fp16 to e5m2 adds half a unit and cuts: ties go away from zero, overflow is infinite, one NaN becomes -0."""
    x = torch.tensor([1.125, 1.375, -1.125, 1.124, 57344.0, 61440.0, INF, NAN, 0.0, -0.0, 2.0**-17, 2.0**-18], dtype=F16)
    all_ones = torch.tensor([0x7FFF], dtype=torch.int16).view(F16)

    result = converted(run, torch.cat([x, all_ones]), E5M2, "sm_80").float().tolist()

    assert result[:7] == [1.25, 1.5, -1.25, 1.0, 57344.0, INF, INF]
    assert math.isnan(result[7])
    assert [repr(value) for value in result[8:]] == ["0.0", "-0.0", repr(2.0**-16), "0.0", "-0.0"]


def test_sm_80_from_float32_and_bf16(run: Run) -> None:
    """float32 is cut to fp16 first; from bf16, what is beyond the range wraps and what is below is wrong, as emitted."""
    x = torch.tensor([1.125 - 2.0**-20, 1.125, 7e4, 1e30, INF, -3.0])
    y = torch.tensor([1.125, 1.0, 57344.0, 65536.0, 131072.0, 2.0**-14, 2.0**-15, 1.5 * 2.0**-15, 1e-20, -1e-20], dtype=BF16)

    assert converted(run, x, E5M2, "sm_80").float().tolist() == [1.0, 1.25, INF, INF, INF, -3.0]
    assert [repr(value) for value in converted(run, y, E5M2, "sm_80").float().tolist()] == [
        *("1.25", "1.0", "57344.0", "inf", "-0.0"),
        *(repr(2.0**-14), "0.0", repr(2.0**-15), "0.0", "-0.0"),
    ]
    assert codes(run, torch.tensor([1e30, INF, NAN, -INF], dtype=BF16), E5M2, "sm_80").tolist() == [0xFF] * 4
    # cvt.rz.f16.f32 makes 0x7FFF of either NaN, which overflows.
    assert codes(run, torch.tensor([NAN, -NAN]), E5M2, "sm_80").tolist() == [0x80] * 2


def test_nvidia_has_one_nan_toward_zero(run: Run) -> None:
    """float32 to e5m2 toward zero gives 0x7F for every NaN (cvt.rz.f16.f32; measured on an H200)."""
    x = torch.tensor([0x7FC00000, -0x400000, 0x7F800001, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    out = torch.zeros(4, dtype=torch.uint8).view(E5M2)
    assert x.isnan().all()

    run(toward_zero, (1,), x, out, spec=EngineSpec(target="sm_90"))

    assert out.view(torch.uint8).tolist() == [0x7F] * 4


@triton.jit
def toward_zero(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i).to(tl.float8e5, fp_downcast_rounding="rtz"))


@pytest.mark.parametrize("target", ["gfx942", "gfx950", "gfx90a", "sm_80", "sm_90"])
def test_e5m2_toward_zero(run: Run, target: str) -> None:
    """The upper byte of the fp16 number that float32 was cut to."""
    x = hard(E5M2)
    upper = (cut_to_half(x).view(torch.int16).int() >> 8 & 0xFF).to(torch.uint8)

    assert torch.equal(codes(run, x, E5M2, target, "rtz"), upper)
    assert codes(run, torch.tensor([INF, -INF]), E5M2, target, "rtz").tolist() == [0x7C, 0xFC]
    assert converted(run, torch.tensor([NAN]), E5M2, target, "rtz").isnan().all()


def test_fp16_to_e5m2_toward_zero(run: Run) -> None:
    """AMD cuts the lower byte, so that a NaN with nothing else becomes infinite."""
    x = every_half(F16)

    assert torch.equal(codes(run, x, E5M2, "gfx942", "rtz"), (x.view(torch.int16).int() >> 8 & 0xFF).to(torch.uint8))


REFUSED = [
    ("gfx942", F32, E4M3FN, "rtz"),
    ("gfx942", F32, E4M3FNUZ, "rtz"),
    ("gfx942", BF16, E5M2, "rtz"),
    ("sm_90", F32, E4M3FN, "rtz"),
    ("sm_90", F16, E5M2, "rtz"),
    ("gfx942", torch.float64, E4M3FN, None),
    ("sm_90", torch.float64, E5M2, None),
    ("gfx942", E5M2, torch.float64, None),
    ("gfx942", E4M3FN, E5M2, None),
    *([("gfx90a", BF16, E4M3FNUZ, None), ("gfx1100", E5M2FNUZ, BF16, None)] if RELEASE < (3, 8) else []),
    ("sm_80", F32, E4M3FN, None),
    ("sm_90", F32, E4M3FNUZ, None),
]


@pytest.mark.parametrize(("target", "source", "to", "how"), REFUSED, ids=str)
def test_what_the_back_end_refuses_is_a_launch_finding(
    run: Run, target: str, source: torch.dtype, to: torch.dtype, how: str | None
) -> None:
    """No such kernel compiles in production: by the front end, or by the back end's passes, which we do not run."""
    with pytest.raises(KernelError, match="Triton") as caught:
        converted(run, torch.zeros(4, dtype=source), to, target, how)

    assert caught.value.check == "launch"


@pytest.mark.parametrize(
    ("target", "source", "to"), [("gfx1200", BF16, E4M3FNUZ), ("gfx1201", E4M3FNUZ, BF16), ("gfx950", E5M2FNUZ, BF16)], ids=str
)
@pytest.mark.skipif(RELEASE >= (3, 8), reason="Triton 3.8 has a sequence of its own for these")
def test_instructions_of_the_wrong_format_are_refused(run: Run, target: str, source: torch.dtype, to: torch.dtype) -> None:
    """Triton before 3.8 emits the OCP format's instruction for a FNUZ one there: no result of ours would be right."""
    with pytest.raises(UnsupportedOperation, match=r"OCP format on gfx"):
        converted(run, torch.zeros(4, dtype=source), to, target)


def test_cutting_to_the_wrong_format_is_refused() -> None:
    """From 3.8 on, fp16 to e5m2fnuz toward zero compiles, to the sequence for e5m2; before, it is refused."""
    with pytest.raises(UnsupportedOperation, match="emits f8E5M2's"):
        encoder("f16", "f8E5M2FNUZ", "rtz", Target("hip", "gfx942", release=(3, 8)))
    with pytest.raises(KernelError, match="no conversion"):
        encoder("f16", "f8E5M2FNUZ", "rtz", Target("hip", "gfx942", release=(3, 7)))


def special_values(dtype: torch.dtype, to: torch.dtype, target: str) -> dict[int, float]:
    """Codes that a target's sequence decodes into something else than torch does."""
    if dtype is E5M2 and to is BF16 and target != "gfx950":
        return {sign + 0x7C + i: (1 - sign / 64) * 65536 * (1 + i / 4) for sign in (0, 128) for i in range(4)}
    if dtype is E4M3FN and to is BF16 and target.startswith("gfx") and target != "gfx950":
        return {0x7F: 480.0, 0xFF: -480.0}
    return {0x80: -0.0} if dtype in FNUZ and target != "gfx942" else {}


DECODES = [
    (target, dtype, to)
    for target in ("gfx942", "gfx950", "gfx1200", "sm_80", "sm_90")
    for dtype in (TO.keys() & ELEMENTS.values() if target.startswith("gfx") else {E4M3FN, E5M2})
    for to in (F32, F16, BF16)
    if (target, dtype) != ("sm_80", E4M3FN) and not (dtype in FNUZ and to is BF16 and target != "gfx942" and RELEASE < (3, 8))
]


@pytest.mark.parametrize(("target", "dtype", "to"), sorted(DECODES, key=str), ids=str)
def test_fp8_to_wider(run: Run, target: str, dtype: torch.dtype, to: torch.dtype) -> None:
    """All 256 codes as torch decodes them, but for those that the target's sequence of operations gets otherwise."""
    wanted = every_code(dtype).float()
    for code, value in special_values(dtype, to, target).items():
        wanted[code] = value

    result = converted(run, every_code(dtype), to, target).float()

    assert torch.equal(result.isnan(), wanted.isnan())
    assert torch.equal(result.nan_to_num(7.0).view(torch.int32), wanted.nan_to_num(7.0).view(torch.int32))


@triton.jit
def move(x, out, bits, back):
    """Loads with `other` and without, stores, and both bitcasts."""
    i = tl.arange(0, 512)
    tl.store(out + i, tl.load(x + i, mask=i < 256, other=tl.load(x + 255 - i % 256)))
    value = tl.load(x + i, mask=i < 256)
    tl.store(bits + i, value.to(tl.uint8, bitcast=True), mask=i < 256)
    signed = tl.load(bits + i, mask=i < 256).to(tl.int8)
    tl.store(back + i, tl.where(i < 256, signed.to(x.dtype.element_ty, bitcast=True), value))


@pytest.mark.operations("tt.bitcast")
@pytest.mark.parametrize("dtype", ELEMENTS.values(), ids=str)
def test_every_bit_survives_moves(run: Run, dtype: torch.dtype) -> None:
    """Loads, stores, selections and bitcasts keep every code; a masked-off lane without `other` holds NaN."""
    x = every_code(dtype)
    out, back, bits = torch.zeros(512, dtype=dtype), torch.zeros(512, dtype=dtype), torch.zeros(256, dtype=torch.uint8)

    run(move, (1,), x, out, bits, back)

    assert out.view(torch.uint8).tolist() == [*range(256), *range(255, -1, -1)]
    assert bits.tolist() == list(range(256))
    assert back.view(torch.uint8)[:256].tolist() == list(range(256))
    assert back[256:].float().isnan().all()


@triton.jit
def absolute(x, out):
    i = tl.arange(0, 256)
    tl.store(out + i, tl.abs(tl.load(x + i)))


@pytest.mark.parametrize("dtype", ELEMENTS.values(), ids=str)
def test_absolute_value(run: Run, dtype: torch.dtype) -> None:
    """The only arithmetic that Triton compiles on FP8 clears the sign bit; of a FNUZ format's NaN zero is left."""
    out = torch.zeros(256, dtype=dtype)

    run(absolute, (1,), every_code(dtype), out)

    assert out.view(torch.uint8).tolist() == [code & 0x7F for code in range(256)]


@triton.jit
def constants(out):
    tl.store(out + tl.arange(0, 4), tl.zeros([4], out.dtype.element_ty))
    tl.store(out + 4 + tl.arange(0, 4), tl.full([4], -1.5, out.dtype.element_ty))


@pytest.mark.skipif(RELEASE < (3, 7), reason="Triton 3.6 refuses tl.full of FP8")
@pytest.mark.parametrize("dtype", ELEMENTS.values(), ids=str)
def test_constants_in_kernels(run: Run, dtype: torch.dtype) -> None:
    """Triton makes constants of numbers that the format has; others it truncates at run time, and fails."""
    out = torch.ones(8).to(dtype)

    run(constants, (1,), out)

    assert out.float().tolist() == [0.0] * 4 + [-1.5] * 4


@triton.jit
def added(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i) + tl.load(x + i))


@triton.jit
def compared(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.where(tl.load(x + i) < tl.load(x + 3 - i), tl.load(x + i), tl.load(x + 3 - i)))


@triton.jit
def filled(x, out):
    tl.store(out + tl.arange(0, 4), tl.full([4], 1.7, out.dtype.element_ty))


@pytest.mark.parametrize(
    "kernel", [added, compared, *([filled] if RELEASE >= (3, 7) else [])], ids=lambda kernel: kernel.__name__
)
def test_arithmetic_is_refused(run: Run, kernel: Any) -> None:
    """Triton's front end lets it pass and its back ends fail; never do we add codes."""
    with pytest.raises(UnsupportedOperation, match=r"arithmetic on f8E4M3FN"):
        run(kernel, (1,), torch.ones(4).to(E4M3FN), torch.zeros(4).to(E4M3FN))


@triton.jit
def narrowed(x, out, out8, quantise: tl.constexpr):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i).to(tl.float16))
    if quantise:
        tl.store(out8 + i, tl.load(x + i).to(tl.float8e4b8))


@pytest.mark.parametrize(("quantise", "finite"), [(False, INF), (True, 65504.0)])
def test_a_kernel_that_makes_fp8_clamps_fp16(run: Run, quantise: bool, finite: float) -> None:
    """AMD's mode bit FP16_OVFL, set for FP8 conversions, also keeps other conversions to fp16 of that kernel finite."""
    out = torch.zeros(4, dtype=F16)

    run(narrowed, (1,), torch.tensor([1e6, -1e6, INF, 2.0]), out, torch.zeros(4).to(E4M3FNUZ), quantise)

    assert out.tolist() == [finite, -finite, INF, 2.0]


@pytest.mark.parametrize(
    ("text", "element", "code"), [("0x7F", "f8E4M3FN", 0x7F), ("-4.480000e+02", "f8E4M3FN", 0xFE), ("1.0", "f8E5M2FNUZ", 0x40)]
)
def test_constants(text: str, element: str, code: int) -> None:
    """Decimal, or bits where it is no number."""
    from tridiff.harness.engines.cpu.formats import constant  # noqa: PLC0415 - beside its only use

    assert constant(text, element) == code


def test_nearest_counts_on_beyond_the_largest() -> None:
    """The caller sees overflow in the code, and it does not wrap."""
    x = np.array([448, 464, 464.00003, 480, 496, 1e38], dtype=np.float32)

    assert fp8.nearest(x, "f8E4M3FN")[:5].tolist() == [0x7E, 0x7E, 0x7F, 0x7F, 0x80]
    assert fp8.nearest(x, "f8E4M3FN")[5] > 0x80
