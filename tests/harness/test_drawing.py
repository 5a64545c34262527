"""Drawing Cases without examining them: lists and batches."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import strategies as st
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Domain
from tridiff.harness.declarations import Malformed
from tridiff.harness.runner.drawing import batches

DOMAIN = Domain(target="gfx942", whole=True)


def first(count: int, *, seed: int = 0, size: int = 50) -> list[list[Any]]:
    """The first batches of the toy Op."""
    return list(itertools.islice(batches(registry(), "scale", DOMAIN, seed=seed, size=size), count))


def test_batches_are_distinct() -> None:
    """No Case comes twice, and one in five is a preset: the first, the sixth, and so on."""
    found = first(3)

    cases = [case for batch in found for case in batch]
    assert len(set(cases)) == len(cases)
    assert [len(batch) for batch in found] == pytest.approx([50] * 3, abs=10)
    assert [at for at, case in enumerate(found[0]) if case.preset] == list(range(0, 50, 5))[: sum(c.preset for c in found[0])]
    assert sum(case.preset for case in cases) == pytest.approx(30, abs=6)


def test_batches_follow_from_the_seed() -> None:
    """Alone."""
    again, other = first(2), first(2, seed=1)

    assert first(2) == again != other


def test_batches_end() -> None:
    """Where there are no more Cases; what both parts draw comes once."""
    known = registry()
    narrow = st.builds(ScaleCase, rows=st.integers(1, 7))
    known.ops["scale"] = dataclasses.replace(known.ops["scale"], strategy=lambda _: narrow, presets=lambda _: narrow)

    found = list(batches(known, "scale", DOMAIN, seed=0))

    assert sorted(case.rows for batch in found for case in batch) == list(range(1, 8))


def test_what_both_parts_draw_comes_once() -> None:
    """Also where the other part draws it in a later batch."""
    known = registry()
    rows = st.builds(ScaleCase, rows=st.integers(1, 90))
    known.ops["scale"] = dataclasses.replace(known.ops["scale"], strategy=lambda _: rows, presets=lambda _: rows)

    cases = [case for batch in itertools.islice(batches(known, "scale", DOMAIN, seed=0, size=20), 4) for case in batch]

    assert len(set(cases)) == len(cases) > 40


def test_batches_are_checked() -> None:
    """What a strategy draws must be Cases."""
    known = registry()
    known.ops["scale"] = dataclasses.replace(known.ops["scale"], presets=lambda _: st.just(1))

    with pytest.raises(Malformed, match="the strategy of scale drew"):
        next(batches(known, "scale", DOMAIN, seed=0))
