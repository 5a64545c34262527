"""Domains: which part of its Op's contract a Kernel supports, and whether a Case lies in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tridiff.harness.api import Domain, Op


def contains(op: Op, case: Any, domain: Domain) -> bool:
    """Whether a Case that its class accepts lies in `domain`: what the target has, and what the limits allow."""
    return (op.within is None or op.within(case, domain)) and next(outside(op, case, domain), None) is None


def outside(op: Op, case: Any, domain: Domain) -> Iterator[tuple[str, Any]]:
    """The facets in which `case` exceeds the limits of `domain`, each with what the Case has of it."""
    for facet in domain.limits:
        has = op.facets[facet].of(case)
        if not domain.allows(facet, *(has if isinstance(has, tuple) else (has,))):
            yield facet, has
