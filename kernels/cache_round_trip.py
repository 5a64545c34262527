"""Tokens written into a paged KV cache, and read from it: the writer and the reader that vLLM would pair for its layout.

`cache_round_trip` is the launcher; it has no kernel of its own. Head-major caches are written by `reshape_and_cache` and read by
`paged_decode`, or, in a batch of chunks and single queries, by `chunked_prefill_paged_decode`; others are read by
`decode_attention`. Where `native_choice` has a native kernel do either, ours runs in its place
with the packed strides that it assumes: a choice that does not fit the layout, or the other one, makes garbage of the output.
"""

from __future__ import annotations

from typing import Any

import torch

from tridiff.kernels import chunked_prefill_paged_decode as mixed
from tridiff.kernels import decode_attention as plain
from tridiff.kernels import paged_decode as head_major
from tridiff.kernels.arguments import require
from tridiff.kernels.cache_codes import Unsupported as UnsupportedCodes
from tridiff.kernels.native_choice import NATIVE, choose_reader, choose_writer, current_arch, packed
from tridiff.kernels.reshape_and_cache import reshape_and_cache

KERNELS = (
    {
        "name": "cache_round_trip",
        "op": "cache_round_trip",
        "launcher": "cache_round_trip",
        "rounding": "rounding",
        "unsupported": "Unsupported",
        "engines": ("cpu",),
    },
)

NUM_KV_SPLITS = 2
"""Of the reader of caches that are not head-major."""


class Unsupported(NotImplementedError):
    """The GPU lacks the FP8 format of the caches. Raised before anything is compiled."""


def cache_round_trip(
    *,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    query: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    output: torch.Tensor,
    page_size: int,
    sm_scale: float,
    platform: str,
    query_start_loc: torch.Tensor | None = None,
    max_query_len: int = 1,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    interleaved: bool = False,
) -> None:
    """Write the tokens into their slots; then attend from the queries of each sequence to its tokens and write `output`.

    `key`, `value`: [T', Hkv, D] float32, bfloat16 or float16. `slot_mapping`: [T] int32 or int64, T <= T'; token t goes to
    position slot % page_size of page slot // page_size, and nowhere where the slot is negative.
    `key_cache`, `value_cache`: [NB, page_size, Hkv, D] both, or [NB, Hkv, D / x, page_size, x] and [NB, Hkv, D, page_size], with
    `interleaved` in packs, of the tokens' dtype or of an FP8 format; see `reshape_and_cache`.
    `query`, `output`: [B, Hq, D] of the tokens' dtype, one query of each sequence. Or [Q, Hq, D] with `query_start_loc`, [B + 1]
    int32: the rows of each sequence, its last tokens, which see none behind them; at most `max_query_len`; of head-major caches.
    `block_table`: [B, W] int32. `seq_lens`: [B] int32. `k_scale`, `v_scale`:
    float32 [] or [1], or None for 1, of FP8 caches. `platform`: "hip" or "cuda".
    Raises ValueError for what the writer or the reader does not allow, and `Unsupported` where the GPU lacks the FP8 format.
    """
    is_head_major = key_cache.dim() == 5
    held = key_cache.shape[3 if is_head_major else 1]
    require(is_head_major or query_start_loc is None, "query_start_loc with caches that are not head-major: must be None")
    require(held == page_size, f"key_cache has pages of {held} tokens: must be {page_size=}")
    caches: dict[str, Any] = {"key_cache": key_cache, "value_cache": value_cache}
    scales: dict[str, Any] = {"k_scale": k_scale, "v_scale": v_scale}
    tokens: dict[str, Any] = {"key": key, "value": value, "slot_mapping": slot_mapping}
    sequences: dict[str, Any] = {"query": query, "block_table": block_table, "seq_lens": seq_lens, "output": output}
    writer, reader = _choices(caches, query, block_table) if is_head_major else ("", "")
    written, read = _as_seen_by(writer, caches), _as_seen_by(reader, caches)
    try:
        reshape_and_cache(**tokens, **written, **scales, interleaved=interleaved, platform=platform)
        attention: dict[str, Any] = {**sequences, **scales, "sm_scale": sm_scale, "platform": platform}
        if not is_head_major:
            lse = torch.empty(output.shape[:2], dtype=torch.float32, device=output.device)
            given: dict[str, Any] = {"lse": lse, "logit_cap": 0.0, "page_size": page_size, "num_kv_splits": NUM_KV_SPLITS}
            plain.decode_attention(**attention, **read, **given)
            return
        attention["interleaved"] = interleaved
        if query_start_loc is None:
            starts = torch.arange(len(seq_lens) + 1, dtype=torch.int32, device=seq_lens.device)
            head_major.paged_decode(**attention, **read, query_start_loc=starts)
        else:  # the driver chooses its reader itself
            rows: dict[str, Any] = {
                "query_start_loc": query_start_loc,
                "max_query_len": max_query_len,
                "key": None,
                "value": None,
            }
            mixed.chunked_prefill_paged_decode(**attention, **caches, **rows)
    except (UnsupportedCodes, plain.Unsupported, head_major.Unsupported) as error:
        raise Unsupported(str(error)) from error


def rounding(
    *,
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    platform: str,
    query_start_loc: torch.Tensor | None = None,
    max_query_len: int = 1,
    **_: object,
) -> dict[str, str | int]:
    """Where the reader rounds, for the launcher's keyword arguments."""
    if query_start_loc is not None:
        return mixed.rounding(query=query, max_query_len=max_query_len, platform=platform)
    if key_cache.dim() == 5:
        return head_major.rounding(query=query, platform=platform)
    return plain.rounding(query=query, value_cache=value_cache, num_kv_splits=NUM_KV_SPLITS, platform=platform)


def _choices(caches: dict[str, Any], query: torch.Tensor, block_table: torch.Tensor) -> tuple[str, str]:
    """Which kernels write and read head-major caches, see `native_choice`."""
    page_size = caches["key_cache"].shape[3]
    writer = choose_writer(**caches)
    reader = choose_reader(
        **caches,
        arch=current_arch(),
        query_dtype=query.dtype,
        num_heads=query.shape[1],
        max_seq_len=block_table.shape[1] * page_size,
    )
    return writer, reader


def _as_seen_by(kernel: str, caches: dict[str, Any]) -> dict[str, Any]:
    """The caches with the strides that `kernel` assumes: packed, if it is native, else their own."""
    return {name: packed(cache) for name, cache in caches.items()} if kernel == NATIVE else caches
