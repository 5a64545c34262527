"""Chunks: what is estimated to be alive, and that results and memory are as promised."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu import engine
from tridiff.harness.engines.cpu.liveness import last_uses, live_bytes, used_elsewhere
from tridiff.harness.engines.cpu.mlir import parse

PROGRAMS = 4096


@triton.jit
def _add(x, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) + 1)


@triton.jit
def _chain(x, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(x + i)
    for _ in tl.static_range(24):
        value = value * 1.5 + 1
    tl.store(out + i, value)


@triton.jit
def _wide(x, out, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    a = tl.load(x + i)
    b, c, d = a + 1, a * 2, a - 3
    tl.store(out + i, a * b + c * d + (a + d) * (b + c))


@triton.jit
def _branching(x, out, limit, block: tl.constexpr):
    program = tl.program_id(0)
    i = tl.arange(0, block)
    value = tl.load(x + program * block + i)
    square = value * value
    if program >= limit:
        return
    for step in range(program % 3):
        square += value * step
    tl.store(out + program * block + i, square)


FUNCTION = """"builtin.module"() ({{
"tt.func"() <{{function_type = (!tt.ptr<f32>) -> (), sym_name = "k"}}> ({{
^bb0(%p: !tt.ptr<f32> loc(unknown)):
{lines}
"tt.return"() : () -> () loc(unknown)
}}) : () -> () loc(unknown)
}}) : () -> () loc(unknown)
"""
T = "tensor<1024xf32>"


def estimate(*lines: str) -> int:
    """live_bytes of a function with these operations."""
    text = FUNCTION.format(lines="\n".join(f"{line} loc(unknown)" for line in lines))
    return live_bytes(parse(text).regions[0].blocks[0].operations[0])


VARIED = [
    '%pid = "tt.get_program_id"() <{axis = 0 : i32}> : () -> i32',
    '%s = "tt.splat"(%pid) : (i32) -> tensor<1024xi32>',
    '%r = "tt.make_range"() <{end = 1024 : i32, start = 0 : i32}> : () -> tensor<1024xi32>',
    '%i = "arith.addi"(%s, %r) : (tensor<1024xi32>, tensor<1024xi32>) -> tensor<1024xi32>',
    f'%f = "arith.sitofp"(%i) : (tensor<1024xi32>) -> {T}',
]


def test_what_programs_share_is_free() -> None:
    """Ranges, constants and splats of constants cost nothing a program."""
    shared = estimate(VARIED[2], f'%f = "arith.sitofp"(%r) : (tensor<1024xi32>) -> {T}')

    assert shared == 1


def test_dead_values_do_not_count() -> None:
    """Of a long chain two tensors are alive at a time; with a last use of the first, three."""
    chained = [f'%f{n + 1} = "arith.negf"(%f{n or ""}) : ({T}) -> {T}' for n in range(9)]
    short = estimate(*VARIED, *chained[:3])
    long = estimate(*VARIED, *chained)
    held = estimate(*VARIED, *chained, f'%last = "arith.addf"(%f9, %f) : ({T}, {T}) -> {T}')

    assert short == long == 2 * 4096
    assert held == 3 * 4096


def test_splat_of_a_program_is_compact() -> None:
    """A value that does not vary along an axis has size one there."""
    assert estimate(*VARIED[:2], '%t = "arith.muli"(%s, %s) : (tensor<1024xi32>, tensor<1024xi32>) -> tensor<1024xi32>') <= 8


def test_loop_body_comes_on_top() -> None:
    """What a loop's body keeps alive adds to what lives across the loop."""
    body = (
        f'%o = "scf.for"(%c, %c, %c, %f) ({{\n^bb1(%k: i32 loc(unknown), %a: {T} loc(unknown)):\n'
        f'%g = "arith.addf"(%a, %f) : ({T}, {T}) -> {T} loc(unknown)\n"scf.yield"(%g) : ({T}) -> () loc(unknown)\n'
        f"}}) : (i32, i32, i32, {T}) -> {T}"
    )
    loop = ['%c = "arith.constant"() <{value = 4 : i32}> : () -> i32', body]

    assert 4 * 4096 <= estimate(*VARIED, *loop) <= 4 * 4096 + 64


def test_kept_values_are_never_dropped() -> None:
    """What another block reads outlives its own."""
    text = FUNCTION.format(lines="\n".join(f"{line} loc(unknown)" for line in VARIED))
    region = parse(text).regions[0].blocks[0].operations[0].regions[0]
    (block,) = region.blocks

    assert used_elsewhere(region, block) == set()
    assert any("%i" in names for names in last_uses(block, set()))
    assert not any("%i" in names for names in last_uses(block, {"%i"}))


@pytest.mark.parametrize("live", [1, 3 << 12, 1 << 30])
def test_chunks_do_not_change_results(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, live: int) -> None:
    """One program at a time, a few, or all: the same results, also where programs part ways."""
    monkeypatch.setattr(engine, "LIVE_BYTES", live)
    x, out = torch.arange(7 * 16, dtype=torch.float32), torch.zeros(7, 16)
    run(_branching, (7,), x, out, 5, 16)

    rows = x.reshape(7, 16)
    factor = torch.tensor([0.0, 0, 1, 0, 0]).reshape(5, 1)
    assert torch.equal(out[:5], rows[:5] * rows[:5] + factor * rows[:5])
    assert not out[5:].any()


@pytest.mark.parametrize("kernel", [_add, _chain, _wide])
@pytest.mark.parametrize("block", [256, 4096])
def test_memory_is_bounded(run: Callable[..., None], kernel: Any, block: int) -> None:
    """At 4096 programs a launch keeps no more than twice the limit alive, however long the kernel is."""
    x, out = torch.ones(PROGRAMS * block), torch.zeros(PROGRAMS * block)
    run(kernel, (1,), x, out, block)
    tracemalloc.start()
    try:
        run(kernel, (PROGRAMS,), x, out, block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 2 * engine.LIVE_BYTES


def test_memory_follows_the_limit(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is of the right size: a launch uses a good part of what it may."""
    monkeypatch.setattr(engine, "LIVE_BYTES", 8 << 20)
    x, out = torch.ones(PROGRAMS * 1024), torch.zeros(PROGRAMS * 1024)
    run(_wide, (1,), x, out, 1024)
    tracemalloc.start()
    try:
        run(_wide, (PROGRAMS,), x, out, 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 2 << 20 < peak < 16 << 20
