"""Cases that a strategy draws, the same in every run."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tridiff.harness.runner.campaign import ROUND

QUIETLY = settings(database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def draws(strategy: st.SearchStrategy[Any], count: int) -> tuple[Any, ...]:
    """`count` cases, in rounds as a campaign has them: which ones hangs on the strategy alone, not on who asks."""
    seen: list[Any] = []
    for number in range(-(-count // ROUND)):

        @seed(number)
        @settings(QUIETLY, derandomize=False, max_examples=min(ROUND, count - number * ROUND), phases=[Phase.generate])
        @given(strategy)
        def collect(case: Any) -> None:
            seen.append(case)

        collect()
    return tuple(seen)
