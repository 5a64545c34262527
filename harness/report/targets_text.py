"""What the terminal shows of a survey of targets: the matrix, each failure once, and what else there is to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tridiff.harness.api import COMPILER
from tridiff.harness.doctor.environment import environment
from tridiff.harness.ledger import QUARANTINED
from tridiff.harness.report import waived
from tridiff.harness.report.recording import finding_fields
from tridiff.harness.report.run_text import WIDE, finding_block, plural, printable
from tridiff.harness.runner.surveyed import ENOUGH, Failing, Placed, Row
from tridiff.harness.runner.surveying import Survey
from tridiff.harness.targets.parts import part

_FAILURES, _REGISTERS = len("resources 12"), len("registers")
"""Columns of a terminal that these need at least, so that names of kernels are folded before they are."""
OTHER = "other"
"""Failures by checks that are not the compiler's: the launcher raises, say."""


@dataclass(frozen=True, kw_only=True)
class CaseFile:
    """Where the case of a Finding was written, or why it was not."""

    path: Path | None = None
    unwritten: str | None = None


def headline(survey: Survey) -> str:
    """What is compiled, by what, and how far."""
    names = ", ".join(kernel.name for kernel in survey.kernels)
    how = "to machine code" if survey.full else "fast verdicts"
    return f"compiling {names} for {', '.join(survey.targets)}, Triton {triton()}, seed {survey.seed}, {how}"


def triton() -> str:
    """The version of Triton that every verdict is about: a kernel fits in one release and not in the next."""
    return str(environment()["triton"]["version"])


def show(console: Console, survey: Survey, files: Mapping[str, CaseFile], folder: Path) -> None:
    """Everything but the headline."""
    console.print(matrix(survey, wide=console.width >= WIDE))
    for failing in survey.failing:
        console.print(failure(survey, failing, files.get(failing.signature, CaseFile())), soft_wrap=True)
    for line in (*known(survey), *notes(survey), closing(survey, folder)):
        console.print(line, markup=False, soft_wrap=True)


def failure(survey: Survey, failing: Failing, file: CaseFile) -> Text:
    """One failure, as a finding of a fuzz run is shown, with its targets and the version of Triton."""
    smallest = failing.smallest
    fields = finding_fields(smallest.finding, file.path, survey.registry.plugins_for(smallest.finding.kernel))
    record = {
        **fields,
        "stage": "seen" if smallest.shrunk is None else "minimal",
        "shrunk": smallest.shrunk,
        "why": smallest.why,
        "targets": list(failing.hits),
        "triton": triton(),
        "unwritten": file.unwritten,
    }
    return finding_block(record, sum(failing.hits.values()))


def matrix(survey: Survey, *, wide: bool = True) -> Table:
    """One row for each kernel and target, in the order given; of each figure the worst.

    `wide`: whether there is room for a column of its own for the headroom, and for what was not judged.
    """
    table = Table()
    table.add_column("kernel", overflow="fold")
    table.add_column("target", no_wrap=True)
    for heading in ("spec.", *(("LDS bytes", "headroom") if wide else ("LDS (left)",))):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("failures", overflow="fold", min_width=_FAILURES)
    for heading in ("unsupp.", "dropped", "not judged") if wide else ():
        table.add_column(heading, justify="right")
    if survey.full:
        table.add_column("registers", overflow="fold", min_width=_REGISTERS)
    for row in survey.rows.values():
        table.add_row(*_cells(row, full=survey.full, wide=wide))
    return table


def _cells(row: Row, *, full: bool, wide: bool) -> Iterator[str]:
    yield row.kernel
    yield row.target
    yield str(row.met)
    shown = list(_shown(row))
    names = [f" {name}" if name != row.production and row.production is not None else "" for name, _ in shown]
    sizes = [str(placed.shared) for _, placed in shown]
    rooms = [f"{headroom(placed.shared, row.target):.0f} %" for _, placed in shown]
    if wide:
        yield "\n".join(size + name for size, name in zip(sizes, names, strict=True)) or "-"
        yield "\n".join(rooms) or "-"
    else:
        cells = [size + (name or f" ({room})") for size, room, name in zip(sizes, rooms, names, strict=True)]
        yield "\n".join(cells) or "-"
    yield "\n".join(f"{check} {count}" for check, count in failures(row).items()) or "-"
    if wide:
        yield from map(str, (row.unsupported, row.dropped, row.skipped + row.infrastructure))
    if full:
        yield ", ".join(f"{name} {count}" for name, count in _registers(row).items()) or "-"


def _shown(row: Row) -> Iterator[tuple[str, Placed]]:
    """Production's placement, and the worst of the others where that needs more; without one of production, the worst."""
    known = {name: placed for name, placed in sorted(row.placements.items()) if placed.shared_by}
    production = known.pop(row.production, None) if row.production is not None else None
    if production is not None and row.production is not None:
        yield row.production, production
    worst = max(known.items(), key=lambda each: each[1].shared, default=None)
    if worst is not None and (production is None or worst[1].shared > production.shared):
        yield worst


def _registers(row: Row) -> dict[str, int]:
    """The most of each kind, whatever the placement."""
    most: dict[str, int] = {}
    for _, placed in sorted(row.placements.items()):
        for name, count in placed.registers.items():
            most[name] = max(most.get(name, 0), count)
    return most


def headroom(shared: int, target: str) -> float:
    """Percent of the part's shared memory (LDS) that are left; negative where there is too little of it."""
    limit = part(target).shared_bytes
    return 100.0 * (limit - shared) / limit


def failures(row: Row) -> dict[str, int]:
    """Failing specialisations by check, those of the compiler by name and all others together."""
    counts: dict[str, int] = {}
    for check, failing in sorted(row.failures.items()):
        kind = check if check in COMPILER else OTHER
        counts[kind] = counts.get(kind, 0) + len(failing)
    return counts


def known(survey: Survey) -> Iterator[str]:
    """What is said of each entry of the ledger, a line each: what passes, what fails as it says, what was not compiled."""
    for entry in waivers(survey):
        name, key = entry["kernel"], entry["entry"]
        rows = [survey.rows[name, target] for target in survey.targets if (name, target) in survey.rows]
        passes = {row.target: row.passes[key] for row in rows if key in row.passes}
        by_whom = f"{waived.why(entry)} ({waived.by_whom(entry)})"
        if entry["status"] == QUARANTINED:
            cases = plural(sum(row.quarantined.get(key, 0) for row in rows))
            what = "not compiled" if entry["whole"] else f"{cases} not compiled, {entry['scope']}"
            yield f"{name}: quarantined: {what}: {by_whom}"
            continue
        if passes:
            how = next(iter(passes.values()))
            yield f"{name}: unexpected pass: the case {how} for {', '.join(passes)}; {waived.PASSED}: {entry['scope']}: {by_whom}"
        failing = {row.target: row.tolerated[key] for row in rows if key in row.tolerated}
        if failing:
            cases = plural(sum(failing.values()))
            yield f"{name}: tolerated: {cases} on {', '.join(failing)}, {entry['scope']}: {by_whom}"
        if not (passes or failing):
            yield f"{name}: tolerated: not seen here, {entry['scope']}: {by_whom}"


def waivers(survey: Survey) -> list[dict[str, Any]]:
    """The entries of the ledger for the kernels that were asked for."""
    return [entry.record() for entry in survey.waivers.concerning([*survey.kernels, *survey.left_out])]


def notes(survey: Survey) -> Iterator[str]:
    """What else there is to say, a line each; what holds for several targets is said once."""
    yield from _reasons(survey.rows.values())
    if survey.unrunnable:
        yield f"cannot be compiled by itself, left out: {', '.join(survey.unrunnable)}"
    for kernel in survey.kernels:
        rows = {target: survey.rows[kernel.name, target] for target in survey.targets}
        yield from _early(kernel.name, rows)
        if dropped := [f"{target} {row.dropped}" for target, row in rows.items() if row.dropped]:
            what = "specialisations that the autotuner, or the launcher, drops, which no figure counts"
            yield f"{kernel.name}: {what}: {', '.join(dropped)}"
        if survey.interrupted and (left := [target for target, row in rows.items() if not row.cases]):
            yield f"{kernel.name}: not begun on {', '.join(left)}"


def _early(kernel: str, rows: Mapping[str, Row]) -> Iterator[str]:
    ended: dict[str, list[str]] = {}
    for target, row in rows.items():
        if row.ended not in {ENOUGH, ""}:
            ended.setdefault(row.ended, []).append(target)
    for why, targets in ended.items():
        yield f"{kernel}: drawing ended early on {', '.join(targets)}: {why}"


def _reasons(rows: Iterable[Row]) -> Iterator[str]:
    counts: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in rows:
        for kind, reasons in row.reasons.items():
            for reason, count in reasons.items():
                counts.setdefault((row.kernel, kind, reason), {})[row.target] = count
    words: dict[str, Any] = {"infrastructure": "ended in infrastructure failures"}
    for (kernel, kind, reason), by_target in sorted(counts.items()):
        cases = plural(sum(by_target.values()))
        yield f"{kernel}: {cases} {words.get(kind, kind)} on {', '.join(by_target)}: {printable(reason)}"


def closing(survey: Survey, folder: Path) -> str:
    """The last line: how much was tried, and what came of it."""
    rows = list(survey.rows.values())
    found, targets = len(survey.failing), len(survey.targets)
    outcome = f"{found} failure{'s' * (found != 1)}, case files in {folder}" if found else "no failures"
    production = sum(row.met for row in rows)
    others = sum(row.compiled for row in rows) - production
    tried = f"{production} specialisations" + (f" as in production and {others} in other placements" if others else "")
    cases = plural(sum(row.cases for row in rows))
    return (
        f"{'interrupted: ' * survey.interrupted}{tried}, from {cases}, for {targets} target{'s' * (targets != 1)} "
        f"in {survey.elapsed:.0f} s: {outcome}{_waived(rows, len(survey.left_out))}"
    )


def _waived(rows: Iterable[Row], left_out: int) -> str:
    """What of it is known; a failure that passes on several targets is one."""
    known = list(rows)
    return waived.summed(
        passed=len({key for row in known for key in row.passes}),
        tolerated=sum(sum(row.tolerated.values()) for row in known),
        quarantined=sum(sum(row.quarantined.values()) for row in known),
        left_out=left_out,
    )
