"""Markdown of runs, from their sums alone: what a CI job adds to its summary."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tridiff.harness.report import waived
from tridiff.harness.report.figures import ratio
from tridiff.harness.report.records import Record
from tridiff.harness.report.run_text import (
    closing,
    described,
    headline,
    notes,
    plugin_notes,
    plural,
    printable,
    reasons_text,
    size,
)
from tridiff.harness.report.summary import Summary, findings_of, kernels_of, most_first
from tridiff.harness.report.verdict import Exit, verdict_of

MOST_FINDINGS = 50
MOST_CHARACTERS = 4000
"""What is shown of one message: GitHub drops a step's summary that is larger than 1 MiB."""
_STATES = {Exit.CLEAN: "passed", Exit.FINDINGS: "failed", Exit.USAGE: "proves nothing", Exit.HARNESS: "did not work"}


def markdown(runs: Sequence[Summary]) -> str:
    """The text, with a newline at its end."""
    lines = [
        f"## tridiff: {_STATES[verdict_of(runs).code]}",
        "",
        _escaped(headline(runs)),
        *map(_escaped, plugin_notes(runs)),
        "",
        *_table(runs),
        "",
    ]
    lines += [_escaped(line) + "  " for line in (*_remarks(runs), closing(runs))]
    complaint = verdict_of(runs).complaint
    if complaint is not None:
        lines += ["", f"**{_escaped(_cut(complaint))}**"]
    lines += [*_findings(runs), *_infrastructure(runs), *_distributions(runs), *_environment(runs)]
    return "\n".join(lines) + "\n"


def _remarks(runs: Sequence[Summary]) -> list[str]:
    reasons = {name: counts.reasons for name, counts in kernels_of(runs).items()}
    known = (*waived.pass_lines(runs), *waived.tolerated_lines(runs), *waived.quarantine_lines(runs))
    return [_cut(line) for line in (*known, *reasons_text(reasons)[:MOST_FINDINGS], *notes(runs))]


def _table(runs: Sequence[Summary]) -> Iterator[str]:
    found = [record["repro"]["kernel"] for record, _ in findings_of(runs).values()]
    yield "| op | kernel | cases | worst ratio | inconclusive | not judged | infrastructure | findings |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for name, counts in kernels_of(runs).items():
        numbers = (counts.inconclusive, counts.unsupported + counts.skipped, counts.in_infrastructure, found.count(name))
        cells = [_escaped(counts.op), _escaped(name), counts.cases, ratio(counts.worst_ratio), *numbers]
        yield f"| {' | '.join(map(str, cells))} |"


def _findings(runs: Sequence[Summary]) -> Iterator[str]:
    known = list(findings_of(runs).items())
    for signature, (record, hits) in known[:MOST_FINDINGS]:
        yield from ("", f"### {_escaped(signature)}", "", *_fenced(_finding_text(record, hits)))
    if len(known) > MOST_FINDINGS:
        yield from ("", f"and {len(known) - MOST_FINDINGS} more findings, see the events")


def _finding_text(record: Record, hits: int) -> str:
    repro = record["repro"]
    return "\n".join(
        [
            f"{repro['check']}: {record['meaning']}",
            f"kernel {repro['kernel']}, engine {repro['engine']}, target {repro['target']}, {hits} hit{'s' * (hits != 1)}",
            *([f"line {record['line']}"] if record["line"] else []),
            _cut(repro["message"]),
            _cut(f"{size(record)}: {described(record['differing'])}"),
            record["reproduce"] or f"no case file: {record['unwritten']}",
        ]
    )


def _infrastructure(runs: Sequence[Summary]) -> Iterator[str]:
    for name, counts in kernels_of(runs).items():
        for reason, deaths in list(counts.infrastructure.items())[:MOST_FINDINGS]:
            yield from ("", f"### infrastructure: {_escaped(name)}", "")
            text = "\n".join([f"{plural(deaths.cases)}, not reproduced when run again alone: {reason}", *deaths.tail])
            yield from _fenced(_cut(text))


def _distributions(runs: Sequence[Summary]) -> Iterator[str]:
    """What the judged cases of each kernel were, folded away."""
    for name, counts in kernels_of(runs).items():
        if counts.properties:
            yield from ("", f"<details><summary>cases of {_escaped(name)}</summary>", "", "| property | cases |", "|---|---|")
            for title, words in counts.properties.items():
                shown = ", ".join(f"{word}: {count}" for word, count in most_first(words))
                yield f"| {_escaped(title)} | {_escaped(_cut(shown))} |"
            yield from ("", "</details>")


def _environment(runs: Sequence[Summary]) -> Iterator[str]:
    """Every environment that differs, folded away."""
    known = {str(run.run["environment"]): run.run["environment"] for run in runs}
    for environment in known.values():
        yield from ("", "<details><summary>environment</summary>", "", *_rows(environment), "", "</details>")


def _rows(environment: Mapping[str, Any]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in environment.items():
        if value not in (None, {}, []):
            yield f"| {_escaped(name)} | {_escaped(_value(value))} |"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items() if item is not None)
    return "; ".join(map(_value, value)) if isinstance(value, list) else str(value)


def _fenced(text: str) -> Iterator[str]:
    """A block of code; the fence is longer than any in the text."""
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * max(3, *(run + 1 for run in runs), 3)
    yield from (fence, printable(text), fence)


def _escaped(text: str) -> str:
    """`text` as Markdown shows it literally, in one line: names have underscores, messages brackets and angles."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(printable(text).split()))


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
