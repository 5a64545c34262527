"""What is shown of Kernels' domains: how much of its Op a Kernel covers, and why no more; from plain data alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tridiff.harness.report.summary import Summary, kernels_of

if TYPE_CHECKING:
    from tridiff.harness.api import Kernel
    from tridiff.harness.domains import Coverage

_MOST_VALUES = 8
"""Values of a restriction that are shown."""


def domain_document(kernel: Kernel, coverage: Coverage | None) -> dict[str, Any] | None:
    """The domain of `kernel` as plain data, with its coverage where that is known; None for the whole Op."""
    if not kernel.domain:
        return None
    left_out = {} if coverage is None else coverage.left_out
    return {
        "share": None if coverage is None else round(coverage.share, 4),
        "cases": None if coverage is None else coverage.cases,
        "restrictions": [
            {
                "facet": restriction.facet,
                "allowed": described(restriction.allowed),
                "reason": " ".join(restriction.reason.split()),
                "left_out": round(left_out[restriction.facet], 4) if restriction.facet in left_out else None,
            }
            for restriction in kernel.domain
        ],
    }


def described(allowed: tuple[Any, ...] | range) -> str:
    """The values of a restriction, in short."""
    if isinstance(allowed, range):
        step = f" in steps of {abs(allowed.step)}" if abs(allowed.step) != 1 else ""
        ends = f"{min(allowed[0], allowed[-1])} to {max(allowed[0], allowed[-1])}{step}"
        return ends if len(allowed) > 1 else str(allowed[0])
    shown = ", ".join(map(str, allowed[:_MOST_VALUES]))
    return f"{shown} and {len(allowed) - _MOST_VALUES} more" if len(allowed) > _MOST_VALUES else shown


def percent(share: float) -> str:
    """A share; one that is neither none nor all is not shown as such."""
    rounded = round(100 * share)
    return f"{'below 1' if share and not rounded else 'above 99' if rounded == 100 and share < 1 else rounded} %"


def covered(share: float) -> str:
    """The share of its Op that a kernel covers; where none of the Cases drawn lies in its domain, by the rule of three."""
    return percent(share) if share else "below 2 %"


def coverage_lines(runs: Sequence[Summary]) -> Iterator[str]:
    """How much of its Op each kernel with a domain covers, and how many cases it was asked for and refused; a line a kernel."""
    documents: dict[str, Mapping[str, Any]] = {name: each for run in runs for name, each in run.run["domains"].items()}
    for name, counts in kernels_of(runs).items():
        document = documents.get(name)
        if document is not None and document["share"] is not None:
            refused = (
                f"; {counts.unsupported} case{'s' * (counts.unsupported != 1)} of it refused or unsupported"
                if counts.unsupported
                else ""
            )
            covers = f"covers {covered(document['share'])} of {counts.op}, by its declared domain"
            yield f"{name}: {covers}{_not_drawn(document)}{refused}"


def _not_drawn(document: Mapping[str, Any]) -> str:
    """Which restrictions ask for what the whole Op never has, and so leave none of it: a share of 0 % would say nothing else."""
    facets = ", ".join(each["facet"] for each in document["restrictions"] if each["left_out"] == 1)
    return f"; {facets}: what it supports is drawn for such kernels alone" if facets else ""


def unrunnable_lines(runs: Sequence[Summary]) -> Iterator[str]:
    """Which kernels were left out because no engine here can run them, in one line."""
    names = dict.fromkeys(name for run in runs for name in run.run["unrunnable"])
    if names:
        yield f"needs a GPU, left out: {', '.join(names)}"


def domain_lines(name: str, op: str, document: Mapping[str, Any]) -> Iterator[str]:
    """The domain of one kernel in full: its coverage, and each restriction with what it leaves out and why."""
    share = f"covers {covered(document['share'])} of {op}" if document["share"] is not None else f"covers a part of {op}"
    yield f"{name}: {share}"
    for restriction in document["restrictions"]:
        out = f" (leaves out {percent(restriction['left_out'])})" if restriction["left_out"] is not None else ""
        yield f"  {restriction['facet']}: {restriction['allowed']}{out}: {restriction['reason']}"
