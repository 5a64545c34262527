"""Decode attention over head-major paged caches of any page size: sequences with one query token, MHA and GQA, FP8 too.

`paged_decode` is the launcher, `choose_tiles` its tile rules. A program of `_decode` computes up to 16 query heads of one
KV head for one sequence, in one pass over its keys: an online softmax over tiles of `block_n` keys. The tile has nothing to do
with the page: each key looks up the page that holds it, so a tile may hold several pages, or the end of one and the start of
the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import PLATFORMS, require
from tridiff.kernels.paged_arguments import FP8_DTYPES, Unsupported, check_numbers, check_tensors, compiles_for, refuse_formats

__all__ = ["KERNELS", "Tiles", "Unsupported", "choose_tiles", "paged_decode", "rounding"]

KERNELS = (
    {
        "name": "paged_decode",
        "op": "paged_decode",
        "launcher": "paged_decode",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

HEADS = 16
"""Query heads of a program: matrix instructions have no fewer rows."""

TILE_BYTES = 2**14
"""Of a tile of K or V, dequantised, unless 16 keys take more, the fewest that a dot on NVIDIA adds up. On AMD one operand at a
time is staged, in 64 KiB of LDS; on "cuda" the query, weights, and two stages of K and V with their FP8 codes stay below 99 KiB,
the shared memory of sm_86."""

MOST_KEYS = 32
"""Of a tile: where it holds more a short sequence leaves most of it empty."""


NO_WINDOW = 2**31 - 1
"""More keys than a sequence has."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tile sizes, all powers of two, and the launch options: `block_h` query heads, `block_n` keys, `block_d` columns."""

    block_h: int
    block_n: int
    block_d: int
    num_warps: int
    num_stages: int


def paged_decode(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    output: torch.Tensor,
    sm_scale: float,
    platform: str,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sliding_window: int = 0,
    sinks: torch.Tensor | None = None,
    output_scale: torch.Tensor | None = None,
    interleaved: bool = False,
) -> None:
    """Attend from the newest token of each sequence that has one query token to its keys; write its row of `output`.

    Sequence b has the query rows from query_start_loc[b] to query_start_loc[b + 1]. Where that is one row, its position is
    n - 1 with n = seq_lens[b], and with s_t = sm_scale <q, k_t> + slope_h (t - (n - 1)) for each t < n its output is
    sum exp(s_t) v_t / (exp(sink_h) + sum exp(s_t)), 0 for n = 0. Sequences of more queries, or none, are left alone: neither
    their queries nor their keys are read, and their output is not written. Query head h reads KV head h // (Hq // Hkv).

    `query`: [T, Hq, D] float32, bfloat16 or float16.
    `key_cache`, `value_cache`: [NB, Hkv, D/x, BS, x] and [NB, Hkv, D, BS], x = 16 bytes of elements; both of the query's dtype,
    or both of one of `FP8_DTYPES`. Pages may have any size.
    `block_table`: [B, W] int32; entry i of a row is the page of its tokens [i * BS, (i + 1) * BS). Only entries, and slots of
    their pages, that hold keys to attend to are read.
    `query_start_loc`: [B + 1] int32. `seq_lens`: [B] int32, at most W * BS.
    `output`: [T, Hq, D] of the query's dtype or float32; of FP8 with an `output_scale`, which divides the result, and saturated.
    `platform`: "hip" or "cuda", whose tile rules apply.
    `k_scale`, `v_scale`, `output_scale`: float32 [] or [1], the first two None for 1. An element of an FP8 cache counts as its
    product with the scale in float32, rounded to the query's dtype. Not read for other caches.
    `alibi_slopes`, `sinks`: [Hq] float32, or None for none; a sink of -inf is none.
    `sliding_window`: how many of the newest keys count, 0 for all of them.
    `interleaved`: values lie in packs of x tokens: inside of a head of a page column d of token t is element
    (t // x) * D * x + d * x + t % x. BS is then a multiple of x, and the head dense.

    The last dimension of every tensor must be dense. Every other stride is honoured, in 64 bits. The grid depends on B, Hq
    and Hkv alone, never on lengths, so that a captured graph can be replayed; keys are not split between programs.
    Lengths and page ids are not validated: they live on the device. Raises ValueError for anything else that the above does not
    allow, and `Unsupported` where the GPU lacks an FP8 format.
    """
    check_tensors(
        {
            **{"query": query, "key_cache": key_cache, "value_cache": value_cache, "block_table": block_table},
            **{"query_start_loc": query_start_loc, "seq_lens": seq_lens, "output": output, "k_scale": k_scale},
            **{"v_scale": v_scale, "alibi_slopes": alibi_slopes, "sinks": sinks, "output_scale": output_scale},
        },
        interleaved=interleaved,
    )
    check_numbers(sm_scale, sliding_window, platform)
    heads, head_dim = query.shape[1:]
    kv_heads, page_size, pack = key_cache.shape[1], key_cache.shape[3], key_cache.shape[4]
    sequences = seq_lens.shape[0]
    group = heads // kv_heads
    is_fp8 = key_cache.dtype in FP8_DTYPES
    tiles = choose_tiles(platform=platform, dtype=query.dtype, head_dim=head_dim)
    if sequences == 0:
        return
    refuse_formats(platform, key_cache, output)
    _decode[(sequences, kv_heads * triton.cdiv(group, tiles.block_h))](
        *(query, key_cache, value_cache, block_table, query_start_loc, seq_lens, output),
        *((k_scale, v_scale) if is_fp8 else (None, None)),
        *(alibi_slopes, sinks, output_scale),
        *query.stride()[:2],
        *key_cache.stride()[:3],
        *value_cache.stride()[:3],
        block_table.stride(0),
        *output.stride()[:2],
        *(sm_scale, sliding_window or NO_WINDOW, group, head_dim, page_size),
        key_slot_stride=key_cache.stride(3),
        pack=pack,
        interleaved=interleaved,
        largest=torch.finfo(output.dtype).max if output.dtype in FP8_DTYPES else 0.0,
        block_h=tiles.block_h,
        block_n=tiles.block_n,
        block_d=tiles.block_d,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **_matrix_options(platform),
    )


def rounding(*, query: torch.Tensor, platform: str, **_: object) -> dict[str, str | int]:
    """Where the kernel rounds, for the launcher's keyword arguments: what the reference and its error bound depend on."""
    tiles = choose_tiles(platform=platform, dtype=query.dtype, head_dim=query.shape[2])
    dtype = str(query.dtype).removeprefix("torch.")
    return {"p_dtype": dtype, "dequantised": dtype, "block_n": tiles.block_n, "num_kv_splits": 1, "dot_precision": "ieee"}


def choose_tiles(*, platform: str, dtype: torch.dtype, head_dim: int) -> Tiles:
    """Tiles for heads of `head_dim` columns, multiplied in `dtype`.

    The page size is none of its arguments: pages of hybrid models have up to 2096 tokens, or 544, which is no power of two.
    `platform` is "hip" or "cuda"; ValueError otherwise.
    """
    require(platform in PLATFORMS, f"{platform=}: must be one of {', '.join(map(repr, PLATFORMS))}")
    block_d = max(16, int(triton.next_power_of_2(head_dim)))
    block_n = max(16, min(MOST_KEYS, TILE_BYTES // (block_d * dtype.itemsize)))
    return Tiles(block_h=HEADS, block_n=block_n, block_d=block_d, num_warps=4, num_stages=1 if platform == "hip" else 2)


def _matrix_options(platform: str) -> dict[str, int]:
    """HIP's options for matrix instructions: 16 x 16 ones, two of them per load from LDS where the chip has a choice."""
    if platform != "hip" or not compiles_for("hip"):
        return {}
    deprecated = triton.runtime.driver.active.get_current_target().arch == "gfx950"
    return {"waves_per_eu": 1, "matrix_instr_nonkdim": 16, "kpack": 1 if deprecated else 2}


@triton.jit(
    do_not_specialize=(
        *("k_scale", "v_scale", "alibi_slopes", "sinks", "output_scale", "query_row_stride", "query_head_stride"),
        *("table_row_stride", "output_row_stride", "output_head_stride", "window", "group"),
    )
)
def _decode(
    query,
    keys,
    values,
    block_table,
    query_start_loc,
    seq_lens,
    output,
    k_scale,
    v_scale,
    alibi_slopes,
    sinks,
    output_scale,
    query_row_stride,
    query_head_stride,
    key_page_stride,
    key_head_stride,
    key_chunk_stride,
    value_page_stride,
    value_head_stride,
    value_column_stride,
    table_row_stride,
    output_row_stride,
    output_head_stride,
    sm_scale,
    window,
    group,
    head_dim,
    page_size,
    key_slot_stride: tl.constexpr,
    pack: tl.constexpr,
    interleaved: tl.constexpr,
    largest: tl.constexpr,
    block_h: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Grid (sequences, KV heads * head blocks per KV head): online softmax over the keys of a sequence with one query."""
    # Whatever is multiplied by a stride is 64-bit first: caches exceed 2^31 elements.
    sequence = tl.program_id(0).to(tl.int64)
    blocks_per_kv_head = tl.cdiv(group, block_h)
    kv_head = (tl.program_id(1) // blocks_per_kv_head).to(tl.int64)
    row = tl.load(query_start_loc + sequence).to(tl.int64)
    if tl.load(query_start_loc + sequence + 1) - row != 1:
        return
    seq_len = tl.load(seq_lens + sequence)

    members = (tl.program_id(1) % blocks_per_kv_head) * block_h + tl.arange(0, block_h)
    head_live = members < group
    head = kv_head * group + members
    dims = tl.arange(0, block_d)
    dim_live = dims < head_dim
    live_rows = head_live[:, None] & dim_live[None, :]
    query_rows = query + row * query_row_stride + head * query_head_stride
    query_tile = tl.load(query_rows[:, None] + dims[None, :], mask=live_rows, other=0.0)
    key_scale, value_scale = _load_scale(k_scale), _load_scale(v_scale)
    slopes = tl.load(alibi_slopes + head, mask=head_live, other=0.0) if alibi_slopes is not None else None

    table_row = block_table + sequence * table_row_stride
    key_columns = keys + kv_head * key_head_stride + (dims // pack).to(tl.int64) * key_chunk_stride + dims % pack
    value_steps = dims * pack if interleaved else dims.to(tl.int64) * value_column_stride
    value_columns = values + kv_head * value_head_stride + value_steps

    # A sink is a key without a value. Where there is none its weight, 1 relative to itself, is rescaled to 0 by the first tile.
    peak = _load_sinks(sinks, head, head_live)
    total = tl.full([block_h], 1.0, tl.float32)
    acc = tl.zeros([block_h, block_d], tl.float32)
    oldest = tl.maximum(seq_len - window, 0)
    for start in range(oldest // block_n * block_n, seq_len, block_n):
        tokens = start + tl.arange(0, block_n)
        live = (tokens >= oldest) & (tokens < seq_len)
        page = tl.load(table_row + tokens // page_size, mask=live, other=0).to(tl.int64)
        slot = (tokens % page_size).to(tl.int64)
        tile_live = live[:, None] & dim_live[None, :]
        key_rows = page * key_page_stride + slot * key_slot_stride
        value_rows = page * value_page_stride + (_in_packs(slot, head_dim, pack) if interleaved else slot)
        key_tile = _load_cached(key_columns, key_rows, tile_live, key_scale, query_tile.dtype)
        value_tile = _load_cached(value_columns, value_rows, tile_live, value_scale, query_tile.dtype)

        scores = sm_scale * tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee")
        if slopes is not None:
            scores += slopes[:, None] * (tokens - (seq_len - 1))[None, :].to(tl.float32)
        scores = tl.where(live[None, :], scores, float("-inf"))
        # A tile holds at least one live key, so new_peak is finite and neither exponent below is -inf - -inf.
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_peak[:, None])
        rescale = tl.exp(peak - new_peak)
        total = total * rescale + tl.sum(weights, axis=1)
        acc = acc * rescale[:, None] + tl.dot(weights.to(value_tile.dtype), value_tile, input_precision="ieee")
        peak = new_peak

    # The total is at least 1: the largest weight, or the sink's. Without keys 0 is divided by it.
    result = acc / total[:, None]
    if output_scale is not None:
        result = _saturated(result / tl.load(output_scale), largest)
    output_rows = output + row * output_row_stride + head * output_head_stride
    tl.store(output_rows[:, None] + dims[None, :], result, mask=live_rows)


@triton.jit
def _load_scale(scale):
    """The one element behind `scale`, or 1 for None."""
    return tl.load(scale) if scale is not None else 1.0


@triton.jit
def _load_sinks(sinks, head, live):
    """The sinks of heads, -inf where there are none."""
    none = tl.full(head.shape, float("-inf"), tl.float32)
    return tl.load(sinks + head, mask=live, other=float("-inf")) if sinks is not None else none


@triton.jit
def _in_packs(slot, head_dim, pack: tl.constexpr):
    """Where a slot begins inside of a head of interleaved values: packs of `pack` slots by all columns."""
    return slot // pack * pack * head_dim + slot % pack


@triton.jit
def _load_cached(columns, rows, live, scale, dtype: tl.constexpr):
    """A tile of K or V, [keys, columns]; FP8 codes are multiplied by `scale` in float32 and rounded to `dtype`."""
    tile = tl.load(columns[None, :] + rows[:, None], mask=live, other=0.0)
    if tile.dtype.is_fp8():
        tile = (tile.to(tl.float32) * scale).to(dtype)
    return tile


@triton.jit
def _saturated(numbers, largest):
    """`numbers` within +-`largest`; NaN stays NaN."""
    return tl.where(numbers > largest, largest, tl.where(numbers < -largest, -largest, numbers))
