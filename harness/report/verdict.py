"""What a run comes to: the exit codes, and the one rule that the command `fuzz` and `report` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tridiff.harness.report.summary import Summary


class Exit(IntEnum):
    """The exit codes of every command."""

    CLEAN = 0
    FINDINGS = 1
    USAGE = 2
    HARNESS = 3


KILLED = "the run did not come to its end: it was killed, or is still going on"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`complaint`: the line on standard error that belongs to the code; None where the report says all."""

    code: Exit
    complaint: str | None = None


def verdict(run: Summary) -> Verdict:
    """What one run comes to.

    Findings are findings, and so is a known failure that does not fail. Without any, a run of which cases ended in infrastructure
    failures, or which did not come to its end, proves nothing and must not pass a gate; nor one in which no case of a kernel
    could be judged.
    """
    if run.error is not None and run.end is not None:
        return Verdict(code=Exit(run.end["exit"]), complaint=f"the run failed: {run.error}")
    if run.findings or run.passes:
        return Verdict(code=Exit.FINDINGS)
    if count := sum(counts.in_infrastructure for counts in run.kernels.values()):
        return Verdict(code=Exit.HARNESS, complaint=f"{count} case{'s' * (count != 1)} ended in infrastructure failures")
    if run.killed:
        return Verdict(code=Exit.HARNESS, complaint=KILLED)
    if names := [counts.kernel for counts in run.kernels.values() if counts.unjudged]:
        return Verdict(code=Exit.USAGE, complaint=f"no case of {', '.join(names)} could be judged: the run above says why")
    return Verdict(code=Exit.CLEAN)


def verdict_of(runs: Sequence[Summary]) -> Verdict:
    """What several runs come to: findings of any, else the failure of any."""
    verdicts = [verdict(run) for run in runs]
    order = (Exit.FINDINGS, Exit.HARNESS, Exit.USAGE, Exit.CLEAN)
    return min(verdicts, key=lambda each: order.index(each.code))


def without_output(known: Verdict) -> Verdict:
    """`known`, of a command that could not write a file that was asked for: that is no success, but hides no finding."""
    return Verdict(code=Exit.USAGE) if known.code is Exit.CLEAN else known
