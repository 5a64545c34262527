"""JUnit XML of runs, from their sums alone: a test suite a run, a test case a kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tridiff.harness.report import waived
from tridiff.harness.report.records import Record
from tridiff.harness.report.run_text import described, notes, plural, printable, reasons_text, size
from tridiff.harness.report.summary import Counts, Summary
from tridiff.harness.report.verdict import KILLED

if TYPE_CHECKING:
    from junitparser import TestCase, TestSuite
    from junitparser.junitparser import FinalResult

SUITE = "tridiff"


def junit(runs: Sequence[Summary]) -> bytes:
    """The document. Raises `ImportError` where junitparser is missing."""
    from junitparser import JUnitXml  # noqa: PLC0415 - a GPU container may lack it, and only who asks for XML needs it

    xml = JUnitXml(SUITE)
    for run in runs:
        xml.add_testsuite(_suite(run))
    xml.update_statistics()  # type: ignore[no-untyped-call] # the package is typed, but for a few methods
    return bytes(xml.tostring())  # type: ignore[no-untyped-call] # likewise


def _suite(run: Summary) -> TestSuite:
    from junitparser import TestSuite  # noqa: PLC0415 - likewise

    suite = TestSuite(SUITE)
    suite.timestamp = run.run["started"]
    for name in ("seed", "engine", "target", "shard"):
        if run.run[name] is not None:
            suite.add_property(name, str(run.run[name]))
    for name, value in flattened(run.run["environment"]):
        suite.add_property(f"environment.{name}", legal(value))
    suite.add_testcases([_case(run, counts) for counts in run.kernels.values()])
    suite.add_testcases([_left_out(entry) for entry in run.run["waived"] if entry["whole"]])
    return suite


def _left_out(entry: Record) -> TestCase:
    """A kernel that is quarantined as a whole: skipped, and said why."""
    from junitparser import Skipped, TestCase  # noqa: PLC0415 - likewise

    case = TestCase(entry["kernel"], classname=SUITE, time=0.0)
    case.result = [Skipped(legal(f"quarantined: {waived.why(entry)} ({waived.by_whom(entry)})"))]
    return case


def flattened(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of nested objects and lists with its path, "torch.version" say; nothing for what is null."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flattened(item, f"{prefix}.{key}" if prefix else str(key))
    elif value is not None:
        yield prefix, str(value)


def _case(run: Summary, counts: Counts) -> TestCase:
    from junitparser import TestCase  # noqa: PLC0415 - likewise

    shard = f"[{run.run['shard']}]" if run.run["shard"] else ""
    case = TestCase(f"{counts.kernel}{shard}", classname=f"{SUITE}.{counts.op}", time=round(counts.seconds, 3))
    case.result = list(_results(run, counts))
    case.system_out = legal("\n".join([plural(counts.cases), *_said(run, counts)]))
    return case


def _said(run: Summary, counts: Counts) -> list[str]:
    """The lines of the terminal that are about this kernel."""
    start = f"{counts.kernel}: "
    known = (*waived.pass_lines([run]), *waived.tolerated_lines([run]), *waived.quarantine_lines([run]))
    return [*reasons_text({counts.kernel: counts.reasons}), *(line for line in (*known, *notes([run])) if line.startswith(start))]


def _results(run: Summary, counts: Counts) -> Iterator[FinalResult]:
    """A failure for each finding, an error for each way in which processes died and for what ended the run, or a skip."""
    from junitparser import Error, Failure, Skipped  # noqa: PLC0415 - likewise

    for signature, record in run.findings.items():
        if record["repro"]["kernel"] == counts.kernel:
            failure = Failure(legal(f"{record['repro']['check']}: {record['repro']['message']}"), signature)
            failure.text = legal(_finding_text(run, signature))
            yield failure
    for record in run.passes.values():
        if record["kernel"] == counts.kernel:
            yield Failure(legal(f"unexpected pass: the case {record['how']}: {waived.PASSED}"), f"known-{record['entry']}")
    for reason, deaths in counts.infrastructure.items():
        error = Error(legal(f"{plural(deaths.cases)} ended in infrastructure failures: {reason}"), "infrastructure")
        error.text = legal("\n".join(deaths.tail))
        yield error
    if run.killed or run.error is not None:
        if counts.kernel == (run.current or next(iter(run.kernels))):  # whose turn it was
            yield Error(legal(f"the run failed: {run.error}" if run.error else KILLED), "run")
    elif counts.unjudged and not counts.infrastructure:
        yield Skipped(legal("no case could be judged: " + "; ".join(sorted(counts.reasons))))


def _finding_text(run: Summary, signature: str) -> str:
    record = run.findings[signature]
    rows = [
        f"line: {record['line']}" if record["line"] else None,
        f"hits: {run.hits(signature)}",
        f"{size(record)}: {described(record['differing'])}",
        f"reproduce: {record['reproduce']}" if record["reproduce"] else f"no case file: {record['unwritten']}",
    ]
    return "\n".join(row for row in rows if row is not None)


_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def legal(text: str | None) -> str:
    """`text` without the characters that XML 1.0 has no way to express (its section 2.2)."""
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", printable(text or ""))
