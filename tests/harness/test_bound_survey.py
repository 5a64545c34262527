"""The survey of the error bound: what its tables say of cases that we know."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence

import bound_survey
import pytest
from bound_survey import Sample, Shard
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import registry as registries
from tridiff.harness.api import Clean, Outcome, Skipped, Unsupported
from tridiff.harness.engines.spec import UsageError
from tridiff.harness.runner import campaign


def sample(*key: object, ratio: float, conclusive: bool = True) -> Sample:
    """A clean case."""
    return Sample(key=key, ratio=ratio, conclusive=conclusive)


@pytest.mark.parametrize(
    ("ratios", "part", "expected"),
    [
        ([1.0], 0.5, 1.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(rank) for rank in range(1, 101)], 0.9, 90.0),
        ([float(rank) for rank in range(1, 101)], 0.99, 99.0),
        ([float(rank) for rank in range(1, 102)], 0.99, 100.0),
        ([1.0, 2.0, 9.0], 1.0, 9.0),
    ],
)
def test_quantile(ratios: Sequence[float], part: float, expected: float) -> None:
    """A ratio that occurred, and that no more than the rest of the cases exceed."""
    assert bound_survey.quantile(ratios, part) == expected


def test_no_ratios() -> None:
    """Of no cases there is no quantile."""
    assert math.isnan(bound_survey.quantile([], 0.5))


def test_tables() -> None:
    """Counts, a row for each value in order, one for all; a combination of fields has a column for each."""
    clean = [sample("f32", "b", ratio=0.25), sample("f32", "a", ratio=0.5, conclusive=False), sample("bf16", "a", ratio=0.75)]
    shards = [
        Shard(kernel="k", samples=clean[:2], failing=1, done=3),
        Shard(kernel="k", samples=clean[2:], unjudged=Counter({"no memory": 2}), done=3),
    ]

    lines = bound_survey.report("k", shards, [["dtype"], ["pattern", "dtype"]])

    assert lines == [
        "### k",
        "",
        "6 cases: 3 clean, 1 failing, 2 not judged",
        "- not judged: 2 times no memory",
        "",
        "| dtype | cases | median | 90 % | 99 % | largest | inconclusive |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| bf16 | 1 | 0.750 | 0.750 | 0.750 | 0.750 | 0.0 % |",
        "| f32 | 2 | 0.250 | 0.500 | 0.500 | 0.500 | 50.0 % |",
        "| all | 3 | 0.500 | 0.750 | 0.750 | 0.750 | 33.3 % |",
        "",
        "| pattern | dtype | cases | median | 90 % | 99 % | largest | inconclusive |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        "| a | bf16 | 1 | 0.750 | 0.750 | 0.750 | 0.750 | 0.0 % |",
        "| a | f32 | 1 | 0.500 | 0.500 | 0.500 | 0.500 | 100.0 % |",
        "| b | f32 | 1 | 0.250 | 0.250 | 0.250 | 0.250 | 0.0 % |",
        "| all |  | 3 | 0.500 | 0.750 | 0.750 | 0.750 | 33.3 % |",
    ]


def test_survey_draws_as_a_campaign_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth are presets; clean cases are sampled with their fields, others counted by reason."""
    outcomes: dict[float, Outcome] = {
        1.0: Clean(ratio=0.5, conclusive=False),
        2.0: Skipped(reason="no memory"),
        -0.5: Unsupported(reason="tt.sort"),
    }
    monkeypatch.setattr(campaign, "examine", lambda _ref, _spec, case, _known: outcomes[case.factor])
    calls: list[None] = []

    found = bound_survey.survey(registry(), "scale", "gfx942", 3, 50, ["preset", "factor"], lambda: calls.append(None))

    assert found.done == len(calls) == 50
    assert len(found.samples) + found.unjudged.total() == 50
    assert sum(one.key[0] is True for one in found.samples) == 10  # all presets have the factor 1
    assert {one.key[1] for one in found.samples} == {1.0}
    assert not any(one.conclusive for one in found.samples)
    assert set(found.unjudged) == {"no memory", "tt.sort"}


def test_real_cases_and_findings() -> None:
    """A right kernel uses a part of its bound; of a wrong one the finding is kept, and its failing cases are no samples."""
    right = bound_survey.survey(registry(), "scale", "gfx942", 0, 30, ["rows"])
    wrong = bound_survey.survey(registry(), "scale_wrong", "gfx942", 0, 30, ["rows"])

    assert len(right.samples) == 30
    assert right.findings == []
    assert 0.0 < max(one.ratio for one in right.samples) <= 1.0
    assert [finding.check for finding in wrong.findings] == ["mismatch"]
    assert wrong.failing > 0
    assert len(wrong.samples) + wrong.failing == wrong.done


def test_interruption_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey that is told to stop gives the cases so far."""
    monkeypatch.setattr(campaign, "examine", lambda *_: Clean(ratio=0.5))
    left = iter(range(7))

    def stop() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    assert bound_survey.survey(registry(), "scale", "gfx942", 0, 50, ["rows"], stop).done == 8


def test_shards() -> None:
    """All cases, each shard with a seed of its own, and another --seed with others."""
    assert list(bound_survey.shards_of(0, 4500)) == [(0, 2000), (1, 2000), (2, 500)]
    assert list(bound_survey.shards_of(2, 10)) == [(2_000_000, 10)]


def test_unknown_field() -> None:
    """The line names the nearest field and all of them."""
    with pytest.raises(UsageError, match=r"^ScaleCase has no field 'row': did you mean 'rows'\?; fields: rows, columns, "):
        bound_survey.check_fields(ScaleCase, ["rows", "row"])


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields may be combined and --by repeated; by default there is a table by dtype and one by pattern."""
    monkeypatch.setattr("sys.argv", ["bound_survey.py", "--by", "dtype, pattern", "--by", "seed"])
    assert bound_survey._options().by == [["dtype", "pattern"], ["seed"]]
    monkeypatch.setattr("sys.argv", ["bound_survey.py"])
    assert bound_survey._options().by == [["dtype"], ["pattern"]]
    with pytest.raises(argparse.ArgumentTypeError, match="must be at least 1"):
        bound_survey._positive("0")


@pytest.mark.parametrize(
    ("kernel", "interrupted", "code"),
    [("scale", False, 0), ("scale", True, 130), ("scale_wrong", False, 1), ("scale_wrong", True, 1)],
)
def test_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kernel: str, interrupted: bool, code: int
) -> None:
    """Findings are printed and count more than an interruption."""
    monkeypatch.setattr(registries, "builtin", registry)
    monkeypatch.setattr("sys.argv", ["bound_survey.py", "--kernel", kernel, "--by", "rows", "--count", "20"])
    shard = bound_survey.survey(registry(), kernel, "gfx942", 0, 20, ["rows"])
    monkeypatch.setattr(bound_survey, "collect", lambda *_: ([shard], interrupted))

    left = bound_survey._survey(bound_survey._options())

    said = capsys.readouterr().out
    assert left == code
    assert f"### {kernel}\n\n20 cases: " in said
    assert ("FINDING scale-mismatch-" in said) is (code == 1)
