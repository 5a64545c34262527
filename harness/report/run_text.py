"""What the terminal shows of a run, or of several: blocks, a table and lines, from their sums alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tridiff.harness.engines.spec import COMPILER
from tridiff.harness.report import waived
from tridiff.harness.report.domain_text import coverage_lines, unrunnable_lines
from tridiff.harness.report.figures import ratio
from tridiff.harness.report.records import Record
from tridiff.harness.report.summary import Counts, Deaths, Summary, findings_of, kernels_of

WIDE = 100
"""Columns of a terminal below which tables leave out what is least needed, so that names of kernels are not folded."""
_ANY_WIDTH = 1000
"""Columns that no table needs."""


def headline(runs: Sequence[Summary]) -> str:
    """What is fuzzed, and how."""
    names = ", ".join(kernels_of(runs))
    engines, targets, seeds = (_list(run.run[name] for run in runs) for name in ("engine", "target", "seed"))
    compiled = _list(target for run in runs for target in run.run["verdicts"])
    verdicts = f", compiling for {compiled}" if compiled else ""
    where = f"fuzzing {names} on engine {engines}, target {targets}{verdicts}, seed {seeds}"
    if len(runs) > 1:
        return f"{len(runs)} runs: {where}"
    return where + (f", shard {runs[0].run['shard']}" if runs[0].run["shard"] else "")


def plugin_notes(runs: Sequence[Summary]) -> list[str]:
    """What plug-ins said of themselves, each line once."""
    return list(dict.fromkeys(note for run in runs for note in run.run["plugin_notes"]))


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, dict.fromkeys(values)))


def show(console: Console, runs: Sequence[Summary]) -> None:
    """Everything but the headline: known failures, findings, infrastructure failures, the table, and other lines."""
    for title, rows in waived.tolerated_rows(runs):
        console.print(block(title, rows, style="dim"), soft_wrap=True)
    for title, rows in waived.pass_rows(runs):
        console.print(block(title, rows), soft_wrap=True)
    for record, hits in findings_of(runs).values():
        console.print(finding_block(record, hits), soft_wrap=True)
    kernels = kernels_of(runs)
    for deaths in infrastructure_blocks(kernels):
        console.print(deaths, soft_wrap=True)
    console.print(fitting_table(console, runs))
    reasons = reasons_text({name: counts.reasons for name, counts in kernels.items()})
    for line in (*reasons, *waived.quarantine_lines(runs), *notes(runs), closing(runs)):
        console.print(line, markup=False, soft_wrap=True)


def finding_block(finding: Record, hits: int) -> Text:
    """A finding as labelled lines that end with the command that reproduces it. `finding`: a record, or its fields alone."""
    rows = [
        ("check", f"{finding['repro']['check']}: {finding['meaning']}"),
        ("kernel", _where(finding["repro"])),
        ("targets", ", ".join(finding.get("targets", ())) or None),
        ("triton", finding.get("triton")),
        ("what", finding["repro"]["message"]),
        ("line", finding["line"]),
        ("also fired", ", ".join(finding["others"]) or None),
        ("last words", "\n    ".join(finding["tail"]) or None),
        ("hits", f"{hits} drawn cases" if hits > 1 else None),
        (size(finding), described(finding["differing"])),
        ("reproduce", finding["reproduce"]),
        ("no case file", finding.get("unwritten")),
    ]
    return block(f"FINDING {finding['signature']}", ((label, value) for label, value in rows if value is not None))


def _where(repro: Mapping[str, Any]) -> str:
    if repro["engine"] == COMPILER:
        return f"{repro['kernel']} (op {repro['op']}) compiled for {repro['target']}"
    return f"{repro['kernel']} (op {repro['op']}) on engine {repro['engine']}, target {repro['target']}"


def size(finding: Record) -> str:
    """How far the case of a finding is from the smallest."""
    if finding.get("stage", "minimal") == "seen":
        return "case as drawn, not shrunk (the run ended first)"
    return "minimal case" if finding["shrunk"] else f"case, not fully shrunk ({finding.get('why') or 'time limit'})"


def described(differing: Mapping[str, Any]) -> str:
    """`field=value` for every field that has no default or differs from it; says so where none does."""
    return " ".join(f"{name}={_plain(value)}" for name, value in differing.items()) or "every field at its default"


def _plain(value: Any) -> str:
    return f"({', '.join(map(_plain, value))})" if isinstance(value, list | tuple) else str(value)


def block(title: str, rows: Iterable[tuple[str, str]], style: str = "bold red") -> Text:
    """Labelled lines under a title; `style` is the title's, and that of all of it where it is dim."""
    text = Text(style=style if style == "dim" else "")
    text.append(f"{title}\n", style=style)
    for label, value in rows:
        text.append(f"  {label}: ", style="bold")
        text.append(f"{printable(value)}\n")
    return text


def printable(text: str) -> str:
    """`text` without what would move a terminal's cursor or change its colours: a dead process may have written anything."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def infrastructure_blocks(kernels: Mapping[str, Counts]) -> Iterator[Text]:
    """How processes died whose cases passed when they were run again alone: no findings, but no proof either."""
    for name, counts in kernels.items():
        for reason, deaths in counts.infrastructure.items():
            yield block(f"INFRASTRUCTURE {name}", _death_rows(reason, deaths))


def _death_rows(reason: str, deaths: Deaths) -> Iterator[tuple[str, str]]:
    yield "what", reason
    yield "cases", f"{deaths.cases}; not reproduced when run again alone, so no finding"
    if deaths.tail:
        yield "last words", "\n    ".join(deaths.tail)


def fitting_table(console: Console, runs: Sequence[Summary]) -> Table:
    """`fuzz_table` with the most columns for which no name has to be folded."""
    if console.width < WIDE:
        return fuzz_table(runs, op=False, wide=False)
    table = fuzz_table(runs)
    return table if fits(console, table) else fuzz_table(runs, op=False)


def fits(console: Console, table: Table) -> bool:
    """Whether no cell of `table` has to be folded."""
    return console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum <= console.width


def fuzz_table(runs: Sequence[Summary], *, op: bool = True, wide: bool = True) -> Table:
    """One row a kernel: what was run, how fast, how close to the bound, and what was found.

    `op`: whether there is room for the Op, which the kernel implies; `wide`: for the speed and for the count of specialisations.
    """
    found = [record["repro"]["kernel"] for record, _ in findings_of(runs).values()]
    table = Table()
    if op:
        table.add_column("op", overflow="fold")
    table.add_column("kernel", overflow="fold")
    for heading in ("cases", *(("cases/s", "spec.") if wide else ()), "worst ratio", "inconcl.", "not judged", "findings"):
        table.add_column(heading, justify="right", no_wrap=" " not in heading)
    for name, counts in kernels_of(runs).items():
        table.add_row(
            *([counts.op] if op else []),
            name,
            str(counts.cases),
            *([f"{speed(counts):.1f}", str(len(counts.specialisations))] if wide else []),
            ratio(counts.worst_ratio),
            str(counts.inconclusive),
            str(counts.unsupported + counts.skipped),
            str(found.count(name)),
        )
    return table


def speed(counts: Counts) -> float:
    """Cases per second of the time that this kernel had, those of shrinking included."""
    return (counts.cases + counts.shrink_runs) / counts.seconds if counts.seconds > 0 else 0.0


def reasons_text(reasons: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Why cases of each kernel were unsupported or skipped, a line each."""
    return [
        f"{name}: {plural(count)} not judged: {printable(reason)}"
        for name, counted in reasons.items()
        for reason, count in sorted(counted.items())
    ]


def notes(runs: Sequence[Summary]) -> Iterator[str]:
    """What else there is to say, a line each."""
    for name, counts in kernels_of(runs).items():
        if counts.replayed:
            yield f"{name}: {plural(counts.replayed)} replayed besides, from an earlier run, a list or the ledger"
        if counts.in_infrastructure:
            yield f"{name}: {plural(counts.in_infrastructure)} ended in infrastructure failures"
    yield from coverage_lines(runs)
    yield from unrunnable_lines(runs)
    lost = sum(run.lost for run in runs)
    if lost:
        yield f"{lost} record{'s' * (lost != 1)} could not be written during the run: these sums lack them"


def closing(runs: Sequence[Summary]) -> str:
    """The last line: how much was run, and what came of it."""
    cases = sum(counts.cases for counts in kernels_of(runs).values())
    found = len(findings_of(runs))
    folders = _list(run.run["folder"] for run in runs)
    outcome = f"{found} finding{'s' * (found != 1)}, case files in {folders}" if found else "no findings"
    seconds = sum(run.seconds for run in runs)
    return f"{_early(runs)}{plural(cases)} in {seconds:.0f} s: {outcome}{waived.outcome(runs)}"


def _early(runs: Sequence[Summary]) -> str:
    of = f" {{}} of {len(runs)} runs" if len(runs) > 1 else ""
    states = {
        "killed, or still going on": sum(run.killed for run in runs),
        "interrupted": sum(run.interrupted for run in runs),
        "failed": sum(run.error is not None for run in runs),
    }
    return "".join(f"{state}{of.format(count)}: " for state, count in states.items() if count)


def plural(cases: int) -> str:
    """A number of cases."""
    return f"{cases} case{'s' * (cases != 1)}"
