"""The Op `concat_and_cache_mla`: the latent vectors of tokens and their rotary parts, side by side in a paged cache.

Latent attention caches one row per token, which all heads share. Launcher arguments, by keyword: `kv_c` [T', R] and `k_pe`
[T', P] of one dtype, of which the first T rows count; `slot_mapping` int32 or int64 [T], see `cache_writes`. Written is
`kv_cache` [NB, BS, R + P]: of the slots that tokens have, and nothing else. The last axis of each is dense, all other strides
are the tensors' own; T = 0 is legal. `platform`: "hip" or "cuda".

Into float32, float16 or bfloat16 numbers are rounded to nearest even, beyond the largest one to infinity. Into FP8 both parts are
divided by the one `scale`, float32 of no dimension or one element, or None for 1; what exceeds the largest finite number becomes
that, infinities too, and NaN stays NaN. Where tokens and cache are in the same FP8 format codes are stored as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Facet, Op
from tridiff.strategies import cache_writes, fp8, kv_caches, layouts
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_dims import CACHE_BYTES, PRESET_BYTES, affordable, is_named
from tridiff.strategies.cache_writes_types import Types, seed_fields, type_fields
from tridiff.strategies.concat_and_cache_mla_case import CHOICES, ORDERS, ROW_LAYOUTS, ConcatAndCacheMlaCase, cache_of
from tridiff.strategies.concat_and_cache_mla_inputs import build, victim
from tridiff.strategies.draws import Weights, allowed, choose, evenly
from tridiff.strategies.models import MLA_MODELS, names, ranks

__all__ = ["OP", "ConcatAndCacheMlaCase", "build", "cases", "preset_cases", "within"]

PAGE_SIZES = kv_caches.PAGE_SIZES | {64: 5, 1: 4}
"""Latent attention alone is served with 64 tokens per page, and with one."""

KV_LORA_RANKS = {16: 5, 64: 4, 72: 1, 128: 3, 192: 2, 256: 6, 512: 7, 17: 2}
ROPE_DIMS = {16: 4, 32: 4, 64: 9, 128: 1, 24: 2, 96: 1, 1: 1, 8: 1}
"""512 + 64, 256 + 64 and 256 + 32 are those of models. 24, 72, 96, 192 and 17 are no powers of two."""

INDEPENDENT: Mapping[str, Weights[Any]] = {
    "gap": layouts.GAPS,
    "order": ORDERS,
    "pages": kv_caches.PAGES,
    "kv_c_layout": ROW_LAYOUTS,
    "k_pe_layout": ROW_LAYOUTS,
    "far": cache_writes.FAR,
}
"""Facets of which any allowed value will do."""

Shape = tuple[str, int, int]
"""Name of the model and rank count, "" where it is none; R, P."""

PRESETS: tuple[Shape, ...] = tuple(
    (f"{model.name} TP{tp}", model.head_dim_v, model.head_dim - model.head_dim_v)
    for model in MLA_MODELS
    for tp in ranks(model, (), lambda _fields: True)
)
"""Every rank of a model holds the whole cache."""


class Room:
    """What a domain leaves. `shapes`: those of models; None for all widths that it allows."""

    def __init__(self, domain: Domain, most_bytes: int, shapes: tuple[Shape, ...] | None = None) -> None:
        self.domain = domain
        self.most_bytes = most_bytes
        self.types = Types(domain, {"scale": fp8.K_SCALES})
        self.ranks = allowed(KV_LORA_RANKS, domain, "kv_lora_rank")
        self.ropes = allowed(ROPE_DIMS, domain, "rope_dim")
        self.shapes = None if shapes is None else [shape for shape in shapes if self._allows(shape)]

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        offered = [allowed(weights, self.domain, name) for name, weights in INDEPENDENT.items()]
        sizes = [self.ranks, self.ropes] if self.shapes is None else [self.shapes]
        return self.types.is_empty or not all((*offered, *sizes)) or not cache_writes.can_write(self.domain, PAGE_SIZES)

    def _allows(self, shape: Shape) -> bool:
        model, rank, rope = shape
        return is_named(model, self.domain) and self.domain.allows("kv_lora_rank", rank) and self.domain.allows("rope_dim", rope)


def cases(domain: Domain) -> st.SearchStrategy[ConcatAndCacheMlaCase]:
    """Cases over the whole of `domain`, within `CACHE_BYTES`; shrinks towards `ConcatAndCacheMlaCase()`."""
    room = Room(domain, CACHE_BYTES)
    return st.nothing() if room.is_empty else _cases(room)


def preset_cases(domain: Domain) -> st.SearchStrategy[ConcatAndCacheMlaCase]:
    """Cases with the widths of real models, within `PRESET_BYTES`."""
    room = Room(domain, PRESET_BYTES, PRESETS)
    return st.nothing() if room.is_empty else _cases(room)


@st.composite
def _cases(draw: st.DrawFn, room: Room) -> ConcatAndCacheMlaCase:
    """Draws in the order in which fields should become simple: dtypes, values, slots, widths, layouts."""
    domain = room.domain
    drawn: dict[str, Any] = draw(type_fields(room.types)) | draw(cache_writes.write_fields(domain, PAGE_SIZES))
    pages = cache_writes.pool_size(drawn["placing"], drawn["num_tokens"], drawn["page_size"])
    item = values.cache_type(drawn["dtype"], drawn["cache_dtype"]).itemsize
    drawn |= draw(_widths(room, pages * drawn["page_size"] * item))
    drawn |= draw(_layouts(room, drawn, pages * item))
    drawn |= draw(seed_fields(room.types, drawn))
    return ConcatAndCacheMlaCase(**drawn, **layouts.placement_fields(drawn["seed"]), platform=domain.platform)


@st.composite
def _widths(draw: st.DrawFn, room: Room, column: int) -> dict[str, Any]:
    """R and P: a cache of columns of so many bytes takes half of the room, and layouts the rest."""
    most = room.most_bytes / 2
    if room.shapes is not None:
        fits = affordable(room.shapes, lambda shape: column * (shape[1] + shape[2]), most)
        model, rank, rope = draw(choose(evenly(room.shapes), fits))
        return {"model": model, "kv_lora_rank": rank, "rope_dim": rope}
    narrowest = min(room.ropes)
    rank = draw(choose(room.ranks, affordable(room.ranks, lambda rank: column * (rank + narrowest), most)))
    rope = draw(choose(room.ropes, affordable(room.ropes, lambda rope: column * (rank + rope), most)))
    return {"kv_lora_rank": rank, "rope_dim": rope}


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
        **{name: draw(choose(offered[name])) for name in ("kv_c_layout", "k_pe_layout", "far")},
    }


def within(case: ConcatAndCacheMlaCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's formats; the whole domain has them all."""
    formats = {case.dtype, case.cache_dtype} & set(fp8.DTYPES)
    return case.platform == domain.platform and formats <= set(fp8.offered(domain.target, whole=domain.whole))


def _field(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


def _scale(name: str) -> Callable[[ConcatAndCacheMlaCase], Any]:
    """The facet of a scale: there is none of a cache that is not in FP8."""
    return lambda case: getattr(case, name) if values.is_fp8(case.dtype, case.cache_dtype) else ()


FACETS: Mapping[str, Facet] = {
    **cache_writes.FACETS,
    **{
        name: _field(name, description)
        for name, description in {
            "kv_lora_rank": "width of the latent vectors, R",
            "rope_dim": "width of the rotary parts, P",
            "order": "whether tokens of a page are dense, or have gaps between them",
            "pages": "distance of pages, see `kv_caches.PAGES`",
            "kv_c_layout": "strides of the latent vectors, see `layouts.row_strides`",
            "k_pe_layout": "strides of the rotary parts, likewise",
            "gap": "elements of each gap in the layouts",
            "lead": "elements by which rows and cache begin past a 16-byte boundary",
            "storage": "whether the cache's storage exceeds 2 GiB",
            "dtype": "dtype of the tokens",
            "cache_dtype": "dtype of the cache: the tokens' own (same), or another",
            "scale_form": "how the scale reaches the launcher, see `fp8.SCALE_FORMS`",
            "pattern": "what the tokens hold, see `cache_writes_values`",
        }.items()
    },
    "scale": Facet(description="by what both parts are divided, of an FP8 cache", of=_scale("scale")),
    "overflow": Facet(
        description="whether all numbers lie in the range of a cache of another dtype",
        of=lambda case: values.overflow(case.pattern, case.dtype, case.cache_dtype),
        choices=values.FITS,
    ),
}


def _placed(*, lead: int, storage: str) -> Callable[[ConcatAndCacheMlaCase], ConcatAndCacheMlaCase]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}


def layout_class(case: ConcatAndCacheMlaCase) -> str:
    """Whether pages follow each other, and tokens in them, for reports."""
    if case.order == "padded_heads":
        return "strided tokens"
    return "packed" if case.pages == "packed" else "strided pages"


OP = Op(
    name="concat_and_cache_mla",
    case=ConcatAndCacheMlaCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(MLA_MODELS),
    within=within,
    compile_time=frozenset(
        {"platform", "kv_lora_rank", "rope_dim", "dtype", "cache_dtype", "scale_form", "slot_dtype", "storage", "lead"}
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
