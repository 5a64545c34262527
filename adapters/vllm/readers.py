"""What vLLM's readers of head-major caches have in common: prefix_prefill.py and chunked_prefill_paged_decode.py.

Both are in vllm/v1/attention/ops; their caller is the backend ROCM_ATTN, rocm_attn.py in vllm/v1/attention/backends.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.adapters.stubs import architecture, is_hip, vllm_fp8_dtype
from tridiff.adapters.vllm import formats
from tridiff.harness.api import Restriction

TF32_ON_HIP = ("gfx942",)
"""GPUs of AMD on which `tl.dot` takes TF32 for float32 unless it is told otherwise, as vLLM does on Turing alone (Triton 3.7)."""
MIN_TILE = 32
"""Keys in the smallest tiles of these kernels."""


def shared(
    *,
    query: torch.Tensor,
    output: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> dict[str, Any]:
    """The caches under the dtype by which RocmAttentionImpl passes them, what vLLM calls it, and scales.

    Raises `Unsupported` for formats that vLLM lacks: of the output, every one but the platform's own.
    """
    formats.check_format(key_cache.dtype)
    if formats.is_fp8(output.dtype) and output.dtype != vllm_fp8_dtype():
        raise formats.Unsupported(f"vLLM writes FP8 output in {vllm_fp8_dtype()} on this GPU, not in {output.dtype}")
    fp8 = formats.is_fp8(key_cache.dtype)
    return {
        "key_cache": key_cache.view(vllm_fp8_dtype()) if fp8 else key_cache,
        "value_cache": value_cache.view(vllm_fp8_dtype()) if fp8 else value_cache,
        "kv_cache_dtype": formats.cache_dtype(key_cache.dtype),
        "k_scale": formats.scale_or_one(k_scale, query),
        "v_scale": formats.scale_or_one(v_scale, query),
    }


def rounding(*, query: torch.Tensor, **_: object) -> dict[str, str | int]:
    """Where it rounds: weights and FP8 numbers to the query's dtype; float32 products to TF32, where the GPU has it."""
    dtype = str(query.dtype).removeprefix("torch.")
    precision = "tf32" if not is_hip() or architecture() in TF32_ON_HIP else "ieee"
    return {"p_dtype": dtype, "dequantised": dtype, "block_n": MIN_TILE, "num_kv_splits": 1, "dot_precision": precision}


PAGE_SIZES = Restriction(
    facet="page_size",
    allowed=range(16, 2**16, 16),
    reason="RocmAttentionBackend.get_supported_kernel_block_sizes in rocm_attn.py: any multiple of 16.",
)
OUTPUT_DTYPES = Restriction(
    facet="output_dtype",
    allowed=("same", "float8_e4m3fn", "float8_e4m3fnuz"),
    reason="RocmAttentionImpl.fused_output_quant_supported in rocm_attn.py has static scales in the platform's FP8 type alone.",
)
WITHOUT_ALIBI = Restriction(
    facet="alibi", allowed=("none",), reason="With slopes the launcher takes another kernel, which has a name of its own here."
)
ALIBI = (
    Restriction(
        facet="alibi",
        allowed=("standard", "steep"),
        reason="Without slopes the launcher takes another kernel, with another name here.",
    ),
    Restriction(
        facet="chunk",
        allowed=("rows",),
        reason="context_attention_fwd says that cached K/V (key=None) is not supported together with ALiBi slopes.",
    ),
    Restriction(facet="causal", allowed=(True,), reason="It asserts: non-causal prefix attention is not supported with alibi."),
    Restriction(facet="sinks", allowed=("none",), reason="It asserts: sinks are not supported with alibi."),
    Restriction(facet="output_dtype", allowed=("same",), reason="It asserts: FP8 output is not supported with alibi."),
)
