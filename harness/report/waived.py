"""What runs say of known failures, from records alone: lines of text, and the part of a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tridiff.harness.ledger.entry import QUARANTINED, TOLERATED
from tridiff.harness.report.records import Record
from tridiff.harness.report.summary import Summary, kernels_of

PASSED = "the known failure does not fail any more: remove the entry, or say more narrowly where it counts"


def entries_of(runs: Iterable[Summary]) -> dict[str, Record]:
    """The entries for the kernels of the runs, by key; of one that several runs have, what the latest of them says."""
    return {entry["entry"]: entry for run in runs for entry in run.run["waived"]}


def passes_of(runs: Iterable[Summary]) -> dict[str, Record]:
    """The unexpected passes of the runs, by the key of their entry."""
    return {key: record for run in runs for key, record in run.passes.items()}


def by_whom(entry: Record) -> str:
    """Where it stands, who looks after it, and for how long."""
    return f"{entry['file']} entry {entry['number']}, {entry['owner']}, {until(entry)}"


def until(entry: Record) -> str:
    """The last day, and how many are left."""
    return f"until {entry['expires']}, {entry['days']} day{'s' * (entry['days'] != 1)} left"


def why(entry: Record) -> str:
    """The reason, the issue, or both."""
    return "; ".join(part for part in (entry["reason"], entry["issue"]) if part)


def quarantine_lines(runs: Sequence[Summary]) -> Iterator[str]:
    """What did not run, a line for each entry."""
    counts = kernels_of(runs)
    for key, entry in entries_of(runs).items():
        if entry["status"] == QUARANTINED:
            name = entry["kernel"]
            cases = counts[name].quarantined.get(key, 0) if name in counts else 0
            what = "not run" if entry["whole"] else f"{_cases(cases)} not run, {entry['scope']}"
            yield f"{name}: quarantined: {what}: {why(entry)} ({by_whom(entry)})"


def tolerated_lines(runs: Sequence[Summary]) -> Iterator[str]:
    """Each tolerated entry, in a line, with its cases."""
    for entry, cases, untried in _tolerated(runs):
        yield f"{entry['kernel']}: tolerated: {seen(cases, untried)}, {entry['scope']}: {why(entry)} ({by_whom(entry)})"


def pass_lines(runs: Sequence[Summary]) -> Iterator[str]:
    """Each unexpected pass, in a line."""
    entries = entries_of(runs)
    for key, record in passes_of(runs).items():
        entry = entries[key]
        yield f"{record['kernel']}: unexpected pass: the case {record['how']}; {PASSED} ({by_whom(entry)}): {entry['scope']}"


def tolerated_rows(runs: Sequence[Summary]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Title and labelled values of each tolerated entry."""
    counts = kernels_of(runs)
    for entry, cases, untried in _tolerated(runs):
        messages = counts[entry["kernel"]].messages
        rows = [
            ("what", messages.get(entry["entry"], "")),
            ("entry", f"{entry['file']} entry {entry['number']}: {entry['scope']}"),
            *reasons(entry),
            ("cases", seen(cases, untried)),
        ]
        yield f"TOLERATED {entry['kernel']}", [row for row in rows if row[1]]


def pass_rows(runs: Sequence[Summary]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Title and labelled values of each unexpected pass."""
    entries = entries_of(runs)
    for key, record in passes_of(runs).items():
        entry = entries[key]
        rows = [
            ("what", f"the case {record['how']}: {PASSED}"),
            ("entry", f"{entry['file']} entry {entry['number']}: {entry['scope']}"),
            *reasons(entry),
            ("case", " ".join(f"{name}={value}" for name, value in record["differing"].items()) or "every field at its default"),
        ]
        yield f"UNEXPECTED PASS {record['kernel']}", rows


def reasons(entry: Record) -> list[tuple[str, str]]:
    """Why, who and how long, as labelled values."""
    rows = [(name, entry[name]) for name in ("reason", "issue", "owner") if entry[name]]
    return [*rows, ("expires", f"{entry['expires']}, {entry['days']} day{'s' * (entry['days'] != 1)} left")]


def seen(cases: int, untried: str | None) -> str:
    """How often a tolerated failure was seen, or why it cannot have been."""
    if not cases:
        return f"not tried: {untried}" if untried else "none: its case could not be judged, or fails otherwise"
    return _cases(cases)


def _tolerated(runs: Sequence[Summary]) -> Iterator[tuple[Record, int, str | None]]:
    """Each tolerated entry whose case did not pass, with its cases."""
    counts, passed = kernels_of(runs), passes_of(runs)
    for key, entry in entries_of(runs).items():
        if entry["status"] == TOLERATED and key not in passed:
            yield entry, counts[entry["kernel"]].tolerated.get(key, 0), entry["untried"]


def outcome(runs: Sequence[Summary]) -> str:
    """For the last line: what is not among the findings; "" where nothing is waived."""
    kernels, passed = kernels_of(runs).values(), len(passes_of(runs))
    left_out = sum(entry["whole"] for entry in entries_of(runs).values())
    quarantined = sum(sum(counts.quarantined.values()) for counts in kernels)
    tolerated = sum(sum(counts.tolerated.values()) for counts in kernels)
    return summed(passed=passed, tolerated=tolerated, quarantined=quarantined, left_out=left_out)


def summed(*, passed: int, tolerated: int, quarantined: int, left_out: int) -> str:
    """These counts as a part of a last line: of passes, of cases, of cases, and of kernels."""
    return "".join(
        [
            f", {passed} unexpected pass{'es' * (passed != 1)}" if passed else "",
            f", {_cases(tolerated)} tolerated" if tolerated else "",
            f", {_cases(quarantined)} quarantined" if quarantined else "",
            f", {left_out} kernel{'s' * (left_out != 1)} quarantined" if left_out else "",
        ]
    )


def document(run: Summary) -> list[dict[str, Any]]:
    """The entries for the kernels of a run, each with its cases and whether its case passed."""
    return [_entry(run, entry) for entry in run.run["waived"]]


def known_cases(run: Summary) -> dict[str, int]:
    """The cases of each entry for the kernels of a run, by what is said of it."""
    return {
        f"{entry['status']}, {entry['scope']}: {why(entry)} ({by_whom(entry)})": entry["cases"]
        for entry in document(run)
        if entry["unexpected_pass"] is None
    }


def _entry(run: Summary, entry: Mapping[str, Any]) -> dict[str, Any]:
    counts, key = run.kernels.get(entry["kernel"]), entry["entry"]
    cases = 0 if counts is None else (counts.quarantined if entry["status"] == QUARANTINED else counts.tolerated).get(key, 0)
    passed = run.passes.get(key)
    return {**entry, "cases": cases, "unexpected_pass": None if passed is None else passed["how"]}


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"
