"""vLLM's driver of chunks beside decodes, `chunked_prefill_paged_decode` of the module of that name in vllm/v1/attention/ops.

With slopes of alibi it has another kernel for chunks, and so another name here.
"""

from __future__ import annotations

from typing import Any

from tridiff.adapters.head_major import WITHOUT_ALIBI, kernel
from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import readers
from tridiff.adapters.vllm.formats import Unsupported
from tridiff.adapters.vllm.readers import rounding
from tridiff.adapters.vllm.upstream import VLLM

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "chunked_prefill_paged_decode", "rounding"]

_OP = "chunked_prefill_paged_decode"

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.chunked_prefill_paged_decode",
    "chunked_prefill_paged_decode",
    passes=(*readers.DRIVER_PASSES, "causal"),
)


def chunked_prefill_paged_decode(**inputs: Any) -> None:
    """Call vLLM's driver. Raises `Unsupported`, see `readers.caches`."""
    LAUNCHER(causal=inputs["causal"], **readers.driven(inputs))


KERNELS = (
    kernel(
        "vllm_chunked_prefill_paged_decode",
        op=_OP,
        module=__name__,
        domain=(readers.PAGE_SIZES, readers.OUTPUT_DTYPES, WITHOUT_ALIBI),
    ),
    kernel("vllm_chunked_prefill_paged_decode_alibi", op=_OP, module=__name__, domain=(readers.PAGE_SIZES, *readers.ALIBI)),
)
