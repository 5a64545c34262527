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

from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import cache_writes, fp8, layouts
from tridiff.strategies import cache_writes_facets as facets
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_dims import CACHE_BYTES, PRESET_BYTES, Pairs, Shape, Sizes, shapes_of, size_fields
from tridiff.strategies.cache_writes_drawing import JointLayouts, Writes, joint_layout_fields, write_fields
from tridiff.strategies.cache_writes_facets import PLACEMENTS, within
from tridiff.strategies.cache_writes_types import Types, seed_fields, type_fields
from tridiff.strategies.models import GQA_MODELS, names
from tridiff.strategies.reshape_and_cache_diffkv_case import ORDERS, ReshapeAndCacheDiffkvCase, cache_of
from tridiff.strategies.reshape_and_cache_diffkv_inputs import build, victim

__all__ = ["OP", "ReshapeAndCacheDiffkvCase", "build", "cases", "preset_cases", "within"]

NUM_HEADS = {1: 6, 2: 6, 4: 3, 3: 2, 8: 2, 5: 1, 16: 1}
HEAD_DIMS = {16: 5, 192: 9, 64: 3, 128: 3, 80: 2, 256: 2, 17: 2, 71: 1, 1: 1}
HEAD_DIMS_V = {16: 3, 128: 6, 64: 3, 192: 2, 32: 2, 80: 1, 17: 2, 33: 1, 1: 1}
TWINS = {192: 128, 128: 64, 64: 128, 256: 128, 17: 33}
"""192 beside 128 is MiMo-V2-Flash's pair."""

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
        self.sizes = Sizes(domain, NUM_HEADS, Pairs(domain, HEAD_DIMS, HEAD_DIMS_V, TWINS), shapes)
        self.writes = Writes(domain, far=self.sizes.far)
        rows = {"key_layout": cache_writes.ROW_LAYOUTS, "value_layout": cache_writes.ROW_LAYOUTS}
        self.layouts = JointLayouts(domain, ORDERS, rows, cache_of)

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        return self.types.is_empty or self.sizes.is_empty or self.writes.is_empty or self.layouts.is_empty


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
    drawn: dict[str, Any] = draw(type_fields(room.types)) | draw(write_fields(room.writes))
    pages = cache_writes.pool_size(drawn["placing"], drawn["num_tokens"], drawn["page_size"])
    item = values.cache_type(drawn["dtype"], drawn["cache_dtype"]).itemsize
    column: int = pages * drawn["page_size"] * item

    def cost(heads: int, key: int, value: int) -> int:
        return column * heads * (key + value)

    drawn |= draw(size_fields(room.sizes, cost, room.most_bytes / 2, drawn["far"]))  # layouts can take the other half
    drawn |= draw(joint_layout_fields(room.layouts, drawn, pages * item, room.most_bytes))
    drawn |= draw(seed_fields(room.types, drawn))
    return ReshapeAndCacheDiffkvCase(**drawn, **layouts.placement_fields(drawn["seed"]), platform=room.domain.platform)


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
    facets=facets.facets_of(ReshapeAndCacheDiffkvCase),
    properties=facets.properties_of(facets.joint_layout_class),
    victim=victim,
)
