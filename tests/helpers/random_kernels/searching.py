"""Runs of many random kernels: with a seed of their own, until one fails, which is then minimised."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity

from random_kernels.checking import Mismatch, check, counting_operations
from random_kernels.features import ENABLED, Features
from random_kernels.strategy import kernels
from random_kernels.tree import Kernel
from tridiff.harness.runner.seeding import draws_by_seed_alone


@dataclass
class Outcome:
    """What a run of kernels showed.

    `kernels`: how many were checked (before the first failure, and in minimising it). `failure`: the message of the smallest
    failing one. `operations`: in how many kernels an operation occurred.
    """

    seed: int
    kernels: int = 0
    failure: str | None = None
    operations: Counter[str] = field(default_factory=Counter)


def search(seed: int, count: int, folder: Path, *, minimise: bool = True, features: Features = ENABLED) -> Outcome:
    """Check up to `count` kernels that follow from `seed` alone; stops at the first that fails."""
    outcome = Outcome(seed)
    phases = [Phase.generate, Phase.shrink] if minimise else [Phase.generate]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=phases,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(kernels(features))
    def run(kernel: Kernel) -> None:
        outcome.kernels += 1
        check(kernel, folder)

    try:
        with draws_by_seed_alone(), counting_operations(outcome.operations):
            run()
    except Mismatch as error:
        outcome.failure = str(error)
    return outcome
