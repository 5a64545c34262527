"""Latent vectors and rotary parts of new tokens, written side by side into the slots of a paged cache of latent attention (MLA).

`concat_and_cache_mla` is the launcher. A program of `_write_latents` writes `TILE` elements of one token's slot.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import require
from tridiff.kernels.cache_codes import FP8_DTYPES, Unsupported, as_moved, converted, largest_of, load_scale, require_convertible
from tridiff.kernels.cache_writer_arguments import check_shape, check_writer

__all__ = ["KERNELS", "Unsupported", "concat_and_cache_mla", "rounding"]

KERNELS = (
    {
        "name": "concat_and_cache_mla",
        "op": "concat_and_cache_mla",
        "launcher": "concat_and_cache_mla",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

TILE = 1024
"""Elements of a program's tile, which holds a whole slot of the known models, 576 elements at most."""


def concat_and_cache_mla(
    *,
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    scale: torch.Tensor | None,
    platform: str,
) -> None:
    """Write the latent vector and the rotary part of each token into its slot: position slot % BS of page slot // BS.

    `kv_c`, `k_pe`: [T', R] and [T', P] of one dtype: float32, bfloat16 or float16, or the FP8 format of the cache.
    `kv_cache`: [NB, BS, R + P] of float32, bfloat16, float16, or an FP8 format, written.
    `slot_mapping`: [T] int32 or int64, T <= T'; the rows behind the first T are padding. A token of a negative slot is not
    written. Slots are distinct.
    `scale`: float32 [] or [1], or None for 1, of both parts. What is stored in FP8 is x / scale, no larger than the largest
    number of the format, rounded to nearest even; NaN stays NaN. FP8 rows are stored as they are, and neither they nor other
    caches read a scale.
    `platform`: "hip" or "cuda"; the tiles are the same on both.

    The slots, and the last dimension of rows and caches, must be dense. Every other stride is honoured, in 64 bits. Slots are not
    validated: they live on the device.
    Raises ValueError for anything else that the above does not allow, and `Unsupported` where the GPU lacks the FP8 format.
    """
    check_writer({"kv_c": kv_c, "k_pe": k_pe}, {"kv_cache": kv_cache}, slot_mapping, {"scale": scale}, platform, dims=2)
    require(kv_cache.dim() == 3, f"kv_cache has {kv_cache.dim()} dimensions: must be 3, [pages, positions, columns]")
    tokens, latent, rotary = slot_mapping.shape[0], kv_c.shape[1], k_pe.shape[1]
    pages, page_size = kv_cache.shape[:2]
    require(page_size > 0, "kv_cache has pages of 0 tokens: must be at least 1")
    check_shape("kv_cache", kv_cache, (pages, page_size, latent + rotary), "kv_c and k_pe")
    if tokens == 0:
        return
    largest = largest_of(kv_cache.dtype)
    is_coded = kv_cache.dtype in FP8_DTYPES and kv_c.dtype != kv_cache.dtype
    if is_coded:
        require_convertible(kv_cache.dtype)
    else:
        kv_c, k_pe, kv_cache = map(as_moved, (kv_c, k_pe, kv_cache))
    _write_latents[(tokens, triton.cdiv(latent + rotary, TILE))](
        *(kv_c, k_pe, kv_cache, slot_mapping, scale if is_coded else None),
        *(kv_c.stride(0), k_pe.stride(0)),
        *kv_cache.stride()[:2],
        *(page_size, latent, rotary, largest),
        tile=TILE,
        num_warps=4,
    )


def rounding(**_: object) -> dict[str, str]:
    """Where the kernel rounds: it divides as IEEE 754 says."""
    return {"division": "ieee"}


@triton.jit(
    do_not_specialize=(
        *("latent_stride", "rotary_stride", "page_stride", "position_stride"),
        *("page_size", "latent", "rotary"),
    )
)
def _write_latents(
    kv_c,
    k_pe,
    kv_cache,
    slots,
    scale,
    latent_stride,
    rotary_stride,
    page_stride,
    position_stride,
    page_size,
    latent,
    rotary,
    largest,
    tile: tl.constexpr,
):
    """Grid (tokens, tiles of a slot): `tile` elements of a token's slot, the latent vector and then the rotary part."""
    # Whatever is multiplied by a stride is 64-bit first: caches exceed 2^31 elements.
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    # Division truncates toward zero: of slot -1 it would make a position before the first page.
    if slot >= 0:
        page = slot // page_size
        position = slot % page_size
        column = tl.program_id(1) * tile + tl.arange(0, tile)
        is_latent = column < latent
        is_rotary = (column >= latent) & (column < latent + rotary)
        from_latent = tl.load(kv_c + token * latent_stride + column, mask=is_latent, other=0.0)
        from_rotary = tl.load(k_pe + token * rotary_stride + (column - latent), mask=is_rotary, other=0.0)
        numbers = tl.where(is_latent, from_latent, from_rotary)
        codes = converted(numbers, load_scale(scale), largest, kv_cache.dtype.element_ty)
        tl.store(kv_cache + page * page_stride + position * position_stride + column, codes, mask=is_latent | is_rotary)
