"""AITER's unified attention, `unified_attention` of aiter/ops/triton/unified_attention.py, for batches of decoded tokens alone.

vLLM calls it as ROCM_AITER_UNIFIED_ATTN (vllm/v1/attention/backends/rocm_aiter_unified_attn.py). Rows of more than 512 tokens are
cut into segments where the GPU would otherwise be idle.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.adapters.aiter.upstream import AITER, Unsupported, name, paged, require_hip, scale
from tridiff.adapters.importing import Launcher
from tridiff.adapters.precision import dot_precision
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "rounding", "unified_attention"]

LAUNCHER = Launcher(
    AITER,
    "aiter.ops.triton.unified_attention",
    "unified_attention",
    passes=(
        *("q", "k", "v", "out", "cu_seqlens_q", "max_seqlen_q", "seqused_k", "max_seqlen_k", "softmax_scale", "causal"),
        *("window_size", "block_table", "softcap", "q_descale", "k_descale", "v_descale"),
    ),
)
_MOST_SEGMENTS = 128
_MOST_IN_ONE_PIECE = 512


def unified_attention(**inputs: Any) -> None:
    """Call AITER's launcher with one query token a row, without a window. Raises `Unsupported` on NVIDIA."""
    require_hip(inputs["platform"])
    query, page_size = inputs["query"], inputs["page_size"]
    LAUNCHER(
        q=query,
        k=paged(inputs["key_cache"], page_size),
        v=paged(inputs["value_cache"], page_size),
        out=inputs["output"],
        cu_seqlens_q=torch.arange(len(query) + 1, dtype=torch.int32, device=query.device),
        max_seqlen_q=1,
        seqused_k=inputs["seq_lens"],
        max_seqlen_k=int(inputs["seq_lens"].max()),
        softmax_scale=inputs["sm_scale"],
        causal=True,
        window_size=(-1, -1),
        block_table=inputs["block_table"],
        softcap=inputs["logit_cap"],
        q_descale=None,
        k_descale=scale(inputs["k_scale"], query.device),
        v_descale=scale(inputs["v_scale"], query.device),
    )


def rounding(*, query: torch.Tensor, seq_lens: torch.Tensor, page_size: int, **_: object) -> dict[str, str | int]:
    """Where it rounds: weights, and FP8 once dequantised, to the query's dtype. Segments stay in float32."""
    dtype = name(query.dtype)
    return {
        "p_dtype": dtype,
        "dequantised": dtype,
        "block_n": page_size,
        "num_kv_splits": _MOST_SEGMENTS if int(seq_lens.max()) > _MOST_IN_ONE_PIECE else 1,
        "split_multiple": page_size,
        "dot_precision": dot_precision(query.dtype),
    }


DOMAIN = (
    Restriction(facet="is_mla", allowed=(False,), reason="values are a cache of their own, of the queries' head size"),
    Restriction(facet="widths", allowed=("equal",), reason="the launcher takes one head size, that of the queries"),
    Restriction(
        facet="seq_lens",
        allowed=range(1, 2**20 + 1),
        reason="padding has one token (build_for_cudagraph_capture of vLLM's rocm_aiter_unified_attn.py)",
    ),
    Restriction(
        facet="unused_slots",
        allowed=("zeros",),
        reason="the kernel leaves the mask of a tile out where a tile is a page, so it says, and multiplies what follows the "
        "last token by 0: that must be finite, as in caches that began as zeros",
    ),
    Restriction(
        facet="page_size",
        allowed=(16, 32, 64, 128, 256, 512, 1024, 2048),
        reason="a tile of decoded tokens is a page (select_2d_config), and has to be a power of two, say the kernel's comments; "
        "vLLM's backend wants multiples of 16",
    ),
)

KERNELS = (
    Kernel(
        name="aiter_unified_attention",
        op="decode_attention",
        module=__name__,
        launcher="unified_attention",
        rounding="rounding",
        unsupported="Unsupported",
        domain=DOMAIN,
        outputs=("output",),
    ),
)
