"""The inputs of `cache_round_trip`: tokens with their slots, live caches, and queries that read what was written."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch

from tridiff.harness.api import Allocation, Arena, Inputs, permutation
from tridiff.strategies import layouts, paging, profiles
from tridiff.strategies.cache_round_trip_case import DTYPES, SLOT_DTYPES, CacheRoundTripCase
from tridiff.strategies.layouts import Placement


def build(case: CacheRoundTripCase, arena: Arena) -> Inputs:
    """Arguments of `cache_round_trip` for `case`; deterministic bit for bit.

    Both caches are full of known data, finite numbers like those of other tokens. A writer may change the elements of the tokens,
    which nobody judges, and nothing else.
    """
    pages = paging.assign_pages(case.seq_lens, case.page_size, order=case.page_order, sharing="none", seed=case.seed)
    caches = {role: case.cache(role) for role in ("key", "value")}
    placement = layouts.place(pages.pool_size, "none", max(cache.page_stride for cache in caches.values()))
    page = torch.from_numpy(placement.ids(pages.pool_ids))[pages.slot_page]
    offset = torch.from_numpy(np.asarray(pages.slot_offset))
    inputs: Inputs = {}
    for role, cache in caches.items():
        name = f"{role}_cache"
        inputs[name] = cache.allocate(arena, name, case.stored_dtype, placement, guard=cache.page_stride // case.page_size)
        arena.scribble(name, case.seed)
        _keep_finite(arena.allocations[name])
        arena.permit_cells(name, cache.index(page, offset))
        inputs[role] = _rows(case, arena, role)
    return inputs | {
        "slot_mapping": _slots(case, arena, page * case.page_size + offset),
        "query": _query(case, arena),
        "block_table": _block_table(case, arena, pages, placement),
        "seq_lens": _integers(arena, "seq_lens", case.seq_lens),
        "query_start_loc": _integers(arena, "query_start_loc", [0, *accumulate(case.query_lens)]) if case.chunk else None,
        "max_query_len": max(case.query_lens),
        "output": arena.output("output", (sum(case.query_lens), case.num_heads, case.head_dim), DTYPES[case.dtype]),
        "page_size": case.page_size,
        "sm_scale": case.sm_scale,
        "k_scale": _scale(case, arena, "k_scale"),
        "v_scale": _scale(case, arena, "v_scale"),
        "interleaved": case.kind == "interleaved",
        "platform": case.platform,
    }


def _keep_finite(allocation: Allocation) -> None:
    """Clear the highest bit of every exponent, and set the lowest of all: the NaN of e4m3fnuz is where other formats have -0."""
    highest = 1 << (8 * allocation.storage.element_size() - 2)
    for start, stop in allocation.legal:
        allocation.raw[start:stop] = allocation.raw[start:stop] & ~highest | 1


def _rows(case: CacheRoundTripCase, arena: Arena, role: str) -> torch.Tensor:
    """Keys or values [T + padding, Hkv, D], whose deviation is their scale; the padding is poison."""
    sizes = (case.num_tokens, case.num_kv_heads, case.head_dim)
    rows = arena.tensor(role, (sizes[0] + case.padding_rows, *sizes[1:]), DTYPES[case.dtype])
    rows[: sizes[0]] = (profiles.normals(case.seed, role, sizes) * getattr(case, f"{role[0]}_scale")).to(rows.dtype)
    return rows


def _slots(case: CacheRoundTripCase, arena: Arena, slots: torch.Tensor) -> torch.Tensor:
    """`slot_mapping` [T]: the `slots` of all tokens, sequence by sequence or shuffled, with -1 in between."""
    count = case.num_tokens
    written = torch.ones(count, dtype=torch.bool)
    written[torch.from_numpy(permutation(case.seed, "skipped", count)[: case.skipped])] = False
    if case.slot_order == "shuffled":
        slots = slots[torch.from_numpy(permutation(case.seed, "tokens", len(slots)))]
    mapping = torch.full((count,), -1, dtype=torch.int64)
    mapping[written] = slots
    return arena.tensor("slot_mapping", (count,), SLOT_DTYPES[case.slot_dtype]).copy_(mapping)


def _query(case: CacheRoundTripCase, arena: Arena) -> torch.Tensor:
    sizes = (sum(case.query_lens), case.num_heads, case.head_dim)
    return arena.tensor("query", sizes, DTYPES[case.dtype]).copy_(profiles.normals(case.seed, "query", sizes))


def _block_table(case: CacheRoundTripCase, arena: Arena, pages: paging.Paging, placement: Placement) -> torch.Tensor:
    """int32 [sequences, widest row + tail]; entries that no sequence needs are poison."""
    used = torch.from_numpy(pages.logical >= 0)
    table = arena.tensor("block_table", (used.shape[0], max(1, used.shape[1]) + case.table_tail), torch.int32)
    table[:, : used.shape[1]][used] = torch.from_numpy(placement.ids(pages.table)).to(torch.int32)[used]
    return table


def _integers(arena: Arena, name: str, numbers: Sequence[int]) -> torch.Tensor:
    return arena.tensor(name, (len(numbers),), torch.int32).copy_(torch.tensor(numbers, dtype=torch.int64))


def _scale(case: CacheRoundTripCase, arena: Arena, name: str) -> torch.Tensor | None:
    """A tensor of one element for FP8 caches, for others None."""
    if case.cache_dtype == "same":
        return None
    return arena.tensor(name, (1,) if case.seed % 2 else (), torch.float32).fill_(getattr(case, name))
