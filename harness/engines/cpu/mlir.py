"""Parser of MLIR's generic text form, as Triton prints it (one operation a line, every property explicit)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tridiff.harness.engines.cpu.attributes import (
    ParseError,
    inside,
    matching,
    parse_attribute,
    parse_dictionary,
    parse_signature,
    parse_type,
    split_top,
)
from tridiff.harness.engines.cpu.ir import Block, Location, Operation, Region, Type
from tridiff.harness.engines.cpu.locations import Locations

__all__ = ["ParseError", "parse", "parse_attribute", "parse_type", "split_top"]

_VALUE = r"%[\w$.-]+"
_RESULT = rf"{_VALUE}(?::\d+)?"
_OPERAND = rf"{_VALUE}(?:#\d+)?"
_OPERATION = re.compile(
    rf'(?:(?P<results>{_RESULT}(?:, {_RESULT})*) = )?"(?P<name>\w[\w.]*)"'
    rf"\((?P<operands>(?:{_OPERAND}(?:, {_OPERAND})*)?)\)"
)
_BLOCK = re.compile(r"\^(?P<label>\w+)(?:(?P<arguments>\(.*\)))?:(?:\s*//.*)?")
_REGION = " ({"
_ALIASED = re.compile(r" loc\((#loc\d*)\)$")
_ARGUMENT = re.compile(rf"(?P<name>{_VALUE}): (?P<rest>.*)")
_ALIAS = re.compile(r"(?P<name>[#!][a-zA-Z_][\w.$-]*) = (?P<body>.+)")
_RESOURCES = "{-#"


def parse(text: str) -> Operation:
    """The `builtin.module` operation of `text`. Raises `ParseError`."""
    aliases, lines = _sorted(text)
    reader = _Reader(lines, Locations(aliases), aliases)
    try:
        module = reader.operation()
    except (IndexError, ValueError, RecursionError) as error:
        raise ParseError(f"a type or an attribute that cannot be read: {error}") from error
    reader.end()
    if module.name != "builtin.module":
        raise ParseError(f"expected builtin.module, found {module.name!r}")
    return module


def _sorted(text: str) -> tuple[dict[str, str], list[str]]:
    """Definitions of aliases, and the other lines."""
    aliases: dict[str, str] = {}
    lines: list[str] = []
    for line in text.split("\n"):  # splitlines would also split at characters inside of strings
        line = line.strip()  # noqa: PLW2901 - indentation means nothing
        if line.startswith(_RESOURCES):
            break  # data of `dense_resource` attributes, and of tools; to the end of the text
        if line.startswith(("#", "!")):
            match = _ALIAS.fullmatch(line)
            if match is None or match["name"] in aliases:
                raise ParseError(f"no definition of an alias, or the second one: {line!r}")
            aliases[match["name"]] = match["body"]
        elif line:
            lines.append(line)
    return aliases, lines


@dataclass(frozen=True)
class _Types:
    """What stands at an operation's end: attributes that are no properties, types, and the location unless it is an alias."""

    attributes: dict[str, Any]
    operands: tuple[Type, ...]
    results: tuple[Type, ...]
    location: str


class _Reader:
    """Recursive descent over the lines."""

    def __init__(self, lines: list[str], locations: Locations, aliases: dict[str, str]) -> None:
        self._lines = lines
        self._at = 0
        self._locations = locations
        self._aliases = aliases
        self._types: dict[str, _Types] = {}
        self._properties: dict[str, dict[str, Any]] = {}
        self._defined: set[str] = set()
        self._used: set[str] = set()

    def end(self) -> None:
        """See that nothing is left. Raises `ParseError`; also when a value is used that nothing defines."""
        if self._at < len(self._lines):
            raise ParseError(f"text after the module: {self._lines[self._at]!r}")
        if unknown := self._used - self._defined:
            raise ParseError(f"values that nothing defines: {sorted(unknown)}")

    def operation(self) -> Operation:
        """The operation that begins at the next line."""
        line = self._next()
        match = _OPERATION.match(line)
        if match is None:
            raise ParseError(f"not an operation in generic form: {line!r}")
        successors, rest = _successors(line[match.end() :])
        properties, rest = self._with_properties(rest)
        regions: list[Region] = []
        if rest == _REGION:
            regions, rest = self._regions()
        types, location = self._with_location(rest)
        operands = match["operands"].split(", ") if match["operands"] else []
        results = _result_names(match["results"])
        if len(operands) != len(types.operands) or len(results) != len(types.results):
            raise ParseError(f"operands or results, and their types, differ in number: {line!r}")
        self._define(results)
        self._used.update(operands)
        return Operation(
            name=match["name"],
            results=results,
            operands=operands,
            operand_types=list(types.operands),
            result_types=list(types.results),
            properties={**types.attributes, **properties},
            location=location,
            regions=regions,
            successors=successors,
        )

    def _regions(self) -> tuple[list[Region], str]:
        """The regions up to the closing line, and what follows its `})`."""
        regions = [self._region()]
        while (line := self._next()) == "}, {":
            regions.append(self._region())
        if not line.startswith("})"):
            raise ParseError(f"expected the end of a region: {line!r}")
        return regions, line[2:]

    def _region(self) -> Region:
        blocks: list[Block] = []
        while not self._peek().startswith("}"):
            if match := _BLOCK.fullmatch(self._peek()):
                self._next()
                blocks.append(Block(match["label"], self._arguments(match["arguments"])))
            else:
                if not blocks:
                    blocks.append(Block("entry", []))
                blocks[-1].operations.append(self.operation())
        _check_jumps(blocks)
        return Region(blocks)

    def _arguments(self, text: str | None) -> list[tuple[str, Type]]:
        arguments = []
        for part in split_top(inside(text, "(")) if text else []:
            match = _ARGUMENT.fullmatch(part)
            if match is None:
                raise ParseError(f"no argument of a block: {part!r}")
            kind, found, place = match["rest"].partition(" loc")
            if found:
                self._locations.resolve(inside(place, "("))
            arguments.append((match["name"], parse_type(kind)))
        self._define([name for name, _ in arguments])
        return arguments

    def _define(self, names: list[str]) -> None:
        # A name may come again where the first one is not seen any more, so only the same line's are compared.
        if len(set(names)) != len(names):
            raise ParseError(f"one name for several values: {names}")
        self._defined.update(names)

    def _with_properties(self, rest: str) -> tuple[dict[str, Any], str]:
        """The properties, and what follows them."""
        if not rest.startswith(" <{"):
            return {}, rest
        end = rest.find("}>") + 1
        text = rest[2:end]
        if text not in self._properties:  # of those that were read, the end is known
            end = matching(rest, 1)
            text = rest[2:end]
            self._properties[text] = self._dictionary(text)
        return self._properties[text], rest[end + 1 :]

    def _dictionary(self, text: str) -> dict[str, Any]:
        found = parse_dictionary(text)
        return {name: self._resolved(value) for name, value in found.items()}

    def _resolved(self, value: Any) -> Any:
        """An attribute that is the name of a definition is what that says."""
        return parse_attribute(self._aliases[value]) if isinstance(value, str) and value in self._aliases else value

    def _with_location(self, rest: str) -> tuple[_Types, Location]:
        """What the end of an operation says: attributes, types, location. Most ends of a module are the same, but for that."""
        match = _ALIASED.search(rest)
        text = rest[: match.start()] if match else rest
        types = self._types.get(text)
        if types is None:
            types = self._types[text] = self._end(text)
        if bool(match) == bool(types.location):
            raise ParseError(f"an operation with two locations, or none: {rest!r}")
        return types, self._locations.resolve(match[1] if match else types.location)

    def _end(self, text: str) -> _Types:
        attributes: dict[str, Any] = {}
        if text.startswith(" {"):
            end = matching(text, 1)
            attributes, text = self._dictionary(text[1 : end + 1]), text[end + 1 :]
        if not text.startswith(" : "):
            raise ParseError(f"cannot read the types of an operation: {text!r}")
        signature, found, place = text[3:].partition(" loc")
        operands, results = parse_signature(signature)
        return _Types(attributes, operands, results, inside(place, "(") if found else "")

    def _peek(self) -> str:
        if self._at >= len(self._lines):
            raise ParseError("the module ends in the middle of a region")
        return self._lines[self._at]

    def _next(self) -> str:
        line = self._peek()
        self._at += 1
        return line


def _check_jumps(blocks: list[Block]) -> None:
    """See that no block is empty, labels are unique, and jumps lead to them. Raises `ParseError`."""
    if not all(block.operations for block in blocks):
        raise ParseError("a block without operations")
    labels = [block.label for block in blocks]
    targets = {label for block in blocks for operation in block.operations for label in operation.successors}
    if len(set(labels)) != len(labels) or not targets <= set(labels):
        raise ParseError(f"blocks {labels}, and jumps to {sorted(targets)}")


def _result_names(text: str | None) -> list[str]:
    """`%a, %b:2` -> %a, %b#0, %b#1."""
    names: list[str] = []
    for part in text.split(", ") if text else []:
        name, colon, count = part.partition(":")
        names += [f"{name}#{i}" for i in range(int(count))] if colon else [name]
    return names


def _successors(rest: str) -> tuple[list[str], str]:
    if not rest.startswith("["):
        return [], rest
    end = matching(rest, 0)
    parts = split_top(rest[1:end])
    if not all(part.startswith("^") for part in parts):
        raise ParseError(f"no blocks to jump to: {rest!r}")
    return [part[1:] for part in parts], rest[end + 1 :]
