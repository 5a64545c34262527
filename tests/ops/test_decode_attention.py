"""The fuzz itself: thousands of hostile but legal cases of `decode_attention`, without a finding."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import settings

from tridiff.harness import repro
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.report.text import finding_text, reasons_text
from tridiff.harness.runner.campaign import Budget
from tridiff.harness.runner.session import Session

KERNEL = "decode_attention"
TARGETS = (DEFAULT_TARGET,) * 6 + ("gfx1201", "sm_90")
"""One shard each: they run in parallel under xdist, every one with a seed of its own."""
EXAMPLES = 5 * settings().max_examples // 2
"""Cases of one shard: 250 in pull requests, so 2,000 in all, and 2,500 under the profile of nightly runs."""
INCONCLUSIVE = 0.2
"""Most cases in which even a dropped key would hide below the bound, as a share; about 0.13 are."""


def seed_of(shard: int) -> int:
    """The shard's number, so that pull requests draw the same cases; under the nightly profile other ones every day."""
    is_nightly = settings.get_current_profile_name() == "tridiff-nightly"
    return shard + (len(TARGETS) * int(time.time() // 86400) if is_nightly else 0)


@pytest.mark.parametrize("shard", range(len(TARGETS)))
def test_no_finding(shard: int, tmp_path: Path) -> None:
    """Every case is judged, none fails, and few are inconclusive."""
    known = builtin()
    spec = EngineSpec(target=TARGETS[shard])
    session = Session([known.kernel(KERNEL)], spec, seed_of(shard), Budget(examples=EXAMPLES), lambda _event: None, known)

    session.run()

    findings = session.findings.values()
    texts = [finding_text(finding, file=repro.write(tmp_path, finding)).plain for finding in findings]
    tally = session.tallies[KERNEL]
    assert not texts, "\n".join([f"with seed {session.seed} and target {spec.target}:", *texts])
    assert not session.interrupted
    assert not reasons_text(session.tallies)
    assert (tally.examples, tally.clean) == (EXAMPLES, EXAMPLES)
    assert tally.worst_ratio <= 1.0
    assert tally.inconclusive <= INCONCLUSIVE * EXAMPLES
