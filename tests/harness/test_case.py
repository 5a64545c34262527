"""Cases survive a strict JSON round trip, and what is malformed is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tridiff.harness.api import CaseError, from_json, require, require_one_of, require_range, to_json


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One field of every type that a Case may have."""

    count: int
    scale: float = 1.0
    flag: bool = False
    name: str = ""
    lengths: tuple[int, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    nested: tuple[tuple[int, ...], ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the range of one field."""
        require_range("count", self.count, 0, 100)


SAMPLES = st.builds(
    Sample,
    count=st.integers(0, 100),
    scale=st.floats(allow_nan=False, allow_infinity=False),
    flag=st.booleans(),
    name=st.text(),
    lengths=st.lists(st.integers()).map(tuple),
    pair=st.tuples(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    nested=st.lists(st.lists(st.integers()).map(tuple)).map(tuple),
    limit=st.none() | st.integers(),
)


@given(SAMPLES)
def test_round_trip(sample: Sample) -> None:
    """A Case comes back equal, types included, after a trip through the text of its JSON form."""
    again = from_json(Sample, json.loads(json.dumps(to_json(sample))))

    assert again == sample
    assert repr(again) == repr(sample)


def test_json_form_is_plain() -> None:
    """Tuples become lists at every depth, and nothing else changes."""
    sample = Sample(count=3, lengths=(1, 2), nested=((1,), ()))

    assert to_json(sample) == {
        "count": 3,
        "scale": 1.0,
        "flag": False,
        "name": "",
        "lengths": [1, 2],
        "pair": [0, 0.0],
        "nested": [[1], []],
        "limit": None,
    }


def test_defaults_may_be_left_out() -> None:
    """Only fields without a default are required."""
    assert from_json(Sample, {"count": 7}) == Sample(count=7)


def test_whole_number_is_a_float() -> None:
    """JSON writers may drop `.0`, so an int is taken for a float, and becomes one."""
    scale = from_json(Sample, {"count": 0, "scale": 2}).scale

    assert scale == 2.0
    assert type(scale) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "a case must be a JSON object, got list"),
        (None, "a case must be a JSON object, got NoneType"),
        ({}, "missing field count of Sample"),
        ({"count": 1, "colour": 2}, "unknown field 'colour': Sample has count, scale, flag"),
        ({"count": 101}, "count=101: must be from 0 to 100"),
        ({"count": True}, "count=True: must be of type int"),
        ({"count": "1"}, "count='1': must be of type int"),
        ({"count": 1.0}, "count=1.0: must be of type int"),
        ({"count": None}, "count=None: must be of type int"),
        ({"count": 1, "flag": 1}, "flag=1: must be of type bool"),
        ({"count": 1, "name": 1}, "name=1: must be of type str"),
        ({"count": 1, "scale": "1.0"}, "scale='1.0': must be of type float"),
        ({"count": 1, "scale": True}, "scale=True: must be of type float"),
        ({"count": 1, "scale": float("nan")}, "scale=nan: must be finite"),
        ({"count": 1, "scale": float("-inf")}, "scale=-inf: must be finite"),
        ({"count": 1, "scale": 10**400}, "scale: must be finite, and this integer is larger than any float"),
        ({"count": 1, "lengths": 3}, "lengths=3: must be a list"),
        ({"count": 1, "lengths": {"0": 1}}, "lengths={'0': 1}: must be a list"),
        ({"count": 1, "lengths": [1, "2"]}, "lengths[1]='2': must be of type int"),
        ({"count": 1, "pair": [1]}, "pair=[1]: must have 2 items"),
        ({"count": 1, "pair": [1, 2, 3]}, "pair=[1, 2, 3]: must have 2 items"),
        ({"count": 1, "pair": [1.5, 2]}, "pair[0]=1.5: must be of type int"),
        ({"count": 1, "nested": [[1], 2]}, "nested[1]=2: must be a list"),
        ({"count": 1, "nested": [[1], [True]]}, "nested[1][0]=True: must be of type int"),
        ({"count": 1, "limit": "none"}, "limit='none': must be of type int"),
        ({"count": 1, "limit": True}, "limit=True: must be of type int"),
    ],
)
def test_malformed_form_is_refused(data: Any, message: str) -> None:
    """The message names the field, down to the item, with its value and what is allowed."""
    with pytest.raises(CaseError, match=f"^{re.escape(message)}"):
        from_json(Sample, data)


def test_none_is_legal_where_the_field_says_so() -> None:
    """An optional field takes null, and keeps the difference between null and 0."""
    assert from_json(Sample, {"count": 1, "limit": None}).limit is None
    assert from_json(Sample, {"count": 1, "limit": 0}).limit == 0


def test_require_raises_only_when_the_condition_fails() -> None:
    """`require` is silent for what holds."""
    require(True, "never")  # noqa: FBT003 - it reads like assert

    with pytest.raises(CaseError, match=r"^too few$"):
        require(False, "too few")  # noqa: FBT003


def test_choices_are_listed() -> None:
    """A value that is not on offer is shown beside those that are."""
    require_one_of("colour", "red", ("red", "blue"))

    with pytest.raises(CaseError, match=r"^colour='green': must be one of 'red', 'blue'$"):
        require_one_of("colour", "green", iter(("red", "blue")))


@pytest.mark.parametrize("value", [-1, 11, float("nan"), float("inf")])
def test_ranges_exclude_what_is_outside(value: float) -> None:
    """NaN and infinity are outside every range, whose ends belong to it."""
    require_range("share", 0, 0, 10)
    require_range("share", 10.0, 0, 10)

    with pytest.raises(CaseError, match=r"^share=.*: must be from 0 to 10$"):
        require_range("share", value, 0, 10)
