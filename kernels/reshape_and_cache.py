"""Keys and values of new tokens, written into the slots of a paged KV cache, in each of the layouts that readers want.

`reshape_and_cache` is the launcher. A program of `_write_tokens` moves `TILE` elements of one token's key and as many of its
value, all heads laid end to end. It knows no layouts: an *axis*, of positions in a page or of columns in a head, is cut into
packs, and entry i of it lies (i // pack) * step + i % pack elements behind the first. That is how the x of head-major keys and
the packs of interleaved values are addressed; elsewhere a pack is 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import require
from tridiff.kernels.cache_codes import FP8_DTYPES, Unsupported, as_moved, converted, largest_of, load_scale, require_convertible
from tridiff.kernels.cache_writer_arguments import check_shape, check_writer

__all__ = ["KERNELS", "Unsupported", "reshape_and_cache", "rounding"]

KERNELS = (
    {
        "name": "reshape_and_cache",
        "op": "reshape_and_cache",
        "launcher": "reshape_and_cache",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

TILE = 1024
"""Elements of a program's tile: 8 a thread of four warps of 32, 16 bytes in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the elements of a cache lie, in elements: page_step * page + head_step * head, and what both axes add.

    Position i of a page adds (i // position_pack) * position_step + i % position_pack, and a column of a head likewise.
    """

    page_step: int
    head_step: int
    position_pack: int
    position_step: int
    column_pack: int
    column_step: int

    @property
    def steps(self) -> tuple[int, ...]:
        """As arguments of `_write_tokens`."""
        axes = (self.position_pack, self.position_step, self.column_pack, self.column_step)
        return (self.page_step, self.head_step, *axes)


def reshape_and_cache(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    interleaved: bool,
    platform: str,
) -> None:
    """Write the key and the value of each token into its slot: position slot % BS of page slot // BS.

    `key`, `value`: [T', H, D] and [T', H, Dv] of one dtype: float32, bfloat16 or float16, or the FP8 format of the caches.
    `key_cache`, `value_cache`: of one dtype, float32, bfloat16, float16, or an FP8 format, written, in one of three layouts:
    - [NB, BS, H, D] and [NB, BS, H, Dv];
    - head-major: [NB, H, D / x, BS, x] and [NB, H, Dv, BS];
    - head-major and `interleaved`: the values of a head in a page lie in packs of x tokens, [BS / x, Dv, x], in the memory of the
      tensor's last two dimensions, which are dense.
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
    scales = {"k_scale": k_scale, "v_scale": v_scale}
    check_writer(
        {"key": key, "value": value}, {"key_cache": key_cache, "value_cache": value_cache}, slot_mapping, scales, platform
    )
    _check_caches(key, value, key_cache, value_cache, interleaved=interleaved)
    tokens, (heads, key_width), value_width = slot_mapping.shape[0], key.shape[1:], value.shape[2]
    if tokens == 0:
        return
    is_coded = key_cache.dtype in FP8_DTYPES and key.dtype != key_cache.dtype
    largest = largest_of(key_cache.dtype)
    key_layout, value_layout = layouts_of(key_cache, value_cache, interleaved=interleaved)
    if is_coded:
        require_convertible(key_cache.dtype)
    else:
        key, value, key_cache, value_cache = map(as_moved, (key, value, key_cache, value_cache))
    _write_tokens[(tokens, triton.cdiv(heads * max(key_width, value_width), TILE))](
        *(key, value, key_cache, value_cache, slot_mapping),
        *((k_scale, v_scale) if is_coded else (None, None)),
        *key.stride()[:2],
        *value.stride()[:2],
        *key_layout.steps,
        *value_layout.steps,
        *(_page_size(key_cache), heads, key_width, value_width, largest),
        tile=TILE,
        num_warps=4,
    )


def rounding(**_: object) -> dict[str, str]:
    """Where the kernel rounds: it divides as IEEE 754 says."""
    return {"division": "ieee"}


def layouts_of(key_cache: torch.Tensor, value_cache: torch.Tensor, *, interleaved: bool) -> tuple[Layout, Layout]:
    """Layouts of both caches, each by strides of its own."""
    if key_cache.dim() == 4:
        return _tokens_first(key_cache), _tokens_first(value_cache)
    pack = key_cache.shape[4]
    pages, heads, packs, positions = key_cache.stride()[:4]
    keys = Layout(
        page_step=pages,
        head_step=heads,
        position_pack=1,
        position_step=positions,
        column_pack=pack,
        column_step=packs,
    )
    pages, heads, columns = value_cache.stride()[:3]
    values = Layout(
        page_step=pages,
        head_step=heads,
        position_pack=pack if interleaved else 1,
        position_step=value_cache.shape[2] * pack if interleaved else 1,
        column_pack=1,
        column_step=pack if interleaved else columns,
    )
    return keys, values


def _tokens_first(cache: torch.Tensor) -> Layout:
    """Layout of a cache [NB, BS, H, D]."""
    pages, positions, heads = cache.stride()[:3]
    return Layout(
        page_step=pages,
        head_step=heads,
        position_pack=1,
        position_step=positions,
        column_pack=1,
        column_step=1,
    )


def _page_size(key_cache: torch.Tensor) -> int:
    """Tokens of a page."""
    return int(key_cache.shape[1 if key_cache.dim() == 4 else 3])


def _check_caches(
    key: torch.Tensor, value: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, *, interleaved: bool
) -> None:
    """Check the shapes of both caches, and where packs ask for more; raises ValueError."""
    heads, key_width, value_width = *key.shape[1:], value.shape[2]
    dims = key_cache.dim()
    require(dims in {4, 5}, f"key_cache has {dims} dimensions: must be 4, or 5 where heads come first")
    pages, page_size = key_cache.shape[0], _page_size(key_cache)
    require(page_size > 0, "key_cache has pages of 0 tokens: must be at least 1")
    if dims == 4:
        require(not interleaved, "interleaved with a key_cache of 4 dimensions: must be of 5, where heads come first")
        check_shape("key_cache", key_cache, (pages, page_size, heads, key_width), "key")
        check_shape("value_cache", value_cache, (pages, page_size, heads, value_width), "value and key_cache")
        return
    pack = key_cache.shape[4]
    require(pack > 0 and key_width % pack == 0, f"key_cache has packs of {pack} columns: must divide the {key_width} of key")
    check_shape("key_cache", key_cache, (pages, heads, key_width // pack, page_size, pack), "key")
    check_shape("value_cache", value_cache, (pages, heads, value_width, page_size), "value and key_cache")
    if interleaved:
        _check_packs(value_cache, pack)


def _check_packs(value_cache: torch.Tensor, pack: int) -> None:
    """Check that the positions of interleaved values can be cut into packs; raises ValueError."""
    width, page_size = value_cache.shape[2:]
    require(page_size % pack == 0, f"interleaved with pages of {page_size} tokens: must be a multiple of the packs of {pack}")
    step = value_cache.stride(2)
    require(step == page_size or width == 1, f"value_cache has stride {step} of columns: must be {page_size} when interleaved")


@triton.jit(
    do_not_specialize=(
        *("key_token_stride", "key_head_stride", "value_token_stride", "value_head_stride"),
        *("key_page_step", "key_head_step", "key_position_pack", "key_position_step", "key_column_pack", "key_column_step"),
        *("value_page_step", "value_head_step", "value_position_pack", "value_position_step"),
        *("value_column_pack", "value_column_step", "page_size", "heads", "key_width", "value_width"),
    )
)
def _write_tokens(
    key,
    value,
    key_cache,
    value_cache,
    slots,
    k_scale,
    v_scale,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_page_step,
    key_head_step,
    key_position_pack,
    key_position_step,
    key_column_pack,
    key_column_step,
    value_page_step,
    value_head_step,
    value_position_pack,
    value_position_step,
    value_column_pack,
    value_column_step,
    page_size,
    heads,
    key_width,
    value_width,
    largest,
    tile: tl.constexpr,
):
    """Grid (tokens, tiles of the wider of key and value): `tile` elements of a token's key and of its value."""
    # Whatever is multiplied by a stride or a step is 64-bit first: caches exceed 2^31 elements.
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    # Division truncates toward zero: of slot -1 it would make a position before the first page.
    if slot >= 0:
        page = slot // page_size
        position = slot % page_size
        element = tl.program_id(1) * tile + tl.arange(0, tile)
        cell = key_cache + page * key_page_step + _along(position, key_position_pack, key_position_step)
        _write(
            key + token * key_token_stride,
            key_head_stride,
            cell,
            key_head_step,
            key_column_pack,
            key_column_step,
            element,
            heads,
            key_width,
            load_scale(k_scale),
            largest,
        )
        cell = value_cache + page * value_page_step + _along(position, value_position_pack, value_position_step)
        _write(
            value + token * value_token_stride,
            value_head_stride,
            cell,
            value_head_step,
            value_column_pack,
            value_column_step,
            element,
            heads,
            value_width,
            load_scale(v_scale),
            largest,
        )


@triton.jit
def _along(entry, pack, step):
    """Elements from the first entry of an axis to each `entry`, in 64 bits, for packs of so many, that far apart."""
    return (entry // pack).to(tl.int64) * step + entry % pack


@triton.jit
def _write(row, row_head_stride, cell, head_step, column_pack, column_step, element, heads, width, scale, largest):
    """Move those of a token's elements, `heads` of `width` columns end to end, from `row` to `cell`, converted on the way."""
    head = (element // width).to(tl.int64)
    column = element % width
    live = element < heads * width
    numbers = tl.load(row + head * row_head_stride + column, mask=live, other=0.0)
    stored = converted(numbers, scale, largest, cell.dtype.element_ty)
    tl.store(cell + head * head_step + _along(column, column_pack, column_step), stored, mask=live)
