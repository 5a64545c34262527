"""Restrictions: what a Kernel says of the part of its Op that it supports must fit the Op, or is a `UsageError` of one line."""

from __future__ import annotations

from typing import Any

from tridiff.harness.api import Arena, Facet, Kernel, Op, Restriction
from tridiff.harness.domains import values
from tridiff.harness.engines.spec import DECLARED_ENGINES, UsageError, nearest

_PLAIN = (str, bool, int, float)
_FEWEST_WORDS = 3
"""Words of a reason; with fewer nobody could look it up."""


def check_engines(kernel: Kernel) -> None:
    """Raise `UsageError` unless `engines` are names of some."""
    if not isinstance(kernel.engines, tuple):
        raise UsageError(f"kernel {kernel.name!r}: engines={kernel.engines!r}: must be a tuple of names, such as ('cpu',)")
    unknown = [str(name) for name in kernel.engines if name not in DECLARED_ENGINES]
    if unknown or not kernel.engines:
        named = f"unknown engine {unknown[0]!r}{nearest(unknown[0], DECLARED_ENGINES)}" if unknown else "no engine"
        raise UsageError(f"kernel {kernel.name!r} names {named}; engines: {', '.join(DECLARED_ENGINES)}")


def check_outputs(kernel: Kernel) -> None:
    """Raise `UsageError` unless `outputs` are None or names; whether the Op has them, its first Case shows."""
    names: Any = kernel.outputs
    if names is None:
        return
    if not (isinstance(names, tuple) and names and all(isinstance(name, str) for name in names)):
        raise UsageError(f"kernel {kernel.name!r}: outputs={names!r}: must be a tuple of names, one at least, or None for all")
    twice = [name for at, name in enumerate(names) if name in names[:at]]
    if twice:
        raise UsageError(f"kernel {kernel.name!r}: outputs names {twice[0]!r} twice")


def check_written(kernel: Kernel, op: Op) -> None:
    """Raise `UsageError` unless all `outputs` are written in the default Case of `op`, or are left out there."""
    if kernel.outputs is None:
        return
    arena = Arena()
    inputs = op.build(op.case(), arena)
    optional = {name for name, value in inputs.items() if value is None}
    known = [name for name in inputs if name in arena.written() or name in optional]
    for name in kernel.outputs:
        if name not in known:
            hint = nearest(name, arena.written())
            raise UsageError(f"kernel {kernel.name!r}: outputs names {name!r}, which {op.name} does not declare as written{hint}")


def check_facets(op: Op) -> None:
    """Raise `UsageError` unless `op.facets` are Facets by name that can be asked for the default Case."""
    facets: Any = op.facets
    if not hasattr(facets, "items"):
        raise UsageError(f"op {op.name!r}: facets is {type(facets).__name__}: must map names to Facets")
    for name, facet in facets.items():
        if not (isinstance(name, str) and isinstance(facet, Facet) and callable(facet.of)):
            raise UsageError(f"op {op.name!r}: facets has {name!r}: {facet!r}: must be a name with a Facet")
        try:
            values(facet, op.case())
        except Exception as error:
            raise UsageError(f"op {op.name!r}: facet {name} of {op.case.__name__}() fails: {error!r}") from error


def check_domain(kernel: Kernel, op: Op) -> None:
    """Raise `UsageError` unless each Restriction names a facet of `op`, each one once, with values of its kind and a reason."""
    domain: Any = kernel.domain
    if not isinstance(domain, tuple):
        raise UsageError(f"kernel {kernel.name!r}: domain={domain!r}: must be a tuple of Restrictions")
    seen = set()
    for restriction in domain:
        if not isinstance(restriction, Restriction):
            raise UsageError(f"kernel {kernel.name!r}: domain has {restriction!r}: must be a Restriction")
        if restriction.facet not in op.facets:
            hint, known = nearest(str(restriction.facet), op.facets), ", ".join(op.facets) or "none"
            raise UsageError(
                f"kernel {kernel.name!r} restricts {restriction.facet!r}, no facet of {op.name}{hint}; facets: {known}"
            )
        where = f"kernel {kernel.name!r}: restriction of {restriction.facet}"
        if restriction.facet in seen:
            raise UsageError(f"{where}: there are two; join them")
        seen.add(restriction.facet)
        facet = op.facets[restriction.facet]
        _check_allowed(where, restriction.allowed, values(facet, op.case()))
        _check_choices(where, restriction.allowed, facet.choices)
        if not _is_text(restriction.reason) or len(restriction.reason.split()) < _FEWEST_WORDS:
            raise UsageError(
                f"{where}: reason={restriction.reason!r}: must say in a sentence where the kernel's authors assume it"
            )


def _check_choices(where: str, allowed: Any, choices: tuple[Any, ...]) -> None:
    """A value that the Op does not have allows nothing: to name one is a slip of the pen."""
    for value in allowed if choices else ():
        if value not in choices:
            hint = nearest(str(value), map(str, choices))
            raise UsageError(f"{where}: allowed has {value!r}{hint}; values: {', '.join(map(str, choices))}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check_allowed(where: str, allowed: Any, examples: tuple[Any, ...]) -> None:
    if not isinstance(allowed, (tuple, range)) or not allowed:
        raise UsageError(f"{where}: allowed={allowed!r}: must be a tuple or a range, with one value at least")
    kinds = {kind for example in examples for kind in ((int, float) if isinstance(example, float) else (type(example),))}
    for value in () if isinstance(allowed, range) else allowed:
        if type(value) not in _PLAIN or (kinds and type(value) not in kinds):
            raise UsageError(
                f"{where}: allowed has {value!r}: must be of its kind, {' or '.join(map(repr, examples))} for example"
            )
    if isinstance(allowed, range) and kinds and int not in kinds:
        raise UsageError(f"{where}: allowed={allowed!r}: its values are no numbers, {examples[0]!r} for example")
