"""Facets of `reshape_and_cache`: by what a kernel may narrow the contract; and what reports count of its cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tridiff.harness.api import Facet
from tridiff.strategies import cache_writes, dims, layouts
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.reshape_and_cache_case import CHOICES, ReshapeAndCacheCase


def strides_relation(key: KVCache, value: KVCache) -> str:
    """Which of `layouts.STRIDES`: "alike" where V has K's strides of page, token, head; in other kinds of page and head."""
    dimensions = 3 if key.kind == "nhd" else 2
    return layouts.STRIDES[key.strides[:dimensions] != value.strides[:dimensions]]


def _scales(case: ReshapeAndCacheCase, name: str) -> tuple[float, ...]:
    return (getattr(case, name),) if case.is_fp8 else ()


def _plain(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


FACETS: Mapping[str, Facet] = (
    {
        name: _plain(name, description)
        for name, description in {
            "kind": "dimensions of the caches, see `kv_caches`: nhd, head_major, interleaved",
            "num_heads": "KV heads, H",
            "head_dim": "width of keys, D",
            "head_dim_v": "width of values, Dv",
            "dtype": "dtype of key and value; FP8 is stored as it is",
            "cache_dtype": "dtype of the caches: that of key and value (same), or another",
            "key_order": "how tokens and heads of a page of K lie, see `kv_caches.ORDERS`",
            "value_order": "likewise of V",
            "key_pages": "how far pages of K are apart, see `kv_caches.PAGES`",
            "value_pages": "likewise of V",
            "key_layout": "strides of key, see `cache_writes.ROW_LAYOUTS`",
            "value_layout": "strides of value, likewise",
            "gap": "elements of each gap in the layouts",
            "lead": "elements by which tensors begin past a 16-byte boundary",
            "storage": "whether the caches' storage exceeds 2 GiB",
            "scale_form": "how scales reach the launcher, see `fp8.SCALE_FORMS`",
            "pattern": "what the tokens hold, see `cache_writes_values`",
        }.items()
    }
    | dict(cache_writes.FACETS)
    | {
        "widths": Facet(
            description="how D and Dv compare", of=lambda case: dims.widths(case.head_dim, case.head_dim_v), choices=dims.WIDTHS
        ),
        "cache_strides": Facet(
            description="whether V has K's strides of page, token and head (alike), or its own",
            of=lambda case: strides_relation(case.cache("key"), case.cache("value")),
            choices=layouts.STRIDES,
        ),
        "row_strides": Facet(
            description="whether heads are dense in a token of key and of value, or have a stride of their own",
            of=lambda case: tuple(cache_writes.row_strides_of(layout) for layout in (case.key_layout, case.value_layout)),
            choices=cache_writes.ROW_STRIDES,
        ),
        "overflow": Facet(
            description="whether all numbers lie in the range of the caches' dtype (fits)",
            of=lambda case: values.overflow(case.pattern, case.dtype, case.cache_dtype),
            choices=values.FITS,
        ),
        "k_scale": Facet(description="by what codes of keys are multiplied", of=lambda case: _scales(case, "k_scale")),
        "v_scale": Facet(description="by what codes of values are multiplied", of=lambda case: _scales(case, "v_scale")),
    }
)


def _layout_class(case: ReshapeAndCacheCase) -> str:
    """The kind, and whether the pages of both caches are packed."""
    packed = case.cache("key").is_packed and case.cache("value").is_packed
    return f"{case.kind}, {'packed' if packed else 'strided'}"


PROPERTIES: Mapping[str, Callable[[Any], str]] = {
    **cache_writes.PROPERTIES,
    "layout_class": _layout_class,
    "dtype": lambda case: case.dtype,
    "cache_dtype": lambda case: case.dtype if case.cache_dtype == "same" else case.cache_dtype,
    "pattern": lambda case: case.pattern,
}
"""What reports count of the cases."""
