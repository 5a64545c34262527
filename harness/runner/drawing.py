"""Drawing Cases without examining them: presets first, then the whole contract, in the shares of a campaign."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import hypothesis
from hypothesis import Phase

from tridiff.harness import blame
from tridiff.harness.api import Allowed, Domain, Op
from tridiff.harness.declarations import check_drawn
from tridiff.harness.registry import Registry
from tridiff.harness.runner.campaign import PRESET_SHARE, ROUND
from tridiff.harness.runner.offered import strategy_of
from tridiff.harness.runner.seeding import draws_by_seed_alone, plain_settings

MOST_IN_VAIN = 3
"""Rounds without a new Case after which there are taken to be no more."""
BATCH = 50
"""Cases of one batch, of which one in `PRESET_SHARE` is a preset."""


class _Enough(BaseException):
    """Ends a round; not an Exception, so that Hypothesis does not take it for a failure."""


def drawn(
    registry: Registry, op: str, target: str, *, count: int, seed: int, limits: Mapping[str, Allowed] | None = None
) -> list[Any]:
    """`count` distinct Cases of the Op on `target`, in the order drawn, or fewer where there are no more.

    `limits`: those of a Kernel, see `Domain`; None for the whole Op. The same arguments give the same Cases. Raises
    `UsageError` for an unknown Op, or a plug-in's that draws what is no Case.
    """
    known = registry.op(op)
    cases: dict[Any, None] = {}
    for part, until in (("presets", count // PRESET_SHARE), ("strategy", count)):
        with blame.declared(registry.source_of("op", op), f"{part} of {op}"):
            _collect(known, part, Domain(target=target, limits=limits or {}), cases, until, f"{seed}/{op}/{part}")
    return list(cases)


def batches(registry: Registry, op: str, domain: Domain, *, seed: int, size: int = BATCH) -> Iterator[list[Any]]:
    """Distinct Cases of the Op in `domain`, some `size` at a time, until there are no more.

    One in `PRESET_SHARE` of a batch is a preset, as long as there are new ones, and they are spread over it. The same
    arguments give the same Cases; of the domain counts only what the Op's strategies make of it. Raises as `drawn` does.
    """
    known = registry.op(op)
    shares = {"presets": max(1, size // PRESET_SHARE), "strategy": size - max(1, size // PRESET_SHARE)}
    seen: dict[str, dict[Any, None]] = {part: {} for part in shares}
    given: set[Any] = set()
    in_vain = 0
    for number in itertools.count():
        found: dict[str, list[Any]] = {}
        for part, share in shares.items():
            with blame.declared(registry.source_of("op", op), f"{part} of {op}"):
                before = len(seen[part])
                name = _number(f"{seed}/{op}/{part}/batch {number}")
                _round(known, part, domain, seen[part], before + share, name, examples=share)
                found[part] = list(seen[part])[before:]
        drawn = dict.fromkeys(_spread(found["strategy"], found["presets"]))
        batch = [case for case in drawn if case is not None and case not in given]
        given.update(batch)
        in_vain = 0 if batch else in_vain + 1
        if in_vain >= MOST_IN_VAIN:
            return
        if batch:
            yield batch


def _spread(general: list[Any], presets: list[Any]) -> Iterator[Any]:
    """A preset, then as many others as it stands for, and so on; None where there is none left."""
    step = PRESET_SHARE - 1
    groups = [general[at : at + step] for at in range(0, len(general), step)]
    for preset, group in itertools.zip_longest(presets, groups, fillvalue=None):
        yield preset
        yield from group or ()


def _collect(op: Op, part: str, domain: Domain, cases: dict[Any, None], until: int, name: str) -> None:
    """Draw into `cases` until there are `until`, in rounds with a seed of their own each."""
    rounds = in_vain = 0
    while len(cases) < until and in_vain < MOST_IN_VAIN:
        before = len(cases)
        _round(op, part, domain, cases, until, _number(f"{name}/{rounds}"))
        rounds += 1
        in_vain = 0 if len(cases) > before else in_vain + 1


def _round(op: Op, part: str, domain: Domain, cases: dict[Any, None], until: int, seed: int, *, examples: int = ROUND) -> None:
    """Draw into `cases` until there are `until`, or `examples` were drawn: of a longer round the first ones are small."""
    strategy = strategy_of(op, part, domain)
    if strategy.is_empty:
        return

    @hypothesis.seed(seed)
    @hypothesis.settings(plain_settings(), max_examples=examples, phases=(Phase.generate,))
    @hypothesis.given(strategy)
    def draw(case: Any) -> None:
        check_drawn(op, case, domain)
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
