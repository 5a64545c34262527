"""The section `tridiff` of the terminal summary, from counts that travel as properties of the tests' reports.

So they arrive from xdist's workers as well, and JUnit XML has them. Light to import, as every pytest run does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tridiff.harness.pytest_plugin import spreading
from tridiff.harness.report.figures import ratio

if TYPE_CHECKING:
    from tridiff.harness.runner.events import Tally

PROPERTY = "tridiff"
"""Name of the property; there is one for each call of `fuzz`, a JSON object."""
LOST = "tridiff-lost"
"""Name of the property of a test whose records could not all be written: the file, and what is wrong with it."""

_INTERRUPTED = pytest.StashKey[list[tuple[str, str]]]()
"""Property and findings of the test that Ctrl-C ended: pytest makes no report for it."""


@dataclass
class _Row:
    """The sums of one kernel over all tests."""

    cases: int = 0
    replayed: int = 0
    worst_ratio: float = 0.0
    inconclusive: int = 0
    not_judged: int = 0
    findings: set[str] = field(default_factory=set)
    reasons: dict[str, int] = field(default_factory=dict)
    infrastructure: dict[str, int] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    passes: set[str] = field(default_factory=set)

    def add(self, counts: dict[str, Any]) -> None:
        self.cases += counts["cases"]
        self.replayed += counts["replayed"]
        self.worst_ratio = max(self.worst_ratio, counts["worst_ratio"])
        self.inconclusive += counts["inconclusive"]
        self.not_judged += counts["not_judged"]
        self.findings.update(counts["findings"])
        self.passes.update(counts["passes"])
        for name, sums in (("reasons", self.reasons), ("infrastructure", self.infrastructure), ("known", self.known)):
            for reason, count in counts[name].items():
                sums[reason] = sums.get(reason, 0) + count

    def cells(self) -> list[str]:
        numbers = (self.inconclusive, self.not_judged, len(self.findings))
        return [str(self.cases), ratio(self.worst_ratio), *map(str, numbers)]


def as_property(  # noqa: PLR0913 - all of it travels together
    *,
    kernel: str,
    target: str,
    seed: int,
    random_seed: int | None,
    shard: str,
    tally: Tally,
    infrastructure: dict[str, int],
    findings: list[str],
    known: dict[str, int],
    passes: list[str],
) -> str:
    """The counts of one call of `fuzz`.

    `random_seed`: of the whole run, None where it was given; `infrastructure`: cases by how their process died, once; `findings`:
    signatures. `known`: cases of known failures, by what is said of those; `passes`: lines on those that do not fail any more.
    """
    return json.dumps(
        {
            "kernel": kernel,
            "target": target,
            "seed": seed,
            "random_seed": random_seed,
            "shard": shard,
            "cases": tally.examples,
            "replayed": tally.replayed,
            "worst_ratio": tally.worst_ratio,
            "inconclusive": tally.inconclusive,
            "not_judged": tally.skipped + tally.unsupported,
            "reasons": tally.reasons,
            "infrastructure": infrastructure,
            "findings": findings,
            "known": known,
            "passes": passes,
        }
    )


def interrupted(config: pytest.Config, counts: str, findings: str) -> None:
    """Keep what a test had done and found when Ctrl-C ended it."""
    config.stash.setdefault(_INTERRUPTED, []).append((counts, findings))


def write(reporter: pytest.TerminalReporter) -> None:
    """Write a line for each kernel, and what else there is to say of its cases; nothing where nothing was fuzzed."""
    cut_short = reporter.config.stash.get(_INTERRUPTED, [])
    rows: dict[str, _Row] = {}
    seeds: set[int | None] = set()
    for text in [*_properties(reporter, PROPERTY), *(counts for counts, _ in cut_short)]:
        counts = json.loads(text)
        rows.setdefault(counts["kernel"], _Row()).add(counts)
        seeds.add(counts["random_seed"])
    if not rows:
        return
    reporter.section("tridiff")
    for line in _table(rows):
        reporter.write_line(line)
    for line in dict(json.loads(text) for text in _properties(reporter, LOST)).values():  # the latest of each file
        reporter.write_line(line)
    for seed in sorted(seed for seed in seeds if seed is not None):
        reporter.write_line(spreading.seed_text(seed))
    for _, findings in cut_short:
        reporter.write_line(f"interrupted{': what was found until then follows' if findings else ''}\n{findings}".rstrip())


def _properties(reporter: pytest.TerminalReporter, name: str) -> Iterator[str]:
    """The property `name` of every call of `fuzz`; the last report of a test has all of its calls."""
    reports = [report for reports in reporter.stats.values() for report in reports if isinstance(report, pytest.TestReport)]
    tests = {report.nodeid: report for phase in ("setup", "call") for report in reports if report.when == phase}
    for report in tests.values():
        yield from (str(value) for known, value in report.user_properties if known == name)


def _table(rows: Mapping[str, _Row]) -> Iterator[str]:
    heading = ["kernel", "cases", "worst ratio", "inconclusive", "not judged", "findings"]
    lines = [heading, *([kernel, *rows[kernel].cells()] for kernel in sorted(rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])
    for kernel in sorted(rows):
        if rows[kernel].replayed:
            yield f"{kernel}: {_cases(rows[kernel].replayed)} replayed besides, from an earlier run, a list or the ledger"
        yield from sorted(rows[kernel].passes)
        for what, count in sorted(rows[kernel].known.items()):
            yield f"{kernel}: {_cases(count)} {' '.join(what.split())}"
        for reason, count in sorted(rows[kernel].reasons.items()):
            yield f"{kernel}: {_cases(count)} not judged: {' '.join(reason.split())}"
        for reason, count in sorted(rows[kernel].infrastructure.items()):
            yield f"{kernel}: {_cases(count)} ended in infrastructure failures: {' '.join(reason.split())}"


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"
