"""SGLang's writers of latent caches, of sglang/kernels/ops/kvcache/mla_buffer.py, as kernels of our Op `concat_and_cache_mla`.

`set_mla_kv_buffer_triton` copies, `set_mla_kv_buffer_triton_fp8_quant` stores 16-bit tokens as FP8, without a scale. Their caller
is the pool of latent caches (sglang/srt/mem_cache/memory_pool.py), which has slots instead of pages. A token that is not to be
stored has slot 0 there, which is reserved: so have ours whose slot is negative. From sm_90 on a CUDA kernel copies instead.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.sglang.decode_attention import Unsupported, check_format
from tridiff.adapters.sglang.reshape_and_cache import NEAR, SLOTS, TOKENS
from tridiff.adapters.sglang.reshape_and_cache_shuffle import as_stored
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.adapters.slots import slot_cache
from tridiff.harness.api import Kernel, Restriction

__all__ = ["KERNELS", "LAUNCHERS", "Unsupported", "copy", "quantise"]

MODULE = "sglang.kernels.ops.kvcache.mla_buffer"
PASSES = ("kv_buffer", "loc", "cache_k_nope", "cache_k_rope")
LAUNCHER = Launcher(SGLANG, MODULE, "set_mla_kv_buffer_triton", passes=PASSES)
QUANTISING = Launcher(SGLANG, MODULE, "set_mla_kv_buffer_triton_fp8_quant", passes=(*PASSES, "fp8_dtype"))
LAUNCHERS = (LAUNCHER, QUANTISING)

_PDL_SINCE = 9


def copy(
    *, kv_c: torch.Tensor, k_pe: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, platform: str, **_: object
) -> None:
    """Call SGLang's launcher that copies, FP8 as the bytes that its pools store.

    Raises `Unsupported` where SGLang launches its CUDA kernel instead.
    """
    if platform == "cuda" and torch.cuda.get_device_capability()[0] >= _PDL_SINCE:
        raise Unsupported("from sm_90 on SGLang copies latent tokens by a CUDA kernel")
    tokens = slot_mapping.shape[0]
    LAUNCHER(
        kv_buffer=as_stored(pool(kv_cache)),
        loc=loc(slot_mapping),
        cache_k_nope=as_stored(kv_c[:tokens]),
        cache_k_rope=as_stored(k_pe[:tokens]),
    )


def quantise(
    *, kv_c: torch.Tensor, k_pe: torch.Tensor, kv_cache: torch.Tensor, slot_mapping: torch.Tensor, platform: str, **_: object
) -> None:
    """Call SGLang's launcher that stores FP8. Raises `Unsupported` for a format that SGLang has not on this GPU, or not so."""
    if platform == "cuda":
        raise Unsupported("SGLang calls it on AMD alone")
    check_format(kv_cache.dtype, platform)
    tokens = slot_mapping.shape[0]
    QUANTISING(
        kv_buffer=as_stored(pool(kv_cache)),
        loc=loc(slot_mapping),
        cache_k_nope=kv_c[:tokens],
        cache_k_rope=k_pe[:tokens],
        fp8_dtype=kv_cache.dtype,
    )


def pool(kv_cache: torch.Tensor) -> torch.Tensor:
    """A view [slots, 1, width] of a cache [pages, page size, width]."""
    return slot_cache(kv_cache.unsqueeze(2), kv_cache.shape[1])


def loc(slot_mapping: torch.Tensor) -> torch.Tensor:
    """The slots, and 0, the reserved one, for tokens that are not to be stored."""
    return slot_mapping.clamp(min=0)


_COMMON = (
    TOKENS,
    SLOTS,
    NEAR,
    Restriction(
        facet="first_page",
        allowed=("spare",),
        reason="slot 0 is reserved for the padding of CUDA graphs, and skipped (_set_mla_kv_buffer_impl)",
    ),
    Restriction(
        facet="pages",
        allowed=("packed",),
        reason="a pool is a tensor of slots at one distance: pages without gaps (memory_pool.py)",
    ),
)
COPY_DOMAIN = (
    *_COMMON,
    Restriction(
        facet="cache_dtype", allowed=("same",), reason="_write_mla_kv_buffer casts to the pool's dtype before, and views as bytes"
    ),
)
QUANTISE_DOMAIN = (
    *_COMMON,
    Restriction(facet="dtype", allowed=("bfloat16", "float16"), reason="the docstring says BF16/FP16"),
    Restriction(
        facet="cache_dtype", allowed=("float8_e4m3fn", "float8_e4m3fnuz"), reason="fp8_dtype is the E4M3 of the part's own kind"
    ),
    Restriction(facet="scale", allowed=(1.0,), reason="there is no parameter for a scale"),
    Restriction(
        facet="overflow", allowed=("fits",), reason="nothing is clamped, and no scale given: what exceeds FP8 is not foreseen"
    ),
)

KERNELS = (
    Kernel(
        name="sglang_set_mla_kv_buffer",
        op="concat_and_cache_mla",
        module=__name__,
        launcher="copy",
        unsupported="Unsupported",
        domain=COPY_DOMAIN,
    ),
    Kernel(
        name="sglang_set_mla_kv_buffer_fp8",
        op="concat_and_cache_mla",
        module=__name__,
        launcher="quantise",
        unsupported="Unsupported",
        domain=QUANTISE_DOMAIN,
    ),
)
