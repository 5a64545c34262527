"""SGLang's writer of "shuffled" caches, `launch_reshape_and_cache_shuffle_5d` of sglang/kernels/ops/kvcache/shuffle_5d_cache.py.

Its caller is the pool of layout "vectorized_5d" (sglang/srt/mem_cache/memory_pool.py), which AITER's kernels read: K as in our
kind "interleaved", and V [pages, heads, page size / x, width, x], the same memory as ours.
"""

from __future__ import annotations

import torch

from tridiff.adapters.importing import Launcher
from tridiff.adapters.sglang.reshape_and_cache import NEAR, SLOTS, TOKENS
from tridiff.adapters.sglang.upstream import SGLANG
from tridiff.harness.api import Kernel, Restriction

LAUNCHER = Launcher(
    SGLANG,
    "sglang.kernels.ops.kvcache.shuffle_5d_cache",
    "launch_reshape_and_cache_shuffle_5d",
    passes=("key", "value", "key_cache", "value_cache", "slot_mapping"),
)


def reshape_and_cache(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    **_: object,
) -> None:
    """Call SGLang's launcher with as many rows as there are slots, and with FP8 as the bytes that its pools store."""
    tokens = slot_mapping.shape[0]
    LAUNCHER(
        key=as_stored(key[:tokens]),
        value=as_stored(value[:tokens]),
        key_cache=as_stored(key_cache),
        value_cache=as_stored(shuffled(value_cache, key_cache.shape[-1])),
        slot_mapping=slot_mapping,
    )


def shuffled(value_cache: torch.Tensor, pack: int) -> torch.Tensor:
    """A view [pages, heads, page size / x, width, x] of a cache [pages, heads, width, page size] in packs of x tokens."""
    pages, heads, width, page_size = value_cache.shape
    page, head = value_cache.stride()[:2]
    sizes = (pages, heads, page_size // pack, width, pack)
    return value_cache.as_strided(sizes, (page, head, width * pack, pack, 1))


def as_stored(tensor: torch.Tensor) -> torch.Tensor:
    """FP8 as the bytes of a pool's `store_dtype`; anything else as it is."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


_DENSE = "the docstring gives the caches by their shapes alone, and the pool allocates them dense, a pair for each layer"
DOMAIN = (
    TOKENS,
    SLOTS,
    NEAR,
    Restriction(facet="kind", allowed=("interleaved",), reason="the docstring gives both caches so"),
    *(
        Restriction(facet=f"{role}_{part}", allowed=(allowed,), reason=_DENSE)
        for role in ("key", "value")
        for part, allowed in (("order", "token_major"), ("pages", "packed"))
    ),
    Restriction(facet="widths", allowed=("equal",), reason="the launcher asserts that key and value have one shape"),
    Restriction(
        facet="row_strides",
        allowed=("dense",),
        reason="memory_pool.py: head and width are assumed contiguous within each token (stride(1) = head_size, stride(2) = 1)",
    ),
    Restriction(facet="cache_dtype", allowed=("same",), reason="memory_pool.py: tokens are cast to the pool's dtype before"),
)

KERNEL = Kernel(
    name="sglang_reshape_and_cache_shuffle",
    op="reshape_and_cache",
    module=__name__,
    launcher="reshape_and_cache",
    domain=DOMAIN,
)
