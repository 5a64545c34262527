"""What a Kernel may restrict of the contract of `cache_round_trip`, and what reports count of its Cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tridiff.harness.api import Facet
from tridiff.strategies.cache_round_trip_case import CHOICES, CacheRoundTripCase
from tridiff.strategies.properties import of_block


def _plain(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


FACETS: Mapping[str, Facet] = {
    name: _plain(name, description)
    for name, description in {
        "num_kv_heads": "KV heads",
        "group_size": "query heads that share a KV head",
        "head_dim": "width of a head",
        "seq_lens": "tokens of every sequence",
        "skipped": "tokens whose slot is -1",
        "padding_rows": "rows of key and value behind the last token",
        "slot_order": "whether tokens are written in the order of their sequences",
        "slot_dtype": "dtype of the slot mapping",
        "page_size": "tokens per page",
        "kind": "dimensions of the caches, see `kv_caches`",
        "key_order": "how tokens and heads lie in a page of keys, likewise",
        "value_order": "the same of the values",
        "key_pages": "how far apart pages of keys are, likewise",
        "value_pages": "the same of the values",
        "gap": "elements of each gap in those",
        "page_order": "whether pages are numbered as they are used",
        "table_tail": "unused columns of the block table",
        "chunk": "queries of every other sequence in a mixed batch, 0 where a decode kernel reads alone",
        "dtype": "dtype of tokens and queries, and of caches that are not in FP8",
        "cache_dtype": "FP8 format of the caches, or the tokens' dtype",
        "k_scale": "by what codes of keys are multiplied",
        "v_scale": "by what codes of values are multiplied",
    }.items()
}


def _reader(case: CacheRoundTripCase) -> str:
    """Which kernels read: of mixed batches chunks, single queries, or both."""
    if case.chunk == 0:
        return "decode"
    chunks = {queries > 1 for queries in case.query_lens}
    return "driver, mixed" if len(chunks) > 1 else "driver, chunks" if True in chunks else "driver, single queries"


PROPERTIES: Mapping[str, Callable[[Any], str]] = {
    "page_size": lambda case: str(case.page_size),
    "block_class": of_block(),
    "layout_class": lambda case: case.layout_class,
    "kind": lambda case: case.kind,
    "dtype": lambda case: case.dtype,
    "cache_dtype": lambda case: case.cache_dtype,
    "group": lambda case: str(case.group_size),
    "skipped": lambda case: "some" if case.skipped else "none",
    "reader": _reader,
}
