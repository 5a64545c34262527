"""The source of one function: where each part of its syntax tree stands, and what becomes of it when parts are replaced."""

from __future__ import annotations

import ast
import io
import itertools
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Replacement:
    """`new` for what stands from `start` to `stop`, offsets in characters. `whole`: it is a statement, not an expression."""

    start: int
    stop: int
    new: str
    whole: bool = False


class Text:
    """`source`, one function from its `def` on, and its tree. Raises SyntaxError where it cannot be parsed."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.function = _function(ast.parse(source))
        lines = source.splitlines(keepends=True)
        self._lines = lines
        self._starts = [0, *itertools.accumulate(map(len, lines))]
        self._operators = [
            (self._starts[token.start[0] - 1] + token.start[1], token.string)
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.OP
        ]

    def start(self, node: ast.AST) -> int:
        """Where `node` begins; parentheses around it are not part of it."""
        return self._offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]  # statements and expressions have it

    def stop(self, node: ast.AST) -> int:
        """Where it ends."""
        return self._offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]  # likewise

    def code(self, node: ast.AST) -> str:
        """What stands there."""
        return self.source[self.start(node) : self.stop(node)]

    def operator(self, left: ast.AST, right: ast.AST, symbol: str) -> tuple[int, int]:
        """From where to where `symbol` stands between two operands; a parenthesis or a comment there is no matter."""
        first, last = self.stop(left), self.start(right)
        at = next(at for at, text in self._operators if first <= at < last and text == symbol)
        return at, at + len(symbol)

    def replaced(self, node: ast.AST, new: str) -> Replacement:
        """`new` for an expression."""
        return Replacement(self.start(node), self.stop(node), new)

    def left_out(self, statement: ast.AST) -> Replacement:
        """Nothing in place of a statement."""
        return Replacement(self.start(statement), self.stop(statement), "pass", whole=True)

    def nodes(self) -> Iterator[ast.AST]:
        """What can be mutated: statements and expressions of the body, in the order of the source."""
        body = self.function.body
        documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        found = [node for statement in body[documented:] for node in _walk(statement)]
        return iter(sorted(found, key=lambda node: (self.start(node), -self.stop(node))))

    def with_(self, replacements: Iterable[Replacement]) -> str:
        """The source with all of them, which must not overlap. Every line keeps its number."""
        source = self.source
        for each in sorted(replacements, key=lambda each: each.start, reverse=True):
            lost = source.count("\n", each.start, each.stop) - each.new.count("\n")
            new = each.new + "\n" * lost
            # An expression may only go on in the next line within parentheses.
            source = source[: each.start] + (f"({new})" if lost and not each.whole else new) + source[each.stop :]
        return source

    def _offset(self, line: int, column: int) -> int:
        """Python's columns count bytes of UTF-8."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


_SILENT = frozenset(
    {
        *("static_assert", "device_assert", "assume", "static_print", "device_print"),
        *("multiple_of", "max_contiguous", "max_constancy", "debug_barrier"),
    }
)
"""Functions of `triton.language` that compute nothing: a mutant of what they are told shows nothing of a fuzz run."""


def callee(node: ast.AST) -> str:
    """The last name of a called function, `load` of `tl.load(...)`; "" for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    if callee(node) in _SILENT:
        return
    if isinstance(node, ast.stmt | ast.expr):
        yield node
    for name, value in ast.iter_fields(node):
        if name != "annotation":
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


def _function(module: ast.Module) -> ast.FunctionDef:
    match module.body:
        case [ast.FunctionDef() as function]:
            return function
    raise SyntaxError("not the source of a function")
