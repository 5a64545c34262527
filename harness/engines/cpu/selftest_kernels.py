"""The kernels of the self-test, one for each construct: small, and with results that can be said beforehand."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def masked(x, out, size, block: tl.constexpr):
    """Loads with a mask, with and without another value; a store with a mask."""
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i, mask=i < size, other=-7.0) + tl.load(x + i, mask=i < size, other=0.5), mask=i < block - 1)


@triton.jit
def loops(out, count, steps):
    """A for loop with two carried values, a while loop, and a branch inside."""
    program = tl.program_id(0)
    total = 0
    last = -1
    for i in range(program, count, 2):
        if i % 3 == 0:
            total += 10 * i
        else:
            total += i
        last = i
    rest = steps + program
    while rest > 2:
        rest -= 3
    tl.store(out + 3 * program, total)
    tl.store(out + 3 * program + 1, last)
    tl.store(out + 3 * program + 2, rest)


@triton.jit
def early_return(out, limit):
    """A return in the middle, for some of the programs."""
    program = tl.program_id(0)
    if program >= limit:
        return
    tl.store(out + program, program + 1)


@triton.jit
def _double(x):
    return x + x


@triton.jit
def _fourfold(x):
    return _double(_double(x))


@triton.jit
def helpers(x, out, block: tl.constexpr):
    """Calls of helpers that call helpers."""
    i = tl.arange(0, block)
    tl.store(out + i, _fourfold(tl.load(x + i)) + _double(i).to(tl.float32))


@triton.jit
def _first_largest(a, i, b, j):
    better = (a > b) | ((a == b) & (i < j))
    return tl.where(better, a, b), tl.where(better, i, j)


@triton.jit
def reductions(x, out, rows: tl.constexpr, columns: tl.constexpr):
    """Sum, maximum and a combiner of two values of our own, along either axis."""
    i, j = tl.arange(0, rows), tl.arange(0, columns)
    tile = tl.load(x + i[:, None] * columns + j[None, :])
    tl.store(out + i, tl.sum(tile, 1))
    tl.store(out + rows + j, tl.max(tile, 0))
    _, where = tl.reduce((tile, tl.broadcast_to(j[None, :], (rows, columns))), 1, _first_largest)
    tl.store(out + rows + columns + i, where.to(tl.float32))


@triton.jit
def products(a, b, out, size: tl.constexpr):
    """A dot of float32, and one of bf16 with a transposed operand and an accumulator."""
    i, j = tl.arange(0, size)[:, None], tl.arange(0, size)[None, :]
    x, y = tl.load(a + i * size + j), tl.load(b + i * size + j)
    result = tl.dot(x, y, input_precision="ieee")
    tl.store(out + i * size + j, tl.dot(x.to(tl.bfloat16), tl.trans(y).to(tl.bfloat16), result))


@triton.jit
def casts(x, out, halves, narrow, block: tl.constexpr):
    """Between floats, from float to integer and back, to narrower and to wider integers, and to and from bool."""
    i = tl.arange(0, block)
    value = tl.load(x + i)
    tl.store(halves + i, value.to(tl.bfloat16))
    tl.store(narrow + i, value.to(tl.int32).to(tl.int8))
    wide = value.to(tl.int32).to(tl.int8).to(tl.int64)
    unsigned = value.to(tl.int32).to(tl.uint8).to(tl.float32)
    tl.store(out + i, value.to(tl.float16).to(tl.float32) + wide.to(tl.float32) + unsigned + (value > 1).to(tl.float32))


@triton.jit
def pointers(x, out, row_stride, rows: tl.constexpr, columns: tl.constexpr):
    """Offsets in two dimensions, a pointer that moves in a loop, and a reshape."""
    i, j = tl.arange(0, rows), tl.arange(0, columns)
    at = x + i[:, None] * row_stride + j[None, :]
    total = tl.zeros((rows, columns), tl.float32)
    for _ in range(2):
        total += tl.load(at)
        at += columns
    flat = tl.arange(0, rows * columns)
    tl.store(out + flat, tl.reshape(total, (rows * columns,)))


@triton.jit
def constants(out, halves, whole):
    """Constants that are printed as decimals, as hexadecimal bits, in bf16, as 64-bit integers, and as splats."""
    i = tl.arange(0, 8)
    values = tl.where(i == 0, float("inf"), tl.where(i == 1, float("-inf"), tl.where(i == 2, float("nan"), 0.1)))
    values = tl.where(i == 4, -2.5, tl.where(i == 5, 1e-40, tl.where(i == 6, 3.0e38, values)))
    tl.store(out + i, values)
    tl.store(halves + i, tl.where(i < 4, tl.full((8,), 1.5, tl.bfloat16), tl.full((8,), -0.15625, tl.bfloat16)))
    tl.store(whole + i, tl.where(i < 4, tl.full((8,), -5_000_000_000, tl.int64), tl.full((8,), 7, tl.int64)))


@triton.jit
def arguments(out, small, large, real, flag, one, nothing, kind: tl.constexpr):
    """Scalars of each type, one that is specialised away, an absent one, and a dtype as a constant."""
    total = small.to(tl.float32) + (large // 1_000_000_000).to(kind) + real + one
    if flag:
        total += 100
    if nothing is None:
        total += 1000
    tl.store(out, total)


@triton.jit
def comparisons(x, y, u, v, out, block: tl.constexpr):
    """All orders of signed and unsigned integers and of floats, NaN among them; minimum, maximum and select."""
    i = tl.arange(0, block)
    a, b, s, t = tl.load(x + i), tl.load(y + i), tl.load(u + i), tl.load(v + i)
    bits = (a < b).to(tl.int32) + 2 * (a <= b) + 4 * (a > b) + 8 * (a >= b) + 16 * (a == b) + 32 * (a != b)
    bits += 64 * (s < t) + 128 * (s <= t) + 256 * (s > t) + 512 * (s >= t) + 1024 * (s == t) + 2048 * (s != t)
    p, q = s.to(tl.uint32, bitcast=True), t.to(tl.uint32, bitcast=True)
    bits += 4096 * (p < q) + 8192 * (p <= q) + 16384 * (p > q) + 32768 * (p >= q)
    tl.store(out + i, bits)
    tl.store(out + block + i, tl.where(s > t, tl.minimum(s, 5), tl.maximum(t, -5)))


@triton.jit
def arithmetic(x, y, out, block: tl.constexpr):
    """Integer division and remainder, shifts, bitwise operations, exponential, logarithm, square root and fused forms."""
    i = tl.arange(0, block)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, (a // b) * 10000 + (a % b) * 100 + ((a << 1) ^ (b & 3)) + (a >> 1))
    real = a.to(tl.float32)
    root = tl.sqrt(tl.abs(real))
    tl.store(out + block + i, (tl.exp(root * 0.0) + tl.log(root * 0.0 + 1.0) + root * root / 1.0 + 0.5).to(tl.int32))


@triton.jit
def overrun(out, block: tl.constexpr):
    """A store beyond the end, whose line is known."""
    i = tl.arange(0, block)
    tl.store(out + i, i)  # the store that overruns
