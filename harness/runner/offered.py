"""What an Op offers in a domain: the strategy of its Cases or presets, and the simplest of its Cases."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import Phase
from hypothesis.strategies import SearchStrategy

from tridiff.harness.api import Domain, Op
from tridiff.harness.declarations import check_drawn, check_strategy
from tridiff.harness.domains import emptied_by, outside
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.runner.seeding import draws_by_seed_alone, plain_settings


def strategy_of(op: Op, part: str, domain: Domain) -> SearchStrategy[Any]:
    """What `part` ("strategy" or "presets") of `op` draws in `domain`; of presets there may be none (`is_empty`).

    Raises `UsageError` with the facets whose limits leave the strategy nothing, or no preset of the models that were named.
    """
    declared = getattr(op, part)
    strategy: SearchStrategy[Any] = declared(domain)
    check_strategy(op, part, strategy)
    if strategy.is_empty and (part == "strategy" or domain.models):
        facets = "; ".join(f"{facet}={domain.limits[facet]!r}" for facet in emptied_by(declared, domain))
        what = f"presets of {', '.join(domain.models)}" if domain.models else "cases"
        raise UsageError(f"{op.name} has no {what} on {domain.target} within the kernel's domain: {facets or 'nothing is drawn'}")
    return strategy


def simplest(op: Op, domain: Domain) -> Any:
    """The simplest Case within the limits of `domain`: the default one where they allow it, else what the strategy shrinks to."""
    if next(outside(op, op.case(), domain), None) is None:
        return op.case()
    drawn: list[Any] = []

    @hypothesis.seed(0)
    @hypothesis.settings(plain_settings(), max_examples=1, phases=(Phase.generate,))
    @hypothesis.given(strategy_of(op, "strategy", domain))
    def draw(case: Any) -> None:
        check_drawn(op, case, domain)
        drawn.append(case)

    with draws_by_seed_alone():
        draw()
    return drawn[0]  # Hypothesis begins with the simplest choices
