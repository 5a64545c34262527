"""One defect is one signature, whatever the case; three defects are three. On the real engine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Finding, Found
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine

FAULTS = ("load_unmasked", "gap_written", "factor_off")
"""Found by `bounds`, `corruption` and `mismatch`; their messages name elements, addresses, shapes and values."""
EACH = 334


def cases() -> Iterator[ScaleCase]:
    """Cases of many shapes, all of which show each of the faults."""
    for seed, rows, columns, gap, factor in itertools.product((1, 2), (2, 3, 4), range(3, 24, 2), (1, 2, 3), (2.0, -0.5)):
        yield ScaleCase(rows=rows, columns=columns, gap=gap, factor=factor, seed=seed)


def findings(fault: str) -> Iterator[Finding]:
    """The findings of the first `EACH` cases that fail."""
    known = registry()
    ref = KernelRef(kernel="scale", fault=fault)
    outcomes = (examine(ref, EngineSpec(), case, known) for case in cases())
    found = (outcome.finding for outcome in outcomes if isinstance(outcome, Found))
    yield from itertools.islice(found, EACH)


def test_a_thousand_failing_cases_of_three_faults() -> None:
    """Three signatures; and the messages are as different as the cases, so it is no accident."""
    signatures: Counter[str] = Counter()
    messages: set[str] = set()
    for fault in FAULTS:
        for finding in findings(fault):
            signatures[finding.signature()] += 1
            messages.add(finding.message)

    assert signatures.total() >= 1000
    assert sorted(signatures.values()) == [EACH] * len(FAULTS)
    assert len(messages) > 100


@pytest.mark.parametrize("field", ["check", "line", "target", "kernel"])
def test_what_tells_defects_apart(field: str) -> None:
    """Another check, line, kernel or family of targets is another signature."""
    finding = next(findings("load_unmasked"))
    other = {"check": "corruption", "line": "scale.py:1", "target": "gfx1201", "kernel": "scale_wrong"}[field]

    assert Finding(**{**vars(finding), field: other}).signature() != finding.signature()
