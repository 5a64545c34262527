"""What holds for every test: one BLAS thread per process, and Hypothesis profiles of our own."""

import os
from collections.abc import Iterator

# Before anything imports numpy or torch; worker processes inherit it. The parallelism is in the processes (pytest -n auto).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import pytest  # noqa: E402 - the variables come first
from hypothesis import settings  # noqa: E402 - likewise

from tridiff.harness import profiles  # noqa: E402 - likewise
from tridiff.harness.runner.seeding import draws_by_seed_alone  # noqa: E402 - likewise

profiles.register()
# Pull requests draw the same inputs for everybody; --hypothesis-profile=tridiff-nightly asks for new ones, and more of them.
settings.load_profile("tridiff-ci" if os.environ.get("CI") else "tridiff-dev")


@pytest.fixture(scope="session", autouse=True)
def _same_draws_everywhere() -> Iterator[None]:
    """What Hypothesis draws does not hang on which modules the tests before, or the other pytest workers, happened to load."""
    with draws_by_seed_alone():
        yield
