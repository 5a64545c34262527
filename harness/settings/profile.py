"""Profiles: how long a run lasts, where its seed comes from, and whether it remembers; for `tridiff fuzz` and for pytest."""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One row of `PROFILES`, perhaps with what the settings put in place of it.

    `seed`: None for another one in every run. `examples`, `seconds`: the budget of `tridiff fuzz`, whichever ends first; None
    for no limit. `max_examples`: of a test in pytest. `derandomised`: whether tests of Hypothesis draw the same inputs in every
    run. `database`: whether failing cases are remembered; None where the settings name a database. `needs_cases`: whether there
    must be a list of cases to run first.
    """

    name: str
    seed: int | None = 0
    examples: int | None = None
    seconds: float | None = None
    max_examples: int = 100
    derandomised: bool = False
    database: bool | None = None
    needs_cases: bool = False

    def run_seed(self) -> int:
        """The seed of a run: the profile's, or a new one, to be said so that the run can be repeated."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="dev", seconds=120.0),
        # The same inputs for everybody, so that red means the change.
        Profile(name="ci", examples=1000, derandomised=True, database=False),
        Profile(name="gate", examples=200, derandomised=True, database=False, needs_cases=True),
        Profile(name="nightly", seed=None, seconds=3600.0, max_examples=1000, database=True),
        Profile(name="deep", seed=None, seconds=8 * 3600.0, max_examples=10_000, database=True),
    )
}
"""By name."""

DEFAULT_PROFILE = "dev"
"""What counts where nobody names a profile."""
