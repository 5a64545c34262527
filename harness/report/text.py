"""Findings, and what `prove` and `list` have to say, for the terminal; fuzz runs are in `run_text`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tridiff.harness.api import Fault, Finding, Kernel
from tridiff.harness.domains import Coverage
from tridiff.harness.registry import Registry
from tridiff.harness.report.domain_text import covered, domain_document, domain_lines
from tridiff.harness.report.recording import differing, finding_fields
from tridiff.harness.report.run_text import described, finding_block, fits
from tridiff.harness.runner.prove import Proof

_LEFT_OUT = ((), ("module",), ("module", "from"), ("module", "from", "op"))
"""Columns that `tridiff list` leaves out of narrower and narrower terminals."""


def describe_case(case: Any) -> str:
    """`field=value` for every field that has no default or differs from it, in order; says so where none does."""
    return described(differing(case))


def finding_text(
    finding: Finding, *, file: Path | None, hits: int = 1, shrunk: bool = True, why: str = "", plugins: Iterable[str] = ()
) -> Text:
    """A Finding as a block of labelled lines that ends with the command that reproduces it, `plugins` included.

    `why`: what came between, where it is not fully `shrunk`.
    """
    return finding_block({**finding_fields(finding, file, plugins), "shrunk": shrunk, "why": why}, hits)


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
            _expected(proof.fault),
            finding.check if finding else Text("MISSED", style="bold red"),
            str(proof.examples),
            _proof_case(proof),
        )
    return table


def _expected(fault: Fault) -> str:
    checks = ", ".join(sorted(fault.checks))
    return f"{checks} on {fault.target}" if fault.target else checks


def _proof_case(proof: Proof) -> str:
    if proof.finding is None:
        return ""
    return describe_case(proof.finding.case) + ("" if proof.shrunk else " (not fully shrunk)")


def list_table(
    registry: Registry, kernels: Iterable[Kernel], coverage: Mapping[str, Coverage], *, without: Collection[str] = ()
) -> Table:
    """One row a Kernel. `coverage`: of those with a domain. `without`: columns that are left out."""
    table = Table()
    left_out = {*without, *(() if coverage else ("covers",))}
    headings = [
        heading for heading in ("op", "kernel", "engines", "covers", "faults", "module", "from") if heading not in left_out
    ]
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for kernel in kernels:
        cells = {
            "op": kernel.op,
            "kernel": kernel.name,
            "engines": ", ".join(kernel.engines),
            "covers": covered(coverage[kernel.name].share if kernel.name in coverage else 1.0),
            "faults": str(len(registry.faults.get(kernel.name, []))),
            "module": kernel.module,
            "from": registry.source_of("kernel", kernel.name) or "",
        }
        table.add_row(*(cells[heading] for heading in headings))
    return table


def fitting_list(console: Console, registry: Registry, kernels: Iterable[Kernel], coverage: Mapping[str, Coverage]) -> Table:
    """`list_table` with the most columns for which nothing has to be folded; without the least needed ones in any event."""
    kernels = list(kernels)
    tables = [list_table(registry, kernels, coverage, without=without) for without in _LEFT_OUT]
    return next((table for table in tables if fits(console, table)), tables[-1])


def domains_text(kernels: Iterable[Kernel], coverage: Mapping[str, Coverage]) -> list[str]:
    """The domain of each kernel that has one, with the reasons."""
    documents = [(kernel, domain_document(kernel, coverage.get(kernel.name))) for kernel in kernels]
    return [line for kernel, known in documents if known for line in domain_lines(kernel.name, kernel.op, known)]


def models_text(registry: Registry) -> list[str]:
    """The models whose shapes an Op has as presets, a line an Op."""
    return [f"models of {op.name}: {', '.join(op.models)}" for op in registry.ops.values() if op.models]
