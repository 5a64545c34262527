"""Keys and values of new tokens, written into the slots of a paged cache of int8 or FP8, each head with a scale of its own.

`reshape_and_cache_per_token_head` is the launcher. A program of `_quantise_heads` reads one head of one token's key and of its
value twice, `TILE` columns at a time: for the largest magnitude, which gives the scale, and for the codes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import DTYPES, PLATFORMS, Tensors, require, require_dense, require_dtypes
from tridiff.kernels.cache_codes import Unsupported, encoded, require_convertible
from tridiff.kernels.cache_writer_arguments import check_rows, check_shape, check_slots

__all__ = ["KERNELS", "Unsupported", "reshape_and_cache_per_token_head", "rounding"]

KERNELS = (
    {
        "name": "reshape_and_cache_per_token_head",
        "op": "reshape_and_cache_per_token_head",
        "launcher": "reshape_and_cache_per_token_head",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

TILE = 128
"""Columns of a program's tile, which holds the heads of most models; wider ones take several."""

LEAST_SCALE = 1e-6
"""Scale of a head of zeros, which has to be divided by."""

RANGES = {
    torch.int8: (-128.0, 127.0),
    torch.float8_e4m3fn: (-448.0, 448.0),
    torch.float8_e4m3fnuz: (-224.0, 224.0),
}
"""The least and the largest code of each cache. 224 leaves the largest number of e4m3fnuz, 240, unused: vLLM's choice."""


def reshape_and_cache_per_token_head(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    k_scale_cache: torch.Tensor,
    v_scale_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    platform: str,
) -> None:
    """Write the key and the value of each token, and the scales of their heads, into position slot % BS of page slot // BS.

    The scale of a head's row x is max(max |x| / Q, 1e-6) with Q the largest code, and x times the scale's reciprocal is rounded
    to the nearest code: of int8, halves away from zero; of FP8, ties to even. All in float32.

    `key`, `value`: [T', H, D] and [T', H, Dv] of one dtype, float32, bfloat16 or float16; finite.
    `key_cache`, `value_cache`: [NB, BS, H, D] and [NB, BS, H, Dv] of one dtype of `RANGES`, written.
    `k_scale_cache`, `v_scale_cache`: [NB, BS, H] float32, written.
    `slot_mapping`: [T] int32 or int64, T <= T'; the rows behind the first T are padding. A token of a negative slot is not
    written. Slots are distinct.
    `platform`: "hip" or "cuda"; the tiles are the same on both.

    The slots, and the last dimension of rows and codes, must be dense. Every other stride is honoured, in 64 bits. Slots are not
    validated: they live on the device.
    Raises ValueError for anything else that the above does not allow, and `Unsupported` where the GPU lacks the FP8 format.
    """
    rows, caches = {"key": key, "value": value}, {"key_cache": key_cache, "value_cache": value_cache}
    check_rows(rows, {**caches, "k_scale_cache": k_scale_cache, "v_scale_cache": v_scale_cache, "slot_mapping": slot_mapping})
    check_slots(slot_mapping, key.shape[0])
    _check_caches(rows, caches, {"k_scale_cache": k_scale_cache, "v_scale_cache": v_scale_cache})
    require(platform in PLATFORMS, f"{platform=}: must be one of {', '.join(map(repr, PLATFORMS))}")
    tokens, heads = slot_mapping.shape[0], key.shape[1]
    if tokens == 0:
        return
    require_convertible(key_cache.dtype)
    _quantise_heads[(tokens, heads)](
        *(key, value, key_cache, value_cache, k_scale_cache, v_scale_cache, slot_mapping),
        *key.stride()[:2],
        *value.stride()[:2],
        *key_cache.stride()[:3],
        *value_cache.stride()[:3],
        *k_scale_cache.stride(),
        *v_scale_cache.stride(),
        *(key_cache.shape[1], key.shape[2], value.shape[2]),
        *RANGES[key_cache.dtype],
        least_scale=LEAST_SCALE,
        tile=TILE,
        num_warps=1,
    )


def rounding(**_: object) -> dict[str, str]:
    """Where the kernel rounds: its divisions, a reciprocal among them, are those of IEEE 754."""
    return {"division": "ieee"}


def _check_caches(rows: Tensors, caches: Tensors, scale_caches: Tensors) -> None:
    """Check what is particular to these caches: their shapes and dtypes; raises ValueError."""
    key_cache = caches["key_cache"]
    require(key_cache.dim() == 4, f"key_cache has {key_cache.dim()} dimensions: must be 4, [pages, positions, heads, columns]")
    pages, page_size, heads = (*key_cache.shape[:2], rows["key"].shape[1])
    require(page_size > 0, "key_cache has pages of 0 tokens: must be at least 1")
    for (row_name, row), (name, cache) in zip(rows.items(), caches.items(), strict=True):
        check_shape(name, cache, (pages, page_size, heads, row.shape[2]), f"{row_name} and key_cache")
        require_dense(name, cache)
    for name, scales in scale_caches.items():
        check_shape(name, scales, (pages, page_size, heads), "key and key_cache")
    require_dtypes(
        {**rows, **caches, **scale_caches},
        {
            **{"key": DTYPES, "value": (rows["key"].dtype,), "key_cache": tuple(RANGES), "value_cache": (key_cache.dtype,)},
            **dict.fromkeys(scale_caches, (torch.float32,)),
        },
    )


@triton.jit(
    do_not_specialize=(
        *("key_token_stride", "key_head_stride", "value_token_stride", "value_head_stride"),
        *("key_page_stride", "key_position_stride", "key_cache_head_stride"),
        *("value_page_stride", "value_position_stride", "value_cache_head_stride"),
        *("k_scale_page_stride", "k_scale_position_stride", "k_scale_head_stride"),
        *("v_scale_page_stride", "v_scale_position_stride", "v_scale_head_stride"),
        *("page_size", "key_width", "value_width"),
    )
)
def _quantise_heads(
    key,
    value,
    key_cache,
    value_cache,
    k_scale_cache,
    v_scale_cache,
    slots,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_page_stride,
    key_position_stride,
    key_cache_head_stride,
    value_page_stride,
    value_position_stride,
    value_cache_head_stride,
    k_scale_page_stride,
    k_scale_position_stride,
    k_scale_head_stride,
    v_scale_page_stride,
    v_scale_position_stride,
    v_scale_head_stride,
    page_size,
    key_width,
    value_width,
    least,
    largest,
    least_scale: tl.constexpr,
    tile: tl.constexpr,
):
    """Grid (tokens, heads): one head of a token's key, and of its value."""
    # Whatever is multiplied by a stride is 64-bit first: caches exceed 2^31 elements.
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    # Division truncates toward zero: of slot -1 it would make a position before the first page.
    if slot >= 0:
        page = slot // page_size
        position = slot % page_size
        row = key + token * key_token_stride + head * key_head_stride
        cell = key_cache + page * key_page_stride + position * key_position_stride + head * key_cache_head_stride
        scale = _scale_of(row, key_width, largest, least_scale, tile)
        tl.store(
            k_scale_cache + page * k_scale_page_stride + position * k_scale_position_stride + head * k_scale_head_stride, scale
        )
        _write_codes(row, cell, key_width, scale, least, largest, tile)
        row = value + token * value_token_stride + head * value_head_stride
        cell = value_cache + page * value_page_stride + position * value_position_stride + head * value_cache_head_stride
        scale = _scale_of(row, value_width, largest, least_scale, tile)
        tl.store(
            v_scale_cache + page * v_scale_page_stride + position * v_scale_position_stride + head * v_scale_head_stride, scale
        )
        _write_codes(row, cell, value_width, scale, least, largest, tile)


@triton.jit
def _scale_of(row, width, largest, least_scale: tl.constexpr, tile: tl.constexpr):
    """What the `width` numbers of `row` are divided by, so that the largest of them becomes the largest code."""
    peaks = tl.zeros([tile], tl.float32)
    for start in range(0, width, tile):
        peaks = tl.maximum(peaks, tl.abs(_load_row(row, start + tl.arange(0, tile), width)))
    return tl.maximum(tl.div_rn(tl.max(peaks, axis=0), largest), least_scale)


@triton.jit
def _write_codes(row, cell, width, scale, least, largest, tile: tl.constexpr):
    """Write the codes of the `width` numbers of `row` to `cell`."""
    reciprocal = tl.div_rn(1.0, scale)
    for start in range(0, width, tile):
        columns = start + tl.arange(0, tile)
        scaled = _load_row(row, columns, width) * reciprocal
        clamped = tl.where(scaled < least, least, tl.where(scaled > largest, largest, scaled))
        tl.store(cell + columns, _codes(clamped, cell.dtype.element_ty), mask=columns < width)


@triton.jit
def _load_row(row, columns, width):
    """Those `columns` of a row in float32, 0 behind the last."""
    return tl.load(row + columns, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def _codes(numbers, element: tl.constexpr):
    """The codes of `element`, int8 or FP8, nearest to `numbers`."""
    if element.is_fp8():
        codes = encoded(numbers, element)
    else:
        # Not the whole part of numbers +- 0.5: next to a half that sum itself is rounded, up.
        whole = numbers.to(tl.int32)
        rest = numbers - whole.to(tl.float32)
        codes = (whole + (rest >= 0.5).to(tl.int32) - (rest <= -0.5).to(tl.int32)).to(tl.int8)
    return codes
