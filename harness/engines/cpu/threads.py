"""One BLAS thread while a kernel executes: tiles are small, and the parallelism is in the processes.

The environment variables of BLAS count only before NumPy loads, and a test run has often loaded it before it comes to us.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager[Any]:
    """Within this context the BLAS libraries of this process use one thread; on leaving, as many as before."""
    limited: AbstractContextManager[Any] = _blas().limit(limits=1)
    return limited


@lru_cache(maxsize=1)
def _blas() -> Any:
    """NumPy's BLAS, and any other that is loaded: looked for once, which takes some milliseconds."""
    return ThreadpoolController().select(user_api="blas")
