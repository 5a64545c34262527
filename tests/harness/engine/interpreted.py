"""Launches that Triton's own interpreter can do too. Run as a script it does them there: `interpreted.py RESULTS.pt`.

The interpreter is chosen when Triton is first imported, by TRITON_INTERPRET=1, so it needs a process of its own.
"""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tridiff.harness.api import Arena, gaussian, integers, uniform
from tridiff.kernels.decode_attention import decode_attention, rounding
from tridiff.reference.decode_attention import reference
from tridiff.strategies.decode_attention import DecodeAttentionCase, build

UNIT = 2.0**-24
"""Half an ulp of 1 in float32."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """`launcher` fills `outputs`; `bound` says per output how far two float32 results may lie apart, if it is no integer."""

    launcher: Callable[[], None]
    outputs: Mapping[str, torch.Tensor]
    bounds: Callable[[], Mapping[str, torch.Tensor]] = dict


@triton.jit
def mix_integers(x, y, out, lengths, block: tl.constexpr):
    """Loops as long as each program's length, over arithmetic of every kind."""
    p = tl.program_id(0)
    lanes = tl.arange(0, block)
    acc = tl.zeros([block], tl.int32)
    for i in range(0, tl.load(lengths + p), 3):
        a = tl.load(x + (p * 7 + i) % 11 + lanes)
        b = tl.load(y + i + lanes, mask=lanes % 3 != i % 3, other=5)
        acc = acc * 31 + tl.where(a > b, a // (b | 1), a % (b | 1)) + ((a << (i % 5)) ^ (b >> 2))
        if i % 2 == 0:
            acc -= tl.minimum(a, b)
    tl.store(out + p * block + lanes, acc)


def integer_mix() -> Launch:
    x, y = (torch.from_numpy(integers(0, name, 64, 2**20) - 2**19).to(torch.int32) for name in "xy")
    lengths = torch.tensor([0, 1, 9, 20, 4], dtype=torch.int32)
    out = torch.zeros(5, 16, dtype=torch.int32)
    return Launch(launcher=lambda: mix_integers[(5,)](x, y, out, lengths, 16), outputs={"out": out})


@triton.jit
def reduce_all(x, total, largest, where, odd, m: tl.constexpr, n: tl.constexpr):
    """Four reductions of a tile, along both axes."""
    p = tl.program_id(0)
    i = tl.arange(0, m)
    j = tl.arange(0, n)
    tile = tl.load(x + (p * m + i[:, None]) * n + j[None, :])
    tl.store(total + p * m + i, tl.sum(tile, 1))
    tl.store(largest + p * n + j, tl.max(tile, 0))
    tl.store(where + p * m + i, tl.argmax(tile, 1))
    tl.store(odd + p * n + j, tl.xor_sum(tile, 0))


def integer_reductions() -> Launch:
    x = torch.from_numpy(integers(0, "reduce", 3 * 8 * 16, 2**31) - 2**30).to(torch.int32)
    outputs = {"total": (3, 8), "largest": (3, 16), "where": (3, 8), "odd": (3, 16)}
    results = {name: torch.zeros(shape, dtype=torch.int32) for name, shape in outputs.items()}
    return Launch(launcher=lambda: reduce_all[(3,)](x, *results.values(), 8, 16), outputs=results)


@triton.jit
def write_slots(source, slots, cache, step, width: tl.constexpr, block: tl.constexpr):
    """A row per program into the slot that is its own; slot -1 writes nothing."""
    p = tl.program_id(0)
    slot = tl.load(slots + p)
    if slot < 0:
        return
    lanes = tl.arange(0, block)
    row = tl.load(source + p * width + lanes, mask=lanes < width)
    tl.store(cache + slot.to(tl.int64) * step + lanes, row, mask=lanes < width)


def cache_writer() -> Launch:
    source = gaussian(0, "source", [6, 12])
    cache = torch.full((10, 16), 7.0)
    slots = torch.tensor([3, -1, 0, 9, 5, -1])
    return Launch(
        launcher=lambda: write_slots[(6,)](source, slots, cache, 16, 12, 16),
        outputs={"cache": cache},
        bounds=lambda: {"cache": torch.zeros(10, 16, dtype=torch.float64)},
    )


@triton.jit
def segment_sums(x, starts, out, block: tl.constexpr):
    """The sum of a segment of each program's own length, by tiles, with a `while`."""
    p = tl.program_id(0)
    at = tl.load(starts + p)
    stop = tl.load(starts + p + 1)
    lanes = tl.arange(0, block)
    acc = tl.zeros([block], tl.float32)
    while at < stop:
        acc += tl.load(x + at + lanes, mask=at + lanes < stop, other=0.0)
        at += block
    tl.store(out + p, tl.sum(acc, 0))


def ragged_sums() -> Launch:
    x = gaussian(0, "segments", [200])
    starts = torch.tensor([0, 5, 5, 77, 200], dtype=torch.int32)
    out = torch.zeros(4)
    edges = starts.tolist()
    sizes = [x[a:b].double().abs().sum() * (b - a) for a, b in pairwise(edges)]
    # Each of the two sums errs by (n - 1) u sum |x| at most, whatever its order (Higham 2002, 4.4).
    bound = 2 * UNIT * torch.stack(sizes)
    return Launch(launcher=lambda: segment_sums[(4,)](x, starts, out, 8), outputs={"out": out}, bounds=lambda: {"out": bound})


@triton.jit
def product(x, y, out, m: tl.constexpr, k: tl.constexpr):
    """The product of tiles [m, k] and [k, m]."""
    i = tl.arange(0, m)
    j = tl.arange(0, k)
    a = tl.load(x + i[:, None] * k + j[None, :])
    b = tl.load(y + j[:, None] * m + i[None, :])
    tl.store(out + i[:, None] * m + i[None, :], tl.dot(a, b, input_precision="ieee"))


def matrix_product() -> Launch:
    x, y, out = gaussian(0, "a", [16, 64]), gaussian(0, "b", [64, 16]), torch.zeros(16, 16)
    # Each errs by k u |x| |y| at most: a rounding per product and k - 1 per sum.
    bound = 2 * 64 * UNIT * (x.double().abs() @ y.double().abs())
    return Launch(launcher=lambda: product[(1,)](x, y, out, 16, 64), outputs={"out": out}, bounds=lambda: {"out": bound})


@triton.jit
def normalise(x, weight, out, eps, n: tl.constexpr):
    """RMS normalisation of a row, then a logistic function."""
    p = tl.program_id(0)
    lanes = tl.arange(0, n)
    row = tl.load(x + p * n + lanes)
    scaled = row * tl.rsqrt(tl.sum(row * row, 0) / n + eps) * tl.load(weight + lanes)
    tl.store(out + p * n + lanes, 1.0 / (1.0 + tl.exp(-scaled)))


def normalisation() -> Launch:
    x, weight, out = uniform(0, "x", [4, 32], -3, 3), gaussian(0, "w", [32]), torch.zeros(4, 32)
    # z errs by (n + 8) u |z| (the sum's n - 1, halved by the root, and a rounding a step); the logistic function has slope 1/4
    # and value at most 1, and its steps round four times, exp by up to 4 ulp.
    z = x.double() * torch.rsqrt((x.double() ** 2).mean(1, keepdim=True) + 1e-6) * weight
    bound = 2 * UNIT * (40 * z.abs() / 4 + 12)
    return Launch(launcher=lambda: normalise[(4,)](x, weight, out, 1e-6, 32), outputs={"out": out}, bounds=lambda: {"out": bound})


ATTENTION = {
    "per_head": DecodeAttentionCase(platform="cuda", num_kv_heads=3, head_dim=24, head_dim_v=40, seq_lens=(33, 0, 1, 18)),
    "grouped": DecodeAttentionCase(platform="cuda", num_kv_heads=2, group_size=5, head_dim=32, seq_lens=(40, 3, 0), page_size=5),
    "splits": DecodeAttentionCase(platform="hip", group_size=3, seq_lens=(70, 2), num_kv_splits=5, page_order="shuffled"),
    "capped": DecodeAttentionCase(platform="cuda", num_kv_heads=2, seq_lens=(9, 30), num_kv_splits=2, logit_cap=2.0, sigma=3.0),
}


def attention(case: DecodeAttentionCase) -> Launch:
    """Our decode attention in float32; both results lie within the reference's bound, so twice that apart at most."""
    inputs = build(case, Arena())

    def bounds() -> Mapping[str, torch.Tensor]:
        verdict = reference(inputs, rounding(**inputs))
        return {name: 2 * bound for name, (_, bound) in verdict["outputs"].items()}

    outputs = {name: inputs[name] for name in ("output", "lse")}
    return Launch(launcher=lambda: decode_attention(**inputs), outputs=outputs, bounds=bounds)


LAUNCHES: dict[str, Callable[[], Launch]] = {
    "integer_mix": integer_mix,
    "integer_reductions": integer_reductions,
    "cache_writer": cache_writer,
    "ragged_sums": ragged_sums,
    "matrix_product": matrix_product,
    "normalisation": normalisation,
    **{f"attention_{name}": partial(attention, case) for name, case in ATTENTION.items()},
}


class AnyDriver:
    """The launcher asks which GPU it runs on."""

    def get_current_target(self) -> GPUTarget:
        """One whose options the launcher leaves alone."""
        return GPUTarget("cuda", 80, 32)


def repair_interpreter() -> None:
    """Keep comparisons of scalars boolean when they are spread over a tensor: the interpreter makes floats of them."""
    from triton.runtime import interpreter  # noqa: PLC0415 - the test that loads this file does without it

    def create_splat(_: Any, kind: Any, value: Any) -> Any:
        return interpreter.TensorHandle(np.full(kind.shape, value.data, dtype=value.data.dtype), value.dtype.scalar)

    interpreter.InterpreterBuilder.create_splat = create_splat
    driver.set_active(AnyDriver())


def main(path: str) -> None:
    """Do all launches and save their outputs as NAME/OUTPUT."""
    repair_interpreter()
    results = {}
    for name, prepare in LAUNCHES.items():
        launch = prepare()
        launch.launcher()
        results.update({f"{name}/{output}": tensor.clone() for output, tensor in launch.outputs.items()})
    torch.save(results, path)


if __name__ == "__main__":
    main(sys.argv[1])
