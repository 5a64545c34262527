"""vLLM's writer of K and V of different widths into one cache, `triton_reshape_and_cache_flash_diffkv`.

It is in vllm/v1/attention/ops/triton_reshape_and_cache_flash.py; its callers are the backends TRITON_ATTN_DIFFKV and
FLASH_ATTN_DIFFKV in vllm/v1/attention/backends.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.vllm import formats
from tridiff.adapters.vllm.formats import DENSE_ROWS, PAGE_SIZES, Unsupported
from tridiff.adapters.vllm.reshape_and_cache import rounding
from tridiff.adapters.vllm.upstream import VLLM
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHER", "Unsupported", "reshape_and_cache_diffkv", "rounding"]

LAUNCHER = Launcher(
    VLLM,
    "vllm.v1.attention.ops.triton_reshape_and_cache_flash",
    "triton_reshape_and_cache_flash_diffkv",
    passes=("key", "value", "kv_cache", "slot_mapping", "kv_cache_dtype", "k_scale", "v_scale"),
)


def reshape_and_cache_diffkv(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    platform: str,  # noqa: ARG001 - vLLM asks the machine
) -> None:
    """Call vLLM's launcher. Raises `Unsupported` for formats that vLLM lacks."""
    formats.check_format(kv_cache.dtype)
    formats.check_format(key.dtype)
    LAUNCHER(
        key=key,
        value=value,
        kv_cache=kv_cache,
        slot_mapping=slot_mapping,
        kv_cache_dtype=formats.cache_dtype(kv_cache.dtype),
        k_scale=formats.scale_or_one(k_scale, key),
        v_scale=formats.scale_or_one(v_scale, key),
    )


KERNELS = (
    Kernel(
        name="vllm_reshape_and_cache_diffkv",
        op="reshape_and_cache_diffkv",
        module=__name__,
        launcher="reshape_and_cache_diffkv",
        rounding="rounding",
        unsupported="Unsupported",
        domain=(
            PAGE_SIZES,
            DENSE_ROWS,
            formats.TOKEN_DTYPES,
            Restriction(
                facet="cache_dtype",
                allowed=("same", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e4m3fnuz"),
                reason="TritonAttentionDiffKVImpl in triton_attn_diffkv.py refuses all quantised caches but fp8 and fp8_e4m3.",
            ),
        ),
    ),
)
