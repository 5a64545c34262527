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

from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import cache_writes, fp8, kv_caches, layouts
from tridiff.strategies import cache_writes_facets as facets
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_dims import CACHE_BYTES, PRESET_BYTES, affordable, is_named
from tridiff.strategies.cache_writes_drawing import JointLayouts, Writes, joint_layout_fields, write_fields
from tridiff.strategies.cache_writes_facets import PLACEMENTS, within
from tridiff.strategies.cache_writes_types import Types, seed_fields, type_fields
from tridiff.strategies.concat_and_cache_mla_case import FAR, ORDERS, ROW_LAYOUTS, ConcatAndCacheMlaCase, cache_of
from tridiff.strategies.concat_and_cache_mla_inputs import build, victim
from tridiff.strategies.draws import allowed, choose, evenly
from tridiff.strategies.models import MLA_MODELS, names, ranks

__all__ = ["OP", "ConcatAndCacheMlaCase", "build", "cases", "preset_cases", "within"]

PAGE_SIZES = kv_caches.PAGE_SIZES | {64: 5, 1: 4}
"""Latent attention alone is served with 64 tokens per page, and with one."""

KV_LORA_RANKS = {16: 5, 64: 4, 72: 1, 128: 3, 192: 2, 256: 6, 512: 7, 17: 2, 1024: 1}
ROPE_DIMS = {16: 4, 32: 4, 64: 9, 128: 1, 24: 2, 96: 1, 1: 1, 8: 1}
"""512 + 64, 256 + 64 and 256 + 32 are those of models. 24, 72, 96, 192 and 17 are no powers of two, and
1024 leaves the rotary part to a second tile."""

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
        self.writes = Writes(domain, PAGE_SIZES, FAR)
        self.layouts = JointLayouts(domain, ORDERS, {"kv_c_layout": ROW_LAYOUTS, "k_pe_layout": ROW_LAYOUTS}, cache_of)
        self.ranks = allowed(KV_LORA_RANKS, domain, "kv_lora_rank")
        self.ropes = allowed(ROPE_DIMS, domain, "rope_dim")
        self.shapes = None if shapes is None else [shape for shape in shapes if self._allows(shape)]

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        has_sizes = self.ranks and self.ropes if self.shapes is None else self.shapes
        return self.types.is_empty or self.writes.is_empty or self.layouts.is_empty or not has_sizes

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
    drawn: dict[str, Any] = draw(type_fields(room.types)) | draw(write_fields(room.writes))
    pages = cache_writes.pool_size(drawn["placing"], drawn["num_tokens"], drawn["page_size"])
    item = values.cache_type(drawn["dtype"], drawn["cache_dtype"]).itemsize
    drawn |= draw(_widths(room, pages * drawn["page_size"] * item))
    drawn |= draw(joint_layout_fields(room.layouts, drawn, pages * item, room.most_bytes))
    drawn |= draw(seed_fields(room.types, drawn))
    return ConcatAndCacheMlaCase(**drawn, **layouts.placement_fields(drawn["seed"]), platform=room.domain.platform)


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
    facets={
        **facets.facets_of(
            ConcatAndCacheMlaCase,
            kv_lora_rank="width of the latent vectors, R",
            rope_dim="width of the rotary parts, P",
            kv_c_layout="strides of the latent vectors, see `layouts.row_strides`",
            k_pe_layout="strides of the rotary parts, likewise",
        ),
        "scale": facets.scale_facet("scale", "by what both parts are divided, of an FP8 cache"),
        "overflow": facets.OVERFLOW,
    },
    properties=facets.properties_of(facets.joint_layout_class),
    victim=victim,
)
