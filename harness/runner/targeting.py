"""Targeting: some hunts climb, by `hypothesis.target()`, towards what an Op scores highly, a great number of keys, say.

The first half of such a hunt is drawn as ever; then Hypothesis changes its best examples step by step. A score must depend on
what was drawn as structure: a seed cannot be climbed. `docs/explanation/targeting.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hypothesis

from tridiff.harness.api import Clean, Judged, Op
from tridiff.harness.declarations import Malformed

FIRST, EVERY = 2, 4
"""Of the hunts of a campaign the second climbs, and every fourth from there: one example in eight at most is spent on it."""
HIGHEST = 1e9
"""Scores are cut off here: a step towards more is no longer worth anything."""


def climbs(op: Op, hunt: int) -> bool:
    """Whether the `hunt`-th hunt of a campaign, counted from 1, climbs."""
    return op.score is not None and hunt % EVERY == FIRST


def report(op: Op, case: Any, outcome: Judged) -> None:
    """Tell Hypothesis the scores of a clean `case`, within one of its tests. Raises `Malformed` for what is no score.

    An inconclusive one has none: measured, one climb in 45 ended among cases of which more than half could show nothing.
    """
    if op.score is not None and isinstance(outcome, Clean) and outcome.conclusive:
        for label, score in scores(op.name, op.score(case, outcome.ratio)).items():
            hypothesis.target(score, label=label)


def scores(op: str, given: Any) -> dict[str, float]:
    """`given` as finite numbers of moderate size; a NaN says nothing and is left out."""
    if not (isinstance(given, Mapping) and all(_is_score(label, score) for label, score in given.items())):
        raise Malformed(f"score of {op} returns {given!r}: must map names to numbers")
    return {label: float(max(-HIGHEST, min(HIGHEST, score))) for label, score in given.items() if score == score}  # noqa: PLR0124 - NaN


def _is_score(label: object, score: object) -> bool:
    return isinstance(label, str) and isinstance(score, (int, float)) and not isinstance(score, bool)
