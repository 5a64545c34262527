"""What holds for every test: one BLAS thread per process, and Hypothesis profiles of our own."""

import os

# Before anything imports numpy or torch; worker processes inherit it. The parallelism is in the processes (pytest -n auto).
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

from hypothesis import settings  # noqa: E402 - the variables come first

from tridiff.harness import profiles  # noqa: E402 - likewise

profiles.register()
# Pull requests draw the same inputs for everybody; --hypothesis-profile=tridiff-nightly asks for new ones, and more of them.
settings.load_profile("tridiff-ci" if os.environ.get("CI") else "tridiff-dev")
