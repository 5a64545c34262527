"""Drawing Cases without examining them: presets first, then the whole contract, in the shares of a campaign."""

from __future__ import annotations

import hashlib
from typing import Any

import hypothesis
from hypothesis import Phase
from hypothesis.strategies import SearchStrategy

from tridiff.harness import blame
from tridiff.harness.api import Domain, Op
from tridiff.harness.declarations import check_drawn, check_strategy
from tridiff.harness.registry import Registry
from tridiff.harness.runner.campaign import PRESET_SHARE, ROUND
from tridiff.harness.runner.seeding import draws_by_seed_alone, plain_settings

MOST_IN_VAIN = 3
"""Rounds without a new Case after which there are taken to be no more."""


class _Enough(BaseException):
    """Ends a round; not an Exception, so that Hypothesis does not take it for a failure."""


def drawn(registry: Registry, op: str, target: str, *, count: int, seed: int) -> list[Any]:
    """`count` distinct Cases of the Op on `target`, in the order drawn, or fewer where there are no more.

    The same arguments give the same Cases. Raises `UsageError` for an unknown Op, or a plug-in's that draws what is no Case.
    """
    known, domain = registry.op(op), Domain(target=target)
    cases: dict[Any, None] = {}
    for part, until in (("presets", count // PRESET_SHARE), ("strategy", count)):
        with blame.declared(registry.source_of("op", op), f"{part} of {op}"):
            strategy: SearchStrategy[Any] = getattr(known, part)(domain)
            check_strategy(known, part, strategy)
            _collect(known, strategy, cases, until, f"{seed}/{op}/{part}")
    return list(cases)


def _collect(op: Op, strategy: SearchStrategy[Any], cases: dict[Any, None], until: int, name: str) -> None:
    """Draw into `cases` until there are `until`, in rounds with a seed of their own each."""
    rounds = in_vain = 0
    while len(cases) < until and in_vain < MOST_IN_VAIN:
        before = len(cases)
        _round(op, strategy, cases, until, _number(f"{name}/{rounds}"))
        rounds += 1
        in_vain = 0 if len(cases) > before else in_vain + 1


def _round(op: Op, strategy: SearchStrategy[Any], cases: dict[Any, None], until: int, seed: int) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(plain_settings(), max_examples=ROUND, phases=(Phase.generate,))
    @hypothesis.given(strategy)
    def draw(case: Any) -> None:
        check_drawn(op, case)
        cases[case] = None
        if len(cases) >= until:
            raise _Enough

    try:
        with draws_by_seed_alone():
            draw()
    except _Enough:
        pass


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
