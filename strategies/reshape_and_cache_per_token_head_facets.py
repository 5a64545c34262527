"""Facets of `reshape_and_cache_per_token_head`: by what a kernel may narrow the contract."""

from __future__ import annotations

from collections.abc import Mapping

from tridiff.harness.api import Facet
from tridiff.strategies import cache_writes
from tridiff.strategies.dims import WIDTHS, widths
from tridiff.strategies.reshape_and_cache_per_token_head_case import CHOICES, ReshapeAndCachePerTokenHeadCase


def _field(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


def _row_strides(case: ReshapeAndCachePerTokenHeadCase) -> tuple[str, ...]:
    return tuple(cache_writes.row_strides_of(layout) for layout in (case.key_layout, case.value_layout))


FACETS: Mapping[str, Facet] = {
    **cache_writes.FACETS,
    **{
        name: _field(name, description)
        for name, description in {
            "num_heads": "heads, H",
            "head_dim": "width of keys, D",
            "head_dim_v": "width of values, Dv",
            "key_order": "memory order and gaps of a page of keys, see `kv_caches.ORDERS`",
            "value_order": "memory order and gaps of a page of values, likewise",
            "key_pages": "distance of the pages of keys, see `kv_caches.PAGES`",
            "value_pages": "distance of the pages of values, likewise",
            "k_scale_layout": "memory of the keys' scales, see `scale_strides`",
            "v_scale_layout": "memory of the values' scales, likewise",
            "key_layout": "strides of the keys' rows, see `layouts.row_strides`",
            "value_layout": "strides of the values' rows, likewise",
            "gap": "elements of each gap in the layouts",
            "lead": "elements by which rows and caches begin past a 16-byte boundary",
            "storage": "whether the caches' storage exceeds 2 GiB",
            "dtype": "dtype of keys and values",
            "cache_dtype": "dtype of the codes",
            "pattern": "what keys and values hold",
        }.items()
    },
    "widths": Facet(description="how D and Dv compare", of=lambda case: widths(case.head_dim, case.head_dim_v), choices=WIDTHS),
    "row_strides": Facet(
        description="whether heads are dense in a token, or have a stride of their own",
        of=_row_strides,
        choices=cache_writes.ROW_STRIDES,
    ),
}
