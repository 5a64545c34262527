"""The waived surface, as text and as a document: known failures, kernels that cannot run here, what kernels do not support."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from tridiff.harness.api import Allowed
from tridiff.harness.ledger import Ledger
from tridiff.harness.registry import Registry, runs_here
from tridiff.harness.report import waived
from tridiff.harness.report.domain_text import described
from tridiff.harness.report.run_text import WIDE, block

SCHEMA = 1
"""Version of the document's form."""
SOON = 14
"""Days before an entry expires from which the listing says so."""


def document(ledger: Ledger | None, registry: Registry) -> dict[str, Any]:
    """Everything that `show` says. `registered`: whether the kernel of an entry is known here, and so the entry was checked."""
    return {
        "schema": SCHEMA,
        "file": None if ledger is None else ledger.file,
        "known_failures": [
            {**entry.record(), "registered": entry.kernel in registry.kernels}
            for entry in (ledger.entries if ledger is not None else ())
        ],
        "not_run_here": [
            {"kernel": kernel.name, "engines": list(kernel.engines)}
            for kernel in registry.kernels.values()
            if not runs_here(kernel)
        ],
        "domains": [
            {
                "kernel": kernel.name,
                "facet": restriction.facet,
                "allowed": _allowed(restriction.allowed),
                "reason": restriction.reason,
            }
            for kernel in registry.kernels.values()
            for restriction in kernel.domain
        ],
    }


def show(console: Console, ledger: Ledger | None, registry: Registry) -> None:
    """A table of the known failures, lines for the other kinds of waiver, and a line that counts them."""
    surface = document(ledger, registry)
    if surface["known_failures"]:
        _show_failures(console, surface["known_failures"])
    for line in _domains(registry):
        _say(console, line)
    for each in surface["not_run_here"]:
        _say(console, f"{each['kernel']}: cannot run here: needs engine {' or '.join(each['engines'])}")
    for entry in surface["known_failures"]:
        if not entry["registered"]:
            _say(console, f"{entry['kernel']}: not registered here, so entry {entry['number']} could not be checked in full")
        if entry["days"] <= SOON:
            _say(console, f"{entry['kernel']}: entry {entry['number']} expires soon: {waived.until(entry)}")
    _say(console, _closing(surface))


def _show_failures(console: Console, entries: list[dict[str, Any]]) -> None:
    """A table where there is room for one, else a block an entry."""
    if console.width >= WIDE:
        console.print(_failures(entries))
        return
    for entry in entries:
        rows = {"status": entry["status"], "what": entry["scope"], "why": waived.why(entry), "owner": entry["owner"]}
        expires = f"{entry['expires']}, {entry['days']} days left"
        console.print(
            block(f"entry {entry['number']}: {entry['kernel']}", {**rows, "expires": expires}.items(), style="bold"),
            soft_wrap=True,
        )


def _failures(entries: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("entry", "kernel", "status", "what", "why", "owner"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "entry" else "left")
    table.add_column("expires", no_wrap=True)
    for entry in entries:
        cells = (entry["kernel"], entry["status"], entry["scope"], waived.why(entry), entry["owner"])
        table.add_row(str(entry["number"]), *cells, f"{entry['expires']}\n{entry['days']} day{'s' * (entry['days'] != 1)} left")
    return table


def _domains(registry: Registry) -> Iterator[str]:
    """Lines rather than a table, in which reasons would be folded to ribbons."""
    for kernel in registry.kernels.values():
        if kernel.domain:
            yield f"{kernel.name} supports a part of {kernel.op} only:"
            yield from (f"  {each.facet}: {described(each.allowed)}: {' '.join(each.reason.split())}" for each in kernel.domain)


def _allowed(allowed: Allowed) -> Any:
    """Values as a list; a range, which may be long, by its ends, both included."""
    if not isinstance(allowed, range):
        return list(allowed)
    return {"min": allowed[0], "max": allowed[-1], "step": allowed.step} if allowed else []


def _closing(surface: dict[str, Any]) -> str:
    failures, restrictions, others = (len(surface[name]) for name in ("known_failures", "domains", "not_run_here"))
    counts = [
        f"{failures} known failure{'s' * (failures != 1)}" + (f" in {surface['file']}" if surface["file"] else ""),
        f"{restrictions} restriction{'s' * (restrictions != 1)} of domains",
        f"{others} kernel{'s' * (others != 1)} that cannot run here",
    ]
    return ", ".join(counts)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
