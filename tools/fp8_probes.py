"""Compile probes of FP8 for one target, all the way to machine code: `fp8_probes.py TARGET PROBE...`.

Started by `fp8_table.py`, which knows that a back end may abort: each answer is a line of JSON on standard output, written as
soon as it is known. A probe is `cast SOURCE RESULT ROUNDING` (the rounding "-" or "rtz"), `dot LEFT RIGHT` or `full RESULT`, with
MLIR's names of the formats.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201 - arguments of jit functions have no Python type, nor have their results

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompilationError

from tridiff.harness.engines.spec import backend_of

FP8 = {"f8E4M3FN": "fp8e4nv", "f8E4M3FNUZ": "fp8e4b8", "f8E5M2": "fp8e5", "f8E5M2FNUZ": "fp8e5b16"}
"""MLIR's names of the formats, with Triton's in signatures."""
WIDE = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "f64": "fp64"}
LANGUAGE = {
    "f8E4M3FN": tl.float8e4nv,
    "f8E4M3FNUZ": tl.float8e4b8,
    "f8E5M2": tl.float8e5,
    "f8E5M2FNUZ": tl.float8e5b16,
    "f32": tl.float32,
    "bf16": tl.bfloat16,
    "f16": tl.float16,
    "f64": tl.float64,
}
REFUSED, FAILS, ABORTS = "refused", "fails", "aborts"
"""Who says no: the front end, the back end by an exception, the back end by ending the process."""
FEW, MANY = 1, 8
"""Numbers that each thread converts: back ends treat one alone and several in a register differently."""
SIDE = 64
"""Rows, columns and depth of a product: the least that all matrix instructions of all targets can do."""


@triton.jit
def convert(x, out, to: tl.constexpr, rounding: tl.constexpr, block: tl.constexpr):
    """A block converted."""
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i).to(to, fp_downcast_rounding=rounding))


@triton.jit
def multiply(a, b, out, side: tl.constexpr):
    """A product of two square blocks."""
    i = tl.arange(0, side)
    at = i[:, None] * side + i[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


@triton.jit
def fill(out, to: tl.constexpr, block: tl.constexpr):
    """A constant that no FP8 format has."""
    tl.store(out + tl.arange(0, block), tl.full((block,), 0.3, to))


def probes() -> list[str]:
    """All of them."""
    casts = [f"cast {source} {result} -" for source in FP8 for result in (*WIDE, *FP8) if source != result]
    casts += [f"cast {source} {result} {rounding}" for source in WIDE for result in FP8 for rounding in ("-", "rtz")]
    dots = [f"dot {left} {right}" for left, right in itertools.product(FP8, FP8)]
    return [*casts, *dots, *(f"full {result}" for result in FP8)]


def sources(probe: str, warp_size: int) -> list[tuple[Any, int]]:
    """The kernels of `probe`, each with its number of warps."""
    together = (FEW, MANY) if probe.startswith("cast ") else (FEW,)
    return [kernel(probe, each * warp_size) for each in together]


def kernel(probe: str, block: int) -> tuple[Any, int]:
    """A kernel of `probe`, for blocks of that size (products have their own), and its number of warps."""
    kind, first, *more = probe.split()
    if kind == "full":
        return _source(fill, {"out": first}, {"to": LANGUAGE[first], "block": block}), 1
    if kind == "dot":
        return _source(multiply, {"a": first, "b": more[0], "out": "f32"}, {"side": SIDE}), 4
    result, rounding = more
    constants = {"to": LANGUAGE[result], "rounding": None if rounding == "-" else rounding, "block": block}
    return _source(convert, {"x": first, "out": result}, constants), 1


def _source(function: Any, pointers: dict[str, str], constants: dict[str, Any]) -> Any:
    """`function` for arguments that are pointers to the named formats, all of them aligned."""
    signature = {name: f"*{({**FP8, **WIDE})[kind]}" for name, kind in pointers.items()}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {(at,): [["tt.divisibility", 16]] for at in range(len(pointers))}
    return ASTSource(function, signature, constexprs=constants, attrs=aligned)


def answer(probe: str, target: str) -> dict[str, Any]:
    """`assembly` of each kernel of `probe`, or the `error` and its `stage`; what the compiler said besides is on stderr."""
    gpu = GPUTarget(*backend_of(target))
    try:
        compiled = [triton.compile(source, gpu, {"num_warps": warps}) for source, warps in sources(probe, gpu.warp_size)]
    except CompilationError as error:
        return {"probe": probe, "stage": REFUSED, "error": _innermost(error)}
    except Exception as error:  # noqa: BLE001 - a back end may raise anything
        return {"probe": probe, "stage": FAILS, "error": str(error)}
    return {"probe": probe, "assembly": [each.asm["amdgcn" if gpu.backend == "hip" else "ptx"] for each in compiled]}


def _innermost(error: BaseException) -> str:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return str(getattr(error, "error_message", None) or error)


def main(target: str, *wanted: str) -> None:
    """Answer the probes; what the compiler writes to standard error is cut into answers by lines `<PROBE>`."""
    for probe in wanted:
        print(f"\n<{probe}>", file=sys.stderr, flush=True)
        print(json.dumps(answer(probe, target)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
