"""Seeding: what Hypothesis draws depends on the seed alone.

In one draw of twenty Hypothesis takes a constant that it read in the source of whatever local modules are loaded. Ours are
local in a checkout and not in an installation, and every Fault's twin is one more; so one seed would give other cases in
another process, after an unrelated edit, or for the second Fault of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Verbosity
from hypothesis.internal.conjecture import providers

_METHOD = "_maybe_draw_constant"


@contextmanager
def draws_by_seed_alone() -> Iterator[None]:
    """Within this context Hypothesis draws no constants. Releases before 6.131 never do, and lack the method."""
    provider: Any = providers.HypothesisProvider
    before = getattr(provider, _METHOD, None)
    if before is None:
        yield
        return
    setattr(provider, _METHOD, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(provider, _METHOD, before)


def plain_settings() -> hypothesis.settings:
    """Ours alone: no profile of the host, no database, no deadline, nothing printed."""
    return hypothesis.settings(
        hypothesis.settings.get_profile("default"),
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        print_blob=False,
    )
