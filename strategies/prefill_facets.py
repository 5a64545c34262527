"""What a Kernel may restrict of the contracts of `prefix_prefill` and `chunked_prefill_paged_decode`, and what reports count."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tridiff.harness.api import Facet
from tridiff.strategies import layouts, paged_readers_case
from tridiff.strategies.prefill_case import CHOICES, PrefillCase
from tridiff.strategies.prefill_room import cache_strides, is_native


def _field(name: str, description: str) -> Facet:
    choices = {**paged_readers_case.CHOICES, **CHOICES, "causal": (True, False)}.get(name, ())
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(choices))


FACETS: Mapping[str, Facet] = {
    name: _field(name, description)
    for name, description in {
        "num_kv_heads": "KV heads",
        "group_size": "query heads that share a KV head",
        "head_dim": "width of all heads, D",
        "query_lens": "queries of every sequence",
        "context_lens": "keys of every sequence before its chunk",
        "seq_lens": "keys of every sequence, those of the chunk included",
        "padding_rows": "rows of query and output that belong to no sequence",
        "extra_query_len": "by how much max_query_len exceeds the longest chunk",
        "causal": "whether no query sees a key behind it",
        "window": "sliding window, 0 for none",
        "alibi": "slopes of alibi",
        "sinks": "logits of the sinks",
        "chunk": "whether keys and values of the chunk come as rows, or from the cache",
        "chunk_slots": "what the cache holds of a chunk that comes as rows",
        "page_size": "tokens per page",
        "kind": "whether V lies in packs of tokens",
        "key_order": "how heads lie in a page of the keys, see `kv_caches`",
        "value_order": "how heads lie in a page of the values, likewise",
        "key_pages": "how far apart pages of the keys are, likewise",
        "value_pages": "how far apart pages of the values are, likewise",
        "gap": "elements of each gap in the layouts",
        "far": "what lies beyond 2^31 elements: nothing, or the last pages",
        "lead": "elements by which queries, chunks and caches begin past a 16-byte boundary",
        "storage": "whether the caches' storage exceeds 2 GiB",
        "page_order": "whether pages are numbered as they are used",
        "page_sharing": "which pages sequences have in common",
        "table_tail": "unused columns of the block table",
        "query_layout": "strides of the queries, see `layouts.row_strides`",
        "chunk_layout": "strides of the chunk's keys and values, likewise",
        "output_layout": "strides of the output, likewise",
        "table_layout": "strides of the block table, likewise",
        "dtype": "dtype of the queries, of the chunk, and of caches that are not in FP8",
        "cache_dtype": "FP8 format of the caches, or the queries' dtype",
        "output_dtype": "FP8 format of the output, or the queries' dtype",
        "output_scale": "by what an FP8 output is divided",
        "k_scale": "by what codes of keys are multiplied",
        "v_scale": "by what codes of values are multiplied",
        "scale_form": "how scales reach the launcher, see `fp8.SCALE_FORMS`",
        "scale_factor": "by what sm_scale exceeds 1 / sqrt(D)",
        "pattern": "what the keys and values hold, see `paged_readers_case.PATTERNS`",
    }.items()
} | {
    "alibi_with_window": Facet(
        description="whether there are alibi and a window at once",
        of=lambda case: case.alibi != "none" and case.window > 0,
        choices=(False, True),
    ),
    "native": Facet(
        description="whether pages of both caches are packed, as native kernels assume",
        of=lambda case: is_native(vars(case)),
        choices=(False, True),
    ),
    "cache_strides": Facet(
        description="whether pages and heads of V are as far apart as those of K",
        of=lambda case: cache_strides(vars(case)),
        choices=layouts.STRIDES,
    ),
}


def _block_class(case: PrefillCase) -> str:
    """How tiles of 32 tokens fit into a page."""
    if case.page_size & (case.page_size - 1) == 0:
        return "power of two"
    return "multiple of 32" if case.page_size % 32 == 0 else "straddles tiles of 32"


def _layout_class(case: PrefillCase) -> str:
    return "packed" if is_native(vars(case)) else "strided, K and V alike" if _alike(case) else "strided, K and V apart"


def _alike(case: PrefillCase) -> bool:
    return cache_strides(vars(case)) == layouts.STRIDES[0]


def _window(case: PrefillCase) -> str:
    if not case.window:
        return "none"
    return "shorter than the longest sequence" if case.window < max(case.seq_lens) else "no shorter than any sequence"


def _batch(case: PrefillCase) -> str:
    """Which sequences there are, those without queries aside."""
    kinds = {queries > 1 for queries in case.query_lens if queries}
    return {frozenset({True}): "chunks", frozenset({False}): "single queries", frozenset(): "no query"}.get(
        frozenset(kinds), "mixed"
    )


PROPERTIES: Mapping[str, Callable[[PrefillCase], str]] = {
    "block_class": _block_class,
    "layout_class": _layout_class,
    "dtype": lambda case: case.dtype,
    "cache_dtype": lambda case: case.cache_dtype,
    "output_dtype": lambda case: case.output_dtype,
    "group": lambda case: str(case.group_size),
    "window": _window,
    "alibi": lambda case: case.alibi,
    "sinks": lambda case: case.sinks,
    "kind": lambda case: case.kind,
    "chunk": lambda case: case.chunk,
    "causal": lambda case: "causal" if case.causal else "not causal",
    "batch": _batch,
}
