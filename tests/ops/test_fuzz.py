"""The fuzz itself: thousands of hostile but legal cases of every kernel, without a finding."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings

from tridiff.harness.engines.spec import DEFAULT_TARGET
from tridiff.harness.profiles import is_nightly
from tridiff.harness.pytest_plugin.fuzzing import Fuzzer

EXAMPLES = settings().max_examples if is_nightly() else 10
TARGETS = {DEFAULT_TARGET: 4 * EXAMPLES, "gfx1201": EXAMPLES, "sm_90": EXAMPLES}
"""Cases for each target, in all shards together: 60 of a kernel in pull requests, besides those of the committed list, and 6,000
under the profile of nightly runs."""
INCONCLUSIVE = 0.13
"""The usual share of cases in which even a dropped key would hide below the bound."""
DEVIATIONS = 3.5
"""Standard deviations by which a shard may exceed it: 0.32 of 40 cases, 0.21 of 200."""


@pytest.mark.parametrize("target", TARGETS)
def test_no_finding(tridiff: Fuzzer, tridiff_kernel: str, target: str) -> None:
    """No case fails, every one is judged, and few are inconclusive."""
    # A seed for each target, in case that an option puts another one in place of all of them.
    run = tridiff.fuzz(tridiff_kernel, target=target, examples=TARGETS[target], seed=list(TARGETS).index(target))

    tally = run.tally
    assert not tally.reasons
    assert tally.examples == tally.clean
    assert run.budget.examples in {None, tally.examples}
    assert tally.worst_ratio <= 1.0
    spread = math.sqrt(tally.examples * INCONCLUSIVE * (1 - INCONCLUSIVE))
    assert tally.inconclusive <= INCONCLUSIVE * tally.examples + DEVIATIONS * spread
