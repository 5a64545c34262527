"""Minimising a Case by its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tridiff.harness.api import require
from tridiff.harness.runner.minimise import Field, candidates, minimised, pairs


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A Case with a field of each kind; `high` needs `wide`."""

    label: str
    width: int = 16
    shift: int = 8
    ratio: float = 1.0
    shape: str = "box"
    lengths: tuple[int, ...] = (1,)
    wide: bool = False
    high: bool = False

    def __post_init__(self) -> None:
        """Raise `CaseError` for a parcel that cannot be."""
        require(self.wide or not self.high, "high: needs wide")
        require(len(self.lengths) > 0, "lengths: none")


BUSY = Parcel(label="a", width=80, shift=-5, ratio=3.0, shape="tube", lengths=(40, 0, 700), wide=True, high=True)
FIELDS = [Field(field.name, field.default) for field in dataclasses.fields(Parcel)]


@pytest.mark.parametrize(
    ("fails", "expected"),
    [
        (lambda case: True, Parcel(label="a")),
        (lambda case: case.width > 64, Parcel(label="a", width=65)),
        (lambda case: case.width & (case.width - 1), Parcel(label="a", width=17)),
        (lambda case: case.shift < 0, Parcel(label="a", shift=-1)),
        (lambda case: case.high, Parcel(label="a", wide=True, high=True)),
        (lambda case: max(case.lengths) > 16, Parcel(label="a", lengths=(17,))),
        (lambda case: len(case.lengths) > 1 and 0 in case.lengths, Parcel(label="a", lengths=(0, 1))),
        (lambda case: (case.shape == "tube") == (case.ratio != 1.0), Parcel(label="a")),
    ],
    ids=["anything", "a bound", "a gap in the pool", "below the default", "two at once", "a length", "two rows", "a pair"],
)
def test_what_is_left_is_needed(fails: Callable[[Parcel], bool], expected: Parcel) -> None:
    """Every field is at its default, or as near to it as the failure allows; a field without a default stays."""
    assert minimised(BUSY, fails) in {expected, *([Parcel(label="a", lengths=(1, 0))] if 0 in expected.lengths else [])}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A Case whose fields have an item for each sequence."""

    queries: tuple[int, ...] = (1,)
    keys: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        """Raise `CaseError` for sequences that lack either."""
        require(len(self.queries) == len(self.keys), "queries: must be as many as keys")


def test_rows_of_several_fields_are_left_out_together() -> None:
    """Where one field alone cannot be shorter."""
    case = Batch(queries=(1, 3, 1, 1), keys=(1, 9, 4, 0))

    assert minimised(case, lambda each: max(each.queries) > 2) == Batch(queries=(3,), keys=(1,))
    assert minimised(case, lambda each: 0 in each.keys) == Batch(queries=(1,), keys=(0,))


def test_no_case_is_tried_twice() -> None:
    """A candidate costs a run of the kernel."""
    tried: list[Parcel] = []

    def fails(case: Parcel) -> bool:
        tried.append(case)
        return case.width > 64

    minimised(BUSY, fails)

    assert len(set(tried)) == len(tried) < 40


def test_only_legal_cases_are_tried() -> None:
    """What the class of the Case refuses is left out."""
    tried = [case for field in FIELDS for case in candidates(BUSY, field)] + list(pairs(BUSY, FIELDS))

    assert len(tried) > 20
    assert all(case.wide for case in tried if case.high)


def test_the_default_has_nothing_simpler() -> None:
    """The search ends."""
    simplest = Parcel(label="a")

    assert [case for field in FIELDS for case in candidates(simplest, field)] == []
    assert list(pairs(simplest, FIELDS)) == []
