"""What AITER's readers of head-major caches have in common: pa_prefill.py and chunked_pa_prefill.py in aiter/ops/triton.

Neither is documented ("TODO: Add Doc"), and nothing in the release calls them; what they support is what their signatures,
comments and masks say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.adapters import head_major
from tridiff.adapters.aiter.upstream import scale
from tridiff.harness.api import Restriction


def tile(dtype: torch.dtype) -> int:
    """Keys in a tile of `context_attention_fwd` for queries of `dtype`: half as many for float32 (BASE_BLOCK)."""
    return 32 if dtype == torch.float32 else 64


def caches(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed instead of inputs, or besides: "auto" for caches that are not FP8, as it demands, and scales."""
    device = inputs["query"].device
    return {
        "kv_cache_dtype": "fp8" if inputs["key_cache"].element_size() == 1 else "auto",
        "k_scale": scale(inputs["k_scale"], device),
        "v_scale": scale(inputs["v_scale"], device),
    }


def rounding(*, query: torch.Tensor, **_: object) -> dict[str, str | int]:
    """Where the prefill rounds, see `head_major.rounding`."""
    return head_major.rounding(query.dtype, tile=tile(query.dtype))


DOMAIN = (
    Restriction(
        facet="kind",
        allowed=("head_major",),
        reason="v_cache is [num_blocks, num_kv_heads, head_size, block_size] (comment in pa_prefill.py); "
        "there is no parameter for packs of V",
    ),
    Restriction(
        facet="chunk",
        allowed=("rows",),
        reason="both launchers take heads and head size from key, so it cannot be None (k.shape[-1] in pa_prefill.py, "
        "key.shape[1] in chunked_pa_prefill.py)",
    ),
    Restriction(
        facet="causal",
        allowed=(True,),
        reason='there is no parameter for it, and a comment in _triton_kernels/pa_prefill.py says "with causal mask"',
    ),
    Restriction(facet="sinks", allowed=("none",), reason="there is no parameter for sinks (pa_prefill.py)"),
    Restriction(
        facet="output_dtype", allowed=("same",), reason="there is no parameter for a scale of the output (pa_prefill.py)"
    ),
)
