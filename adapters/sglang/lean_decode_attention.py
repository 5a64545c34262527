"""SGLang's lean decode: the other kernel of `decode_attention_fwd`, for long rows and large batches on AMD GPUs.

A fixed grid of persistent programs shares out the tiles of all rows; programs that end a row wait for those that began it. The
backend turns it on by itself (--enable-lean-attention is None by default): for MLA from a batch of 8 on, for GQA from 16 on in
CUDA graphs, whatever the rows' lengths are then (`lean_capture_policy` of decode_attention.py).
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.precision import dot_precision
from tridiff.adapters.sglang.decode_attention import DOMAIN as COMMON_DOMAIN
from tridiff.adapters.sglang.decode_attention import MODULE, PASSES, Unsupported, arguments, narrowed_query
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.harness.api import Kernel, Restriction

LAUNCHER = Launcher(
    SGLANG,
    MODULE,
    "decode_attention_fwd",
    passes=(*PASSES, "lean_Mp", "lean_Lp", "lean_Op", "lean_locks"),
)
PARAMETERS = Launcher(SGLANG, MODULE, "_lean_decode_launch_params", passes=("num_kv_heads", "kv_group_num"))
_HEADS = 16
"""Query heads of a program (_LEAN_BLOCK_M)."""


def lean_decode_attention(**inputs: Any) -> None:
    """Call SGLang's launcher with lean attention turned on. Raises `Unsupported` on NVIDIA, where the launcher ignores that."""
    if inputs["platform"] != "hip":
        raise Unsupported("lean decode attention: SGLang has it for AMD GPUs alone")
    given = arguments(inputs)
    heads, (kv_heads, width) = given["q"].shape[1], given["v_buffer"].shape[1:]
    programs, _, _ = PARAMETERS(num_kv_heads=kv_heads, kv_group_num=heads // kv_heads)

    def scratch(*sizes: int) -> torch.Tensor:
        return torch.empty((programs, _HEADS, *sizes), dtype=torch.float32, device=given["q"].device)

    LAUNCHER(
        **given,
        logit_cap=inputs["logit_cap"],
        has_mla=inputs["is_mla"],
        use_pdl=False,
        enable_lean=True,
        lean_Mp=scratch(),
        lean_Lp=scratch(),
        lean_Op=scratch(width),
        lean_locks=torch.zeros((programs,), dtype=torch.int32, device=given["q"].device),
        uneven_batch=None,
    )


def rounding(
    *, query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, seq_lens: torch.Tensor, **_: object
) -> dict[str, str | int]:
    """Where it rounds: query and weights to the cache's dtype. A program may end anywhere between two tiles."""
    block_n = 16 if key_cache.shape[-1] > 256 else 128
    return {
        "p_dtype": str(value_cache.dtype).removeprefix("torch."),
        "dequantised": "folded",
        "block_n": block_n,
        "num_kv_splits": max(1, -(-int(seq_lens.max()) // block_n)),
        "split_multiple": block_n,
        "dot_precision": dot_precision(query.dtype),
        **narrowed_query(key_cache),
    }


_REASON = "decode_attention_fwd takes its other kernel for anything else (_lean_head_dim_ok, _should_use_lean_decode)"
DOMAIN = (
    *COMMON_DOMAIN,
    Restriction(facet="head_dim", allowed=(*range(1, 129), 288, 576), reason=_REASON),
    Restriction(facet="head_dim_v", allowed=(*range(1, 129), 256, 512), reason=_REASON),
    Restriction(facet="logit_cap", allowed=(0.0,), reason=_REASON),
)

KERNEL = Kernel(
    name="sglang_lean_decode_attention",
    op="decode_attention",
    module=__name__,
    launcher="lean_decode_attention",
    rounding="rounding",
    # Programs wait for later ones, which a GPU has all at once; the executor runs programs that wait in order, one by one.
    engines=("gpu",),
    unsupported="Unsupported",
    domain=DOMAIN,
    outputs=("output",),
)
