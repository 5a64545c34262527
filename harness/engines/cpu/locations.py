"""Reads MLIR's source locations: files and lines, names, call chains, fusions, and aliases of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tridiff.harness.engines.cpu.attributes import STRING, ParseError, matching, unquoted
from tridiff.harness.engines.cpu.ir import Frame, Location

_ALIAS = re.compile(r"#loc\d*")
_POSITION = re.compile(r":(\d+):\d+(?: to (?:\d+)?:\d+)?")
_STRING = re.compile(STRING)

Frames = tuple[Frame, ...]


class Locations:
    """Resolves locations to call chains, by the aliases (`#loc1` -> `loc(...)`) of a module."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = aliases
        self._known: dict[str, Location] = {}
        self._followed: dict[str, Frames] = {}

    def resolve(self, text: str) -> Location:
        """The location of which `text` is printed between `loc(` and `)`. Raises `ParseError`."""
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = Location(self._whole(text, ()))
        return known

    def _whole(self, text: str, within: tuple[str, ...]) -> Frames:
        frames, end = self._frames(text, 0, within)
        if end != len(text):
            raise ParseError(f"a location that cannot be read: {text!r}")
        return frames

    def _frames(self, text: str, at: int, within: tuple[str, ...]) -> tuple[Frames, int]:
        """The frames of the location that begins at `at`, and where it ends. `within`: the aliases that led here."""
        if match := _ALIAS.match(text, at):
            return self._aliased(match[0], within), match.end()
        if match := _STRING.match(text, at):
            return self._named(text, match, within)
        if text.startswith("callsite(", at):
            callee, at = self._frames(text, at + len("callsite("), within)
            caller, at = self._frames(text, _after(text, at, " at "), within)
            return callee + caller, _after(text, at, ")")
        if text.startswith("fused", at):
            return self._fused(text, at + len("fused"), within)
        return (), _after(text, at, "unknown")

    def _aliased(self, name: str, within: tuple[str, ...]) -> Frames:
        if name not in self._followed:
            body = self._aliases.get(name, "")
            if name in within or not body.startswith("loc(") or not body.endswith(")"):
                raise ParseError(f"the location {name} is not defined, or by itself: {body!r}")
            self._followed[name] = self._whole(body[4:-1], (*within, name))
        return self._followed[name]

    def _named(self, text: str, match: re.Match[str], within: tuple[str, ...]) -> tuple[Frames, int]:
        """A file and line, or a name with or without a location."""
        if position := _POSITION.match(text, match.end()):
            return (Frame(unquoted(match[0]), int(position[1])),), position.end()
        if text.startswith("(", match.end()):
            frames, at = self._frames(text, match.end() + 1, within)
            return frames, _after(text, at, ")")
        return (), match.end()

    def _fused(self, text: str, at: int, within: tuple[str, ...]) -> tuple[Frames, int]:
        """The first of several, which is the one that the operation was made from."""
        if text.startswith("<", at):
            at = matching(text, at) + 1
        found, at = self._frames(text, _after(text, at, "["), within)
        while text.startswith(", ", at):
            _, at = self._frames(text, at + 2, within)
        return found, _after(text, at, "]")


def _after(text: str, at: int, expected: str) -> int:
    if not text.startswith(expected, at):
        raise ParseError(f"a location that cannot be read, at {at}: {text!r}")
    return at + len(expected)
