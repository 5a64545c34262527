"""The fuzz itself: thousands of hostile but legal cases of every kernel, without a finding."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tridiff.harness.engines.spec import DEFAULT_TARGET
from tridiff.harness.pytest_plugin.fuzzing import Fuzzer

TARGETS = (DEFAULT_TARGET,) * 6 + ("gfx1201", "sm_90")
"""One shard each: they run in parallel under xdist, every one with a seed of its own."""
EXAMPLES = 5 * settings().max_examples // 2
"""Cases of one shard: 250 in pull requests, so 2,000 of a kernel in all, and 2,500 under the profile of nightly runs."""
INCONCLUSIVE = 0.2
"""Most cases in which even a dropped key would hide below the bound, as a share; about 0.13 are."""


@pytest.mark.parametrize("shard", range(len(TARGETS)))
def test_no_finding(tridiff: Fuzzer, tridiff_kernel: str, shard: int) -> None:
    """No case fails, every one is judged, and few are inconclusive."""
    run = tridiff.fuzz(tridiff_kernel, target=TARGETS[shard], examples=EXAMPLES, seed=shard)

    tally = run.tally
    assert not tally.reasons
    assert tally.examples == tally.clean
    assert run.budget.examples in {None, tally.examples}
    assert tally.worst_ratio <= 1.0
    assert tally.inconclusive <= INCONCLUSIVE * tally.examples
