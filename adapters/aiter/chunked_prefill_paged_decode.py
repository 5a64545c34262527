"""AITER's driver of chunks beside decodes, `chunked_prefill_paged_decode` of aiter/ops/triton/chunked_pa_prefill.py.

With slopes of alibi it has another kernel for chunks, and so another name here.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.adapters.aiter import readers
from tridiff.adapters.aiter.upstream import AITER, Unsupported, require_hip
from tridiff.adapters.head_major import DRIVER, WITH_ALIBI, WITHOUT_ALIBI, kernel, passed
from tridiff.adapters.importing import Launcher

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "chunked_prefill_paged_decode", "rounding"]

_OP = "chunked_prefill_paged_decode"

LAUNCHER = Launcher(AITER, "aiter.ops.triton.chunked_pa_prefill", "chunked_prefill_paged_decode", passes=tuple(DRIVER))


def chunked_prefill_paged_decode(**inputs: Any) -> None:
    """Call AITER's driver. Raises `Unsupported` on NVIDIA."""
    require_hip(inputs["platform"])
    LAUNCHER(**passed(DRIVER, inputs, **readers.caches(inputs)))


def rounding(*, query: torch.Tensor, key_cache: torch.Tensor, **_: object) -> dict[str, str | int]:
    """As the prefill's, but a tile of keys is a page where a sequence is decoded; its weights stay in float32."""
    sizes = (readers.tile(query.dtype), key_cache.shape[3])
    return {**readers.rounding(query=query), "block_n": max(sizes), "smallest_block_n": min(sizes)}


KERNELS = (
    kernel("aiter_chunked_prefill_paged_decode", op=_OP, module=__name__, domain=(*readers.DOMAIN, WITHOUT_ALIBI)),
    kernel("aiter_chunked_prefill_paged_decode_alibi", op=_OP, module=__name__, domain=(*readers.DOMAIN, WITH_ALIBI)),
)
