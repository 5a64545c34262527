"""A session: one campaign after another over the chosen Kernels, interruptible, with what was found kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tridiff.harness.api import Finding, Kernel
from tridiff.harness.domains import Coverage
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.ledger.waivers import NONE, Waivers
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.events import CaseDone, Event, Listener, Tally
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.examiner import Examiner
from tridiff.harness.runner.interruption import Interruption


@dataclass
class Session:
    """Fuzzes `kernels`, each with an equal share of `budget`. State can be read while it runs.

    `models`: names of real models; where there are any, only presets of theirs are drawn.
    `first`: the Cases of a kernel to examine before any is drawn. `examiner`: runs all Cases; None: this process does.
    `begin`: called before a Case runs. `verdicts`: the targets for which `examiner` compiles as well.
    `coverage`: how much of its Op each kernel with a domain supports. `unrunnable`: kernels that no engine here can run,
    left out. `waivers`: what is known to fail; `left_out`: kernels that do not run for that.
    `tallies`: counts by kernel name. `findings`: the smallest Finding of each signature, in the order found.
    `interrupted`: whether Ctrl-C ended it early.
    """

    kernels: list[Kernel]
    spec: EngineSpec
    seed: int
    budget: Budget
    listener: Listener
    registry: Registry = field(default_factory=builtin)
    models: tuple[str, ...] = ()
    first: Callable[[Kernel], Sequence[Any]] = lambda _kernel: ()
    examiner: Examiner | None = None
    begin: Callable[[KernelRef, EngineSpec, Any], None] = lambda _ref, _spec, _case: None
    verdicts: tuple[str, ...] = ()
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    unrunnable: tuple[str, ...] = ()
    waivers: Waivers = NONE
    left_out: list[Kernel] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    interrupted: bool = False
    elapsed: float = 0.0
    _interruption: Interruption = field(default_factory=Interruption)

    @property
    def unjudged(self) -> list[str]:
        """Kernels of which cases were drawn and not one could be judged: no findings there is no good news."""
        return [name for name, tally in self.tallies.items() if tally.examples and not tally.judged]

    def run(self) -> None:
        """Run to the end of the budget or to Ctrl-C; never raises KeyboardInterrupt."""
        started = time.monotonic()
        try:
            with self._interruption.watching():
                for index, kernel in enumerate(self.kernels):
                    self._fuzz(kernel, self._share(index))
        except KeyboardInterrupt:
            self.interrupted = True
        self.elapsed = time.monotonic() - started

    def _fuzz(self, kernel: Kernel, budget: Budget) -> None:
        self.tallies[kernel.name] = Tally()
        ref = KernelRef(kernel=kernel.name, plugins=self.registry.plugins)
        campaign = Campaign(ref, self.spec, self.seed, budget, self._watch, self.registry, models=self.models)
        campaign.first = self.first(kernel)
        campaign.examiner, campaign.begin = self.examiner, self.begin
        campaign.waivers = self.waivers
        try:
            campaign.run()
        finally:
            self.findings.update(campaign.findings)

    def _share(self, index: int) -> Budget:
        """Of an example budget that cannot be divided, the first kernels get one more; each gets at least one."""
        count = len(self.kernels)
        examples, seconds = self.budget.examples, self.budget.seconds
        return Budget(
            examples=None if examples is None else max(1, (examples + count - 1 - index) // count),
            seconds=None if seconds is None else seconds / count,
            shrink_seconds=self.budget.shrink_seconds,
        )

    def _watch(self, event: Event) -> None:
        if isinstance(event, CaseDone):
            self.tallies[event.kernel].add(event)
        self.listener(event)
        if isinstance(event, CaseDone):
            self._interruption.check()
