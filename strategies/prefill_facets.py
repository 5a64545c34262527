"""What a Kernel may restrict of the contracts of `prefix_prefill` and `chunked_prefill_paged_decode`, and what reports count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tridiff.harness.api import Facet
from tridiff.strategies import paged_readers_facets
from tridiff.strategies.prefill_case import CHOICES, PrefillCase


def _field(name: str, description: str) -> Facet:
    choices = {**CHOICES, "causal": (True, False)}.get(name, ())
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(choices))


FACETS: Mapping[str, Facet] = {
    **paged_readers_facets.FACETS,
    "context_lens": _field("context_lens", "keys of every sequence before its chunk"),
    "causal": _field("causal", "whether no query sees a key behind it"),
    "alibi_with_window": Facet(
        description="whether there are alibi and a window at once",
        of=lambda case: case.alibi != "none" and case.window > 0,
        choices=(False, True),
    ),
    "chunk": _field("chunk", "whether keys and values of the chunk come as rows, or from the cache"),
    "chunk_slots": _field("chunk_slots", "what the cache holds of a chunk that comes as rows"),
    "chunk_layout": _field("chunk_layout", "strides of the chunk's keys, see `layouts.row_strides`"),
    "chunk_value_layout": _field("chunk_value_layout", "strides of the chunk's values, likewise"),
    "extra_query_len": _field("extra_query_len", "by how much max_query_len exceeds the longest chunk"),
}

_BATCHES = {
    frozenset[bool](): "no queries",
    frozenset({False}): "single queries",
    frozenset({True}): "chunks",
    frozenset({False, True}): "mixed",
}


def _batch(case: PrefillCase) -> str:
    """Which sequences there are, those without queries aside."""
    return _BATCHES[frozenset(queries > 1 for queries in case.query_lens if queries)]


PROPERTIES: Mapping[str, Callable[[Any], str]] = {
    **paged_readers_facets.PROPERTIES,
    "batch": _batch,
    "chunk": lambda case: str(case.chunk),
    "causal": lambda case: "causal" if case.causal else "not causal",
}
