"""Facets of `reshape_and_cache`: by what a kernel may narrow the contract; and what reports count of its cases."""

from __future__ import annotations

from collections.abc import Mapping

from tridiff.harness.api import Facet
from tridiff.strategies import cache_writes_facets, layouts
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.reshape_and_cache_case import ReshapeAndCacheCase


def strides_relation(key: KVCache, value: KVCache) -> str:
    """Which of `layouts.STRIDES`: "alike" where V has K's strides of page, token, head; in other kinds of page and head."""
    dimensions = 3 if key.kind == "nhd" else 2
    return layouts.STRIDES[key.strides[:dimensions] != value.strides[:dimensions]]


FACETS: Mapping[str, Facet] = {
    **cache_writes_facets.facets_of(
        ReshapeAndCacheCase, kind="dimensions of the caches, see `kv_caches`: nhd, head_major, interleaved"
    ),
    "cache_strides": Facet(
        description="whether V has K's strides of page, token and head (alike), or its own",
        of=lambda case: strides_relation(case.cache("key"), case.cache("value")),
        choices=layouts.STRIDES,
    ),
}


def layout_class(case: ReshapeAndCacheCase) -> str:
    """The kind, and whether the pages of both caches are packed."""
    packed = case.cache("key").is_packed and case.cache("value").is_packed
    return f"{case.kind}, {'packed' if packed else 'strided'}"


PROPERTIES = cache_writes_facets.properties_of(layout_class)
"""What reports count of the cases."""
