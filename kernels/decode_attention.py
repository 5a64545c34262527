"""Split-KV decode attention over a paged cache: one query token per row; MHA, GQA and MLA; caches of FP8 too.

`decode_attention` is the launcher, `choose_tiles` its tile rules. Two phases: `_attend_split` computes, per row, block of
query heads and split of the keys, a normalised partial output and its log-sum-exp; `_merge_splits` joins the splits.

A program of phase 1 works on `block_h` query heads of one KV head. With one head it multiplies and sums in float32 (the
*normal* path, for MHA), with 16 it uses matrix instructions (the *grouped* path, for GQA). All else is common to both.

In multi-head latent attention (MLA) the values are the first Lv columns of the keys. A key is then loaded once, as two slabs:
the latent one of Lv columns, which serves as its value too, and the *PE* slab (positional encoding) of the Lk - Lv others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import require
from tridiff.kernels.decode_attention_arguments import FP8_DTYPES, check_numbers, check_tensors, paged

KERNELS = (
    {
        "name": "decode_attention",
        "op": "decode_attention",
        "launcher": "decode_attention",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

SHARED_MEMORY = {"hip": 65536, "cuda": 101376}
"""Bytes of shared memory (LDS) that a program may use: the smallest part of each platform, gfx942 and sm_86."""


E4M3FN_SINCE = 89
"""The first of NVIDIA's parts, sm_89, for which Triton converts e4m3fn."""


class Unsupported(NotImplementedError):
    """The GPU lacks what the arguments ask for: an FP8 format. Raised before anything is compiled."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tile sizes of phase 1, all powers of two, and the launch options.

    `block_h` query heads, `block_n` keys, `block_dk` columns of K, `block_dv` of V. For MLA `block_dk` are the columns that V
    shares, and `block_dpe` the others of K; otherwise, and where there are no others, it is 0.
    """

    block_h: int
    block_n: int
    block_dk: int
    block_dpe: int
    block_dv: int
    num_warps: int
    num_stages: int


def decode_attention(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    output: torch.Tensor,
    lse: torch.Tensor,
    sm_scale: float,
    logit_cap: float,
    page_size: int,
    num_kv_splits: int,
    platform: str,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    is_mla: bool = False,
) -> None:
    """Attend from each row's query heads to the row's keys; write `output` and `lse`.

    With s_t = sm_scale <q, k_t>, capped to logit_cap tanh(s_t / logit_cap) when logit_cap > 0: output = softmax(s) V and
    lse = log sum exp(s_t), natural logarithm. A row of length 0 gets output 0 and lse -inf. Query head h reads KV head
    h // (Hq // Hkv).

    `query`: [B, Hq, Lk] float32, bfloat16 or float16.
    `key_cache`, `value_cache`: [NB, page_size, Hkv, Lk] and [NB, page_size, Hkv, Lv], or [NB * page_size, Hkv, ...]; both of
    the query's dtype, or both of one of `FP8_DTYPES`. Every stride but the last is honoured, in 64 bits.
    `block_table`: [B, W] int32; entry i of a row is the page of its tokens [i * page_size, (i + 1) * page_size). Entries past
    the row's last token are not read.
    `seq_lens`: [B] int32 or int64, keys per row, at most W * page_size.
    `output`: [B, Hq, Lv] of the query's dtype or float32, written. `lse`: [B, Hq] float32, written.
    `num_kv_splits`: into how many parts the keys of each row are split, at least 1.
    `platform`: "hip" or "cuda", whose tile rules apply.
    `k_scale`, `v_scale`: float32 [] or [1], or None for 1. An element of an FP8 cache counts as its product with the scale in
    float32, rounded to the query's dtype. Not read for other caches.
    `is_mla`: one KV head, whose values are the first Lv of the Lk >= Lv columns of its keys: `value_cache` is a view of
    `key_cache`, `v_scale` the same tensor as `k_scale`.

    The last dimension of every tensor must be dense. Lengths and page ids are not validated: they live on the device.
    Raises ValueError for anything else that the above does not allow, and `Unsupported` where the GPU lacks the FP8 format.
    """
    keys, values = paged("key_cache", key_cache, page_size), paged("value_cache", value_cache, page_size)
    check_tensors(
        {
            **{"query": query, "key_cache": keys, "value_cache": values, "block_table": block_table, "seq_lens": seq_lens},
            **{"output": output, "lse": lse, "k_scale": k_scale, "v_scale": v_scale},
        },
        is_mla=is_mla,
    )
    check_numbers(sm_scale, logit_cap, num_kv_splits)
    rows, heads, lk = query.shape
    kv_heads, lv = values.shape[2:]
    group = heads // kv_heads
    is_fp8 = keys.dtype in FP8_DTYPES
    tiles = choose_tiles(platform=platform, dtype=query.dtype, group=group, lk=lk, lv=lv, is_mla=is_mla, is_fp8=is_fp8)
    if rows == 0:
        return
    _check_format(platform, keys.dtype)
    partial_output = torch.empty((rows, heads, num_kv_splits, lv), dtype=torch.float32, device=query.device)
    partial_lse = torch.empty((rows, heads, num_kv_splits), dtype=torch.float32, device=query.device)
    head_blocks = kv_heads * triton.cdiv(group, tiles.block_h)
    _attend_split[(rows, head_blocks, num_kv_splits)](
        *(query, keys, values, block_table, seq_lens, partial_output, partial_lse),
        *((k_scale, v_scale) if is_fp8 else (None, None)),
        *query.stride()[:2],
        *keys.stride()[:3],
        *values.stride()[:3],
        block_table.stride(0),
        *(sm_scale, logit_cap, heads, group, lk, lv, page_size, num_kv_splits),
        block_h=tiles.block_h,
        block_n=tiles.block_n,
        block_dk=tiles.block_dk,
        block_dpe=tiles.block_dpe,
        block_dv=tiles.block_dv,
        has_cap=logit_cap > 0,
        is_mla=is_mla,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **_matrix_options(platform, tiles),
    )
    _merge_splits[(rows, heads)](
        *(partial_output, partial_lse, output, lse),
        *output.stride()[:2],
        lse.stride(0),
        *(lv, num_kv_splits),
        block_dv=tiles.block_dv,
        num_warps=4,
        num_stages=2,
        **({"waves_per_eu": 4} if _on_hip(platform) else {}),
    )


def rounding(
    *, query: torch.Tensor, value_cache: torch.Tensor, num_kv_splits: int, platform: str, is_mla: bool = False, **_: object
) -> dict[str, str | int]:
    """Where the kernel rounds, for the launcher's keyword arguments: what the reference and its error bound depend on."""
    heads, lk = query.shape[1:]
    kv_heads, lv = value_cache.shape[-2:]
    is_fp8 = value_cache.dtype in FP8_DTYPES
    tiles = choose_tiles(
        platform=platform, dtype=query.dtype, group=heads // kv_heads, lk=lk, lv=lv, is_mla=is_mla, is_fp8=is_fp8
    )
    p_dtype = torch.float32 if tiles.block_h == 1 else query.dtype
    return {
        "p_dtype": str(p_dtype).removeprefix("torch."),
        "dequantised": str(query.dtype).removeprefix("torch."),
        "block_n": tiles.block_n,
        "num_kv_splits": num_kv_splits,
        "dot_precision": "ieee",
    }


def choose_tiles(
    *, platform: str, dtype: torch.dtype, group: int, lk: int, lv: int, is_mla: bool = False, is_fp8: bool = False
) -> Tiles:
    """Tiles for `group` query heads per KV head, keys of `lk` and values of `lv` columns, multiplied in `dtype`.

    MHA takes the normal path, and so does GQA whose tiles do not fit the shared memory even with 16 keys (float32 keys of
    over 512 columns on "cuda", say). `platform` is "hip" or "cuda"; ValueError otherwise. `is_fp8`: the caches are of FP8.
    """
    require(platform in SHARED_MEMORY, f"{platform=}: must be one of {', '.join(map(repr, SHARED_MEMORY))}")
    block_dk, block_dpe, block_dv = _padded(lk), 0, _padded(lv)
    if is_mla:
        # The slab that serves as V has V's columns and no other: the weights times this tile go to an accumulator of V's width.
        block_dk, block_dpe = block_dv, _padded(lk - lv) if lk > lv else 0
    widths = {"block_dk": block_dk, "block_dpe": block_dpe, "block_dv": block_dv}
    grouped = _grouped_tiles(platform, dtype.itemsize, widths, is_mla=is_mla, is_fp8=is_fp8) if group > 1 else None
    return grouped or _normal_tiles(platform, widths)


def _padded(columns: int) -> int:
    """A power of two, and at least the 16 that a dot may add up on NVIDIA."""
    return max(16, int(triton.next_power_of_2(columns)))


def _grouped_tiles(platform: str, itemsize: int, widths: dict[str, int], *, is_mla: bool, is_fp8: bool) -> Tiles | None:
    """16 heads (matrix instructions have no fewer rows) and as many keys, at least 16, as fit; None if nothing fits."""
    stages = 1 if platform == "hip" or widths["block_dk"] >= 1024 else 2
    for block_n in (16,) if platform == "hip" else (32, 16):
        tiles = Tiles(block_h=16, block_n=block_n, **widths, num_warps=4, num_stages=stages)
        needed = _bytes_on_hip(tiles, itemsize) if platform == "hip" else _bytes_on_cuda(tiles, itemsize, is_mla, is_fp8)
        if needed <= SHARED_MEMORY[platform]:
            return tiles
    return None


def _normal_tiles(platform: str, widths: dict[str, int]) -> Tiles:
    """One head and as many keys as stay in registers: 64 x 256 elements do, 64 x 1024 spill 2.5 KB a thread on sm_86."""
    most = 64 * 256 // max(widths.values())
    block_n = max(1, min(8 if platform == "hip" else 64, most))
    return Tiles(block_h=1, block_n=block_n, **widths, num_warps=4, num_stages=2)


def _bytes_on_hip(tiles: Tiles, itemsize: int) -> int:
    """Bytes of shared memory of the grouped path: one operand at a time is staged, dequantised, so the largest tile counts."""
    return tiles.block_n * max(tiles.block_dk, tiles.block_dpe, tiles.block_dv) * itemsize


def _bytes_on_cuda(tiles: Tiles, itemsize: int, is_mla: bool, is_fp8: bool) -> int:
    """Bytes of shared memory of the grouped path, an upper bound of what Triton 3.7 allocates.

    The query stays for the whole loop, beside the weights. Two stages hold K and V, of which the next ones are on their way;
    with one, in 16 bits, V takes the place of K, unless a conversion from FP8 comes between. A slab of MLA that is both K and V
    is laid out twice in 16 bits, for either product, but once in float32. FP8 codes on their way come on top. 64 bytes serve
    the reductions; the output is transposed at the end, when all else is done.
    """
    keys, values = tiles.block_dk + tiles.block_dpe, tiles.block_dv
    if itemsize == 4 and is_mla:
        staged = keys
    elif itemsize == 2 and tiles.num_stages == 1 and not (is_mla or is_fp8):
        staged = max(keys, values)
    else:
        staged = keys + values
    codes = (keys if is_mla else keys + values) if is_fp8 and tiles.num_stages > 1 else 0
    looped = tiles.block_h * (keys + tiles.block_n) * itemsize + tiles.block_n * (staged * itemsize + codes) + 64
    return max(looped, tiles.block_h * values * 4)


def _on(backend: str) -> bool:
    """Whether Triton compiles for that vendor; its other back ends, a test's, say, refuse a vendor's launch options."""
    return bool(triton.runtime.driver.active.get_current_target().backend == backend)


def _on_hip(platform: str) -> bool:
    """Whether HIP's launch options may be given."""
    return platform == "hip" and _on("hip")


def _check_format(platform: str, dtype: torch.dtype) -> None:
    """Raise `Unsupported` where the GPU cannot convert an FP8 format: Triton would say so from inside of the kernel.

    NVIDIA has no FNUZ formats, and e4m3fn from sm_89 on (`supported_fp8_dtypes` of Triton's back end). AMD's parts convert all of
    `FP8_DTYPES` to float32, in software where they must; a conversion of e4m3fnuz straight to bfloat16 aborts the compiler on
    gfx90a and gfx11.
    """
    if platform != "cuda" or dtype not in FP8_DTYPES or not _on("cuda"):
        return
    arch = triton.runtime.driver.active.get_current_target().arch
    name = str(dtype).removeprefix("torch.")
    if dtype == torch.float8_e4m3fnuz:
        raise Unsupported(f"caches of {name} on sm_{arch}: NVIDIA has no such format, convert them to float8_e4m3fn")
    if dtype == torch.float8_e4m3fn and arch < E4M3FN_SINCE:
        raise Unsupported(f"caches of {name} on sm_{arch}: needs sm_{E4M3FN_SINCE} or later, use float8_e5m2 or bfloat16 caches")


def _matrix_options(platform: str, tiles: Tiles) -> dict[str, int]:
    """HIP's options for matrix instructions: 16 x 16 ones, two of them per load from LDS where the chip has a choice."""
    if tiles.block_h == 1 or not _on_hip(platform):
        return {}
    deprecated = triton.runtime.driver.active.get_current_target().arch == "gfx950"
    return {"waves_per_eu": 1, "matrix_instr_nonkdim": 16, "kpack": 1 if deprecated else 2}


@triton.jit(do_not_specialize=("k_scale", "v_scale", "table_row_stride", "heads", "group", "page_size", "num_kv_splits"))
def _attend_split(
    query,
    keys,
    values,
    block_table,
    seq_lens,
    partial_output,
    partial_lse,
    k_scale,
    v_scale,
    query_row_stride,
    query_head_stride,
    key_page_stride,
    key_slot_stride,
    key_head_stride,
    value_page_stride,
    value_slot_stride,
    value_head_stride,
    table_row_stride,
    sm_scale,
    logit_cap,
    heads,
    group,
    lk,
    lv,
    page_size,
    num_kv_splits,
    block_h: tl.constexpr,
    block_n: tl.constexpr,
    block_dk: tl.constexpr,
    block_dpe: tl.constexpr,
    block_dv: tl.constexpr,
    has_cap: tl.constexpr,
    is_mla: tl.constexpr,
):
    """Phase 1, grid (rows, KV heads * head blocks per KV head, splits): online softmax over one split of a row's keys.

    Writes the partial output, divided by its own sum, and its log-sum-exp; of an empty split only the latter, as -inf.
    """
    # Whatever is multiplied by a stride is 64-bit first: caches exceed 2^31 elements.
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2)
    blocks_per_kv_head = tl.cdiv(group, block_h)
    kv_head = (tl.program_id(1) // blocks_per_kv_head).to(tl.int64)
    members = (tl.program_id(1) % blocks_per_kv_head) * block_h + tl.arange(0, block_h)
    head_live = members < group
    head = kv_head * group + members

    seq_len = tl.load(seq_lens + row).to(tl.int32)
    split_len = tl.cdiv(seq_len, num_kv_splits)
    first = split * split_len
    last = tl.minimum(first + split_len, seq_len)

    # Columns of an MLA key behind the first Lv belong to the PE slab alone: those in the padding of the other would count twice.
    columns_k = lv if is_mla else lk
    dims_k = tl.arange(0, block_dk)
    dims_pe = lv + tl.arange(0, block_dpe) if block_dpe > 0 else None
    dims_v = tl.arange(0, block_dv)
    query_rows = query + row * query_row_stride + head * query_head_stride
    query_tile = _load_tile(query_rows, dims_k, head_live, columns_k)
    query_tile_pe = _load_tile(query_rows, dims_pe, head_live, lk) if block_dpe > 0 else None
    key_scale, value_scale = _load_scale(k_scale), _load_scale(v_scale)
    table_row = block_table + row * table_row_stride
    keys += kv_head * key_head_stride
    values += kv_head * value_head_stride

    peak = tl.full([block_h], float("-inf"), tl.float32)
    total = tl.zeros([block_h], tl.float32)
    acc = tl.zeros([block_h, block_dv], tl.float32)
    for start in range(first, last, block_n):
        tokens = start + tl.arange(0, block_n)
        live = tokens < last
        page = tl.load(table_row + tokens // page_size, mask=live, other=0).to(tl.int64)
        slot = (tokens % page_size).to(tl.int64)
        key_rows = keys + page * key_page_stride + slot * key_slot_stride
        value_rows = values + page * value_page_stride + slot * value_slot_stride
        key_tile = _load_cached(key_rows, dims_k, live, columns_k, key_scale, query_tile.dtype)
        value_tile = key_tile if is_mla else _load_cached(value_rows, dims_v, live, lv, value_scale, query_tile.dtype)

        scores = _scores(query_tile, key_tile)
        if block_dpe > 0:
            scores += _scores(query_tile_pe, _load_cached(key_rows, dims_pe, live, lk, key_scale, query_tile.dtype))
        scores *= sm_scale
        if has_cap:
            scores = _soft_cap(scores, logit_cap)
        scores = tl.where(live[None, :], scores, float("-inf"))
        # A tile holds at least one live key, so new_peak is finite and neither exponent below is -inf - -inf.
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_peak[:, None])
        rescale = tl.exp(peak - new_peak)
        total = total * rescale + tl.sum(weights, axis=1)
        acc = acc * rescale[:, None] + _weighted_sum(weights, value_tile)
        peak = new_peak

    # An empty split leaves peak -inf and total 0: its lse is -inf, and 0 / 0 is not stored.
    index = (row * heads + head) * num_kv_splits + split
    tl.store(partial_lse + index, peak + tl.log(total), mask=head_live)
    tl.store(
        partial_output + index[:, None] * lv + dims_v[None, :],
        acc / total[:, None],
        mask=(head_live & (first < last))[:, None] & (dims_v < lv)[None, :],
    )


@triton.jit
def _load_scale(scale):
    """The one element behind `scale`, or 1 for None."""
    return tl.load(scale) if scale is not None else 1.0


@triton.jit
def _load_tile(rows, dims, live, columns):
    """Columns `dims` of `rows`, [rows, dims]; 0 in rows that are not `live` and behind the last of `columns`."""
    return tl.load(rows[:, None] + dims[None, :], mask=live[:, None] & (dims < columns)[None, :], other=0.0)


@triton.jit
def _load_cached(rows, dims, live, columns, scale, dtype: tl.constexpr):
    """A tile of K or V; FP8 codes are multiplied by `scale` in float32 and rounded to `dtype`."""
    tile = _load_tile(rows, dims, live, columns)
    if tile.dtype.is_fp8():
        tile = (tile.to(tl.float32) * scale).to(dtype)
    return tile


@triton.jit
def _scores(query_tile, key_tile):
    """Inner products in float32: [block_h, block_dk] and [block_n, block_dk] to [block_h, block_n]."""
    if query_tile.shape[0] == 1:
        # The product of two bfloat16 is rounded to bfloat16 unless they are converted first.
        products = query_tile.to(tl.float32) * key_tile.to(tl.float32)
        scores = tl.sum(products, axis=1)[None, :]
    else:
        scores = tl.dot(query_tile, tl.trans(key_tile), input_precision="ieee")
    return scores


@triton.jit
def _soft_cap(scores, cap):
    """Scores capped to cap tanh(scores / cap), with tanh(x) = 2 sigmoid(2 x) - 1, which saturates without overflow."""
    return cap * (2.0 / (1.0 + tl.exp(-2.0 * scores / cap)) - 1.0)


@triton.jit
def _weighted_sum(weights, value_tile):
    """Rows of V weighted and summed in float32: [block_h, block_n] and [block_n, block_dv] to [block_h, block_dv]."""
    if weights.shape[0] == 1:
        weighted = tl.trans(weights) * value_tile.to(tl.float32)
        total = tl.sum(weighted, axis=0)[None, :]
    else:
        total = tl.dot(weights.to(value_tile.dtype), value_tile, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=("lse_row_stride", "num_kv_splits"))
def _merge_splits(
    partial_output,
    partial_lse,
    output,
    lse,
    output_row_stride,
    output_head_stride,
    lse_row_stride,
    lv,
    num_kv_splits,
    block_dv: tl.constexpr,
):
    """Phase 2, grid (rows, heads): the partial outputs of one head, weighted by exp(lse), added and normalised."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    dims = tl.arange(0, block_dv)
    index = (row * tl.num_programs(1) + head) * num_kv_splits

    peak = float("-inf")
    total = 0.0
    acc = tl.zeros([block_dv], tl.float32)
    for split in range(num_kv_splits):
        split_lse = tl.load(partial_lse + index + split)
        # The output of an empty split was never written, and weight 0 would not undo a NaN in it.
        mask = (dims < lv) & (split_lse > float("-inf"))
        split_output = tl.load(partial_output + (index + split) * lv + dims, mask=mask, other=0.0)
        new_peak = tl.maximum(peak, split_lse)
        # While all splits were empty new_peak is -inf, and -inf - -inf is NaN.
        anchor = tl.where(new_peak > float("-inf"), new_peak, 0.0)
        weight = tl.exp(split_lse - anchor)
        rescale = tl.exp(peak - anchor)
        total = total * rescale + weight
        acc = acc * rescale + weight * split_output
        peak = new_peak

    # total is 0 for a row without keys, else at least 1: the largest weight.
    divisor = tl.where(total > 0.0, total, 1.0)
    tl.store(output + row * output_row_stride + head * output_head_stride + dims, acc / divisor, mask=dims < lv)
    tl.store(lse + row * lse_row_stride + head, peak + tl.log(divisor))
