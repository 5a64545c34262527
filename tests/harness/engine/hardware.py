"""Kernels and inputs whose results on hardware are kept in tests/data/hardware, for the engine to be compared with.

A script runs `measured` on a GPU and `as_json` writes the file; test_hardware runs the same cases on the engine.
"""

# ruff: noqa: D103 - jit functions of one line that stand for an operation
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import base64
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl

Launch = Callable[..., None]
"""launch(kernel, grid, *arguments): arguments are tensors on the CPU, those that the kernel writes are filled in place."""

NAN, INF = math.nan, math.inf
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
RAW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
DTYPES = {
    **{str(dtype).removeprefix("torch."): dtype for dtype in (F32, F16, BF16, torch.float64)},
    **{name: getattr(torch, name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    **{name: getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2")},
}
TRITON = {"float8_e4m3fn": tl.float8e4nv, "float8_e5m2": tl.float8e5, "float32": tl.float32, "float16": tl.float16} | {
    "bfloat16": tl.bfloat16,
    **{name: getattr(tl, name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}


@dataclass(frozen=True)
class Case:
    """One kernel on one set of inputs. `slack`: how far results may differ, in units of 2^-23 of the magnitude; 0 for none.

    `magnitude`: what the slack of a sum is relative to; None for the result itself.
    """

    name: str
    kernel: Any
    inputs: tuple[torch.Tensor, ...]
    constants: tuple[Any, ...]
    result: torch.dtype
    count: int
    slack: float = 0.0
    magnitude: torch.Tensor | None = None

    def run(self, launch: Launch) -> torch.Tensor:
        """The results."""
        out = torch.zeros(self.count, dtype=self.result)
        grid = (triton.cdiv(self.count, 1024),) if self.kernel is not tile else (1,)
        launch(self.kernel, grid, *self.inputs, out, *self.constants)
        return out


@triton.jit
def convert(x, out, size, to: tl.constexpr, how: tl.constexpr):
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(out + i, tl.load(x + i, mask=i < size).to(to, fp_downcast_rounding=how), mask=i < size)


@triton.jit
def each(x, y, out, size, function: tl.constexpr):
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(out + i, function(tl.load(x + i, mask=i < size), tl.load(y + i, mask=i < size)), mask=i < size)


@triton.jit
def tile(x, y, out, n: tl.constexpr, how: tl.constexpr):
    at = tl.arange(0, n)[:, None] * n + tl.arange(0, n)[None, :]
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at), input_precision=how))


@triton.jit
def exp(x, y):
    return tl.exp(x)


@triton.jit
def exp2(x, y):
    return tl.exp2(x)


@triton.jit
def log(x, y):
    return tl.log(x)


@triton.jit
def log2(x, y):
    return tl.log2(x)


@triton.jit
def rsqrt(x, y):
    return tl.rsqrt(x)


@triton.jit
def sqrt(x, y):
    return tl.sqrt(x)


@triton.jit
def sqrt_rn(x, y):
    return tl.sqrt_rn(x)


@triton.jit
def sin(x, y):
    return tl.sin(x)


@triton.jit
def cos(x, y):
    return tl.cos(x)


@triton.jit
def erf(x, y):
    return tl.erf(x)


@triton.jit
def divide(x, y):
    return x / y


@triton.jit
def div_rn(x, y):
    return tl.div_rn(x, y)


@triton.jit
def fmod(x, y):
    return x % y


@triton.jit
def maximum(x, y):
    return tl.maximum(x, y)


@triton.jit
def minimum(x, y):
    return tl.minimum(x, y)


@triton.jit
def maximum_nan(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum_nan(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def negate(x, y):
    return -x


@triton.jit
def add(x, y):
    return x + y


@triton.jit
def multiply(x, y):
    return x * y


@triton.jit
def int_divide(x, y):
    return x // y


@triton.jit
def shift_left(x, y):
    return x << y


@triton.jit
def shift_right(x, y):
    return x >> y


APPROXIMATE = {exp2: 4, log: 4, log2: 4, rsqrt: 4, sqrt: 4, sin: 8, cos: 8, erf: 8}
"""Slack of the functions that are approximations: a few units in the last place."""
EXACT = (sqrt_rn, divide, div_rn, fmod, maximum, minimum, maximum_nan, minimum_nan, negate, add, multiply)
EXTREMES = [
    0.0,
    1.0,
    0.5,
    1.5,
    2.0,
    1e-45,
    1e-40,
    1.1754944e-38,
    1e-20,
    3e-3,
    0.7,
    3.0,
    10.0,
    87.0,
    88.72,
    88.8,
    103.9,
    104.5,
    127.5,
    128.0,
    149.0,
    151.0,
    1e4,
    1e10,
    3.4e38,
    INF,
    NAN,
]


def floats_to_fp8(dtype: torch.dtype) -> torch.Tensor:
    """float32: every upper half of the bits, every number and tie of the format, and their neighbours."""
    upper = (torch.arange(1 << 16) << 16).to(torch.int32).view(F32)
    values = torch.arange(256).to(torch.uint8).view(dtype).double()
    finite = values[values.isfinite() & (values >= 0)].sort().values
    ties = torch.cat([finite, (finite[1:] + finite[:-1]) / 2, finite[-1:] + (finite[-1] - finite[-2]) / 2]).float()
    near = torch.cat([ties, torch.nextafter(ties, torch.tensor(INF)), torch.nextafter(ties, torch.tensor(-INF))])
    return torch.cat([upper, near, -near])


def halves(dtype: torch.dtype) -> torch.Tensor:
    """All numbers of a 16-bit format."""
    return torch.arange(1 << 16).to(torch.int32).to(torch.int16).view(dtype)


def around_limits() -> torch.Tensor:
    """float32 at and beside the limits of every integer type, halves, NaN and infinities, both signs."""
    powers = [2.0**power for power in (0, 7, 8, 15, 16, 31, 32, 63, 64)]
    x = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.5, 2.5, 100.7, *powers, 1e30, 3.4e38, INF, NAN])
    x = torch.cat([x, torch.nextafter(x, torch.tensor(0.0)), torch.nextafter(x, torch.tensor(INF)), x - 0.5, x + 0.5])
    return torch.cat([x, -x])


def conversions() -> Iterator[Case]:
    """To and from FP8, to halves toward zero, and from floats to integers."""
    for to in ("float8_e4m3fn", "float8_e5m2"):
        for x in (floats_to_fp8(DTYPES[to]), halves(F16), halves(BF16)):
            yield conversion(x, to, "rtne")
        for wider in ("float32", "float16", "bfloat16"):
            yield conversion(torch.arange(256).to(torch.uint8).view(DTYPES[to]), wider, None)
    toward_zero = floats_to_fp8(DTYPES["float8_e5m2"])
    for to in ("float8_e5m2", "float16", "bfloat16"):
        yield conversion(toward_zero, to, "rtz")
    for to in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        for source in (F32, F16, BF16):
            yield conversion(around_limits().to(source), to, None)


def conversion(x: torch.Tensor, to: str, how: str | None) -> Case:
    """`x` converted."""
    source = str(x.dtype).removeprefix("torch.")
    name = f"{source} to {to}" + (" toward zero" if how == "rtz" else "")
    return Case(name, convert, (x,), (x.numel(), TRITON[to], how), DTYPES[to], x.numel())


def arithmetic() -> Iterator[Case]:
    """Float functions at extremes, pairs of extremes, and integers where C says that anything goes."""
    extremes = torch.tensor([sign * value for value in EXTREMES for sign in (1, -1)])
    for function, slack in APPROXIMATE.items():
        yield elementwise(function, extremes, extremes, slack)
    yield replace(elementwise(exp, extremes, extremes, 1), magnitude=error_of_exp(extremes.double()) * 2.0**23)
    pairs = torch.tensor(list(itertools.product(extremes.tolist(), repeat=2)))
    for function in EXACT:
        yield elementwise(function, pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), 2 if function is divide else 0)
    for dtype in (torch.int32, torch.uint32, torch.int64, torch.int8):
        info = torch.iinfo(dtype)
        dividends = torch.tensor([0, 1, 7, info.max, info.min, -7 if info.min else 9], dtype=torch.int64).to(dtype)
        for function in (int_divide, fmod):
            yield elementwise(function, dividends, torch.zeros(6, dtype=torch.int64).to(dtype), 0, " by zero")
        amounts = torch.tensor([0, 1, info.bits - 1, info.bits, info.bits + 1, 2 * info.bits], dtype=torch.int64).to(dtype)
        x = torch.full((6,), -1 if info.min else info.max, dtype=torch.int64).to(dtype)
        for function in (shift_left, shift_right):
            yield elementwise(function, x, amounts, 0, " beyond the width")


def error_of_exp(x: torch.Tensor) -> torch.Tensor:
    """How far hardware's exp of `x` (float64) may lie from the engine's.

    Hardware rounds x log2(e) to float32 and takes 2 to the power of that. The constant is off by 2^-26.15 of itself, the product
    by another 2^-24, together e: 2^(t + t e) is off by the factor exp(|x| e). Then 2 units in the last place for ex2.approx (PTX
    ISA), and 2.52 for the engine, which is NumPy's (its vector exp, by its own tests): of the result, or of 2^-126 below it.
    """
    result = torch.exp(x)
    argument = torch.expm1(x.abs() * (2.0**-24 + 2.0**-26.15))
    units = (2 + 2.52) * 2.0**-23
    return (result * argument + units * result.clamp(min=2.0**-126)).nan_to_num(0.0, 0.0, 0.0)


def elementwise(function: Any, x: torch.Tensor, y: torch.Tensor, slack: float, how: str = "") -> Case:
    """A jit function of two numbers."""
    name = f"{function.__name__} of {str(x.dtype).removeprefix('torch.')}{how}"
    return Case(name, each, (x, y), (x.numel(), function), x.dtype, x.numel(), slack)


def dots() -> Iterator[Case]:
    """Tiles of 32 x 32: random ones, and one entry a row times ones, which shows how a number is cut."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(32, 32, generator=generator) for _ in "xy")
    bits = torch.arange(1024).mul(8).add(0x3F800000).to(torch.int32).view(F32).reshape(32, 32)
    ones = torch.eye(32)
    for how in ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6"):
        yield product(x, y, how, f"{how} dot", 32)
        yield product(bits, ones, how, f"{how} dot that shows the operands", 1 if how in {"tf32x3", "bf16x3", "bf16x6"} else 0)
    for first, second in itertools.product(("float8_e4m3fn", "float8_e5m2"), repeat=2):
        # Hopper keeps about 14 bits of a partial sum of FP8 products: 2^-13 of the sum of magnitudes covers it.
        yield product(x.to(DTYPES[first]), y.to(DTYPES[second]), "ieee", f"{first} dot {second}", 2.0**10)


def product(x: torch.Tensor, y: torch.Tensor, how: str, name: str, slack: float) -> Case:
    """A matrix product."""
    magnitude = x.double().abs() @ y.double().abs()
    return Case(name, tile, (x, y), (32, how), F32, 1024, slack, magnitude.flatten())


def cases() -> dict[str, Case]:
    """All of them, by name."""
    return {case.name: case for case in (*conversions(), *arithmetic(), *dots())}


def measured(launch: Launch, refuse: tuple[type[Exception], ...]) -> dict[str, torch.Tensor]:
    """Results by name; cases that raise one of `refuse` are left out."""
    attempts = {name: attempt(case, launch, refuse) for name, case in cases().items()}
    return {name: result for name, result in attempts.items() if result is not None}


def attempt(case: Case, launch: Launch, refuse: tuple[type[Exception], ...]) -> torch.Tensor | None:
    """The case's results, or None, with a word on why."""
    try:
        return case.run(launch)
    except refuse as error:
        print(f"{case.name}: {type(error).__name__}")  # noqa: T201 - run by hand, on a GPU
        return None


def as_json(results: dict[str, torch.Tensor], about: dict[str, str]) -> str:
    """`about`: device, versions, target."""
    packed = {name: base64.b64encode(zlib.compress(bytes_of(result), 9)).decode() for name, result in results.items()}
    return json.dumps({"about": about, "results": packed}, indent=0)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Little-endian."""
    return tensor.view(RAW[tensor.element_size()]).numpy().tobytes()


def from_json(text: str) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """What `as_json` wrote."""
    data, known = json.loads(text), cases()
    results = {}
    for name, packed in data["results"].items():
        raw = bytearray(zlib.decompress(base64.b64decode(packed)))
        results[name] = torch.frombuffer(raw, dtype=RAW[known[name].result.itemsize]).view(known[name].result)
    return data["about"], results


def differing(case: Case, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Where two results differ by more than the case's slack. Any NaN of 16 bits or more is as good as another."""
    raw = RAW[case.result.itemsize]
    differs = ours.view(raw) != theirs.view(raw)
    if not case.result.is_floating_point or case.result.itemsize == 1:
        return differs
    differs &= ~(ours.isnan() & theirs.isnan())
    if case.slack == 0:
        return differs
    magnitude = theirs.double().abs() if case.magnitude is None else case.magnitude
    near = (ours.double() - theirs.double()).abs() <= case.slack * 2.0**-23 * magnitude
    return differs & ~near


def described(case: Case, ours: torch.Tensor, theirs: torch.Tensor, limit: int = 8) -> list[str]:
    """A line for some of the places where they differ, spread over all of them."""
    places = differing(case, ours, theirs).nonzero().flatten()
    step = max(1, len(places) // limit)
    inputs = [x.flatten() for x in case.inputs] if case.kernel is not tile else []
    return [
        f"{[x[i].item() for x in inputs]}: engine {number(ours[i])}, hardware {number(theirs[i])}"
        for i in places[::step][:limit].tolist()
    ]


def number(value: torch.Tensor) -> str:
    """A result, FP8 with its code."""
    if value.dtype.itemsize == 1 and value.dtype.is_floating_point:
        return f"{value.float().item()} ({value.view(torch.uint8).item():#x})"
    return repr(value.item())
