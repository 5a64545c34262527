"""Which kernels write and read a head-major paged cache on ROCm: the native HIP ones, or those in Triton.

The native kernels compute addresses from the caches' shapes: they take pages to be packed. Those in Triton are given the strides.
Caches of hybrid models are strided, and a native writer with a Triton reader, or the reverse, makes garbage of them (vLLM, pull
request 38502). So both choices ask `has_native_kv_cache_layout` first. The rules are those of vLLM 0.33, `rocm_attn.py` and
`rocm.py`; the native kernels are not ours, but which of the two runs is decided here, and `packed` is a cache as they see it.
"""

from __future__ import annotations

import math

import torch
import triton

from tridiff.kernels.arguments import require

NATIVE, TRITON = "native", "triton"

WRITER_PAGE_SIZES = (16, 32)
"""Tokens per page that the native writer takes."""

MAX_SEQ_LEN = 128 * 1024
"""Keys that the native reader has room for."""

MAX_GROUP = 16
"""Query heads per KV head that the native reader has matrix rows for."""

CDNA = ("gfx90a", "gfx942", "gfx950")
RDNA = ("gfx11", "gfx12")


def has_native_kv_cache_layout(key_cache: torch.Tensor, value_cache: torch.Tensor) -> bool:
    """Whether the pages of both caches are packed: each begins where the elements of the one before end."""
    return all(cache.stride(0) == math.prod(cache.shape[1:]) for cache in (key_cache, value_cache))


def choose_writer(key_cache: torch.Tensor, value_cache: torch.Tensor) -> str:
    """`NATIVE` where pages have one of `WRITER_PAGE_SIZES` and are packed, else `TRITON`.

    `key_cache`: [NB, Hkv, D/x, BS, x]. `value_cache`: [NB, Hkv, D, BS].
    """
    _check(key_cache, value_cache)
    is_native = key_cache.shape[3] in WRITER_PAGE_SIZES and has_native_kv_cache_layout(key_cache, value_cache)
    return NATIVE if is_native else TRITON


def choose_reader(
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    *,
    arch: str,
    query_dtype: torch.dtype,
    num_heads: int,
    max_seq_len: int,
    sliding_window: int = 0,
    has_alibi: bool = False,
    has_sinks: bool = False,
) -> str:
    """`NATIVE` where the native decode kernel supports the attention, pages are a power of two and packed, else `TRITON`.

    `key_cache`, `value_cache`: as in `choose_writer`. `arch`: "gfx942", say; parts that are not AMD's have no native kernel.
    `num_heads`: of the query. `max_seq_len`: an upper bound of the keys of a sequence. `sliding_window`: 0 for none.
    """
    _check(key_cache, value_cache)
    page_size = key_cache.shape[3]
    supported = supports_native_decode(
        arch=arch,
        query_dtype=query_dtype,
        cache_dtype=key_cache.dtype,
        head_dim=value_cache.shape[2],
        page_size=page_size,
        group=num_heads // key_cache.shape[1],
        max_seq_len=max_seq_len,
        sliding_window=sliding_window,
        has_alibi=has_alibi,
        has_sinks=has_sinks,
    )
    is_native = supported and page_size.bit_count() == 1 and has_native_kv_cache_layout(key_cache, value_cache)
    return NATIVE if is_native else TRITON


def supports_native_decode(
    *,
    arch: str,
    query_dtype: torch.dtype,
    cache_dtype: torch.dtype,
    head_dim: int,
    page_size: int,
    group: int,
    max_seq_len: int,
    sliding_window: int,
    has_alibi: bool,
    has_sinks: bool,
) -> bool:
    """Whether the native decode kernel of `arch` computes such an attention, wherever its pages lie.

    Both kinds of parts: queries in 16 bits, no window, no sinks, at most `MAX_GROUP` query heads per KV head and `MAX_SEQ_LEN`
    keys. CDNA: heads of 64 or 128 columns, pages of 16 or 32 tokens. RDNA: 128 columns, pages of 16 tokens, at least 3 query
    heads per KV head, no alibi, and caches of the query's dtype.
    """
    if query_dtype not in {torch.float16, torch.bfloat16} or sliding_window > 0 or has_sinks or max_seq_len > MAX_SEQ_LEN:
        return False
    if arch in CDNA:
        return head_dim in {64, 128} and page_size in {16, 32} and 1 <= group <= MAX_GROUP
    if arch.startswith(RDNA):
        return head_dim == 128 and page_size == 16 and 3 <= group <= MAX_GROUP and not has_alibi and cache_dtype == query_dtype
    return False


def packed(cache: torch.Tensor) -> torch.Tensor:
    """`cache` with the strides that a native kernel assumes, those of its shape; the same memory, from its first element on.

    Where `has_native_kv_cache_layout` holds these are its strides; otherwise pages are sought where other data lies.
    """
    strides = [math.prod(cache.shape[at + 1 :]) for at in range(cache.dim())]
    return cache.as_strided(cache.shape, strides)


def current_arch() -> str:
    """The part that Triton compiles for: "gfx942", say, or "sm_90"."""
    target = triton.runtime.driver.active.get_current_target()
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch)


def _check(key_cache: torch.Tensor, value_cache: torch.Tensor) -> None:
    for name, cache, rank in (("key_cache", key_cache, 5), ("value_cache", value_cache, 4)):
        require(cache.dim() == rank, f"{name} has {cache.dim()} dimensions: must be {rank}, as in head-major caches")
