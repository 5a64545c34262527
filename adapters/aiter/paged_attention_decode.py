"""AITER's paged decode, `paged_attention_decode` of aiter/ops/triton/pa_decode.py, as a kernel of our Op.

Four kernels: MHA without matrix products and GQA with them, each for rows in one piece (v1) and in parts of 1024 tokens (v2).
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from tridiff.adapters.aiter.upstream import AITER, Unsupported, name, paged, require_hip, scale
from tridiff.adapters.importing import Launcher
from tridiff.adapters.precision import dot_precision
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "paged_attention_decode", "rounding"]

LAUNCHER = Launcher(
    AITER,
    "aiter.ops.triton.pa_decode",
    "paged_attention_decode",
    passes=(
        *("output", "query", "key_cache", "value_cache", "seq_lens", "block_tables", "attn_scale", "max_seq_len"),
        *("compute_type", "k_scale", "v_scale"),
    ),
)
_COMPUTE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_PARTITION = 1024
"""Tokens of a partition (_SEQ_PARTITION_SIZE)."""
_MOST_IN_ONE_PIECE = 8192
_ENOUGH_PROGRAMS = 512


def paged_attention_decode(**inputs: Any) -> None:
    """Call AITER's launcher; what it computes in is the query's dtype. Raises `Unsupported` on NVIDIA."""
    require_hip(inputs["platform"])
    page_size = inputs["page_size"]
    LAUNCHER(
        output=inputs["output"],
        query=inputs["query"],
        key_cache=paged(inputs["key_cache"], page_size).transpose(1, 2),
        value_cache=paged(inputs["value_cache"], page_size).transpose(1, 2),
        seq_lens=inputs["seq_lens"],
        block_tables=inputs["block_table"],
        attn_scale=inputs["sm_scale"],
        max_seq_len=int(inputs["seq_lens"].max()),
        compute_type=_COMPUTE[inputs["query"].dtype],
        k_scale=scale(inputs["k_scale"], inputs["query"].device),
        v_scale=scale(inputs["v_scale"], inputs["query"].device),
    )


def rounding(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    output: torch.Tensor,
    page_size: int,
    **_: object,
) -> dict[str, str | int | bool]:
    """Where it rounds: the scaled query, and FP8 once dequantised, to the query's dtype, in which MHA also multiplies.

    GQA rounds its weights to it and adds those up in it. Partitions leave outputs of the output's dtype.
    """
    dtype = name(query.dtype)
    longest = int(seq_lens.max())
    partitions = -(-longest // _PARTITION)
    in_one_piece = longest <= _MOST_IN_ONE_PIECE and (partitions == 1 or query.shape[0] * query.shape[1] > _ENOUGH_PROGRAMS)
    is_normal = query.shape[1] == key_cache.shape[-2]
    return {
        "scaled_query": True,
        "query_dtype": dtype,
        "dequantised": dtype,
        "block_n": page_size,
        "num_kv_splits": 1 if in_one_piece else partitions,
        "split_multiple": 1 if in_one_piece else _PARTITION,
        "dot_precision": dot_precision(query.dtype),
        **({"p_dtype": "float32", "product_dtype": dtype} if is_normal else {"p_dtype": dtype, "sum_dtype": dtype}),
        **({} if in_one_piece else {"partial_dtype": name(output.dtype)}),
    }


DOMAIN = (
    Restriction(
        facet="is_mla", allowed=(False,), reason="values are a cache of their own, [blocks, heads, block, width] (pa_decode.py)"
    ),
    Restriction(
        facet="widths", allowed=("equal",), reason="the launcher takes one head size, that of the key cache (pa_decode.py)"
    ),
    Restriction(
        facet="cache_strides",
        allowed=("alike",),
        reason="the launcher passes the key cache's strides, for both caches (pa_decode.py); both have one shape in its comments",
    ),
    Restriction(
        facet="seq_lens",
        allowed=range(1, 2**20 + 1),
        reason="the token that is decoded is in the cache: no row is empty (pa_decode.py divides by the sum without asking)",
    ),
    Restriction(facet="logit_cap", allowed=(0.0,), reason="there is no parameter for a soft cap (pa_decode.py)"),
)

KERNELS = (
    Kernel(
        name="aiter_paged_attention_decode",
        op="decode_attention",
        module=__name__,
        launcher="paged_attention_decode",
        rounding="rounding",
        unsupported="Unsupported",
        domain=DOMAIN,
        outputs=("output",),
    ),
)
