"""Scores: which hunts climb towards them, what Hypothesis is told, and that nothing else of a run changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Outcome, Skipped
from tridiff.harness.declarations import Malformed
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.registry import Registry
from tridiff.harness.runner import campaign as module
from tridiff.harness.runner import targeting
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.examine import KernelRef
from tridiff.strategies.decode_attention import DecodeAttentionCase
from tridiff.strategies.decode_attention import score as late_peak

Score = Callable[[ScaleCase, float], Any]
ROUND = 100
"""Examples of a hunt here, so that few are needed to come to the second one."""
WIDE = 900
"""Columns that one random case in ten has."""


def scored(score: Score | None) -> Registry:
    """The toy family with as many cases as it takes, and a score."""
    known = registry()
    op = known.op("scale")
    wide = st.builds(ScaleCase, rows=st.integers(1, 1000), columns=st.integers(1, 1000), gap=st.integers(0, 1000))
    known.ops["scale"] = replace(op, strategy=lambda _domain: wide, presets=lambda _domain: wide, score=score)
    return known


def drawn(monkeypatch: pytest.MonkeyPatch, known: Registry, examples: int) -> list[ScaleCase]:
    """The cases of a campaign in which all are clean."""
    cases: list[ScaleCase] = []

    def examine(_ref: object, _spec: object, case: ScaleCase, _known: object) -> Outcome:
        cases.append(case)
        return Clean(ratio=0.25)

    monkeypatch.setattr(module, "examine", examine)
    monkeypatch.setattr(module, "ROUND", ROUND)
    Campaign(KernelRef(kernel="scale"), EngineSpec(), 0, Budget(examples=examples), lambda _event: None, known).run()
    return cases


def test_inconclusive_cases_have_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """A climb must not end among cases that could show nothing."""
    told: list[float] = []
    monkeypatch.setattr("hypothesis.target", lambda score, label: told.append(score))
    op = scored(columns).op("scale")

    targeting.report(op, ScaleCase(columns=7), Clean(ratio=0.5, conclusive=False))
    targeting.report(op, ScaleCase(columns=8), Clean(ratio=0.5))

    assert told == [8.0]


def columns(case: ScaleCase, _ratio: float) -> Mapping[str, float]:
    """A score that can be climbed."""
    return {"columns": case.columns}


# What Hypothesis is told


def test_scores_are_finite_and_moderate() -> None:
    """What Hypothesis would refuse, or climb for ever, is cut off or left out."""
    given = {"a": 3, "b": -0.5, "inf": math.inf, "-inf": -math.inf, "nan": math.nan, "huge": 1e300, "huger": -(10**400)}

    told = targeting.scores("scale", given)

    high = targeting.HIGHEST
    assert told == {"a": 3.0, "b": -0.5, "inf": high, "-inf": -high, "huge": high, "huger": -high}
    assert all(type(score) is float for score in told.values())


@pytest.mark.parametrize("given", [None, 1.0, {"a": "1"}, {"a": None}, {"a": True}, {1: 1.0}, [("a", 1.0)]], ids=repr)
def test_what_is_no_score(given: Any) -> None:
    """Anything but numbers by name is refused, and shown."""
    with pytest.raises(Malformed) as caught:
        targeting.scores("scale", given)

    assert str(caught.value) == f"score of scale returns {given!r}: must map names to numbers"


def test_clean_cases_have_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score is given the case and its ratio; a case that could not be judged has none."""
    told: list[tuple[float, str]] = []
    monkeypatch.setattr(hypothesis, "target", lambda score, label: told.append((score, label)))
    op = scored(lambda case, ratio: {"columns": case.columns, "ratio": ratio}).op("scale")

    targeting.report(op, ScaleCase(columns=7), Clean(ratio=0.5))
    targeting.report(op, ScaleCase(columns=8), Skipped(reason="too large"))
    targeting.report(replace(op, score=None), ScaleCase(columns=9), Clean(ratio=0.5))

    assert told == [(7.0, "columns"), (0.5, "ratio")]


# Hunts


def test_some_hunts_climb() -> None:
    """The second and every fourth from there; none where the Op has no score."""
    op = scored(columns).op("scale")

    assert [hunt for hunt in range(1, 15) if targeting.climbs(op, hunt)] == [2, 6, 10, 14]
    assert not any(targeting.climbs(replace(op, score=None), hunt) for hunt in range(1, 15))


def test_a_hunt_climbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets and the first hunt are as without a score; in the second, wide cases are met far more often."""
    without = drawn(monkeypatch, scored(None), 250)
    climbing = drawn(monkeypatch, scored(columns), 250)

    same = 50 + ROUND - 5  # but for what is repeated
    wide = [sum(case.columns >= WIDE for case in cases[same:]) for cases in (without, climbing)]
    assert climbing[:same] == without[:same]
    assert wide[1] > 10 * wide[0]  # scores alone make it three times as many: Hypothesis mutates what is no worse


@pytest.mark.parametrize("examples", [1, 151, 253])
def test_budget_is_exact(monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    """As many examples as were asked for, and the same in every run."""
    cases = drawn(monkeypatch, scored(columns), examples)

    assert len(cases) == examples
    assert drawn(monkeypatch, scored(columns), examples) == cases


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 10**400, 0], ids=repr)
def test_scores_that_say_nothing(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    """Whatever number a score is, the run goes on to its end."""
    assert len(drawn(monkeypatch, scored(lambda _case, _ratio: {"score": score}), 200)) == 200


def test_broken_score_of_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A score that raises is the plug-in's fault, in one line."""
    known = scored(lambda case, _ratio: {"score": case.columns / 0})
    monkeypatch.setattr(known, "source_of", lambda *_: "mine.py")

    with pytest.raises(
        UsageError,
        match=r"^plug-in mine.py: score of scale raised ZeroDivisionError: .*$",
    ):
        drawn(monkeypatch, known, 200)


# decode_attention


def test_late_peak() -> None:
    """The score of attention rises with the height of the peak, its place and the length of the row, and with nothing else."""
    simple = DecodeAttentionCase(pattern="peaked", peak_height=30.0, seq_lens=(7, 2))
    score = late_peak(simple, 0.5)["late_peak"]

    better = [
        replace(simple, peak_height=300.0),
        replace(simple, seq_lens=(7, 8)),
        replace(simple, pattern="sink", seq_lens=(9,)),
    ]
    worse = [replace(simple, logit_cap=1.0), *(replace(simple, peak_at=at) for at in ("first", "anywhere", "before_tile"))]
    equal = [replace(simple, seed=5), replace(simple, logit_cap=50.0), replace(simple, dtype="bfloat16")]
    assert score == 90.0
    assert all(late_peak(case, 0.5)["late_peak"] > score for case in better)
    assert all(late_peak(case, 0.5)["late_peak"] < score for case in worse)
    assert all(late_peak(case, 0.9)["late_peak"] == score for case in equal)


def test_no_peak() -> None:
    """Without a peak, or without keys, the score is 0."""
    assert late_peak(DecodeAttentionCase(seq_lens=(700,)), 0.5) == {"late_peak": 0.0}
    assert late_peak(DecodeAttentionCase(pattern="peaked", seq_lens=(0,)), 0.5) == {"late_peak": 0.0}
