"""vLLM's decode over head-major caches, the Triton kernel behind `chunked_prefill_paged_decode`, as a kernel of our Op.

The driver launches it alone where no sequence has more than one query. Where a native kernel would be chosen it runs as well,
since there is none without vLLM's compiled operators.
"""

from __future__ import annotations

from typing import Any

from tridiff.adapters.head_major import kernel
from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import readers
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.adapters.vllm.readers import rounding
from tridiff.adapters.vllm.upstream import VLLM

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "paged_decode", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.chunked_prefill_paged_decode",
    "chunked_prefill_paged_decode",
    passes=readers.DRIVER_PASSES,
)


def paged_decode(**inputs: Any) -> None:
    """Call vLLM's driver as for a batch of decodes, whose keys are all in the cache. `Unsupported`: see `readers.caches`."""
    LAUNCHER(**readers.driven(inputs, key=None, value=None, max_query_len=1))


KERNELS = (kernel("vllm_paged_decode", op="paged_decode", module=__name__, domain=(readers.PAGE_SIZES, readers.OUTPUT_DTYPES)),)
