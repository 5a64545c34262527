"""Inputs of every reader of vLLM's head-major caches: the tokens of a batch, their caches and tables, queries and output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import fp8, kv_caches, layouts, paging, profiles
from tridiff.strategies.layouts import Placement
from tridiff.strategies.paged_readers_case import (
    BELOW_PEAKS,
    DTYPES,
    LARGE_SINK,
    VERY_NEGATIVE,
    VERY_NEGATIVE_LOGIT,
    ReaderCase,
    has_peak,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Keys and values of a batch, and where those that caches hold lie.

    `pages`: of the tokens in the caches. `keys`, `values`: float32 [n, Hkv, D]; first the slots of `pages`, then the chunks, the
    tokens of each sequence that no cache holds, sequence by sequence.
    """

    pages: paging.Paging
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def slots(self) -> int:
        """Tokens in the caches; one that several sequences share is counted once."""
        return int(self.pages.slot_page.size)


def tokens(case: ReaderCase, cached: Sequence[int] | None = None) -> Tokens:
    """Tokens of which caches hold the first `cached[b]` of each sequence, all of them by default; the others are its chunk."""
    held = case.seq_lens if cached is None else tuple(cached)
    pages = paging.assign_pages(held, case.page_size, order=case.page_order, sharing=case.page_sharing, seed=case.seed)
    chunks = [length - count for length, count in zip(case.seq_lens, held, strict=True)]
    count = int(pages.slot_page.size)
    shape = (count + sum(chunks), case.num_kv_heads, case.head_dim)
    starts = [count + start for start in _starts(chunks)[:-1]]
    peaks = [
        pages.slot(row, position) if position < held[row] else starts[row] + position - held[row]
        for row, positions in enumerate(_peaks(case))
        for position in positions
    ]
    return Tokens(pages=pages, keys=_keys(case, shape, peaks), values=_values(case, shape, peaks))


def cache_inputs(case: ReaderCase, arena: Arena, batch: Tokens) -> Inputs:
    """`key_cache`, `value_cache` and `block_table`, which hold what some sequence needs, and poison elsewhere; `interleaved`.

    Raises `StagingError` when the machine has no address space for far pages.
    """
    caches = {role: case.cache(role) for role in ("key", "value")}
    placement = layouts.place(batch.pages.pool_size, case.far, max(cache.page_stride for cache in caches.values()))
    page = torch.from_numpy(placement.ids(batch.pages.pool_ids))[batch.pages.slot_page]
    offset = torch.from_numpy(np.asarray(batch.pages.slot_offset))
    inputs: Inputs = {}
    for role, cache in caches.items():
        name, content = f"{role}_cache", getattr(batch, f"{role}s")[: batch.slots]
        inputs[name] = cache.allocate(arena, name, case.stored_dtype, placement, lead=case.lead, storage=case.storage)
        kv_caches.put(inputs[name], cache.index(page, offset), stored(case, role, content))
    return inputs | {"block_table": _block_table(case, arena, batch, placement), "interleaved": case.kind == "interleaved"}


def stored(case: ReaderCase, role: str, content: torch.Tensor) -> torch.Tensor:
    """float32 `content` as the cache `role` holds it: in its dtype, FP8 codes for its scale."""
    if case.cache_dtype == "same":
        return content.to(case.stored_dtype)
    scale: float = getattr(case, f"{role[0]}_scale")
    return fp8.quantised(content, scale, case.stored_dtype).view(case.stored_dtype)


def batch_inputs(case: ReaderCase, arena: Arena, rows: Sequence[int]) -> Inputs:
    """`query`, `output`, `query_start_loc`, `seq_lens`, and what the attention is told besides.

    `rows`: the rows of query that are answered. The output must be written there and nowhere else; the other rows of query are
    poison.
    """
    answered = torch.tensor(list(rows), dtype=torch.int64)
    return {
        "query": _query(case, arena, answered),
        "output": _output(case, arena, answered),
        "query_start_loc": _integers(arena, "query_start_loc", _starts(case.query_lens)),
        "seq_lens": _integers(arena, "seq_lens", case.seq_lens),
        "sm_scale": case.sm_scale,
        "k_scale": _scale(case, arena, "k_scale"),
        "v_scale": _scale(case, arena, "v_scale"),
        "alibi_slopes": _per_head(arena, "alibi_slopes", slopes(case)),
        "sliding_window": case.window,
        "sinks": _per_head(arena, "sinks", sinks(case)),
        "output_scale": _output_scale(case, arena),
        "platform": case.platform,
    }


def rows_of(case: ReaderCase, sequences: Sequence[int]) -> list[int]:
    """The rows of query that belong to `sequences`."""
    starts = _starts(case.query_lens)
    return [row for at in sequences for row in range(starts[at], starts[at + 1])]


def row_tensor(
    case: ReaderCase, arena: Arena, name: str, content: torch.Tensor, rows: torch.Tensor, *, layout: str = "packed"
) -> torch.Tensor:
    """Input `name` [T, heads, D] of the queries' dtype with float32 `content` in its `rows`, poison in the others."""
    sizes = (case.num_tokens, *content.shape[1:])
    fused = 2 * case.num_kv_heads * case.head_dim
    strides = layouts.row_strides(layout, sizes, gap=case.gap, fused=fused)
    tensor = arena.tensor(name, sizes, DTYPES[case.dtype], strides=strides, lead=case.lead)
    tensor[rows] = content.to(tensor.dtype)
    return tensor


def slopes(case: ReaderCase) -> torch.Tensor | None:
    """Slopes of alibi, float32 [Hq], see `ALIBI`."""
    if case.alibi == "none":
        return None
    head = torch.arange(1, case.num_heads + 1, dtype=torch.float64)
    return (torch.exp2(-8.0 * head / case.num_heads) * (8.0 if case.alibi == "steep" else 1.0)).to(torch.float32)


def sinks(case: ReaderCase) -> torch.Tensor | None:
    """Logits of the sinks, float32 [Hq], see `SINKS`."""
    if case.sinks == "none":
        return None
    normal = profiles.normals(case.seed, "sinks", (case.num_heads,))
    head = torch.arange(case.num_heads)
    kind = {"normal": 0, "minus_infinity": 1, "large": 2}.get(case.sinks)
    kinds = head % 3 if kind is None else torch.full_like(head, kind)
    return torch.where(kinds == 1, -torch.inf, torch.where(kinds == 2, LARGE_SINK + normal, normal))


def _starts(lengths: Sequence[int]) -> list[int]:
    return [0, *accumulate(lengths)]


def _peaks(case: ReaderCase) -> list[set[int]]:
    """Positions of the peaks of every sequence; none where it has no keys, or the pattern no peak.

    Beside a peak elsewhere the last key weighs nothing, and to drop it would change nothing: so it is a peak, too. Not beside
    one that the window leaves out, which weighs nothing itself, nor beside the value of a sink, which is 0.
    """
    if not has_peak(case.pattern):
        return [set() for _ in case.seq_lens]
    alone = case.pattern == "sink" or case.peak_at == "outside_window"
    picks = profiles.picks(case.seed, len(case.seq_lens))
    return [
        {peak_position(case, row, pick), *(() if alone else (length - 1,))} if length else set()
        for row, (length, pick) in enumerate(zip(case.seq_lens, picks, strict=True))
    ]


def peak_position(case: ReaderCase, row: int, pick: int) -> int:
    """Position of the peak of sequence `row`, which has keys; `pick`: see `profiles.peak_position`."""
    length = case.seq_lens[row]
    context = length - case.query_lens[row]
    special = {
        "outside_window": length - 1 - case.window if case.window else -1,
        "inside_window": length - case.window if case.window else -1,
        "before_chunk": context - 1,
        "after_chunk": context,
    }
    if case.peak_at not in special:
        return profiles.peak_position(case.peak_at, length, page_size=case.page_size, num_kv_splits=1, pick=pick)
    position = special[case.peak_at]
    return position if 0 <= position < length else length - 1


def _keys(case: ReaderCase, shape: tuple[int, int, int], peaks: Sequence[int]) -> torch.Tensor:
    if case.pattern != VERY_NEGATIVE:
        return profiles.key_values(case.pattern, case.sigma, case.seed, shape, peaks, case.peak_height / case.sm_scale)
    logit = VERY_NEGATIVE_LOGIT * BELOW_PEAKS
    values = profiles.key_values("peaked", case.sigma, case.seed, shape, range(shape[0]), logit / case.sm_scale)
    values[sorted(set(peaks))] /= BELOW_PEAKS
    return values


def _values(case: ReaderCase, shape: tuple[int, int, int], peaks: Sequence[int]) -> torch.Tensor:
    pattern = "gaussian" if case.pattern == VERY_NEGATIVE else case.pattern
    limit = fp8.LARGEST[case.cache_dtype] * case.v_scale if case.cache_dtype in fp8.LARGEST else _MOST_VALUE
    return profiles.value_values(pattern, case.value_sigma, case.seed, shape, peaks, limit)


_MOST_VALUE = 57344.0
"""Values at the limit where the cache is not in FP8: sums of them are still finite in float16."""


def _query(case: ReaderCase, arena: Arena, rows: torch.Tensor) -> torch.Tensor:
    sizes = (case.num_tokens, case.num_heads, case.head_dim)
    pattern = "peaked" if case.pattern == VERY_NEGATIVE else case.pattern
    content = profiles.query_values(pattern, case.seed, sizes, case.num_kv_heads)
    return row_tensor(case, arena, "query", content[rows], rows, layout=case.query_layout)


def _output(case: ReaderCase, arena: Arena, rows: torch.Tensor) -> torch.Tensor:
    sizes = (case.num_tokens, case.num_heads, case.head_dim)
    dtype = DTYPES[case.dtype] if case.output_dtype == "same" else fp8.DTYPES[case.output_dtype]
    strides = layouts.row_strides(case.output_layout, sizes, gap=case.gap)
    output = arena.output("output", sizes, dtype, strides=strides)
    arena.declare_cells("output", cells_of(rows, sizes[1:]))
    return output


def cells_of(rows: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Index of all elements of `rows` of a tensor [T, *sizes]."""
    return rows[:, None, None], torch.arange(sizes[0])[:, None], torch.arange(sizes[1])


def _block_table(case: ReaderCase, arena: Arena, batch: Tokens, placement: Placement) -> torch.Tensor:
    """int32 [sequences, widest row + tail]; entries that no sequence needs keep their poison."""
    used = torch.from_numpy(batch.pages.logical >= 0)
    sizes = (used.shape[0], max(1, used.shape[1]) + case.table_tail)
    table = arena.tensor("block_table", sizes, torch.int32, strides=layouts.row_strides(case.table_layout, sizes, gap=case.gap))
    table[:, : used.shape[1]][used] = torch.from_numpy(placement.ids(batch.pages.table)).to(torch.int32)[used]
    return table


def _integers(arena: Arena, name: str, numbers: Sequence[int]) -> torch.Tensor:
    return arena.tensor(name, (len(numbers),), torch.int32).copy_(torch.tensor(numbers, dtype=torch.int64))


def _per_head(arena: Arena, name: str, numbers: torch.Tensor | None) -> torch.Tensor | None:
    return None if numbers is None else arena.tensor(name, tuple(numbers.shape), torch.float32).copy_(numbers)


def _scale(case: ReaderCase, arena: Arena, name: str) -> torch.Tensor | None:
    """The scale `name` in the case's form, see `fp8.SCALE_FORMS`."""
    scale: float = getattr(case, name)
    if case.scale_form == "unread":
        return arena.tensor(name, (), torch.float32)
    if case.cache_dtype == "same" or (case.scale_form == "absent" and scale == 1.0):
        return None
    return arena.tensor(name, (1,) if case.scale_form == "vector" else (), torch.float32).fill_(scale)


def _output_scale(case: ReaderCase, arena: Arena) -> torch.Tensor | None:
    """`output_scale`, of one element, where the output is FP8."""
    if case.output_dtype == "same":
        return None
    return arena.tensor("output_scale", (1,) if case.seed % 2 else (), torch.float32).fill_(case.output_scale)
