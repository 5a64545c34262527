"""Keys and values of new tokens whose widths differ, written side by side into the slots of one paged cache.

`reshape_and_cache_diffkv` is the launcher. A program of `_write_heads` writes `TILE` elements of one token's slot, all heads laid
end to end, of which each is its key followed by its value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import require
from tridiff.kernels.cache_codes import FP8_DTYPES, Unsupported, as_moved, converted, largest_of, load_scale, require_convertible
from tridiff.kernels.cache_writer_arguments import check_shape, check_writer

__all__ = ["KERNELS", "Unsupported", "reshape_and_cache_diffkv", "rounding"]

KERNELS = (
    {
        "name": "reshape_and_cache_diffkv",
        "op": "reshape_and_cache_diffkv",
        "launcher": "reshape_and_cache_diffkv",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

TILE = 1024
"""Elements of a program's tile: 8 a thread of four warps of 32, 16 bytes in 16 bits."""


def reshape_and_cache_diffkv(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    platform: str,
) -> None:
    """Write the key and the value of each token into its slot: position slot % BS of page slot // BS.

    `key`, `value`: [T', H, Dk] and [T', H, Dv] of one dtype: float32, bfloat16 or float16, or the FP8 format of the cache.
    `kv_cache`: [NB, BS, H, Dk + Dv] of float32, bfloat16, float16, or an FP8 format, written: a head's key, then its value.
    `slot_mapping`: [T] int32 or int64, T <= T'; the rows behind the first T are padding. A token of a negative slot is not
    written. Slots are distinct.
    `k_scale`, `v_scale`: float32 [] or [1], or None for 1. What is stored in FP8 is x / scale, no larger than the largest number
    of the format, rounded to nearest even; NaN stays NaN. FP8 rows are stored as they are, and neither they nor other caches
    read a scale.
    `platform`: "hip" or "cuda"; the tiles are the same on both.

    The slots, and the last dimension of rows and caches, must be dense. Every other stride is honoured, in 64 bits. Slots are not
    validated: they live on the device.
    Raises ValueError for anything else that the above does not allow, and `Unsupported` where the GPU lacks the FP8 format.
    """
    check_writer(
        {"key": key, "value": value}, {"kv_cache": kv_cache}, slot_mapping, {"k_scale": k_scale, "v_scale": v_scale}, platform
    )
    tokens, (heads, key_width), value_width = slot_mapping.shape[0], key.shape[1:], value.shape[2]
    dims = kv_cache.dim()
    require(dims == 4, f"kv_cache has {dims} dimensions: must be 4, [pages, positions, heads, columns]")
    pages, page_size = kv_cache.shape[:2]
    require(page_size > 0, "kv_cache has pages of 0 tokens: must be at least 1")
    check_shape("kv_cache", kv_cache, (pages, page_size, heads, key_width + value_width), "key and value")
    if tokens == 0:
        return
    largest = largest_of(kv_cache.dtype)
    is_coded = kv_cache.dtype in FP8_DTYPES and key.dtype != kv_cache.dtype
    if is_coded:
        require_convertible(kv_cache.dtype)
    else:
        key, value, kv_cache = map(as_moved, (key, value, kv_cache))
    _write_heads[(tokens, triton.cdiv(heads * (key_width + value_width), TILE))](
        *(key, value, kv_cache, slot_mapping),
        *((k_scale, v_scale) if is_coded else (None, None)),
        *key.stride()[:2],
        *value.stride()[:2],
        *kv_cache.stride()[:3],
        *(page_size, heads, key_width, value_width, largest),
        tile=TILE,
        num_warps=4,
    )


def rounding(**_: object) -> dict[str, str]:
    """Where the kernel rounds: it divides as IEEE 754 says."""
    return {"division": "ieee"}


@triton.jit(
    do_not_specialize=(
        *("key_token_stride", "key_head_stride", "value_token_stride", "value_head_stride"),
        *("page_stride", "position_stride", "head_stride", "page_size", "heads", "key_width", "value_width"),
    )
)
def _write_heads(
    key,
    value,
    kv_cache,
    slots,
    k_scale,
    v_scale,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    page_stride,
    position_stride,
    head_stride,
    page_size,
    heads,
    key_width,
    value_width,
    largest,
    tile: tl.constexpr,
):
    """Grid (tokens, tiles of a slot): `tile` elements of a token's slot, keys and values of its heads in turn."""
    # Whatever is multiplied by a stride is 64-bit first: caches exceed 2^31 elements.
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    # Division truncates toward zero: of slot -1 it would make a position before the first page.
    if slot >= 0:
        page = slot // page_size
        position = slot % page_size
        element = tl.program_id(1) * tile + tl.arange(0, tile)
        width = key_width + value_width
        head = (element // width).to(tl.int64)
        column = element % width
        live = element < heads * width
        is_key = column < key_width
        keys = key + token * key_token_stride + head * key_head_stride
        values = value + token * value_token_stride + head * value_head_stride
        from_key = tl.load(keys + column, mask=live & is_key, other=0.0)
        from_value = tl.load(values + (column - key_width), mask=live & (column >= key_width), other=0.0)
        numbers = tl.where(is_key, from_key, from_value)
        scale = tl.where(is_key, load_scale(k_scale), load_scale(v_scale))
        cells = kv_cache + page * page_stride + position * position_stride + head * head_stride + column
        tl.store(cells, converted(numbers, scale, largest, kv_cache.dtype.element_ty), mask=live)
