"""AITER's decode of latent attention, `mla_decode_fwd` of aiter/mla.py: assembly, for an AMD GPU alone.

Nothing of AITER is imported before the launcher is called: that compiles its extension. No engine here runs it yet, so what is
declared below is read from its signature and callers, and not proven.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from tridiff.adapters.aiter.upstream import name
from tridiff.adapters.slots import slot_cache, slots
from tridiff.harness.api import Kernel, Restriction

_MODULE = "aiter.mla"


def mla_decode(**inputs: Any) -> None:
    """Call AITER's launcher on single tokens for pages, as SGLang's AITER backend does (aiter_backend.py)."""
    query, page_size = inputs["query"], inputs["page_size"]
    kv_indptr, kv_indices = slots(inputs["block_table"], inputs["seq_lens"], page_size)
    rows = len(query)
    launcher = importlib.import_module(_MODULE).mla_decode_fwd
    launcher(
        query,
        slot_cache(inputs["key_cache"], page_size).unsqueeze(1),
        inputs["output"],
        torch.arange(rows + 1, dtype=torch.int32, device=query.device),
        kv_indptr,
        kv_indices.to(torch.int32),
        torch.ones(rows, dtype=torch.int32, device=query.device),
        1,
        sm_scale=inputs["sm_scale"],
        logit_cap=inputs["logit_cap"],
    )


def rounding(*, query: torch.Tensor, num_kv_splits: int, **_: object) -> dict[str, str | int]:
    """Weights and dequantised keys in the query's dtype; the launcher chooses the splits itself."""
    dtype = name(query.dtype)
    return {"p_dtype": dtype, "dequantised": dtype, "block_n": 64, "num_kv_splits": num_kv_splits, "dot_precision": "ieee"}


_WIDTHS = "assembly for DeepSeek's latent attention, whose widths these are; no other is documented"
DOMAIN = (
    Restriction(facet="is_mla", allowed=(True,), reason="it is for latent attention: values are the first columns of the keys"),
    Restriction(facet="head_dim", allowed=(576,), reason=_WIDTHS),
    Restriction(facet="head_dim_v", allowed=(512,), reason=_WIDTHS),
    Restriction(
        facet="dtype", allowed=("bfloat16",), reason="mla.py names bfloat16 and FP8 alone, and the adapter has no FP8 queries"
    ),
    Restriction(facet="cache_dtype", allowed=("same",), reason="FP8 caches come with FP8 queries and scales of both (mla.py)"),
    Restriction(facet="output_dtype", allowed=("same",), reason="the callers' outputs are in the queries' dtype"),
    Restriction(facet="logit_cap", allowed=(0.0,), reason="mla_decode_fwd asserts that there is no soft cap"),
    Restriction(facet="seq_lens", allowed=range(1, 2**20 + 1), reason="its callers have a token in every row, also in padding"),
    Restriction(
        facet="key_layout",
        allowed=("packed", "flat"),
        reason="mla_decode_fwd passes no strides of the cache: one token lies behind the other",
    ),
)

KERNEL = Kernel(
    name="aiter_mla_decode",
    op="decode_attention",
    module=__name__,
    launcher="mla_decode",
    rounding="rounding",
    engines=("gpu",),
    domain=DOMAIN,
    outputs=("output",),
)
