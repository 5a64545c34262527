"""Reads MLIR's types and attributes; and where a bracket closes, a list is split or a string ends."""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache
from typing import Any

from tridiff.harness.engines.cpu.ir import Type


class ParseError(RuntimeError):
    """Text that is not the generic form we know: the message quotes it. A Triton release may have changed it."""


STRING = r'"(?:[^"\\]|\\.)*"'
# Whole strings; signs of arrows and comparisons, which close nothing; brackets, commas; a quote that nothing closes.
_TOKEN = re.compile(rf'{STRING}|->|[<>]=|[()\[\]{{}}<>,"]')
_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_CLOSERS = frozenset(_PAIRS.values())


def matching(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`. Raises `ParseError`."""
    expected: list[str] = []
    for token in _TOKEN.finditer(text, start):
        sign = token[0]
        if sign in _PAIRS:
            expected.append(_PAIRS[sign])
        elif sign in _CLOSERS or sign == '"':
            if not expected or expected.pop() != sign:
                break
            if not expected:
                return token.start()
    raise ParseError(f"brackets or quotes that do not match: {text!r}")


def split_top(text: str) -> list[str]:
    """Split at the commas outside any bracket or string; parts stripped. Raises `ParseError`; also for an empty part."""
    if not text.strip():
        return []
    parts: list[str] = []
    expected: list[str] = []
    start = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in _PAIRS:
            expected.append(_PAIRS[sign])
        elif sign in _CLOSERS or sign == '"':
            if not expected or expected.pop() != sign:
                raise ParseError(f"brackets or quotes that do not match: {text!r}")
        elif sign == "," and not expected:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    parts.append(text[start:].strip())
    if expected or not all(parts):
        raise ParseError(f"no list: {text!r}")
    return parts


def inside(text: str, opening: str) -> str:
    """What `text` has between `opening`, which ends in a bracket, and the end, which closes it. Raises `ParseError`."""
    if not text.startswith(opening) or matching(text, len(opening) - 1) != len(text) - 1:
        raise ParseError(f"expected {opening}... and no more: {text!r}")
    return text[len(opening) : -1]


_ESCAPE = re.compile(rb"\\([0-9A-F]{2}|[\\\"nt])")
_SHORT = {b"\\": b"\\", b'"': b'"', b"n": b"\n", b"t": b"\t"}


def unquoted(text: str) -> str:
    r"""The content of a string as MLIR prints it: all but printable ASCII is `\` and two digits for each byte of its UTF-8."""
    if not re.fullmatch(STRING, text):
        raise ParseError(f"no string: {text!r}")
    if "\\" not in text:
        return text[1:-1]
    content = _ESCAPE.sub(lambda match: _SHORT.get(match[1]) or bytes.fromhex(match[1].decode()), text[1:-1].encode())
    return content.decode(errors="replace")


# ------------------------------------------------------------------------------------------------------------------- types

_SCALAR_TYPE = re.compile(r"[a-zA-Z]\w*")
_OTHER_TYPE = re.compile(r"![a-zA-Z][\w.]*(?P<body><)?|(?:vector|memref|tuple|complex)(?P<builtin><)|(?P<function>\()")
_TENSOR = re.compile(r"((?:\d+x)*)(.*)", re.DOTALL)


@lru_cache(maxsize=4096)
def parse_type(text: str) -> Type:
    """`tensor<16x64x!tt.ptr<bf16>>` -> Type('*bf16', (16, 64)); what is of no use stays text. Raises `ParseError`."""
    if _SCALAR_TYPE.fullmatch(text):
        return Type(text)
    if text.startswith("tensor<"):
        return _tensor(inside(text, "tensor<"))
    if text.startswith("!tt.ptr<"):
        pointee, *_address_space = split_top(inside(text, "!tt.ptr<")) or [""]
        parse_type(pointee)
        return Type("*" + pointee)
    match = _OTHER_TYPE.match(text)
    if match and match["function"]:
        parse_signature(text)
    elif match and (match["body"] or match["builtin"]):
        inside(text, match[0])
    elif not match or match.end() != len(text):
        raise ParseError(f"no type: {text!r}")
    return Type(text)


def _tensor(body: str) -> Type:
    dims, element = _TENSOR.findall(body)[0]
    element, *_encoding = split_top(element) or [""]
    kind = parse_type(element)
    if kind.shape or element.startswith("tensor<"):
        raise ParseError(f"a tensor of tensors: {body!r}")
    return Type(kind.element, tuple(int(dim) for dim in dims.split("x")[:-1]))


@lru_cache(maxsize=4096)
def parse_signature(text: str) -> tuple[tuple[Type, ...], tuple[Type, ...]]:
    """Operand and result types of `(i32, f32) -> i1`. Raises `ParseError`."""
    if not text.startswith("("):
        raise ParseError(f"no types of an operation: {text!r}")
    end = matching(text, 0)
    arrow, results = text[end + 1 : end + 5], text[end + 5 :]
    if arrow != " -> ":
        raise ParseError(f"no types of an operation: {text!r}")
    listed = split_top(inside(results, "(")) if results.startswith("(") else [results]
    return tuple(map(parse_type, split_top(text[1:end]))), tuple(map(parse_type, listed))


# -------------------------------------------------------------------------------------------------------------- attributes

_NAME = re.compile(rf"[\w.$-]+|{STRING}")
_TYPED = re.compile(r"([-+\w.]+) : (.+)")
_INTEGER = re.compile(r"-?\d+")
_FLOAT = re.compile(r"-?\d+\.\d*(?:[eE][-+]?\d+)?|0x[0-9A-F]+")


def parse_attribute(text: str) -> Any:
    """An attribute as Python data: ints, bools, strings, lists, dicts, and what else has a type as (value, Type).

    Floats, and the elements of dense constants, stay text, for only their type says what they mean; so does every attribute
    that is of no use to the executor. Raises `ParseError`.
    """
    text = text.strip()
    if text in {"true", "false"}:
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if match := _TYPED.fullmatch(text):
        return _number(match[1], parse_type(match[2]))
    for opening, reader in _READERS.items():
        if text.startswith(opening):
            return reader(text)
    if not text:
        raise ParseError("an attribute without a value")
    split_top(text)  # its brackets match
    return text


def _number(value: str, kind: Type) -> Any:
    if kind.is_float and _FLOAT.fullmatch(value):
        return value, kind
    if not kind.is_float and _INTEGER.fullmatch(value):
        return int(value)
    if kind.element == "i1" and value in {"true", "false"}:
        return value == "true"
    raise ParseError(f"no number of type {kind.element}: {value!r}")


def parse_dictionary(text: str) -> dict[str, Any]:
    """`{a = 1 : i32, b}` -> {"a": 1, "b": True}. Raises `ParseError`."""
    found: dict[str, Any] = {}
    for part in split_top(inside(text, "{")):
        name, equals, value = part.partition(" = ")
        if not _NAME.fullmatch(name) or name in found:
            raise ParseError(f"no name of an attribute, or one for the second time: {name!r}")
        found[name] = parse_attribute(value) if equals else True
    return found


def _list(text: str) -> list[Any]:
    return [parse_attribute(item) for item in split_top(inside(text, "["))]


def _array(text: str) -> list[Any]:
    """`array<i32: 1, 2>`; floats as (text, Type)."""
    element, _, items = inside(text, "array<").partition(":")
    kind = parse_type(element.strip())
    return [_number(item, kind) for item in split_top(items)]


def _dense(text: str) -> Any:
    """`dense<[1, 2]> : tensor<2xi32>` -> (["1", "2"], Type("i32", (2,)))."""
    end = matching(text, len("dense"))
    if text[end + 1 : end + 4] != " : ":
        raise ParseError(f"a dense constant without a type: {text!r}")
    body, kind = text[len("dense<") : end].strip(), parse_type(text[end + 4 :].strip())
    content = _blob(unquoted(body), kind) if body.startswith('"') else _elements(body, kind, kind.shape)
    return content, kind


def _elements(text: str, kind: Type, shape: tuple[int, ...]) -> Any:
    """Nested lists of the elements' text, or the one that all have in common."""
    if not text.startswith("["):
        if not text and 0 not in shape:
            raise ParseError(f"no elements of {kind}: {text!r}")
        return text or []
    items = split_top(inside(text, "["))
    if not shape or len(items) != shape[0]:
        raise ParseError(f"elements that do not fit the shape of {kind}: {text!r}")
    if len(shape) > 1:
        return [_elements(item, kind, shape[1:]) if item.startswith("[") else _misfit(item, kind) for item in items]
    return [_misfit(item, kind) if item.startswith("[") else item for item in items]


def _misfit(text: str, kind: Type) -> Any:
    raise ParseError(f"elements that do not fit the shape of {kind}: {text!r}")


_CODES = {8: "b", 16: "h", 32: "i", 64: "q"}


def _blob(text: str, kind: Type) -> Any:
    """The elements of many values, which are printed as one number: their bytes in memory, little-endian."""
    if not re.fullmatch(r"0x(?:[0-9A-Fa-f]{2})*", text):
        raise ParseError(f"no bytes in hexadecimal: {text!r}")
    data, count = bytes.fromhex(text[2:]), math.prod(kind.shape)
    found: list[Any] = _booleans(data, count) if kind.element == "i1" else _numbers(data, kind)
    if len(found) != count:
        raise ParseError(f"{len(data)} bytes for a constant of type {kind}")
    for size in reversed(kind.shape[1:]):
        found = [found[at : at + size] for at in range(0, len(found), size)]
    return found


def _booleans(data: bytes, count: int) -> list[str]:
    """A byte each, as Triton 3.9 prints them, or a bit each, the lowest first, as 3.6 does."""
    if len(data) != count:
        data = bytes(byte >> bit & 1 for byte in data for bit in range(8))[:count]
    return ["true" if value else "false" for value in data]


def _numbers(data: bytes, kind: Type) -> list[str]:
    digits = re.search(r"\d+", kind.element)
    width = int(digits[0]) if digits else 0
    if width not in _CODES or len(data) % (width // 8):
        raise ParseError(f"{len(data)} bytes for a constant of type {kind}")
    code = _CODES[width].upper() if kind.is_float else _CODES[width]
    values = struct.unpack(f"<{len(data) // (width // 8)}{code}", data)
    return [f"0x{value:0{width // 4}X}" if kind.is_float else str(value) for value in values]


_READERS = {'"': unquoted, "[": _list, "{": parse_dictionary, "array<": _array, "dense<": _dense}
