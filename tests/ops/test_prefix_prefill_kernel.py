"""The kernel of prefix_prefill on the cpu engine against attention written out in float64, over caches that a loop has filled."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from launching import run

from tridiff.kernels.prefix_prefill import prefix_prefill

NAN = float("nan")
INF = float("inf")
CONTEXTS, QUERIES = (0, 37, 5, 20, 9), (3, 18, 0, 1, 1)
"""Keys in the cache and queries of each sequence: none of either, pages and tiles begun, one query."""

E4M3FN, E4M3FNUZ, E5M2 = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What varies between the cases; `cached`: the chunks lie in the cache and have no rows of their own."""

    heads: int = 4
    kv_heads: int = 2
    width: int = 32
    page_size: int = 16
    dtype: torch.dtype = torch.float32
    cache: torch.dtype | None = None
    interleaved: bool = False
    cached: bool = False
    causal: bool = True
    skip_decode: bool = False
    window: int = 0
    alibi: bool = False
    sinks: tuple[float, ...] = ()
    quantised: torch.dtype | None = None

    def __str__(self) -> str:
        """A short name for a test: what differs from the default."""
        changed = (
            (each.name, getattr(self, each.name)) for each in dataclasses.fields(self) if getattr(self, each.name) != each.default
        )
        return "-".join(f"{name} {value}".replace("torch.", "") for name, value in changed) or "default"

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of both caches."""
        return self.cache or self.dtype


def drawn(generator: torch.Generator, *sizes: int) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(sizes, generator=generator)


def inputs(shape: Shape) -> tuple[dict[str, Any], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Arguments, NaN wherever nothing is to be read; and the keys and values [seq_len, Hkv, D] of each sequence."""
    generator = torch.Generator().manual_seed(3)
    lengths = [context + queries for context, queries in zip(CONTEXTS, QUERIES, strict=True)]
    pages = [-(-length // shape.page_size) for length in lengths]
    ids = torch.randperm(sum(pages) + 1, generator=generator).to(torch.int32)
    pack = 16 // shape.cache_dtype.itemsize
    room = torch.full((2 * len(ids), shape.kv_heads * shape.page_size * shape.width), NAN).to(shape.cache_dtype)
    # The pages of K and V alternate, each a page from the next of its own.
    key_cache = room[::2].unflatten(1, (shape.kv_heads, shape.width // pack, shape.page_size, pack))
    value_cache = room[1::2].unflatten(1, (shape.kv_heads, shape.width, shape.page_size))
    table = torch.full((len(lengths), max(pages) + 1), 2**30, dtype=torch.int32)
    rows = sum(QUERIES) + 2
    query, key, value = (
        torch.full((rows, heads, shape.width), NAN).to(shape.dtype) for heads in (shape.heads, *[shape.kv_heads] * 2)
    )
    scales = (1.7, 0.37) if shape.cache else (None, None)
    tokens: list[tuple[torch.Tensor, torch.Tensor]] = []
    starts = [0]
    for sequence, (context, queries) in enumerate(zip(CONTEXTS, QUERIES, strict=True)):
        length, start = context + queries, starts[-1]
        mine = ids[sum(pages[:sequence]) : sum(pages[: sequence + 1])]
        table[sequence, : len(mine)] = mine
        read: list[torch.Tensor] = []
        for cache, chunk, scale in ((key_cache, key, scales[0]), (value_cache, value, scales[1])):
            content = drawn(generator, length, shape.kv_heads, shape.width).to(shape.dtype)
            codes = content.to(shape.cache_dtype) if scale is None else (content.float() / scale).to(shape.cache_dtype)
            held = content if scale is None else (codes.float() * torch.tensor(scale)).to(shape.dtype)
            for token in range(length if shape.cached else context):
                put(cache, int(mine[token // shape.page_size]), token % shape.page_size, codes[token], shape)
            if not shape.cached:
                chunk[start : start + queries] = content[context:]
                held[context:] = content[context:]
            read.append(held)
        query[start : start + queries] = drawn(generator, queries, shape.heads, shape.width).to(shape.dtype)
        tokens.append((read[0], read[1]))
        starts.append(start + queries)
    given = {
        "query": query,
        "key": None if shape.cached else key,
        "value": None if shape.cached else value,
        "output": torch.full((rows, shape.heads, shape.width), NAN).to(shape.quantised or shape.dtype),
        "key_cache": key_cache,
        "value_cache": value_cache,
        "block_table": table,
        "query_start_loc": torch.tensor(starts, dtype=torch.int32),
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "max_query_len": max(QUERIES) + 1,
        "sm_scale": 1 / math.sqrt(shape.width),
        "k_scale": None if scales[0] is None else torch.tensor(scales[0]),
        "v_scale": None if scales[1] is None else torch.tensor([scales[1]]),
        "alibi_slopes": torch.linspace(0.5, 0.05, shape.heads) if shape.alibi else None,
        "sliding_window": shape.window,
        "sinks": torch.tensor(shape.sinks) if shape.sinks else None,
        "output_scale": torch.tensor([0.25]) if shape.quantised else None,
        "interleaved": shape.interleaved,
        "causal": shape.causal,
        "skip_decode": shape.skip_decode,
        "platform": "hip",
    }
    return given, tokens


def put(cache: torch.Tensor, page: int, offset: int, token: torch.Tensor, shape: Shape) -> None:
    """Write one token [Hkv, D] into K, [NB, Hkv, D/x, page size, x], or V, [NB, Hkv, D, page size] or in packs of x."""
    pack = 16 // cache.element_size()
    raw, token = (
        cache.view(torch.uint8 if cache.element_size() == 1 else cache.dtype),
        token.view(torch.uint8 if cache.element_size() == 1 else cache.dtype),
    )
    if raw.dim() == 5:
        raw[page, :, :, offset] = token.unflatten(1, (-1, pack))
    elif shape.interleaved:
        for column in range(shape.width):
            at = (offset // pack) * shape.width * pack + column * pack + offset % pack
            raw[page, :, at // shape.page_size, at % shape.page_size] = token[:, column]
    else:
        raw[page, :, :, offset] = token


def expected(given: dict[str, Any], tokens: tuple[torch.Tensor, torch.Tensor], sequence: int, at: int, head: int) -> torch.Tensor:
    """Output [D] of query `at` of a sequence, float64."""
    position = CONTEXTS[sequence] + at
    kv_head = head // (given["query"].shape[1] // given["key_cache"].shape[1])
    keys, values = (each[:, kv_head].double() for each in tokens)
    query = given["query"][int(given["query_start_loc"][sequence]) + at, head].double()
    distance = torch.arange(len(keys)) - position
    logits = given["sm_scale"] * (keys @ query)
    if given["alibi_slopes"] is not None:
        logits = logits + given["alibi_slopes"][head].double() * distance
    hidden = distance > 0 if given["causal"] else torch.zeros_like(distance, dtype=torch.bool)
    if given["sliding_window"]:
        hidden |= -distance >= given["sliding_window"]
    logits = logits.masked_fill(hidden, -INF)
    sink = given["sinks"][head].double() if given["sinks"] is not None else torch.tensor(-INF)
    weights = torch.softmax(torch.cat([logits, sink[None]]), dim=0)[:-1]
    return torch.zeros(values.shape[1]).double() if hidden.all() else weights @ values


def written(shape: Shape) -> list[int]:
    """Sequences whose rows are written."""
    return [each for each, queries in enumerate(QUERIES) if queries > (1 if shape.skip_decode else 0)]


UNITS = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, E4M3FN: 2.0**-3, E4M3FNUZ: 2.0**-3, E5M2: 2.0**-2}

SHAPES = [
    Shape(),
    Shape(cached=True),
    Shape(width=80, page_size=544, heads=3, kv_heads=1, dtype=torch.bfloat16),
    Shape(width=96, page_size=48, dtype=torch.float16, window=7, sinks=(0.5, -INF, 30.0, -3.0)),
    Shape(window=1),
    Shape(window=33, alibi=True),
    Shape(alibi=True, cached=True, skip_decode=True),
    Shape(causal=False),
    Shape(causal=False, window=4, cached=True),
    Shape(interleaved=True, dtype=torch.bfloat16),
    Shape(interleaved=True, cache=E5M2, page_size=48, dtype=torch.float16),
    Shape(cache=E4M3FNUZ, dtype=torch.bfloat16),
    Shape(cache=E4M3FN, cached=True, sinks=(1.0, 2.0, 3.0, 4.0)),
    Shape(quantised=E4M3FN, dtype=torch.bfloat16),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attends_to_context_and_chunk(shape: Shape) -> None:
    """Rows of queries hold attention over all the keys that they see, and nothing else of the output is written."""
    given, tokens = inputs(shape)
    unit = UNITS[shape.dtype] + (UNITS[shape.quantised] if shape.quantised else 0.0)

    run(lambda: prefix_prefill(**given))

    live = torch.zeros(len(given["output"]), dtype=torch.bool)
    for sequence in written(shape):
        start = int(given["query_start_loc"][sequence])
        for at in range(QUERIES[sequence]):
            live[start + at] = True
            for head in range(shape.heads):
                value = expected(given, tokens[sequence], sequence, at, head) / (0.25 if shape.quantised else 1.0)
                error = (given["output"][start + at, head].double() - value).abs().max()
                assert error <= unit * tokens[sequence][1].abs().max() * (4 if shape.quantised else 1)
    assert given["output"][~live].float().isnan().all()
