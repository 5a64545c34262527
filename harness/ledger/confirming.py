"""Confirming: the Case of each tolerated entry runs before all others, and one that passes is loud."""

from __future__ import annotations

from typing import Any

from tridiff.harness.api import COMPILER, DEADLY, OF_MACHINE_CODE, Clean, Domain, Judged, Kernel
from tridiff.harness.domains import contains
from tridiff.harness.ledger.waivers import Waiver
from tridiff.harness.runner.events import CaseDone, Event, UnexpectedPass
from tridiff.harness.runner.session import Session


def accompany(session: Session) -> None:
    """Let `session` begin with the Cases of its tolerated entries, and tell of those that pass."""
    first, listener = session.first, session.listener

    def begun(kernel: Kernel) -> list[Any]:
        mine = [waiver.case for waiver in session.waivers.tolerated(kernel.name) if not untried(session, waiver)]
        return list(dict.fromkeys([*mine, *first(kernel)]))

    def listen(event: Event) -> None:
        listener(event)
        if isinstance(event, CaseDone) and event.replayed:
            for waiver in session.waivers.tolerated(event.kernel):
                if waiver.case == event.case and not untried(session, waiver):
                    tell(waiver, event.outcome)

    def tell(waiver: Waiver, outcome: Judged) -> None:
        if isinstance(outcome, Clean):
            kernel, entry = waiver.entry.kernel, waiver.entry.key
            listener(UnexpectedPass(kernel=kernel, entry=entry, case=waiver.case, how=passed(outcome)))

    session.first, session.listener = begun, listen


def passed(outcome: Clean) -> str:
    """What a Case did that should have failed."""
    return "compiles" if outcome.compiled else f"is clean, with an error ratio of {outcome.ratio:.3f}"


def untried(session: Session, waiver: Waiver) -> str:
    """Why `session` cannot tell whether the Case of an entry still fails; "" where it can."""
    entry = waiver.entry
    kernel = session.registry.kernel(entry.kernel)
    domain = Domain(target=session.spec.target, limits=kernel.limits)
    if not contains(session.registry.op(kernel.op), waiver.case, domain):
        return f"its case is none for the kernel on {session.spec.target}"
    if entry.check in COMPILER:
        return _uncompiled(session, waiver)
    if entry.targets and session.spec.target not in entry.targets:
        return f"it is about {', '.join(entry.targets)}"
    if entry.check in DEADLY and session.examiner is None:
        return f"without worker processes the check {entry.check} would end the run"
    return ""


def _uncompiled(session: Session, waiver: Waiver) -> str:
    entry = waiver.entry
    if entry.check in OF_MACHINE_CODE:
        return f"check {entry.check} needs machine code: tridiff targets --full"
    if not session.verdicts:
        return "nothing is compiled for targets in this run"
    if entry.targets and not set(entry.targets) & set(session.verdicts):
        return f"it is about {', '.join(entry.targets)}"
    return ""
