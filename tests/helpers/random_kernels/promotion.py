"""The result types of Triton's binary operators, written from its documentation.

https://triton-lang.org/main/python-api/triton-semantics.html, with what that page leaves open settled by experiment: bool
counts as an unsigned integer of one bit; a Python number is an int32 or float32 where its kind (bool < integer < float) is
above the tensor's, and takes the tensor's type otherwise; fp16 wins over bf16; `/` and `%` of 16-bit floats are float32.
"""

from __future__ import annotations

from random_kernels.numbers import bits, is_float, is_signed


def _category(kind: str) -> int:
    return 2 if is_float(kind) else int(kind != "int1")


def promoted(a: str, b: str, *, literal: int | None = None, divides: bool = False) -> str:
    """The type that both operands are converted to. `literal`: which operand (0 or 1) is a Python number, if one is."""
    if literal is not None:
        number, tensor = (a, b) if literal == 0 else (b, a)
        if _category(number) <= _category(tensor):
            return _wide(tensor) if divides else tensor
    if is_float(a) or is_float(b):
        result = _float(a, b)
        return _wide(result) if divides else result
    return integer(a, b)


def _wide(kind: str) -> str:
    return "float32" if kind in {"float16", "bfloat16"} else kind


def _float(a: str, b: str) -> str:
    if "float32" in {a, b}:
        return "float32"
    if "float16" in {a, b}:
        return "float16"
    return "bfloat16" if a == b else "float32"


def integer(a: str, b: str) -> str:
    """The wider one; of two signs the unsigned one where it is at least as wide."""
    if is_signed(a) == is_signed(b):
        return a if bits(a) > bits(b) else b
    unsigned, signed = (b, a) if is_signed(a) else (a, b)
    return unsigned if bits(unsigned) >= bits(signed) else signed
