"""The Op `reshape_and_cache_diffkv`: keys and values of different widths, side by side in one paged cache.

Launcher arguments, by keyword: `key` [T', H, Dk] and `value` [T', H, Dv] of one dtype, of which the first T tokens count;
`slot_mapping` int32 or int64 [T], see `cache_writes`. Written is `kv_cache` [NB, BS, H, Dk + Dv], the key of a head first, then
its value: of the slots that tokens have, and nothing else. The last axis of each is dense, all other strides are the tensors'
own; T = 0 is legal. `platform`: "hip" or "cuda".

Into float32, float16 or bfloat16 numbers are rounded to nearest even, beyond the largest one to infinity. Into FP8 keys are
divided by `k_scale` and values by `v_scale`, each float32 of no dimension or one element, or None for 1; what exceeds the largest
finite number becomes that, infinities too, and NaN stays NaN. Where tokens and cache are in the same FP8 format codes are stored
as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Facet, Op
from tridiff.strategies import cache_writes, fp8, kv_caches, layouts
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_dims import (
    CACHE_BYTES,
    PRESET_BYTES,
    Pairs,
    Shape,
    Sizes,
    affordable,
    allowed_shapes,
    shapes_of,
    size_fields,
)
from tridiff.strategies.cache_writes_types import Types, seed_fields, type_fields
from tridiff.strategies.dims import WIDTHS, widths
from tridiff.strategies.draws import Weights, allowed, choose
from tridiff.strategies.models import GQA_MODELS, names
from tridiff.strategies.reshape_and_cache_diffkv_case import CHOICES, ORDERS, ReshapeAndCacheDiffkvCase, cache_of
from tridiff.strategies.reshape_and_cache_diffkv_inputs import build, victim

__all__ = ["OP", "ReshapeAndCacheDiffkvCase", "build", "cases", "preset_cases", "within"]

NUM_HEADS = {1: 6, 2: 6, 4: 3, 3: 2, 8: 2, 5: 1, 16: 1}
HEAD_DIMS = {16: 5, 192: 9, 64: 3, 128: 3, 80: 2, 256: 2, 17: 2, 71: 1, 1: 1}
HEAD_DIMS_V = {16: 3, 128: 6, 64: 3, 192: 2, 32: 2, 80: 1, 17: 2, 33: 1, 1: 1}
TWINS = {192: 128, 128: 64, 64: 128, 256: 128, 17: 33}
"""192 beside 128 is MiMo-V2-Flash's pair."""

INDEPENDENT: Mapping[str, Weights[Any]] = {
    "gap": layouts.GAPS,
    "order": ORDERS,
    "pages": kv_caches.PAGES,
    "far": cache_writes.FAR,
}
"""Facets of which any allowed value will do."""

MODELS = (
    *(model for model in GQA_MODELS if model.head_dim != model.head_dim_v),
    *(model for model in GQA_MODELS if model.name in {"Llama-3-8B", "Qwen3-Next-80B-A3B", "Phi-3-mini"}),
)
"""Models whose keys are wider than their values, for which the layout was made, and some others, which it must serve as well."""


PRESETS = tuple(shapes_of(MODELS))


class Room:
    """What a domain leaves. `shapes`: those of models; None for all head counts and widths that it allows."""

    def __init__(self, domain: Domain, most_bytes: int, shapes: tuple[Shape, ...] | None = None) -> None:
        self.domain = domain
        self.most_bytes = most_bytes
        self.types = Types(domain, {"k_scale": fp8.K_SCALES, "v_scale": fp8.V_SCALES})
        self.sizes = Sizes(
            heads=allowed(NUM_HEADS, domain, "num_heads"),
            pairs=Pairs(domain, HEAD_DIMS, HEAD_DIMS_V, TWINS),
            shapes=None if shapes is None else allowed_shapes(shapes, domain),
        )

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        offered = [allowed(weights, self.domain, name) for name, weights in INDEPENDENT.items()]
        offered += [cache_writes.allowed_rows(self.domain, name) for name in ("key_layout", "value_layout")]
        return self.types.is_empty or self.sizes.is_empty or not all(offered) or not cache_writes.can_write(self.domain)


def cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCacheDiffkvCase]:
    """Cases over the whole of `domain`, within `CACHE_BYTES`; shrinks towards `ReshapeAndCacheDiffkvCase()`."""
    room = Room(domain, CACHE_BYTES)
    return st.nothing() if room.is_empty else _cases(room)


def preset_cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCacheDiffkvCase]:
    """Cases with the widths of real models, within `PRESET_BYTES`."""
    room = Room(domain, PRESET_BYTES, PRESETS)
    return st.nothing() if room.is_empty else _cases(room)


@st.composite
def _cases(draw: st.DrawFn, room: Room) -> ReshapeAndCacheDiffkvCase:
    """Draws in the order in which fields should become simple: dtypes, values, slots, widths, layouts."""
    domain = room.domain
    drawn: dict[str, Any] = draw(type_fields(room.types)) | draw(cache_writes.write_fields(domain))
    pages = cache_writes.pool_size(drawn["placing"], drawn["num_tokens"], drawn["page_size"])
    item = values.cache_type(drawn["dtype"], drawn["cache_dtype"]).itemsize
    column: int = pages * drawn["page_size"] * item

    def cost(heads: int, key: int, value: int) -> int:
        return column * heads * (key + value)

    drawn |= draw(size_fields(room.sizes, cost, room.most_bytes / 2))  # layouts can take the other half
    drawn |= draw(_layouts(room, drawn, pages * item))
    drawn |= draw(seed_fields(room.types, drawn))
    return ReshapeAndCacheDiffkvCase(**drawn, **layouts.placement_fields(drawn["seed"]), platform=domain.platform)


@st.composite
def _layouts(draw: st.DrawFn, room: Room, drawn: Mapping[str, Any], page: int) -> dict[str, Any]:
    """Layouts of the cache and of the rows; `page`: bytes of an element in all pages."""
    offered = {name: allowed(weights, room.domain, name) for name, weights in INDEPENDENT.items()}
    found = {"gap": draw(choose(offered["gap"]))}

    def cost(order: str, pages: str) -> int:
        return page * cache_of({**drawn, **found, "order": order, "pages": pages}).page_stride

    def least(order: str) -> int:
        return min(cost(order, pages) for pages in offered["pages"])

    order = draw(choose(offered["order"], affordable(offered["order"], least, room.most_bytes)))
    fits = affordable(offered["pages"], lambda pages: cost(order, pages), room.most_bytes)
    return {
        **found,
        "order": order,
        "pages": draw(choose(offered["pages"], fits)),
        **{name: draw(choose(cache_writes.allowed_rows(room.domain, name))) for name in ("key_layout", "value_layout")},
        "far": draw(choose(offered["far"])),
    }


def within(case: ReshapeAndCacheDiffkvCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's formats; the whole domain has them all."""
    formats = {case.dtype, case.cache_dtype} & set(fp8.DTYPES)
    return case.platform == domain.platform and formats <= set(fp8.offered(domain.target, whole=domain.whole))


def _field(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


def _scale(name: str) -> Callable[[ReshapeAndCacheDiffkvCase], Any]:
    """The facet of a scale: there is none of a cache that is not in FP8."""
    return lambda case: getattr(case, name) if values.is_fp8(case.dtype, case.cache_dtype) else ()


FACETS: Mapping[str, Facet] = {
    **cache_writes.FACETS,
    **{
        name: _field(name, description)
        for name, description in {
            "num_heads": "heads, H",
            "head_dim": "width of keys, Dk",
            "head_dim_v": "width of values, Dv",
            "order": "memory order and gaps of a page, see `kv_caches.ORDERS`",
            "pages": "distance of pages, see `kv_caches.PAGES`",
            "key_layout": "strides of the keys' rows, see `layouts.row_strides`",
            "value_layout": "strides of the values' rows, likewise",
            "gap": "elements of each gap in the layouts",
            "lead": "elements by which rows and cache begin past a 16-byte boundary",
            "storage": "whether the cache's storage exceeds 2 GiB",
            "dtype": "dtype of the tokens",
            "cache_dtype": "dtype of the cache: the tokens' own (same), or another",
            "scale_form": "how scales reach the launcher, see `fp8.SCALE_FORMS`",
            "pattern": "what the tokens hold, see `cache_writes_values`",
        }.items()
    },
    "widths": Facet(description="how Dk and Dv compare", of=lambda case: widths(case.head_dim, case.head_dim_v), choices=WIDTHS),
    "row_strides": Facet(
        description="whether heads are dense in a token, or have a stride of their own",
        of=lambda case: tuple(cache_writes.row_strides_of(layout) for layout in (case.key_layout, case.value_layout)),
        choices=cache_writes.ROW_STRIDES,
    ),
    "k_scale": Facet(description="by what keys are divided, of an FP8 cache", of=_scale("k_scale")),
    "v_scale": Facet(description="by what values are divided, likewise", of=_scale("v_scale")),
    "overflow": Facet(
        description="whether all numbers lie in the range of a cache of another dtype",
        of=lambda case: values.overflow(case.pattern, case.dtype, case.cache_dtype),
        choices=values.FITS,
    ),
}


def _placed(*, lead: int, storage: str) -> Callable[[ReshapeAndCacheDiffkvCase], ReshapeAndCacheDiffkvCase]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}


def layout_class(case: ReshapeAndCacheDiffkvCase) -> str:
    """Whether pages follow each other, and tokens in them, for reports."""
    if case.order != "token_major":
        return "strided tokens"
    return "packed" if case.pages == "packed" else "strided pages"


OP = Op(
    name="reshape_and_cache_diffkv",
    case=ReshapeAndCacheDiffkvCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(MODELS),
    within=within,
    compile_time=frozenset(
        {"platform", "head_dim", "head_dim_v", "dtype", "cache_dtype", "scale_form", "slot_dtype", "storage", "lead"}
    ),
    placements=PLACEMENTS,
    facets=FACETS,
    properties={
        **cache_writes.PROPERTIES,
        "layout_class": layout_class,
        "dtype": lambda case: case.dtype,
        "cache_dtype": lambda case: case.cache_dtype,
        "pattern": lambda case: case.pattern,
    },
    victim=victim,
)
