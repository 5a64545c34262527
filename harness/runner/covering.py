"""How much of their Ops Kernels with a domain cover: a figure from Cases that are drawn from the whole Op, and not run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tridiff.harness import blame
from tridiff.harness.api import Kernel
from tridiff.harness.domains import Coverage, coverage
from tridiff.harness.registry import Registry
from tridiff.harness.runner.drawing import drawn

CASES = 200
"""Cases drawn of an Op: a share is then right to some 7 points in 19 of 20 Ops, and they take about two seconds."""
_SEED = 0


def coverages(registry: Registry, kernels: Iterable[Kernel], target: str) -> dict[str, Coverage]:
    """The coverage of each of `kernels` that has a domain, by name; the same for the same Op and target, whatever the run."""
    cases: dict[str, list[Any]] = {}
    found = {}
    for kernel in kernels:
        if kernel.domain:
            if kernel.op not in cases:
                cases[kernel.op] = drawn(registry, kernel.op, target, count=CASES, seed=_SEED)
            with blame.declared(registry.source_of("op", kernel.op), f"a facet of {kernel.op}"):
                found[kernel.name] = coverage(registry.op(kernel.op), kernel.limits, cases[kernel.op])
    return found
