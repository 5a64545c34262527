"""What vLLM's readers of head-major caches have in common: prefix_prefill.py and chunked_prefill_paged_decode.py.

Both are in vllm/v1/attention/ops; their caller is the backend ROCM_ATTN, rocm_attn.py in vllm/v1/attention/backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tridiff.adapters import head_major
from tridiff.adapters.stubs import vllm_fp8_dtype
from tridiff.adapters.vllm import formats
from tridiff.harness.api import Restriction

MIN_TILE = 32
"""Keys in the smallest tiles of these kernels."""


def caches(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is passed instead of inputs, or besides: FP8 caches in the dtype that RocmAttentionImpl gives them, its name, scales.

    Raises `Unsupported` for formats that vLLM lacks: of the output, every one but the platform's own.
    """
    dtype, output_dtype = inputs["key_cache"].dtype, inputs["output"].dtype
    formats.check_format(dtype)
    if formats.is_fp8(output_dtype) and output_dtype != vllm_fp8_dtype():
        raise formats.Unsupported(f"vLLM writes FP8 output in {vllm_fp8_dtype()} on this GPU, not in {output_dtype}")
    viewed = {name: inputs[name].view(vllm_fp8_dtype()) for name in ("key_cache", "value_cache") if formats.is_fp8(dtype)}
    return {
        **viewed,
        "kv_cache_dtype": formats.cache_dtype(dtype),
        "k_scale": formats.scale_or_one(inputs["k_scale"], inputs["query"]),
        "v_scale": formats.scale_or_one(inputs["v_scale"], inputs["query"]),
    }


DRIVER_PASSES = (*head_major.DRIVER, "max_seq_len", "output_scale", "sinks", "use_interleaved_v_cache")


def driven(inputs: Mapping[str, Any], **replaced: Any) -> dict[str, Any]:
    """Arguments `DRIVER_PASSES` of `chunked_prefill_paged_decode`, with those of the Op's `inputs` that are `replaced`.

    Raises as `caches` does.
    """
    seq_lens = inputs["seq_lens"]
    return {
        **head_major.passed(head_major.DRIVER, inputs, **caches(inputs), **replaced),
        "max_seq_len": int(seq_lens.max()) if len(seq_lens) else 0,
        "output_scale": inputs["output_scale"],
        "sinks": inputs["sinks"],
        "use_interleaved_v_cache": inputs["interleaved"],
    }


def rounding(*, query: torch.Tensor, **_: object) -> dict[str, str | int]:
    """See `head_major.rounding`; on Turing alone vLLM asks for products in float32 itself."""
    return head_major.rounding(query.dtype, tile=MIN_TILE)


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
ALIBI = (
    head_major.WITH_ALIBI,
    Restriction(
        facet="chunk",
        allowed=("rows",),
        reason="context_attention_fwd says that cached K/V (key=None) is not supported together with ALiBi slopes.",
    ),
    Restriction(facet="causal", allowed=(True,), reason="It asserts: non-causal prefix attention is not supported with alibi."),
    Restriction(facet="sinks", allowed=("none",), reason="It asserts: sinks are not supported with alibi."),
    Restriction(facet="output_dtype", allowed=("same",), reason="It asserts: FP8 output is not supported with alibi."),
)
