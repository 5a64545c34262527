"""Parser of MLIR's generic text form, as Triton prints it (one operation a line, every property explicit)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tridiff.harness.engines.cpu.ir import Block, Frame, Location, Operation, Region, Type


class ParseError(RuntimeError):
    """Text that is not the generic form we know: the message quotes the line. A Triton release may have changed it."""


_OPERATION = re.compile(r'^(?:(?P<results>%[^=]*?) = )?"(?P<name>[\w.]+)"\((?P<operands>[^)]*)\)(?P<rest>.*)$')
_BLOCK = re.compile(r"^\^(?P<label>\w+)(?:\((?P<arguments>.*)\))?:(?:\s*//.*)?$")
_ALIAS = re.compile(r"^(?P<name>#loc\d*) = loc\((?P<body>.*)\)$")
_OPENERS, _CLOSERS = "([{<", ")]}>"


def parse(text: str) -> Operation:
    """The `builtin.module` operation of `text`. Raises `ParseError`."""
    lines = [line.strip() for line in text.splitlines()]
    aliases = {m["name"]: m["body"] for m in map(_ALIAS.match, lines) if m}
    reader = _Reader([line for line in lines if line and not line.startswith(("#", "//"))], _Locations(aliases))
    try:
        module = reader.operation()
    except (IndexError, ValueError) as error:
        raise ParseError(f"a type or an attribute that cannot be read: {error}") from error
    if module.name != "builtin.module":
        raise ParseError(f"expected builtin.module, found {module.name!r}")
    return module


def parse_type(text: str) -> Type:
    """`tensor<16x64x!tt.ptr<bf16>>` -> Type('*bf16', (16, 64))."""
    text = text.strip()
    if text.startswith("tensor<"):
        *dims, element = _tensor_parts(text[len("tensor<") : -1])
        return Type(parse_type(element).element, tuple(int(dim) for dim in dims))
    if text.startswith("!tt.ptr<"):
        return Type("*" + split_top(text[len("!tt.ptr<") : -1])[0])
    return Type(text)


def _tensor_parts(body: str) -> list[str]:
    match = re.match(r"^((?:\d+x)*)(.*)$", body)
    if match is None:
        raise ParseError(f"cannot read the tensor type {body!r}")
    return [*match.group(1).split("x")[:-1], split_top(match.group(2))[0]]


def split_top(text: str, separator: str = ",") -> list[str]:
    """Split at separators outside any bracket or string; parts stripped, no empty ones."""
    parts: list[str] = []
    depth = start = 0
    for at, char in _outside_strings(text):
        if char in _OPENERS:
            depth += 1
        elif char in _CLOSERS and not (char == ">" and text[at - 1] == "-"):
            depth -= 1
        elif char == separator and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def _outside_strings(text: str) -> Iterator[tuple[int, str]]:
    quoted = False
    for at, char in enumerate(text):
        if char == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif not quoted:
            yield at, char


def _matching(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for at, char in _outside_strings(text[start:]):
        if char in _OPENERS:
            depth += 1
        elif char in _CLOSERS and not (char == ">" and text[start + at - 1] == "-"):
            depth -= 1
            if depth == 0:
                return start + at
    raise ParseError(f"unbalanced brackets: {text!r}")


def parse_attribute(text: str) -> Any:
    """An attribute as Python data: ints, floats, bools, strings, lists, and (value, Type) for dense constants."""
    text = text.strip()
    if text in {"true", "false"}:
        return text == "true"
    if text.startswith('"'):
        return text.strip('"')
    if text.startswith("array<"):
        return [int(item) for item in split_top(text[6:-1].partition(":")[2])]
    if text.startswith("dense<"):
        end = _matching(text, 5)
        return _dense(text[6:end]), parse_type(text[end + 1 :].strip().removeprefix(":"))
    value, colon, type_text = text.rpartition(" : ")
    if colon and re.fullmatch(r"[-+\w.]+", value):
        return _number(value, parse_type(type_text))
    return text


def _dense(text: str) -> Any:
    text = text.strip()
    if text.startswith("["):
        return [_dense(item) for item in split_top(text[1:-1])]
    return text


def _number(value: str, kind: Type) -> Any:
    return (value, kind) if kind.is_float or value.startswith("0x") else int(value)


class _Locations:
    """Resolves location aliases to call chains."""

    def __init__(self, aliases: dict[str, str]) -> None:
        self._aliases = aliases
        self._known: dict[str, Location] = {}

    def resolve(self, body: str) -> Location:
        if body not in self._known:
            self._known[body] = Location(tuple(self._frames(body)))
        return self._known[body]

    def _frames(self, body: str) -> Iterator[Frame]:
        if body.startswith("#loc"):
            yield from self._frames(self._aliases.get(body, "unknown"))
        elif match := re.fullmatch(r"callsite\((.*) at (.*)\)", body):
            yield from self._frames(match.group(1))
            yield from self._frames(match.group(2))
        elif match := re.fullmatch(r'"(.*)":(\d+):\d+(?: to .*)?', body):
            yield Frame(match.group(1), int(match.group(2)))
        elif match := re.fullmatch(r'"[^"]*"\((.*)\)', body):
            yield from self._frames(match.group(1))
        elif match := re.fullmatch(r"fused(?:<.*>)?\[(.*)\]", body):
            yield from self._frames(split_top(match.group(1))[0])


class _Reader:
    """Recursive descent over the lines."""

    def __init__(self, lines: list[str], locations: _Locations) -> None:
        self._lines = lines
        self._at = 0
        self._locations = locations

    def operation(self) -> Operation:
        line = self._next()
        match = _OPERATION.match(line)
        if match is None:
            raise ParseError(f"not an operation in generic form: {line!r}")
        rest, successors = _successors(match["rest"].strip())
        rest, properties = _properties(rest)
        regions: list[Region] = []
        if rest.endswith("({"):
            regions, rest = self._regions()
        operand_types, result_types, location = self._signature(rest)
        return Operation(
            name=match["name"],
            results=_result_names(match["results"]),
            operands=split_top(match["operands"]),
            operand_types=operand_types,
            result_types=result_types,
            properties=properties,
            location=location,
            regions=regions,
            successors=successors,
        )

    def _regions(self) -> tuple[list[Region], str]:
        """The regions up to the closing line, and what follows its `})`."""
        regions = [self._region()]
        while (line := self._next()).startswith("}, {"):
            regions.append(self._region())
        if not line.startswith("})"):
            raise ParseError(f"expected the end of a region: {line!r}")
        return regions, line[2:]

    def _region(self) -> Region:
        blocks: list[Block] = []
        while not self._peek().startswith("}"):
            if match := _BLOCK.match(self._peek()):
                self._next()
                blocks.append(Block(match["label"], self._arguments(match["arguments"] or "")))
            else:
                if not blocks:
                    blocks.append(Block("entry", []))
                blocks[-1].operations.append(self.operation())
        return Region(blocks)

    def _arguments(self, text: str) -> list[tuple[str, Type]]:
        arguments = []
        for part in split_top(text):
            name, _, rest = part.partition(":")
            arguments.append((name.strip(), parse_type(rest.partition(" loc(")[0])))
        return arguments

    def _signature(self, rest: str) -> tuple[list[Type], list[Type], Location]:
        body, _, place = rest.rpartition(" loc(")
        types = body.strip()
        if types.startswith("{"):  # attributes that are no properties: alignment hints and the like
            types = types[_matching(types, 0) + 1 :].strip()
        if not types.startswith(": ("):
            raise ParseError(f"cannot read the types of an operation: {rest!r}")
        types = types[2:]
        end = _matching(types, 0)
        results = types[end + 1 :].strip().removeprefix("->").strip()
        if results.startswith("("):
            results = results[1:-1]
        return (
            [parse_type(part) for part in split_top(types[1:end])],
            [parse_type(part) for part in split_top(results)],
            self._locations.resolve(place[:-1]),
        )

    def _peek(self) -> str:
        if self._at >= len(self._lines):
            raise ParseError("the module ends in the middle of a region")
        return self._lines[self._at]

    def _next(self) -> str:
        line = self._peek()
        self._at += 1
        return line


def _result_names(text: str | None) -> list[str]:
    if not text:
        return []
    name, _, count = text.strip().partition(":")
    return [f"{name}#{i}" for i in range(int(count))] if count else [name]


def _successors(rest: str) -> tuple[str, list[str]]:
    if not rest.startswith("["):
        return rest, []
    end = _matching(rest, 0)
    return rest[end + 1 :].strip(), [part.removeprefix("^") for part in split_top(rest[1:end])]


def _properties(rest: str) -> tuple[str, dict[str, Any]]:
    if not rest.startswith("<{"):
        return rest, {}
    end = _matching(rest, 0)
    pairs = (part.partition(" = ") for part in split_top(rest[2 : end - 1]))
    return rest[end + 1 :].strip(), {name: parse_attribute(value) if found else True for name, found, value in pairs}
