"""Prefix prefill: attention of the chunks of a batch over a paged, head-major KV cache and over the chunks themselves.

`prefix_prefill` is the launcher, `choose_tiles` its tile rules. A program works on one query head and `block_m` queries of one
sequence, and runs two loops over tiles of `block_n` keys with one online softmax: over the context, which lies in the cache,
and over the keys of the chunk, which are rows beside the query. Where these are not given, the chunk lies in the cache as well,
behind its context, and the first loop has it all.

Tiles of keys have nothing to do with pages: page and position are computed for every token, so a tile may straddle pages of any
size, such as the 544 tokens of hybrid models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import PLATFORMS, require
from tridiff.kernels.paged_arguments import FP8_DTYPES, Unsupported, check_numbers, check_tensors, compiles_for, refuse_formats

__all__ = ["KERNELS", "Tiles", "Unsupported", "choose_tiles", "prefix_prefill", "rounding"]

KERNELS = (
    {
        "name": "prefix_prefill",
        "op": "prefix_prefill",
        "launcher": "prefix_prefill",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

NO_WINDOW = 2**31 - 1
"""Tokens that no two positions are apart."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tile sizes, all powers of two: `block_m` queries, `block_n` keys, `block_d` columns of either."""

    block_m: int
    block_n: int
    block_d: int
    num_warps: int


def prefix_prefill(
    *,
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    output: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    max_query_len: int,
    sm_scale: float,
    platform: str,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sliding_window: int = 0,
    sinks: torch.Tensor | None = None,
    output_scale: torch.Tensor | None = None,
    interleaved: bool = False,
    causal: bool = True,
    skip_decode: bool = False,
) -> None:
    """Attend from the queries of each sequence to its context and to its chunk; write their rows of `output`.

    Sequence b has the queries of rows query_start_loc[b] to query_start_loc[b + 1]; its last seq_lens[b] - (their number) keys
    but those are the context. Query i has position context + i. With s_t = sm_scale <q, k_t>, output = softmax(s) V over the
    keys that the query sees; 0 where it sees none. Query head h reads KV head h // (Hq // Hkv).

    `query`: [T, Hq, D] float32, bfloat16 or float16; T may exceed the rows of all sequences.
    `key`, `value`: [T, Hkv, D] of the query's dtype, the chunks' own; or both None: they lie in the cache, behind the context.
    `output`: [T, Hq, D] of the query's dtype or float32; of FP8 with an `output_scale`. Only rows of queries are written.
    `key_cache`: [NB, Hkv, D / x, page size, x] with x = 16 bytes of elements; `value_cache`: [NB, Hkv, D, page size], with
    `interleaved` in packs: element (d, t) of a head of a page, which must be dense, is number (t // x) D x + d x + t % x of it.
    Both of the query's dtype or of one of `FP8_DTYPES`. Every stride but the last is honoured, in 64 bits.
    `block_table`: [B, W] int32; entry i of a row is the page of its tokens [i * page size, (i + 1) * page size). Entries past
    the last token that is read from the cache are not read. `query_start_loc`: [B + 1] int32. `seq_lens`: [B] int32.
    `max_query_len`: at least the most queries of a sequence.
    `platform`: "hip" or "cuda", whose tile rules apply.
    `k_scale`, `v_scale`: float32 [] or [1], or None for 1. An element of an FP8 cache counts as its product with the scale in
    float32, rounded to the query's dtype. Not read for other caches; never applied to `key` and `value`.
    `alibi_slopes`: [Hq] float32, or None. Key t gets slope (t - position) added to its s; with `causal` only.
    `sliding_window`: W, or 0 for none. A query sees the keys t with position - t < W.
    `sinks`: [Hq] float32, or None: a logit per head of a key without value; -inf for none.
    `output_scale`: float32 [] or [1]; the output is divided by it, and saturated to the largest number of its format.
    `causal`: a query sees no key of a later position; else all of its chunk.
    `skip_decode`: sequences of one query are left alone, as those of none are in any case.

    The last dimension of every tensor must be dense. Lengths and page ids are not validated: they live on the device.
    Raises ValueError for anything else that the above does not allow, and `Unsupported` where the GPU lacks the FP8 format.
    """
    check_tensors(
        {
            **{"query": query, "key": key, "value": value, "output": output, "key_cache": key_cache, "value_cache": value_cache},
            **{"block_table": block_table, "query_start_loc": query_start_loc, "seq_lens": seq_lens, "k_scale": k_scale},
            **{"v_scale": v_scale, "alibi_slopes": alibi_slopes, "sinks": sinks, "output_scale": output_scale},
        },
        interleaved=interleaved,
    )
    check_numbers(sm_scale, sliding_window, platform)
    require(causal or alibi_slopes is None, "alibi_slopes without causal: must be None")
    require(max_query_len >= 0, f"{max_query_len=}: must be at least 0")
    heads, head_dim = query.shape[1:]
    sequences, (kv_heads, _, page_size, pack) = len(seq_lens), key_cache.shape[1:]
    tiles = choose_tiles(platform=platform, dtype=query.dtype, head_dim=head_dim, max_query_len=max_query_len)
    if sequences == 0 or max_query_len == 0:
        return
    refuse_formats(platform, key_cache, output)
    is_fp8 = key_cache.dtype in FP8_DTYPES
    _attend_chunk[(sequences, heads, triton.cdiv(max_query_len, tiles.block_m))](
        *(query, key, value, output, key_cache, value_cache, block_table, query_start_loc, seq_lens),
        *((k_scale, v_scale) if is_fp8 else (None, None)),
        *(alibi_slopes, sinks, output_scale),
        *query.stride()[:2],
        *(key.stride()[:2] if key is not None else (0, 0)),
        *(value.stride()[:2] if value is not None else (0, 0)),
        *output.stride()[:2],
        *key_cache.stride()[:4],
        *value_cache.stride()[:3],
        block_table.stride(0),
        *(sm_scale, sliding_window or NO_WINDOW, heads // kv_heads, head_dim, page_size, causal, skip_decode),
        pack=pack,
        interleaved=interleaved,
        largest=torch.finfo(output.dtype).max if output_scale is not None else 0.0,
        block_m=tiles.block_m,
        block_n=tiles.block_n,
        block_d=tiles.block_d,
        num_warps=tiles.num_warps,
        num_stages=1,
        **_matrix_options(platform),
    )


def rounding(*, query: torch.Tensor, max_query_len: int, platform: str, **_: object) -> dict[str, str | int]:
    """Where the kernel rounds, for the launcher's keyword arguments: what the reference and its error bound depend on."""
    tiles = choose_tiles(platform=platform, dtype=query.dtype, head_dim=query.shape[2], max_query_len=max_query_len)
    dtype = str(query.dtype).removeprefix("torch.")
    return {
        "p_dtype": dtype,
        "dequantised": dtype,
        "block_n": tiles.block_n,
        # Two loops, of which the first may begin in the middle of a tile, take up to two tiles more than their keys fill; but
        # no splits are merged, and the first tile has nothing to be joined to.
        "num_kv_splits": 1,
        "dot_precision": "ieee",
    }


def choose_tiles(*, platform: str, dtype: torch.dtype, head_dim: int, max_query_len: int) -> Tiles:
    """Tiles for queries of `head_dim` columns of `dtype`, at most `max_query_len` of them to a sequence.

    Few queries take the fewest rows that matrix instructions have. A tile of queries takes 32 KiB at most and one of keys 16:
    with keys and values staged at once, and the weights, that stays below the 64 KiB of LDS on AMD; on "cuda", where the queries
    stay as well, below the 99 KiB of sm_86.
    """
    require(platform in PLATFORMS, f"{platform=}: must be one of {', '.join(map(repr, PLATFORMS))}")
    block_d = max(16, int(triton.next_power_of_2(head_dim)))
    row_bytes = block_d * dtype.itemsize
    few = max_query_len <= 16
    block_m = 16 if few else max(16, min(64, 2**15 // row_bytes))
    block_n = max(16, min(32, 2**14 // row_bytes))
    return Tiles(block_m=block_m, block_n=block_n, block_d=block_d, num_warps=4)


def _matrix_options(platform: str) -> dict[str, int]:
    """HIP's options for matrix instructions: 16 x 16 ones, which all parts have and 16 queries fill."""
    return {"waves_per_eu": 1, "matrix_instr_nonkdim": 16} if platform == "hip" and compiles_for("hip") else {}


@triton.jit(
    do_not_specialize=(
        *("key_row_stride", "key_head_stride", "value_row_stride", "value_head_stride", "table_row_stride"),
        *("window", "group", "head_dim", "page_size", "causal", "skip_decode"),
    )
)
def _attend_chunk(
    query,
    key,
    value,
    output,
    key_cache,
    value_cache,
    block_table,
    query_start_loc,
    seq_lens,
    k_scale,
    v_scale,
    alibi_slopes,
    sinks,
    output_scale,
    query_row_stride,
    query_head_stride,
    key_row_stride,
    key_head_stride,
    value_row_stride,
    value_head_stride,
    output_row_stride,
    output_head_stride,
    key_page_stride,
    key_panel_stride,
    key_pack_stride,
    key_slot_stride,
    value_page_stride,
    value_panel_stride,
    value_column_stride,
    table_row_stride,
    sm_scale,
    window,
    group,
    head_dim,
    page_size,
    causal,
    skip_decode,
    pack: tl.constexpr,
    interleaved: tl.constexpr,
    largest: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Grid (sequences, query heads, tiles of queries): online softmax over the keys in the cache, then those of the chunk."""
    # Whatever is multiplied by a stride is 64-bit first: caches exceed 2^31 elements.
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    first = tl.program_id(2) * block_m
    start, query_len, context = _chunk(query_start_loc, seq_lens, sequence, skip_decode)

    members = first + tl.arange(0, block_m)
    positions = context + members
    dims = tl.arange(0, block_d).to(tl.int64)
    column_live = dims < head_dim
    rows = (start + members).to(tl.int64)
    stored = (members < query_len)[:, None] & column_live[None, :]
    query_rows = query + rows * query_row_stride + head * query_head_stride
    query_tile = tl.load(query_rows[:, None] + dims[None, :], mask=stored, other=0.0)
    key_scale, value_scale = _load_scale(k_scale), _load_scale(v_scale)
    slope = tl.load(alibi_slopes + head) if alibi_slopes is not None else 0.0
    table_row = block_table + sequence * table_row_stride
    kv_head = head // group
    key_panel = key_cache + kv_head * key_panel_stride + (dims // pack) * key_pack_stride + dims % pack
    value_panel = value_cache + kv_head * value_panel_stride

    # The sink is a key without value: it begins the sum with weight 1. One of -inf is none.
    sink = tl.load(sinks + head).to(tl.float32) if sinks is not None else float("-inf")
    peak = tl.full([block_m], 0.0, tl.float32) + sink
    total = tl.where(peak > float("-inf"), 1.0, 0.0)
    acc = tl.zeros([block_m, block_d], tl.float32)

    # Keys of the cache: the context, and the chunk behind it where it has no rows of its own. What lies before the window of
    # the first query, and, if causal, behind the last one, no query of this tile sees.
    seen = tl.where(causal, tl.minimum(first + block_m, query_len), query_len)
    seen = tl.where(first < query_len, seen, 0)
    cached = tl.where(first < query_len, context if key is not None else context + seen, 0)
    for begin in range(tl.maximum(context + first - window + 1, 0) // block_n * block_n, cached, block_n):
        tokens = begin + tl.arange(0, block_n)
        live = tokens < cached
        page = tl.load(table_row + tokens // page_size, mask=live, other=0).to(tl.int64)
        slot = (tokens % page_size).to(tl.int64)
        mask = live[:, None] & column_live[None, :]
        key_tile = tl.load(key_panel[None, :] + (page * key_page_stride + slot * key_slot_stride)[:, None], mask=mask, other=0.0)
        inner = _inner_value(slot, dims, head_dim, value_column_stride, pack, interleaved)
        value_tile = tl.load(value_panel + (page * value_page_stride)[:, None] + inner, mask=mask, other=0.0)
        peak, total, acc = _attend_tile(
            query_tile,
            _dequantised(key_tile, key_scale, query_tile.dtype),
            _dequantised(value_tile, value_scale, query_tile.dtype),
            positions,
            tokens,
            live,
            slope,
            sm_scale,
            window,
            causal,
            peak,
            total,
            acc,
            has_alibi=alibi_slopes is not None,
        )

    if key is not None:
        for begin in range(tl.maximum(first - window + 1, 0) // block_n * block_n, seen, block_n):
            others = begin + tl.arange(0, block_n)
            live = others < seen
            mask = live[:, None] & column_live[None, :]
            other_rows = (start + others).to(tl.int64)
            key_rows = key + other_rows * key_row_stride + kv_head * key_head_stride
            key_tile = tl.load(key_rows[:, None] + dims[None, :], mask=mask, other=0.0)
            value_rows = value + other_rows * value_row_stride + kv_head * value_head_stride
            value_tile = tl.load(value_rows[:, None] + dims[None, :], mask=mask, other=0.0)
            peak, total, acc = _attend_tile(
                query_tile,
                key_tile,
                value_tile,
                positions,
                context + others,
                live,
                slope,
                sm_scale,
                window,
                causal,
                peak,
                total,
                acc,
                has_alibi=alibi_slopes is not None,
            )

    # The sum is 0 for a query that sees no key, else at least the largest weight, 1.
    result = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    if output_scale is not None:
        result = tl.minimum(tl.maximum(result / tl.load(output_scale), -largest), largest)
    output_rows = output + rows * output_row_stride + head * output_head_stride
    tl.store(output_rows[:, None] + dims[None, :], result.to(output.dtype.element_ty), mask=stored)


@triton.jit
def _chunk(query_start_loc, seq_lens, sequence, skip_decode):
    """First row, number of queries and of keys before them of a sequence.

    One that is left alone is given no queries: then no row is live, and both loops are empty.
    """
    start = tl.load(query_start_loc + sequence)
    query_len = tl.load(query_start_loc + sequence + 1) - start
    context = tl.load(seq_lens + sequence) - query_len
    return start, tl.where(skip_decode & (query_len == 1), 0, query_len), context


@triton.jit
def _load_scale(scale):
    """The one element behind `scale`, or 1 for None."""
    return tl.load(scale) if scale is not None else 1.0


@triton.jit
def _inner_value(slot, dims, head_dim, column_stride, pack: tl.constexpr, interleaved: tl.constexpr):
    """Where the columns `dims` of the tokens in positions `slot` lie in a head of a page of V, [tokens, dims]."""
    if interleaved:
        inner = (slot // pack * head_dim * pack + slot % pack)[:, None] + dims[None, :] * pack
    else:
        inner = slot[:, None] + dims[None, :] * column_stride
    return inner


@triton.jit
def _dequantised(tile, scale, dtype: tl.constexpr):
    """A tile of K or V; FP8 codes are multiplied by `scale` in float32 and rounded to `dtype`."""
    if tile.dtype.is_fp8():
        tile = (tile.to(tl.float32) * scale).to(dtype)
    return tile


@triton.jit
def _attend_tile(
    query_tile,
    key_tile,
    value_tile,
    positions,
    tokens,
    live,
    slope,
    sm_scale,
    window,
    causal,
    peak,
    total,
    acc,
    has_alibi: tl.constexpr,
):
    """One step of the online softmax: queries at `positions`, keys at `tokens`, of which those that are `live` count."""
    distance = tokens[None, :] - positions[:, None]
    allowed = live[None, :] & (-distance < window) & ((distance <= 0) | (causal == 0))
    scores = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee") * sm_scale
    if has_alibi:
        scores += slope * distance.to(tl.float32)
    scores = tl.where(allowed, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, axis=1))
    # While a query has seen no key its peak is -inf, and -inf - -inf is NaN.
    anchor = tl.where(new_peak > float("-inf"), new_peak, 0.0)
    weights = tl.exp(scores - anchor[:, None])
    rescale = tl.exp(peak - anchor)
    total = total * rescale + tl.sum(weights, axis=1)
    acc = acc * rescale[:, None] + tl.dot(weights.to(value_tile.dtype), value_tile, input_precision="ieee")
    return new_peak, total, acc
