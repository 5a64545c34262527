"""Launcher arguments of readers of head-major caches, for tests of their references: written element by element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Sequence_ = tuple[Tensor, Tensor, Tensor]
"""Queries [queries, Hq, D], keys and values [n, Hkv, D] of one sequence."""

PAGE_SIZE = 16
ROUNDING = {"p_dtype": "float32", "block_n": 16, "dot_precision": "ieee", "dequantised": "float32"}


def gaussian(seed: int, *shape: int) -> Tensor:
    """Float32 normal values; every call with one seed and shape gives the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sequence(count: int, *, queries: int = 1, heads: tuple[int, int] = (4, 2), width: int = 32, seed: int = 0) -> Sequence_:
    """Gaussian float32 values of `count` keys, `heads` (query, KV)."""
    shapes = (queries, heads[0], width), (count, heads[1], width), (count, heads[1], width)
    query, keys, values = (gaussian(10 * seed + at, *shape) for at, shape in enumerate(shapes))
    return query, keys, values


def inputs_of(*sequences: Sequence_, interleaved: bool = False, page_size: int = PAGE_SIZE, **changes: Any) -> dict[str, Any]:
    """Arguments of `paged_decode` for `sequences`, whose pages have numbers that fall; `changes`: other arguments."""
    query = torch.cat([query for query, _, _ in sequences])
    lengths = [len(keys) for _, keys, _ in sequences]
    counts = [-(-length // page_size) for length in lengths]
    table = torch.full((len(sequences), max(1, *counts)), 2**30, dtype=torch.int32)
    left = sum(counts)
    for row, count in enumerate(counts):
        table[row, :count] = torch.arange(left - 1, left - count - 1, -1)
        left -= count
    keys, values = (
        cache(table, [each[at] for each in sequences], page_size, "key" if at == 1 else "interleaved" if interleaved else "value")
        for at in (1, 2)
    )
    starts = torch.tensor([0, *(len(query) for query, _, _ in sequences)]).cumsum(0)
    return {
        "query": query,
        "key_cache": keys,
        "value_cache": values,
        "block_table": table,
        "query_start_loc": starts.to(torch.int32),
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "output": torch.empty_like(query),
        "sm_scale": 1 / math.sqrt(query.shape[2]),
        **dict.fromkeys(("k_scale", "v_scale", "alibi_slopes", "sinks", "output_scale")),
        "sliding_window": 0,
        "interleaved": interleaved,
        "platform": "hip",
        **changes,
    }


def cache(table: Tensor, tokens: Sequence[Tensor], page_size: int, kind: str) -> Tensor:
    """A dense cache of `tokens` ([n, heads, D] of each sequence), NaN where none lies; `kind`: "key", "value" or "interleaved".

    Element by element, at the addresses that vLLM's launchers document.
    """
    _, heads, width = tokens[0].shape
    pages = max(1, sum(-(-len(each) // page_size) for each in tokens))
    pack = 16 // tokens[0].element_size()
    flat = torch.full((pages * heads * width * page_size,), math.nan, dtype=torch.float32).to(tokens[0].dtype)
    raw, head, column = flat.view(torch.uint8) if flat.element_size() == 1 else flat, torch.arange(heads), torch.arange(width)
    for row, each in enumerate(tokens):
        for position, token in enumerate(each):
            panel = (int(table[row, position // page_size]) * heads + head) * width * page_size
            offset = position % page_size
            inside = {
                "key": (column // pack) * page_size * pack + offset * pack + column % pack,
                "value": column * page_size + offset,
                "interleaved": (offset // pack) * width * pack + column * pack + offset % pack,
            }[kind]
            raw[panel[:, None] + inside] = token.view(raw.dtype)
    shape = (pages, heads, width // pack, page_size, pack) if kind == "key" else (pages, heads, width, page_size)
    return flat.view(shape)


def plain(query: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor | None = None, sinks: Tensor | None = None) -> Tensor:
    """Float64 attention of one query [Hq, D], query heads grouped in order; output [Hq, D]. `bias`: [Hq, n]. `sinks`: [Hq]."""
    query, keys, values = query.double(), keys.double(), values.double()
    group = query.shape[0] // keys.shape[1]
    result = []
    for head, row in enumerate(query):
        logits = keys[:, head // group] @ row / math.sqrt(query.shape[1])
        if bias is not None:
            logits = logits + bias[head].double()
        weights = logits.exp()
        total = weights.sum() + (0.0 if sinks is None else sinks[head].double().exp())
        result.append(weights @ values[:, head // group] / total)
    return torch.stack(result)
