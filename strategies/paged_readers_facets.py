"""What a Kernel may restrict of the contract of Ops that read head-major caches, and what reports count of their Cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tridiff.harness.api import Facet
from tridiff.strategies.paged_readers_case import CHOICES, VERY_NEGATIVE, ReaderCase
from tridiff.strategies.paged_readers_room import NATIVE, STRIDES, native_word, strides_word
from tridiff.strategies.properties import of_block


def _field(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


def _native(case: ReaderCase) -> str:
    return native_word(case.cache("key"), case.cache("value"))


def _cache_strides(case: ReaderCase) -> str:
    return strides_word(case.cache("key"), case.cache("value"))


def _very_negative(case: ReaderCase) -> bool:
    return case.pattern == VERY_NEGATIVE


FACETS: Mapping[str, Facet] = {
    name: _field(name, description)
    for name, description in {
        "num_kv_heads": "KV heads",
        "group_size": "query heads that share a KV head",
        "head_dim": "width of a head",
        "query_lens": "query tokens of every sequence",
        "seq_lens": "keys of every sequence",
        "padding_rows": "rows of query and output that belong to no sequence",
        "page_size": "tokens per page",
        "kind": "whether tokens of V lie in packs, see `kv_caches`",
        "key_pages": "distance of the pages of K, see `kv_caches.PAGES`",
        "value_pages": "distance of the pages of V, likewise",
        "key_order": "whether heads of K have gaps, see `kv_caches.HEAD_MAJOR_ORDERS`",
        "value_order": "whether heads of V have gaps, likewise",
        "gap": "elements of each gap in the layouts",
        "far": "whether the last pages lie beyond 2^31 elements",
        "lead": "elements by which queries and caches begin past a 16-byte boundary",
        "storage": "whether the caches' storage exceeds 2 GiB",
        "query_layout": "strides of the queries, see `layouts.row_strides`",
        "output_layout": "strides of the output, likewise",
        "table_layout": "strides of the block table, likewise",
        "page_order": "whether pages are numbered as they are used",
        "page_sharing": "which pages sequences have in common",
        "table_tail": "unused columns of the block table",
        "dtype": "dtype of the queries, and of caches that are not in FP8",
        "cache_dtype": "FP8 format of the caches, or the queries' dtype",
        "k_scale": "by what codes of keys are multiplied",
        "v_scale": "by what codes of values are multiplied",
        "scale_form": "how scales reach the launcher, see `fp8.SCALE_FORMS`",
        "output_dtype": "FP8 format of the output, or the queries' dtype",
        "output_scale": "by what an output in FP8 is divided",
        "window": "keys that a query sees of those before it, itself included; 0 for all",
        "alibi": "slopes of a bias that grows with the distance, see `paged_readers_case.ALIBI`",
        "sinks": "logits of one more key of value 0 for each head, see `paged_readers_case.SINKS`",
        "scale_factor": "by what sm_scale exceeds 1 / sqrt(D)",
        "pattern": "what the keys and values hold, see `paged_readers_case.PATTERNS`",
    }.items()
} | {
    "native": Facet(description="whether the pages of both caches are packed", of=_native, choices=NATIVE),
    "cache_strides": Facet(
        description="whether pages and heads of the value cache lie as those of the key cache", of=_cache_strides, choices=STRIDES
    ),
    "very_negative_logits": Facet(
        description="whether logits lie so low that a finite mask value wins over them", of=_very_negative, choices=(False, True)
    ),
}


def layout_class(case: ReaderCase) -> str:
    """Whether a native kernel could read the caches, and if not how far apart their pages are."""
    if case.is_native:
        return "packed"
    if _cache_strides(case) == "own":
        return "own strides"
    return case.key_pages if case.key_pages != "packed" else "padded heads"


def _window(case: ReaderCase) -> str:
    if case.window == 0:
        return "none"
    return "shorter" if case.window < max(case.seq_lens) else "longer"


PROPERTIES: Mapping[str, Callable[[Any], str]] = {
    "block_class": of_block(),
    "page_size": lambda case: str(case.page_size),
    "layout_class": layout_class,
    "kind": lambda case: str(case.kind),
    "dtype": lambda case: str(case.dtype),
    "cache_dtype": lambda case: str(case.cache_dtype),
    "output_dtype": lambda case: str(case.output_dtype),
    "head_dim": lambda case: str(case.head_dim),
    "group": lambda case: str(case.group_size),
    "window": _window,
    "alibi": lambda case: str(case.alibi),
    "sinks": lambda case: str(case.sinks),
}
