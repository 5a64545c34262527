"""The mutants of a kernel: its functions' mutations, with names, lines of the file, and what another process needs of them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tridiff.harness.capture import Finder, Rewrite, located
from tridiff.harness.engines.spec import UsageError, nearest
from tridiff.harness.mutation.operators import OPERATORS, mutations


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one function. `name`: OPERATOR@FUNCTION:LINE#N, the Nth of its operator on that line of `file`.

    `line`: the first line that differs; `before` and `after`: the lines from there to the last that does.
    """

    name: str
    operator: str
    function: str
    file: str
    line: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    rewrite: Rewrite


def check_operators(names: Sequence[str]) -> tuple[str, ...]:
    """`names`, or a `UsageError` that says which one is none."""
    for name in names:
        if name not in OPERATORS:
            raise UsageError(f"unknown operator {name!r}{nearest(name, OPERATORS)}; operators: {', '.join(OPERATORS)}")
    return tuple(dict.fromkeys(names))


def mutants(
    functions: Iterable[str], only: Sequence[str] = (), find: Finder = importlib.import_module
) -> tuple[list[Mutant], list[str]]:
    """The mutants of jit functions given as MODULE:NAME, by the operators `only` or by all, in the order of their files.

    `find`: where their modules are.

    And those functions that cannot be mutated: another process would not find them under that name, since they are made within
    a function, or their source cannot be read as one.
    """
    names = tuple(functions)
    found: list[Mutant] = []
    hidden: list[str] = []
    for name in names:
        definitions = located(name, find)
        if not definitions or len({definition.src for definition in definitions}) > 1:
            hidden.append(name)
            continue
        try:
            found += _of_function(name, definitions[0], names)
        except SyntaxError:
            hidden.append(name)
    chosen = [mutant for mutant in found if not only or mutant.operator in only]
    return sorted(chosen, key=lambda mutant: (mutant.rewrite.function.partition(":")[0], mutant.line)), hidden


def _of_function(name: str, function: Any, affected: tuple[str, ...]) -> Iterable[Mutant]:
    source = function.src
    short, file = function.fn.__qualname__, PurePath(function.fn.__code__.co_filename).name
    top = _line_of_def(function)
    numbers: dict[tuple[str, int], int] = {}
    for mutation in mutations(source):
        first, before, after = _changed(source, mutation.source)
        key = (mutation.operator, mutation.line)
        numbers[key] = numbers.get(key, 0) + 1
        yield Mutant(
            name=f"{mutation.operator}@{short}:{top + mutation.line - 1}#{numbers[key]}",
            operator=mutation.operator,
            function=short,
            file=file,
            line=top + first,
            before=before,
            after=after,
            rewrite=Rewrite(function=name, source=mutation.source, replaces=source, affected=affected),
        )


def _line_of_def(function: Any) -> int:
    """The line of the file on which `def` stands, below the decorators."""
    above = next((at for at, line in enumerate(function.raw_src) if line.strip().startswith("def ")), 0)
    return int(function.starting_line_number) + above


def _changed(before: str, after: str) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """The first line that differs, counted from 0, and all from there to the last one: before and after."""
    pairs = list(zip(before.splitlines(), after.splitlines(), strict=True))
    differing = [at for at, (old, new) in enumerate(pairs) if old != new]
    hunk = pairs[differing[0] : differing[-1] + 1]
    return differing[0], tuple(old for old, _ in hunk), tuple(new for _, new in hunk)


def sampled(known: Sequence[Mutant], seed: int) -> list[Mutant]:
    """All of them in an order that depends on `seed` and on their names alone: however many are tried, they are a fair sample."""
    return sorted(known, key=lambda mutant: hashlib.blake2b(f"{seed}/{mutant.name}".encode(), digest_size=8).digest())
