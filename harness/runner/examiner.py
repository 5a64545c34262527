"""Examiner: who runs a campaign's Cases: this process, or worker processes that may die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tridiff.harness.api import Finding, Outcome
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.events import WorkerDied
from tridiff.harness.runner.examine import KernelRef


class Examiner(Protocol):
    """Runs Cases elsewhere than in the process that draws them."""

    def examine(
        self,
        ref: KernelRef,
        spec: EngineSpec,
        case: Any,
        registry: Registry,
        *,
        shrinking: bool,
        announce: Callable[[WorkerDied], None],
    ) -> Outcome:
        """What `runner.examine.examine` returns and raises; a death is a Finding, or `Infrastructure` if it happens only once.

        `shrinking`: the Case is a simpler form of one that failed. `announce` is told of every process that died.
        """

    def confirmed(
        self, ref: KernelRef, spec: EngineSpec, finding: Finding, registry: Registry, announce: Callable[[WorkerDied], None]
    ) -> Finding | None:
        """`finding` as a fresh process shows it, with all the time that a Case may take; None if it shows another one or none.

        Only what killed a process is run again; any other Finding is returned as it is.
        """

    def close(self) -> None:
        """End all processes."""
