"""The command `repro`: runs, or compiles, the case of a finding again, and says whether it still fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tridiff.harness import config, starting
from tridiff.harness.engines.spec import COMPILER, UsageError
from tridiff.harness.ledger import QUARANTINED, Ledger
from tridiff.harness.report import waived
from tridiff.harness.report.verdict import Exit, Verdict
from tridiff.harness.settings import Settings

if TYPE_CHECKING:
    from tridiff.harness.api import Outcome
    from tridiff.harness.ledger.waivers import Waivers
    from tridiff.harness.repro import Repro


def repro(
    case: Path,
    plugin: list[str] | None,
    given: Settings,
    timeout: float | None,
    memory_limit: float | None,
    out: Console,
    ledger: Ledger | None,
    *,
    off: bool,
) -> Verdict:
    """Show the finding on `out`, or that there is none any more, and what `ledger` says of it. `off`: without worker processes.

    What is quarantined runs as well: whoever asks for one case wants to see what it does.

    Raises `UsageError` for a file that cannot be read, and where the machine cannot judge its case.
    """
    config.require_packages()
    from tridiff.harness import repro as files
    from tridiff.harness.api import Clean, Found, Infrastructure
    from tridiff.harness.domains import domain_of, outside
    from tridiff.harness.ledger.binding import bound
    from tridiff.harness.report import text
    from tridiff.harness.runner.examine import examine

    target = files.target_of(case)
    plugins = starting.plugins(given, plugin)
    worker = starting.worker(plugins, target, off=off)
    registry = starting.registry(plugins, target)
    waivers = bound(ledger, registry)
    found = files.read(case, registry)
    spec, most = starting.again(found.spec, given, timeout, memory_limit)
    kernel = registry.kernel(found.ref.kernel)
    for facet, value in outside(registry.op(kernel.op), found.case, domain_of(kernel, target)):
        _say(out, f"{case}: outside the domain of {kernel.name}, which does not support {facet}={value!r}; run all the same")
    with starting.examining(worker, given, timeout, memory_limit, off=off, most=most) as examiner:
        what = (found.ref, spec, found.case, registry)
        outcome = examiner.examine(*what, shrinking=False, announce=lambda _: None) if examiner else examine(*what)
    for line in _known(waivers, found, outcome):
        _say(out, line)
    match outcome:
        case Found():
            finding = outcome.finding
            out.print(text.finding_text(finding, file=case, plugins=registry.plugins_for(finding.kernel)), end="", soft_wrap=True)
            if finding.check != found.check:
                _say(out, f"the file names check {found.check}; now {finding.check} fails first")
            return Verdict(code=Exit.FINDINGS)
        case Clean():
            ratio = "" if spec.name == COMPILER else f"; largest error ratio {outcome.ratio:.3f}"
            _say(out, f"{case}: check {found.check} does not fail any more{ratio}")
            return Verdict(code=Exit.CLEAN)
        case Infrastructure():
            again = f"{case}: {outcome.reason}; it did not when the case was run again alone"
            return Verdict(code=Exit.HARNESS, complaint=again)
    raise UsageError(f"{case}: cannot be judged on this machine: {outcome.reason}")


def _known(waivers: Waivers, found: Repro, outcome: Outcome) -> Iterator[str]:
    """What the ledger says of a Case, and of what came of it."""
    from tridiff.harness.api import Found

    for waiver in waivers.waivers:
        entry = waiver.entry
        if entry.status == QUARANTINED and waiver.covers(found.ref.kernel, found.case):
            yield f"known: quarantined by {waived.by_whom(entry.record())}: {waived.why(entry.record())}"
        elif isinstance(outcome, Found) and waiver.forgives(outcome.finding):
            yield f"known: tolerated by {waived.by_whom(entry.record())}: {waived.why(entry.record())}"
        elif not isinstance(outcome, Found) and (entry.kernel, waiver.case) == (found.ref.kernel, found.case):
            yield f"{entry.name} tolerates this case: if it does not fail any more, remove the entry"


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)
