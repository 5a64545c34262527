"""Findings and closing tables for the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from tridiff.harness.api import CHECKS, Finding, Kernel
from tridiff.harness.registry import Registry
from tridiff.harness.repro import command
from tridiff.harness.runner.events import Tally
from tridiff.harness.runner.prove import Proof


def describe_case(case: Any) -> str:
    """`field=value` for every field that has no default or differs from it, in order; says so where none does."""
    parts = [
        f"{field.name}={_plain(getattr(case, field.name))}"
        for field in dataclasses.fields(case)
        if getattr(case, field.name) != field.default
    ]
    return " ".join(parts) or "every field at its default"


def _plain(value: Any) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)


def finding_text(finding: Finding, *, file: Path | None, hits: int = 1, shrunk: bool = True, plugins: Iterable[str] = ()) -> Text:
    """A Finding as a block of labelled lines that ends with the command that reproduces it, `plugins` included."""
    size = "minimal case" if shrunk else "case, not fully shrunk (time limit)"
    rows = [
        ("check", f"{finding.check}: {CHECKS[finding.check]}"),
        ("kernel", f"{finding.kernel} (op {finding.op}) on engine {finding.engine}, target {finding.target}"),
        ("what", finding.message),
        ("line", finding.line),
        ("also fired", ", ".join(dict.fromkeys(finding.others)) or None),
        ("hits", f"{hits} drawn cases" if hits > 1 else None),
        (size, describe_case(finding.case)),
        ("reproduce", command(file, plugins) if file else None),
    ]
    text = Text()
    text.append(f"FINDING {finding.signature()}\n", style="bold red")
    for label, value in rows:
        if value is not None:
            text.append(f"  {label}: ", style="bold")
            text.append(f"{value}\n")
    return text


def fuzz_table(
    kernels: Iterable[Kernel], tallies: Mapping[str, Tally], findings: Iterable[Finding], elapsed: float, *, with_op: bool = True
) -> Table:
    """One row a kernel: what was run, how fast, how close to the bound, and what was found.

    `with_op`: whether there is room for the Op, which the kernel implies.
    """
    found = [finding.kernel for finding in findings]
    table = Table()
    if with_op:
        table.add_column("op", overflow="fold")
    table.add_column("kernel", overflow="fold")
    for heading in ("cases", "cases/s", "spec.", "worst ratio", "inconcl.", "not judged", "findings"):
        table.add_column(heading, justify="right", no_wrap=" " not in heading)
    for kernel in kernels:
        tally = tallies.get(kernel.name, Tally())
        speed = (tally.examples + tally.shrink_runs) / elapsed if elapsed > 0 else 0.0
        table.add_row(
            *([kernel.op] if with_op else []),
            kernel.name,
            str(tally.examples),
            f"{speed:.1f}",
            str(len(tally.specialisations)),
            f"{tally.worst_ratio:.3f}",
            str(tally.inconclusive),
            str(tally.unsupported + tally.skipped),
            str(found.count(kernel.name)),
        )
    return table


def reasons_text(tallies: Mapping[str, Tally]) -> list[str]:
    """Why cases were unsupported or skipped, a line each."""
    return [
        f"{name}: {count} case{'s' * (count != 1)} not judged: {reason}"
        for name, tally in tallies.items()
        for reason, count in sorted(tally.reasons.items())
    ]


def prove_table(proofs: Iterable[Proof]) -> Table:
    """One row a Fault: what should catch it, what did, after how many examples, and the smallest case."""
    table = Table(show_lines=True)
    table.add_column("fault", overflow="fold")
    table.add_column("expected", overflow="fold")
    table.add_column("caught by")
    table.add_column("examples", justify="right")
    table.add_column("minimal case", overflow="fold")
    for proof in proofs:
        finding = proof.finding
        table.add_row(
            proof.fault.name,
            ", ".join(sorted(proof.fault.checks)),
            finding.check if finding else Text("MISSED", style="bold red"),
            str(proof.examples),
            _proof_case(proof),
        )
    return table


def _proof_case(proof: Proof) -> str:
    if proof.finding is None:
        return ""
    return describe_case(proof.finding.case) + ("" if proof.shrunk else " (not fully shrunk)")


def list_table(registry: Registry) -> Table:
    """One row a Kernel."""
    table = Table()
    for heading in ("op", "kernel", "engines", "faults", "module", "from"):
        table.add_column(heading, overflow="fold")
    for kernel in registry.kernels.values():
        faults = str(len(registry.faults.get(kernel.name, [])))
        source = registry.source_of("kernel", kernel.name) or ""
        table.add_row(kernel.op, kernel.name, ", ".join(kernel.engines), faults, kernel.module, source)
    return table


def models_text(registry: Registry) -> list[str]:
    """The models whose shapes an Op has as presets, a line an Op."""
    return [f"models of {op.name}: {', '.join(op.models)}" for op in registry.ops.values() if op.models]
