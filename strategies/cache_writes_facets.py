"""Facets, properties and placements that the Ops of all cache writers have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tridiff.harness.api import Domain, Facet
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies import fp8
from tridiff.strategies.cache_writes import HeadsCase, ScaledHeadsCase, WriterCase, negative_kinds
from tridiff.strategies.cache_writes_drawing import ROW_STRIDES, row_strides_of
from tridiff.strategies.dims import WIDTHS, widths
from tridiff.strategies.properties import of_block

_COMMON = {
    "num_tokens": "tokens, T: entries of the slot mapping",
    "padding_rows": "rows of the tokens' tensors behind the last token",
    "negatives": "which tokens have a negative slot",
    "placing": "where the other tokens go: consecutive slots, edges of pages, anywhere",
    "slot_order": "whether slots ascend from token to token",
    "first_page": "whether tokens go to page 0",
    "slot_dtype": "dtype of the slot mapping",
    "page_size": "tokens per page",
    "far": "what lies beyond 2^31 elements: none, pages, tokens, heads, positions, see `cache_writes.FAR`",
    "gap": "elements of each gap in the layouts",
    "lead": "elements by which rows and caches begin past a 16-byte boundary",
    "storage": "whether the caches' storage exceeds 2 GiB",
    "dtype": "dtype of the tokens",
    "cache_dtype": "dtype of the caches: the tokens' own (same), or another",
    "pattern": "what the tokens hold",
}
_HEADS = {
    "num_heads": "KV heads, H",
    "head_dim": "width of keys, D",
    "head_dim_v": "width of values, Dv",
    "key_layout": "strides of key, see `layouts.row_strides`",
    "value_layout": "strides of value, likewise",
}
_JOINT = {
    "order": "how tokens and heads of a page lie, see `kv_caches.ORDERS`",
    "pages": "distance of pages, see `kv_caches.PAGES`",
}
_APART = {
    "key_order": "how tokens and heads of a page of K lie, see `kv_caches.ORDERS`",
    "value_order": "likewise of V",
    "key_pages": "how far pages of K are apart, see `kv_caches.PAGES`",
    "value_pages": "likewise of V",
}
_FORM = {"scale_form": "how scales reach the launcher, see `fp8.SCALE_FORMS`"}


def facets_of(case: type[WriterCase], **own: str) -> dict[str, Facet]:
    """The facets of what `case` has in common with others; `own`: by field, what its other ones are."""
    known = {**_COMMON, **_HEADS, **_JOINT, **_APART, **_FORM, **own}
    fields = {name: known[name] for name in known if name in case.__dataclass_fields__}
    facets = {name: _of_field(case, name, description) for name, description in fields.items()}
    facets["negative_slots"] = Facet(
        description="what negative slots there are: -1, -2, minus the page size, one less, the lowest",
        of=lambda case: negative_kinds(case.negative_slot) if case.negatives != "none" else (),
    )
    if issubclass(case, HeadsCase):
        facets.update(_HEADS_FACETS)
    if issubclass(case, ScaledHeadsCase):
        facets.update(_SCALES)
    return facets


def _of_field(case: type[WriterCase], name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(case.CHOICES.get(name, ())))


def scale_facet(name: str, description: str) -> Facet:
    """The facet of a scale: there is none of caches that are not in FP8."""
    return Facet(description=description, of=lambda case: getattr(case, name) if case.is_fp8 else ())


OVERFLOW = Facet(
    description="whether all numbers lie in the range of caches of another dtype (fits)",
    of=lambda case: values.overflow(case.pattern, case.dtype, case.cache_dtype),
    choices=values.FITS,
)

_HEADS_FACETS: Mapping[str, Facet] = {
    "widths": Facet(description="how D and Dv compare", of=lambda case: widths(case.head_dim, case.head_dim_v), choices=WIDTHS),
    "row_strides": Facet(
        description="whether heads are dense in a token of key and of value, or have a stride of their own",
        of=lambda case: tuple(row_strides_of(layout) for layout in (case.key_layout, case.value_layout)),
        choices=ROW_STRIDES,
    ),
}
_SCALES: Mapping[str, Facet] = {
    "k_scale": scale_facet("k_scale", "by what keys are divided, of an FP8 cache"),
    "v_scale": scale_facet("v_scale", "by what values are divided, likewise"),
    "overflow": OVERFLOW,
}


def properties_of(layout_class: Callable[[Any], str]) -> Mapping[str, Callable[[Any], str]]:
    """What reports count of the cases of a writer; `layout_class`: which layouts its caches have."""
    return {
        "page_size": lambda case: str(case.page_size),
        "block_class": of_block(),
        "layout_class": layout_class,
        "negatives": lambda case: case.negatives,
        "tokens": lambda case: "none" if case.num_tokens == 0 else "one" if case.num_tokens == 1 else "several",
        "far": lambda case: case.far,
        "dtype": lambda case: case.dtype,
        "cache_dtype": lambda case: case.dtype if case.cache_dtype == "same" else case.cache_dtype,
        "pattern": lambda case: case.pattern,
    }


def joint_layout_class(case: Any) -> str:
    """Of a single cache: whether pages follow each other, and tokens in them."""
    if case.order != "token_major":
        return "strided tokens"
    return "packed" if case.pages == "packed" else "strided pages"


def within(case: WriterCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's FP8 formats; the whole domain has them all."""
    formats = {case.dtype, case.cache_dtype} & set(fp8.DTYPES)
    return case.platform == domain.platform and formats <= set(fp8.offered(domain.target, whole=domain.whole))


def _placed(*, lead: int, storage: str) -> Callable[[Any], Any]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS: Mapping[str, Callable[[Any], Any]] = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}
