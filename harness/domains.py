"""Domains: which part of its Op's contract a Kernel supports, whether a Case lies in it, and how much of the Op it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis.strategies import SearchStrategy

from tridiff.harness.api import Domain, Facet, Kernel, Op


def domain_of(kernel: Kernel, target: str, *, models: tuple[str, ...] = (), whole: bool = False) -> Domain:
    """The part of its Op that `kernel` supports, on `target`; `models`, `whole`: see `Domain`."""
    return Domain(target=target, models=models, whole=whole, limits=kernel.limits)


def contains(op: Op, case: Any, domain: Domain) -> bool:
    """Whether a Case that its class accepts lies in `domain`: what the target has, and what the limits allow."""
    return (op.within is None or op.within(case, domain)) and next(outside(op, case, domain), None) is None


def outside(op: Op, case: Any, domain: Domain) -> Iterator[tuple[str, Any]]:
    """The facets in which `case` exceeds the limits of `domain`, each with what the Case has of it."""
    for facet in domain.limits:
        if not domain.allows(facet, *values(op.facets[facet], case)):
            yield facet, op.facets[facet].of(case)


def values(facet: Facet, case: Any) -> tuple[Any, ...]:
    """What `case` has of a facet: one value or several."""
    has = facet.of(case)
    return has if isinstance(has, tuple) else (has,)


def emptied_by(strategy: Callable[[Domain], SearchStrategy[Any]], domain: Domain) -> list[str]:
    """The facets whose limits leave `strategy` nothing to draw, each by itself; all where they do so together."""
    alone = [facet for facet in domain.limits if strategy(replace(domain, limits={facet: domain.limits[facet]})).is_empty]
    return alone or list(domain.limits)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of an Op a Kernel supports, as shares from 0 to 1 of `cases` drawn from the whole Op.

    `share`: of Cases in its domain. `left_out`: by facet, of Cases that this restriction excludes, whatever the others do.
    """

    cases: int
    share: float
    left_out: Mapping[str, float]


def coverage(op: Op, limits: Mapping[str, Any], cases: Sequence[Any]) -> Coverage:
    """How many of `cases`, at least one, lie within `limits`, of facets that are counted."""
    limits = {facet: allowed for facet, allowed in limits.items() if op.facets[facet].counted}
    domain = Domain(target="", limits=limits)
    exceeded = [{facet for facet, _ in outside(op, case, domain)} for case in cases]
    return Coverage(
        cases=len(cases),
        share=sum(not facets for facets in exceeded) / len(cases),
        left_out={facet: sum(facet in facets for facets in exceeded) / len(cases) for facet in limits},
    )
