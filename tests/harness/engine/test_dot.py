"""Matrix products: operand formats, precisions, accumulators, shapes, and microscaled operands."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.api import gaussian, integers
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.formats import round_tf32, truncate_tf32
from tridiff.harness.engines.spec import EngineSpec

Run = Callable[..., None]
NAN, INF = math.nan, math.inf
FP8 = [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz]


def numbers(name: str, shape: list[int], bound: int = 1000) -> torch.Tensor:
    """int32 tensor of random integers in [-bound, bound)."""
    return torch.from_numpy(integers(0, name, math.prod(shape), 2 * bound) - bound).to(torch.int32).reshape(shape)


@triton.jit
def product(
    x, y, z, out, m: tl.constexpr, n: tl.constexpr, k: tl.constexpr, left: tl.constexpr, right: tl.constexpr, how: tl.constexpr
):
    """Adds x y to z, where `left` and `right` say which operand lies transposed in memory."""
    p = tl.program_id(0)
    i = tl.arange(0, m)[:, None]
    j = tl.arange(0, n)[None, :]
    if left:
        a = tl.trans(tl.load(x + p * m * k + tl.arange(0, k)[:, None] * m + tl.arange(0, m)[None, :]))
    else:
        a = tl.load(x + p * m * k + i * k + tl.arange(0, k)[None, :])
    if right:
        b = tl.trans(tl.load(y + p * n * k + tl.arange(0, n)[:, None] * k + tl.arange(0, k)[None, :]))
    else:
        b = tl.load(y + p * n * k + tl.arange(0, k)[:, None] * n + j)
    c = tl.load(z + p * m * n + i * n + j)
    tl.store(out + p * m * n + i * n + j, tl.dot(a, b, c, input_precision=how, out_dtype=c.dtype))


@pytest.mark.operations("tt.dot")
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8], ids=str)
def test_dot_of_integers_is_exact(run: Run, dtype: torch.dtype, transposed: tuple[bool, bool]) -> None:
    """Products of small integers are exact in every format and order; each program has its own."""
    x, y = numbers("x", [3, 16, 32], 16), numbers("y", [3, 32, 16], 16)
    accumulator = torch.int32 if dtype is torch.int8 else torch.float32
    z = numbers("z", [3, 16, 16]).to(accumulator)
    out = torch.zeros(3, 16, 16, dtype=accumulator)
    left, right = transposed
    a = (x.transpose(1, 2) if left else x).contiguous().to(dtype)
    b = (y.transpose(1, 2) if right else y).contiguous().to(dtype)

    run(product, (3,), a, b, z, out, 16, 16, 32, left=left, right=right, how="ieee")

    assert torch.equal(out.long(), z.long() + x.long() @ y.long())


@pytest.mark.parametrize("how", ["ieee", "tf32"])
def test_dot_precision(run: Run, how: str) -> None:
    """Operands of a tf32 product lose 13 bits before they are multiplied, those of an ieee one none."""
    x, y, z = gaussian(0, "x", [1, 16, 64]), gaussian(0, "y", [1, 64, 16]), gaussian(0, "z", [1, 16, 16])
    out = torch.zeros(1, 16, 16)

    run(product, (1,), x, y, z, out, 16, 16, 64, left=False, right=False, how=how, spec=EngineSpec(target="sm_80"))

    a, b = (torch.from_numpy(truncate_tf32(t.numpy())) if how == "tf32" else t for t in (x, y))
    exact = z.double() + a.double() @ b.double()
    # A sum of n + 1 terms in any order: n u (|z| + |a| |b|), see test_float_sum, and u for each product.
    bound = 66 * 2.0**-24 * (z.double().abs() + a.double().abs() @ b.double().abs())
    assert ((out.double() - exact).abs() <= bound).all()
    # The bound tells the two apart.
    other = z.double() + x.double() @ y.double()
    assert how == "ieee" or ((exact - other).abs() > bound).any()


def test_tf32_truncation() -> None:
    """Ten bits, toward zero; infinities and NaN stay."""
    x = torch.tensor([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23, -1 - 2.0**-11 - 2.0**-23, INF, -INF, NAN, 1e-40])

    cut = torch.from_numpy(truncate_tf32(x.numpy())).tolist()

    assert cut[:4] == [1.0, 1 + 2.0**-10, 1.0, -1.0]
    assert cut[4:6] == [INF, -INF]
    assert math.isnan(cut[6])


def test_fp16_accumulator(run: Run) -> None:
    """With an fp16 accumulator the result is fp16's nearest to the float32 sum."""
    x, y = gaussian(0, "x", [1, 16, 16]).half(), gaussian(0, "y", [1, 16, 16]).half()
    z, out = torch.zeros(1, 16, 16, dtype=torch.float16), torch.zeros(1, 16, 16, dtype=torch.float16)

    run(product, (1,), x, y, z, out, 16, 16, 16, left=False, right=False, how="ieee", spec=EngineSpec(target="sm_80"))

    exact = x.double() @ y.double()
    assert ((out.double() - exact).abs() <= 2.0**-11 * exact.abs() + 2.0**-20).all()


@triton.jit
def batched(x, y, out, b: tl.constexpr, m: tl.constexpr):
    """A product of three-dimensional tiles."""
    i = tl.arange(0, b)[:, None, None]
    at = (i * m + tl.arange(0, m)[None, :, None]) * m + tl.arange(0, m)[None, None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at), input_precision="ieee"))


def test_batched_dot(run: Run) -> None:
    """The first axis numbers independent products."""
    x, y = numbers("x", [4, 16, 16], 16).float(), numbers("y", [4, 16, 16], 16).float()
    out = torch.zeros(4, 16, 16)

    run(batched, (1,), x, y, out, 4, 16)

    assert torch.equal(out, x @ y)


@triton.jit
def compact_operands(row, out, m: tl.constexpr, k: tl.constexpr):
    """Operands that are constant along the axis of summation, or altogether."""
    p = tl.program_id(0)
    values = tl.load(row + tl.arange(0, m))
    a = tl.broadcast_to(values[:, None], [m, k])
    b = tl.full([k, m], 2.0, tl.float32) * p
    i = tl.arange(0, m)
    tl.store(out + p * m * m + i[:, None] * m + i[None, :], tl.dot(a, b, input_precision="ieee"))


def test_dot_of_compact_operands(run: Run) -> None:
    """What does not vary along the axis of summation is still summed as often as the axis is long."""
    row = torch.arange(16.0)
    out = torch.zeros(3, 16, 16)

    run(compact_operands, (3,), row, out, 16, 32)

    assert torch.equal(out, (torch.arange(3.0)[:, None, None] * 64 * row[:, None]).expand(3, 16, 16))


def tf32(x: torch.Tensor) -> torch.Tensor:
    """To nearest with ties away from zero, by float64 arithmetic."""
    _, exponent = torch.frexp(x.double())
    unit = torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent - 11)
    steps = x.double().abs() / unit
    return (torch.floor(steps + 0.5) * unit * x.double().sign()).float()


def test_tf32_rounding() -> None:
    """The large part of tf32x3: nearest, ties away from zero, up to infinity."""
    x = gaussian(0, "x", [1 << 12])
    ties = torch.tensor([1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-11, INF, -INF, NAN, 3.4028e38])

    rounded = torch.from_numpy(round_tf32(ties.numpy())).tolist()

    assert torch.equal(torch.from_numpy(round_tf32(x.numpy())), tf32(x))
    assert rounded[:5] == [1 + 2.0**-10, 1 + 2.0**-9, -1 - 2.0**-10, INF, -INF]
    assert math.isnan(rounded[5])
    assert rounded[6] == INF


def parts(x: torch.Tensor, how: str) -> list[torch.Tensor]:
    """What an operand is split into, largest first, as float64."""
    if how == "tf32x3":
        large = tf32(x)
        return [large.double(), torch.from_numpy(truncate_tf32((x - large).numpy())).double()]
    found, rest = [], x
    for _ in range(3):
        found.append(rest.bfloat16().float())
        rest = rest - found[-1]
    return [part.double() for part in found]


PAIRS = {
    "tf32x3": [(0, 0), (0, 1), (1, 0)],
    "bf16x3": [(0, 0), (0, 1), (1, 0)],
    "bf16x6": [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)],
}


@pytest.mark.parametrize("how", PAIRS)
def test_split_products(run: Run, how: str) -> None:
    """The products of the parts that the attribute names: all of them, and no others, which the bound can tell."""
    x, y, z = gaussian(0, "x", [1, 16, 64]), gaussian(0, "y", [1, 64, 16]), torch.zeros(1, 16, 16)
    # Without cancellation, so that a missing product of the smallest parts is larger than rounding.
    x, y = 2.0**12 * (x.abs() + 0.5), y.abs() + 0.5
    out = torch.zeros(1, 16, 16)
    one_term = torch.zeros(1, 16, 16)
    first = torch.zeros_like(x)
    first[:, :, 0] = x[:, :, 0]

    run(product, (1,), x, y, z, out, 16, 16, 64, left=False, right=False, how=how, spec=EngineSpec(target="sm_90"))
    run(product, (1,), first, y, z, one_term, 16, 16, 64, left=False, right=False, how=how, spec=EngineSpec(target="sm_90"))

    def exact(a: torch.Tensor) -> torch.Tensor:
        left, right = parts(a, how), parts(y, how)
        return torch.stack([left[i] @ right[j] for i, j in PAIRS[how]]).sum(0)

    assert ((out.double() - exact(x)).abs() <= (64 * len(PAIRS[how]) + 8) * 2.0**-24 * exact(x)).all()
    # A sum of one term each is right to a unit or two in the last place.
    assert ((one_term.double() - exact(first)).abs() <= 2.0**-23 * exact(first)).all()
    error = (one_term.double() - first.double() @ y.double()).abs() / (first.double() @ y.double())
    assert error.max() < {"tf32x3": 2.0**-20, "bf16x3": 2.0**-15, "bf16x6": 2.0**-22}[how]
    assert how != "bf16x3" or error.max() > 2.0**-20


def test_split_products_keep_infinities(run: Run) -> None:
    """What is left of an infinity is NaN, and its products count as 0; a NaN operand stays NaN."""
    x, y = torch.ones(1, 16, 16), torch.ones(1, 16, 16)
    x[0, 0, 0], x[0, 1, 0] = INF, NAN
    out = torch.zeros(1, 16, 16)

    run(product, (1,), x, y, torch.zeros(1, 16, 16), out, 16, 16, 16, left=False, right=False, how="bf16x3")

    assert out[0, 0].tolist() == [INF] * 16
    assert out[0, 1].isnan().all()
    assert out[0, 2].tolist() == [16.0] * 16


@pytest.mark.parametrize("target", ["gfx950", "gfx90a"])
def test_precisions_of_the_target(run: Run, target: str) -> None:
    """tf32 on a target without it is what Triton says it is: refused."""
    x = torch.zeros(1, 16, 16)

    with pytest.raises(KernelError, match="input_precision must be one of"):
        run(product, (1,), x, x, x, x, 16, 16, 16, left=False, right=False, how="tf32", spec=EngineSpec(target=target))


@pytest.mark.parametrize("first", FP8, ids=str)
@pytest.mark.parametrize("second", FP8, ids=str)
def test_fp8_operands(run: Run, first: torch.dtype, second: torch.dtype) -> None:
    """Any two formats: their values are multiplied, not their codes."""
    x, y = numbers("x", [1, 16, 32], 8), numbers("y", [1, 32, 16], 8)
    z, out = numbers("z", [1, 16, 16]).float(), torch.zeros(1, 16, 16)

    run(product, (1,), x.float().to(first), y.float().to(second), z, out, 16, 16, 32, left=False, right=False, how="ieee")

    assert torch.equal(out.long(), z.long() + x.float().to(first).long() @ y.float().to(second).long())


def test_float64_operands(run: Run) -> None:
    """Summed in float64."""
    x, y, z = (gaussian(0, name, [1, 16, 16]).double() for name in "xyz")
    out = torch.zeros(1, 16, 16, dtype=torch.float64)

    run(product, (1,), x + 2.0**-40, y, z, out, 16, 16, 16, left=False, right=False, how="ieee")

    assert ((out - (z + (x + 2.0**-40) @ y)).abs() < 1e-13).all()


def test_integer_sums_wrap(run: Run) -> None:
    """int8 products are summed in int32, which wraps around."""
    x = torch.full((1, 16, 32), -128, dtype=torch.int8)
    z = torch.full((1, 16, 16), 2**31 - 1, dtype=torch.int32)
    out = torch.zeros(1, 16, 16, dtype=torch.int32)

    run(product, (1,), x, x.reshape(1, 32, 16).contiguous(), z, out, 16, 16, 32, left=False, right=False, how="ieee")

    assert out.unique().tolist() == [2**31 - 1 + 32 * 128 * 128 - 2**32]


# ------------------------------------------------------------------------------------------------------------ dot_scaled


@triton.jit
def scaled(
    x, xs, y, ys, z, out, first: tl.constexpr, second: tl.constexpr, depth: tl.constexpr, fast: tl.constexpr, pack: tl.constexpr
):
    """Tiles of 32 x depth and depth x 32; operands of four bits are packed along the depth, or along the other axis."""
    m: tl.constexpr = 32
    blocks: tl.constexpr = depth // 32
    rows: tl.constexpr = m // 2 if first == "e2m1" and not pack else m
    columns: tl.constexpr = m // 2 if second == "e2m1" and not pack else m
    left: tl.constexpr = depth // 2 if first == "e2m1" and pack else depth
    right: tl.constexpr = depth // 2 if second == "e2m1" and pack else depth
    a = tl.load(x + tl.arange(0, rows)[:, None] * left + tl.arange(0, left)[None, :])
    b = tl.load(y + tl.arange(0, right)[:, None] * columns + tl.arange(0, columns)[None, :])
    at = tl.arange(0, m)[:, None] * blocks + tl.arange(0, blocks)[None, :]
    tile = tl.arange(0, m)[:, None] * m + tl.arange(0, m)[None, :]
    s = None if xs is None else tl.load(xs + at)
    t = None if ys is None else tl.load(ys + at)
    c = tl.load(z + tile)
    lk: tl.constexpr = pack or first != "e2m1"
    rk: tl.constexpr = pack or second != "e2m1"
    tl.store(out + tile, tl.dot_scaled(a, s, first, b, t, second, c, fast_math=fast, lhs_k_pack=lk, rhs_k_pack=rk))


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
KINDS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "bf16": torch.bfloat16, "fp16": torch.float16}
DEPTH = 64


def operand(kind: str, name: str, shape: list[int], axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random operand as the kernel takes it, four-bit ones packed along `axis`, and its values."""
    if kind != "e2m1":
        stored = numbers(name, shape, 8).float().to(KINDS[kind])
        return stored, stored.double()
    codes = numbers(name, shape, 8) + 8
    low, high = codes.unfold(axis, 2, 2).unbind(-1)
    return (low + 16 * high).to(torch.uint8), E2M1[codes.long()]


def scales(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random codes near 127, one for 32 numbers, and a factor for every number."""
    codes = (numbers(name, [32, DEPTH // 32], 4) + 127).to(torch.uint8)
    return codes, (2.0 ** (codes.double() - 127)).repeat_interleave(32, dim=1)


@pytest.mark.operations("tt.dot_scaled")
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("target", ["gfx942", "gfx950", "sm_100"])
@pytest.mark.parametrize(
    ("first", "second"),
    [("e2m1", "e2m1"), ("e4m3", "e2m1"), ("e2m1", "e5m2"), ("e5m2", "e4m3"), ("bf16", "e2m1"), ("e4m3", "fp16")],
)
def test_dot_scaled(run: Run, first: str, second: str, target: str, pack: bool) -> None:
    """Numbers of four bits, the lower half of a byte first, and of eight and sixteen, times a power of two per block of 32."""
    x, a = operand(first, "x", [32, DEPTH], 1 if pack else 0)
    y, b = operand(second, "y", [DEPTH, 32], 0 if pack else 1)
    xs, p = (None, torch.ones(32, DEPTH)) if first == "bf16" else scales("p")
    ys, q = (None, torch.ones(32, DEPTH)) if second == "fp16" else scales("q")
    z, out = numbers("z", [32, 32]).float(), torch.zeros(32, 32)

    run(scaled, (1,), x, xs, y, ys, z, out, first, second, DEPTH, fast=False, pack=pack, spec=EngineSpec(target=target))

    # Small numbers with few bits: every sum is exact.
    assert torch.equal(out.double(), z.double() + (a * p.double()) @ (b * q.double().T))


@pytest.mark.parametrize(
    ("target", "fast", "code", "value"),
    [
        ("gfx942", False, 255, NAN),
        ("gfx942", True, 255, INF),
        ("gfx942", False, 0, 0.0),
        ("gfx942", False, 1, 2.0**-126 * 64),
        ("gfx950", False, 255, NAN),
        ("gfx950", True, 255, NAN),
        ("gfx950", False, 0, 2.0**-127 * 64),
        ("gfx942", False, 254, INF),
    ],
)
def test_extreme_scales(run: Run, target: str, fast: bool, code: int, value: float) -> None:
    """255 is NaN, unless the sequence of a target without scaling instructions is told not to look; there 0 gives 0."""
    ones = torch.ones(32, DEPTH).to(torch.float8_e4m3fn)
    xs, ys = torch.full((32, 2), code, dtype=torch.uint8), torch.full((32, 2), 127, dtype=torch.uint8)
    out = torch.zeros(32, 32)

    run(
        *(scaled, (1,), ones, xs, ones.reshape(DEPTH, 32), ys, torch.zeros(32, 32), out, "e4m3", "e4m3", DEPTH, fast, True),
        spec=EngineSpec(target=target),
    )

    result = out.unique().tolist() if not out.isnan().all() else [NAN]
    assert [repr(number) for number in result] == [repr(value)]


def test_scales_in_fp16(run: Run) -> None:
    """With an fp16 operand the scales are fp16 numbers too: 2^16 is beyond them, and 2^-25 below."""
    ones = torch.ones(32, DEPTH).to(torch.float8_e4m3fn)
    half = torch.ones(DEPTH, 32).half()
    for code, value in ((142, 64 * 2.0**15), (143, INF), (127 - 24, 64 * 2.0**-24), (127 - 25, 0.0)):
        xs, out = torch.full((32, 2), code, dtype=torch.uint8), torch.zeros(32, 32)

        run(scaled, (1,), ones, xs, half, None, torch.zeros(32, 32), out, "e4m3", "fp16", DEPTH, fast=False, pack=True)

        assert out.unique().tolist() == [value]
