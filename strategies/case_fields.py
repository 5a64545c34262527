"""What all Cases check alike: every field by itself, before those that go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tridiff.harness.api import require, require_one_of, require_range

_MODEL_CHARACTERS = 80


def check_fields(case: Any, ranges: Mapping[str, tuple[float, float]], choices: Mapping[str, Iterable[object]]) -> None:
    """Raise `CaseError` for the first field of `case` that is out of its range, both ends included, or is none of its choices."""
    model: str = case.model
    require(len(model) <= _MODEL_CHARACTERS, f"model={model!r}: must have at most {_MODEL_CHARACTERS} characters")
    for field, (low, high) in ranges.items():
        require_range(field, getattr(case, field), low, high)
    for field, allowed in choices.items():
        require_one_of(field, getattr(case, field), allowed)
