"""Matrix products: tt.dot in the precision that its attribute says, tt.dot_scaled with microscaled operands.

Sums are formed in float32 (float64, int32) by NumPy; the order in which hardware sums, and the fewer bits that it may keep
of a partial sum (max_num_imprecise_acc), are not modelled: an error bound covers them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tridiff.harness.engines.cpu import formats, fp8, fp8_lowering
from tridiff.harness.engines.cpu.formats import Array
from tridiff.harness.engines.cpu.fp8_lowering import Conversion
from tridiff.harness.engines.cpu.machine import Lanes, Step
from tridiff.harness.engines.cpu.program import Bound, Builder
from tridiff.harness.engines.cpu.target import Target
from tridiff.harness.engines.cpu.values import full

Product = Callable[[Array, Array], Array]

_TF32, _TF32X3, _IEEE, _BF16X3, _BF16X6 = range(5)
"""Values of the property inputPrecision."""

_SMALL_PRODUCTS = {
    _TF32X3: ((1, 0), (0, 1)),
    _BF16X3: ((1, 0), (0, 1)),
    _BF16X6: ((1, 1), (2, 0), (0, 2), (1, 0), (0, 1)),
}
"""Which parts of the operands (0 the largest) are multiplied, in order, before the product of the largest.

Read from the TTGIR that Triton 3.6 to 3.9 make; after Henry et al., "Leveraging the bfloat16 Artificial Intelligence
Datatype For Higher-Precision Computations", 2019.
"""


def _dot(op: Bound) -> Step:
    a, b, c = op.ins
    (out,) = op.outs
    left, right = _operand(op.operand(0).element), _operand(op.operand(1).element)
    product = _product(op)
    finish = formats.ROUND.get(op.result.element, np.asarray)
    formats.check_arithmetic(op.result.element)
    target = formats.compute_dtype(op.result.element)

    def run(lanes: Lanes) -> None:
        total = product(left(lanes.array(a)), right(lanes.array(b)))
        lanes.regs[out] = finish((total + lanes.array(c)).astype(target, copy=False))

    return run


def _operand(element: str) -> Conversion:
    if element in fp8.FORMATS:
        return lambda codes: fp8.values(element)[codes]
    widen = np.int32 if element.startswith("i") else formats.compute_dtype(element)
    return lambda x: x.astype(widen, copy=False)


def _product(op: Bound) -> Product:
    """The product of two operands, without the accumulator; the precision matters to float32 alone."""
    multiply = _multiplication(op.operand(0).shape[-1])
    precision = op.operation.properties.get("inputPrecision", _IEEE)
    if op.operand(0).element != "f32" or precision == _IEEE:
        return multiply
    if precision == _TF32:
        return lambda x, y: multiply(formats.truncate_tf32(x), formats.truncate_tf32(y))
    if precision not in _SMALL_PRODUCTS:
        raise op.unsupported(f"inputPrecision {precision}")
    return _split_product(precision, multiply)


def _multiplication(depth: int) -> Product:
    """The matrix product, where either operand may have size one along the axis of summation, of length `depth`."""

    def multiply(x: Array, y: Array) -> Array:
        if x.shape[-1] != y.shape[-2]:
            x = np.broadcast_to(x, (*x.shape[:-1], depth))
            y = np.broadcast_to(y, (*y.shape[:-2], depth, y.shape[-1]))
        product: Array = np.matmul(x, y)
        return product if x.shape[-1] == depth else product * product.dtype.type(depth)

    return multiply


def _split_product(precision: int, multiply: Product) -> Product:
    """The sum of the small products, 0 where it is NaN (so infinities stay), and of the product of the largest parts."""
    order = _SMALL_PRODUCTS[precision]
    parts = _tf32_parts if precision == _TF32X3 else _bf16_parts

    def product(x: Array, y: Array) -> Array:
        left, right = parts(x), parts(y)
        total = multiply(left[order[0][0]], right[order[0][1]])
        for i, j in order[1:]:
            total = total + multiply(left[i], right[j])
        return np.where(np.isnan(total), np.float32(0), total) + multiply(left[0], right[0])

    return product


def _tf32_parts(x: Array) -> list[Array]:
    """The nearest tf32 number, and what is left, of which the multiplier cuts what it does not read."""
    large = formats.round_tf32(x)
    return [large, formats.truncate_tf32(x - large)]


def _bf16_parts(x: Array) -> list[Array]:
    large = formats.round_bf16(x)
    middle = formats.round_bf16(x - large)
    return [large, middle, formats.round_bf16(x - large - middle)]


# ------------------------------------------------------------------------------------------------------------ dot_scaled

_FORMATS = {0: "f8E4M3FN", 1: "f8E5M2", 4: "e2m1", 5: "bf16", 6: "f16"}
"""Values of the properties a_elem_type and b_elem_type; 2 and 3 are the six-bit formats, which the front end refuses."""

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
"""OCP Microscaling Formats (MX) Specification 1.0, 2023, table of the format E2M1."""


def _dot_scaled(op: Bound) -> Step:
    """Operands times 2^(scale - 127) per block along the axis of summation, multiplied and summed in float32."""
    c, (out,) = op.ins[2], op.outs
    properties = op.operation.properties
    kinds = [_FORMATS.get(properties[f"{side}_elem_type"]) for side in "ab"]
    if None in kinds:
        raise op.unsupported("operands of six bits")
    narrow = _narrow(kinds, op.target)
    sizes = properties["operandSegmentSizes"]
    scales = [op.ins[3] if sizes[3] else None, op.ins[3 + sizes[3]] if sizes[4] else None]
    left = _scaled(op, 0, str(kinds[0]), scales[0], narrow)
    right = _scaled(op, 1, str(kinds[1]), scales[1], narrow)
    finish = formats.ROUND.get(op.result.element, np.asarray)

    def run(lanes: Lanes) -> None:
        total = np.matmul(left(lanes), right(lanes).swapaxes(-1, -2)) + lanes.array(c)
        lanes.regs[out] = finish(total)

    return run


def _narrow(kinds: list[str | None], target: Target) -> str | None:
    """The format in which Triton multiplies operands by scales where there is no instruction for it; None where there is."""
    if target.scales_operands and not {"bf16", "f16"} & {*kinds}:
        return None
    return "f16" if "f16" in kinds else "bf16"


def _scaled(op: Bound, side: int, kind: str, scale: int | None, narrow: str | None) -> Callable[[Lanes], Array]:
    """An operand as float32 [.., rows or columns, depth], times its scales."""
    shape = op.operand(side).shape
    packed_along_depth = op.operation.properties.get(("lhs_k_pack", "rhs_k_pack")[side], True)
    fast = bool(op.operation.properties.get("fastMath", False))
    decode = _decoder(kind, narrow, op)
    scale_of = _scale_decoder(op, scale, narrow, fast=fast) if scale is not None else None

    def operand(lanes: Lanes) -> Array:
        raw = full(lanes.array(op.ins[side]), shape)
        if side == 1:
            raw = raw.swapaxes(-1, -2)
        x = _unpacked(raw, along_depth=packed_along_depth) if kind == "e2m1" else decode(raw)
        if scale_of is None or scale is None:
            return x
        factors = scale_of(full(lanes.array(scale), _shape_of(op, scale)))
        product = x * np.repeat(factors, x.shape[-1] // factors.shape[-1], axis=-1)
        return formats.ROUND[narrow](product) if narrow else product

    return operand


def _shape_of(op: Bound, slot: int) -> tuple[int, ...]:
    return op.operand(op.ins.index(slot, 3)).shape


def _decoder(kind: str, narrow: str | None, op: Bound) -> Conversion:
    if kind not in fp8.FORMATS:
        return np.asarray
    return fp8_lowering.decoder(kind, narrow, op.target) if narrow else lambda codes: fp8.values(kind)[codes]


def _unpacked(raw: Array, *, along_depth: bool) -> Array:
    """Two E2M1 numbers a byte, the lower four bits first, along the last axis or else the one before it."""
    codes = raw.view(np.uint8) if raw.dtype == np.int8 else raw
    axis = -1 if along_depth else -2
    pairs = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=axis if along_depth else -2)
    shape = list(codes.shape)
    shape[axis] *= 2
    return _E2M1[pairs.reshape(shape)]


def _scale_decoder(op: Bound, slot: int, narrow: str | None, *, fast: bool) -> Conversion:
    """Scales are E8M0: 2^(code - 127), and NaN for 255.

    Where Triton shifts the code into an exponent, code 0 gives 0, and with `fast` 255 gives infinity.
    """
    element = op.operand(op.ins.index(slot, 3)).element
    if element != "i8":
        raise op.unsupported(f"scales of type {element}")
    table = np.ldexp(1.0, np.arange(256) - 127).astype(np.float32)
    table[255] = np.inf if fast and narrow else np.nan
    if narrow:
        table[0] = 0
        table = formats.ROUND[narrow](table)
    return lambda codes: table[codes.view(np.uint8)]


BUILDERS: dict[str, Builder] = {"tt.dot": _dot, "tt.dot_scaled": _dot_scaled}
