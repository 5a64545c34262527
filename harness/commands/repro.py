"""The command `repro`: runs, or compiles, the case of a finding again, and says whether it still fails."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tridiff.harness import config, starting
from tridiff.harness.engines.spec import COMPILER, UsageError
from tridiff.harness.report.verdict import Exit, Verdict
from tridiff.harness.settings import Settings


def repro(
    case: Path,
    plugin: list[str] | None,
    given: Settings,
    timeout: float | None,
    memory_limit: float | None,
    out: Console,
    *,
    off: bool,
) -> Verdict:
    """Show the finding on `out`, or that there is none any more. `off`: without worker processes.

    Raises `UsageError` for a file that cannot be read, and where the machine cannot judge its case.
    """
    config.require_packages()
    from tridiff.harness import repro as files
    from tridiff.harness.api import Clean, Found, Infrastructure
    from tridiff.harness.report import text
    from tridiff.harness.runner.examine import examine

    target = files.target_of(case)
    plugins = starting.plugins(given, plugin)
    worker = starting.worker(plugins, target, off=off)
    registry = starting.registry(plugins, target)
    found = files.read(case, registry)
    spec, most = starting.again(found.spec, given, timeout, memory_limit)
    with starting.examining(worker, given, timeout, memory_limit, off=off, most=most) as examiner:
        what = (found.ref, spec, found.case, registry)
        outcome = examiner.examine(*what, shrinking=False, announce=lambda _: None) if examiner else examine(*what)
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


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, soft_wrap=True)
