"""What vLLM calls the dtypes of KV caches, and which FP8 formats it has on a GPU."""

from __future__ import annotations

import torch

from tridiff.adapters.stubs import is_hip, vllm_fp8_dtype
from tridiff.harness.api import Restriction

FP8_SINCE = (8, 9)
"""The compute capability that `_is_supported_kv_cache_dtype` in triton_reshape_and_cache_flash.py asks for on NVIDIA."""


class Unsupported(NotImplementedError):
    """vLLM has no such FP8 format on the GPU: its backends cannot make such a cache."""


def check_format(dtype: torch.dtype) -> None:
    """Raise `Unsupported` for an FP8 format that is neither the platform's own nor e5m2, which every backend offers."""
    if not is_fp8(dtype):
        return
    if not is_hip() and torch.cuda.get_device_capability() < FP8_SINCE:
        raise Unsupported("an FP8 KV cache needs compute capability 8.9: use caches of bfloat16 or float16")
    if dtype not in {vllm_fp8_dtype(), torch.float8_e5m2}:
        raise Unsupported(f"vLLM's FP8 type is {vllm_fp8_dtype()} on this GPU, not {dtype}: convert the caches")


def is_fp8(dtype: torch.dtype) -> bool:
    """Whether it is an FP8 format; int8 is none."""
    return dtype.itemsize == 1 and dtype.is_floating_point


def cache_dtype(dtype: torch.dtype) -> str:
    """The name in vLLM of caches of `dtype`: "auto", "fp8" (the platform's), "fp8_e5m2"."""
    if not is_fp8(dtype):
        return "auto"
    return "fp8_e5m2" if dtype == torch.float8_e5m2 else "fp8"


def scale_or_one(scale: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """The scale that vLLM's layers always have; 1 without one."""
    return torch.ones((), dtype=torch.float32, device=like.device) if scale is None else scale


TOKEN_DTYPES = Restriction(
    facet="dtype",
    allowed=("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e4m3fnuz"),
    reason="The backends' supported_dtypes name the first three; what vLLM itself quantises is in the platform's FP8 type "
    "(current_platform.fp8_dtype), which is e4m3.",
)
PAGE_SIZES = Restriction(
    facet="page_size",
    allowed=range(16, 2**16, 16),
    reason="get_supported_kernel_block_sizes of its callers, in triton_attn.py and rocm_attn.py: any multiple of 16.",
)
EQUAL_STRIDES = Restriction(
    facet="cache_strides",
    allowed=("alike",),
    reason="The launcher takes the strides of a page and a head from key_cache alone; each of its callers (triton_attn.py, "
    "rocm_attn.py, rocm_segmented_attn.py) cuts K and V from one tensor.",
)
EQUAL_WIDTHS = Restriction(
    facet="widths",
    allowed=("equal",),
    reason="The launcher's comments give value and value_cache the head_size of key; for others there is the diffkv writer.",
)
DENSE_ROWS = Restriction(
    facet="row_strides",
    allowed=("dense",),
    reason="The launcher takes the stride of a token alone: comments have key and value as [num_tokens, num_heads, head_size].",
)
