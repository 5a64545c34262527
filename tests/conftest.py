"""What holds for every test: one BLAS thread per process, and Hypothesis profiles of our own."""

import os

# Before anything imports numpy or torch; worker processes inherit it. The parallelism is in the processes (pytest -n auto).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from hypothesis import HealthCheck, settings  # noqa: E402 - the variables come first

# The parents are explicit because Hypothesis makes its own `ci` profile (derandomised, no database) current where it sees a
# CI variable, and a profile registered without a parent inherits from that: a nightly run would repeat its inputs for ever.
_DEFAULT = settings.get_profile("default")
settings.register_profile("tridiff-dev", parent=_DEFAULT, deadline=None)
_DEV = settings.get_profile("tridiff-dev")
# Pull requests: the same inputs for everybody, so that red means the change, and not that the machine was busy (too_slow).
settings.register_profile(
    "tridiff-ci", parent=_DEV, derandomize=True, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
# Nightly (--hypothesis-profile=tridiff-nightly): new inputs every time, and more of them.
settings.register_profile("tridiff-nightly", parent=_DEV, max_examples=1000, print_blob=True)

settings.load_profile("tridiff-ci" if os.environ.get("CI") else "tridiff-dev")
