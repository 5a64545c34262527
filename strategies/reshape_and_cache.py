"""The Op `reshape_and_cache`: keys and values of new tokens are written into the slots of a paged KV cache.

Launcher arguments, by keyword: `key` [T', H, D] and `value` [T', H, Dv] of one dtype; `key_cache` and `value_cache`, in kind
"nhd" [pages, page size, H, D] and [pages, page size, H, Dv], in the others [pages, H, D / x, page size, x] and [pages, H, Dv,
page size], see `kv_caches`; `interleaved`, whether tokens of V lie in packs there; `slot_mapping` [T], int32 or int64, T <= T',
and T = 0 is legal; `k_scale` and `v_scale`, float32 of no dimension or one element, or None for 1, which nobody reads unless the
caches hold FP8; `platform`, "hip" or "cuda". All have strides of their own, the last axis alone is dense.

Token t goes to slot s = slot_mapping[t]: page s // page size, position s % page size. A negative slot, whichever it is, says that
nothing is written; no two tokens have the same slot otherwise. Rows of key and value from T on are padding.

What is written is float32(x) / scale, rounded to nearest even into the format, where the caches hold FP8 and the tokens do not:
beyond the largest number it is that number, infinities included, and NaN stays NaN. FP8 tokens are stored as they are, unscaled.
Any other dtype is a plain cast: rounded to nearest even, overflow is infinite.

Nothing else of the caches' memory may change: not slot 0, not page 0, not what lies between pages.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import cache_writes, dims, fp8, kv_caches, layouts
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.budget import MEBI
from tridiff.strategies.draws import Weights, allowed, choose, evenly
from tridiff.strategies.kv_caches import KVCache
from tridiff.strategies.models import GQA_MODELS, names, ranks
from tridiff.strategies.reshape_and_cache_case import ReshapeAndCacheCase
from tridiff.strategies.reshape_and_cache_facets import FACETS, PROPERTIES, strides_relation
from tridiff.strategies.reshape_and_cache_inputs import build, victim

__all__ = ["OP", "ReshapeAndCacheCase", "build", "cases", "preset_cases", "within"]

T = TypeVar("T")

NUM_HEADS = {1: 7, 2: 6, 3: 2, 4: 4, 5: 2, 7: 1, 8: 3, 12: 1, 16: 4, 17: 2, 32: 4}

# Most kernels are compiled anew for each H * D up to some tile: few widths carry most of the weight. 1, 17 and 71 are odd, as
# only kind "nhd" can have them, and 80, 96, 160, 192 and 224 no powers of two.
HEAD_DIMS = {**{16: 6, 32: 4, 64: 9, 80: 3, 96: 2, 128: 9, 160: 1, 192: 2, 224: 1, 256: 3}, **{17: 2, 71: 2, 1: 1}}

OTHER_WIDTH = {False: 5, True: 1}
"""Whether Dv is not D."""

SEEDS = evenly(range(250))
GAPS = layouts.GAPS | {16: 7}

BYTES = 2 * MEBI
"""Of both caches together, where a domain does not force more."""
PACKED_BYTES = MEBI
"""Of what tokens can have there: the rest is left to gaps."""
PRESET_BYTES = 6 * MEBI
MODEL_PAGE_SIZES = {16: 5, 32: 3, 64: 1, 128: 1, 272: 1, 400: 1, 528: 2, 544: 3, 784: 2, 1056: 1, 1568: 1, 2048: 1}
"""What serves real models; from 272 on those of hybrid ones."""

Shape = Mapping[str, Any]


def cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCacheCase]:
    """Cases over the whole of `domain`, within a budget of memory; shrinks towards `ReshapeAndCacheCase()`."""
    return _cases(domain) if _kinds(domain) and _is_left(domain) else st.nothing()


def preset_cases(domain: Domain) -> st.SearchStrategy[ReshapeAndCacheCase]:
    """Cases with the heads and widths of real models, and the page sizes that serve them."""
    shapes = tuple(_model_shapes(domain))
    return _cases(domain, shapes) if shapes and _kinds(domain) and _is_left(domain) else st.nothing()


def _is_left(domain: Domain) -> bool:
    """Whether `domain` leaves something of every choice."""
    weights: Mapping[str, Weights[Any]] = {
        **{"num_heads": NUM_HEADS, "head_dim": HEAD_DIMS, "head_dim_v": HEAD_DIMS, "gap": GAPS},
        **{"k_scale": fp8.K_SCALES, "v_scale": fp8.V_SCALES},
    }
    rows = [cache_writes.allowed_rows(domain, name) for name in ("key_layout", "value_layout")]
    others = [allowed(each, domain, name) for name, each in weights.items()]
    return all([*rows, *others, _types(domain), cache_writes.can_write(domain)])


def _types(domain: Domain) -> list[tuple[str, str]]:
    """Dtypes of tokens and caches that `domain` allows, with something for them to hold."""
    return [pair for pair in values.allowed_types(domain) if values.allowed_patterns(domain, *pair) and _has_form(domain, *pair)]


def _has_form(domain: Domain, dtype: str, cache_dtype: str) -> bool:
    """Whether scales of such caches can reach the launcher in some form that `domain` allows."""
    if not values.is_fp8(dtype, cache_dtype):
        return any(domain.allows("scale_form", values.scale_form(seed, needed=False)) for seed in SEEDS)
    scales = [allowed(fp8.K_SCALES, domain, "k_scale"), allowed(fp8.V_SCALES, domain, "v_scale")]
    return any(_allows_form(domain, k_scale, v_scale) for k_scale in scales[0] for v_scale in scales[1])


def _allows_form(domain: Domain, *scales: float) -> bool:
    """Whether such scales of FP8 caches can."""
    return any(domain.allows("scale_form", values.scale_form(seed, *scales, needed=True)) for seed in range(8))


@st.composite
def _scales(draw: st.DrawFn, domain: Domain) -> dict[str, float]:
    """`k_scale` and `v_scale` of FP8 caches."""
    v_scales = allowed(fp8.V_SCALES, domain, "v_scale")

    def fits(k_scale: float) -> bool:
        return any(_allows_form(domain, k_scale, v_scale) for v_scale in v_scales)

    k_scale = draw(choose(allowed(fp8.K_SCALES, domain, "k_scale"), fits))
    return {"k_scale": k_scale, "v_scale": draw(choose(v_scales, lambda v_scale: _allows_form(domain, k_scale, v_scale)))}


def _kinds(domain: Domain) -> dict[str, int]:
    """The kinds of caches that `domain` leaves something of."""
    return {
        kind: weight
        for kind, weight in allowed(kv_caches.KINDS, domain, "kind").items()
        if all(_orders(domain, kind, role) and _pages(domain, role) for role in ("key", "value"))
    }


def _orders(domain: Domain, kind: str, role: str) -> Weights[str]:
    return allowed(kv_caches.orders(kind), domain, f"{role}_order")


def _pages(domain: Domain, role: str) -> Weights[str]:
    return allowed(kv_caches.PAGES, domain, f"{role}_pages")


def _model_shapes(domain: Domain) -> Iterable[tuple[tuple[str, Any], ...]]:
    """Fields of every rank of the models that `domain` names, whose shape it allows."""
    fields = ("model", "num_heads", "head_dim", "head_dim_v")
    for model in GQA_MODELS:
        for tp in ranks(model, domain.models, lambda _fields: True):
            rank = model.sharded(tp)
            shape = dict(zip(fields, (rank["model"], rank["num_kv_heads"], rank["head_dim"], rank["head_dim_v"]), strict=True))
            if domain.allows("num_heads", shape["num_heads"]) and _allows_widths(domain, rank["head_dim"], rank["head_dim_v"]):
                yield tuple(shape.items())


def _allows_widths(domain: Domain, head_dim: int, head_dim_v: int) -> bool:
    widths = domain.allows("head_dim", head_dim) and domain.allows("head_dim_v", head_dim_v)
    return widths and domain.allows("widths", dims.widths(head_dim, head_dim_v))


@st.composite
def _cases(draw: st.DrawFn, domain: Domain, shapes: tuple[tuple[tuple[str, Any], ...], ...] = ()) -> ReshapeAndCacheCase:
    """Draws in the order in which fields should become simple: dtypes, numbers, slots and pages, shape, layouts.

    `shapes`: those of models; then page sizes are drawn that their heads leave room for, instead of the other way round.
    """
    pairs = _types(domain)
    drawn = draw(values.type_fields(domain, fits=lambda *pair: pair in pairs))
    drawn |= draw(values.value_fields(domain, dtype=drawn["dtype"], cache_dtype=drawn["cache_dtype"]))
    if values.is_fp8(drawn["dtype"], drawn["cache_dtype"]):
        drawn |= draw(_scales(domain))
    room = _Room(domain, drawn)
    drawn["kind"] = draw(choose(_kinds(domain), lambda kind: bool(room.widths(kind))))
    if shapes:
        drawn |= dict(draw(choose(evenly(shapes), lambda shape: room.suits(drawn["kind"], dict(shape)))))
        drawn |= draw(cache_writes.write_fields(domain, room.page_sizes(drawn)))
    else:
        drawn |= draw(cache_writes.write_fields(domain))
        drawn |= draw(_shape(room, drawn))
    drawn |= draw(_layouts(room, drawn, PRESET_BYTES if shapes else BYTES))
    return draw(_placed_somewhere(domain, drawn))


class _Room:
    """What a domain and the dtypes `types` leave room for."""

    def __init__(self, domain: Domain, types: Mapping[str, Any]) -> None:
        self.domain = domain
        self.itemsize = values.cache_type(types["dtype"], types["cache_dtype"]).itemsize

    def widths(self, kind: str) -> Weights[int]:
        """Widths of K: in head-major kinds multiples of x."""
        found = allowed(HEAD_DIMS, self.domain, "head_dim")
        pack = kv_caches.pack_of(self.itemsize) if kv_caches.is_head_major(kind) else 1
        suits = {width: weight for width, weight in found.items() if width % pack == 0}
        return {width: weight for width, weight in suits.items() if self.value_widths(kind, width)}

    def value_widths(self, kind: str, head_dim: int) -> Weights[int]:
        """Widths of V beside such a K; its own first."""
        found = {head_dim: 1, **allowed(HEAD_DIMS, self.domain, "head_dim_v")}
        if not self.domain.limits:
            return found
        return {width: weight for width, weight in found.items() if self._suits_width(kind, head_dim, width)}

    def _suits_width(self, kind: str, head_dim: int, head_dim_v: int) -> bool:
        shape = {"num_heads": 3, "head_dim": head_dim, "head_dim_v": head_dim_v}
        return _allows_widths(self.domain, head_dim, head_dim_v) and self.suits(kind, shape)

    def suits(self, kind: str, shape: Shape) -> bool:
        """Whether caches of that kind can hold such heads, in some layout that the domain allows."""
        pack = kv_caches.pack_of(self.itemsize) if kv_caches.is_head_major(kind) else 1
        if shape["head_dim"] % pack:
            return False
        if "cache_strides" not in self.domain.limits:
            return True
        sides = tuple((tuple(_orders(self.domain, kind, role)), tuple(_pages(self.domain, role))) for role in ("key", "value"))
        found = _relations(kind, self.itemsize, shape["head_dim"], shape["head_dim_v"], sides)
        return any(self.domain.allows("cache_strides", relation) for relation in found)

    def page_sizes(self, shape: Shape) -> Weights[int]:
        """Page sizes of which two pages of both caches fit."""
        widths = shape["num_heads"] * (shape["head_dim"] + shape["head_dim_v"]) * self.itemsize
        found = allowed(MODEL_PAGE_SIZES, self.domain, "page_size")
        return _affordable(found, lambda size: 2 * size * widths, PRESET_BYTES // 2)

    def pairs(self, shape: Shape) -> dict[Pair, int]:
        """Orders and pages of K and of V that the domain allows, with the elements of a page of both."""
        keys, others = (
            {
                layout: _cache(role, shape, self.itemsize, *layout)
                for layout in itertools.product(_orders(self.domain, shape["kind"], role), _pages(self.domain, role))
            }
            for role in ("key", "value")
        )
        related = _common if "cache_strides" not in self.domain.limits else self._related
        elements = {layout: cache.page_stride for layout, cache in others.items()}
        return {
            (*key, *other): elements[other] + stride
            for key, stride in {layout: cache.page_stride for layout, cache in keys.items()}.items()
            for other in others
            if related(keys[key], others[other])
        }

    def _related(self, key: KVCache, value: KVCache) -> bool:
        return self.domain.allows("cache_strides", strides_relation(key, value))


def _common(_key: KVCache, _value: KVCache) -> bool:
    return True


def _cache(role: str, shape: Shape, itemsize: int, order: str, pages: str) -> KVCache:
    widths = (shape["head_dim"], shape["head_dim_v"])
    width, neighbour = widths if role == "key" else widths[::-1]
    return KVCache(
        role=role,
        kind=shape["kind"],
        order=order,
        pages=pages,
        gap=shape["gap"],
        page_size=shape["page_size"],
        num_heads=shape["num_heads"],
        width=width,
        neighbour=neighbour,
        itemsize=itemsize,
    )


Sides = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
"""Orders and pages of K, and those of V."""


@functools.lru_cache(maxsize=4096)
def _relations(kind: str, itemsize: int, head_dim: int, head_dim_v: int, sides: Sides) -> frozenset[str]:
    """Which of `layouts.STRIDES` there are among caches of such widths."""
    shape = {"kind": kind, "head_dim": head_dim, "head_dim_v": head_dim_v, "page_size": 16, "num_heads": 3, "gap": 16}
    caches = [
        [_cache(role, shape, itemsize, *layout) for layout in itertools.product(*side)]
        for role, side in zip(("key", "value"), sides, strict=True)
    ]
    return frozenset(strides_relation(key, value) for key, value in itertools.product(*caches))


Pair = tuple[str, str, str, str]
_LAYOUTS = ("key_order", "key_pages", "value_order", "value_pages")


def _affordable(weights: Weights[T], cost: Callable[[T], float], most: float) -> Weights[T]:
    """Those of `weights` that cost `most` or less; where all cost more, the cheapest."""
    costs = {value: cost(value) for value in weights}
    limit = max(most, min(costs.values()))
    return {value: weight for value, weight in weights.items() if costs[value] <= limit}


@st.composite
def _shape(draw: st.DrawFn, room: _Room, known: Mapping[str, Any]) -> dict[str, Any]:
    """`num_heads`, `head_dim` and `head_dim_v`: large pages leave room for few."""
    kind, slots = known["kind"], _pool(known) * known["page_size"] * room.itemsize
    widths = room.widths(kind)
    heads = allowed(NUM_HEADS, room.domain, "num_heads")
    head_dim = draw(choose(_affordable(widths, lambda width: slots * min(heads) * 2 * width, PACKED_BYTES)))
    beside = room.value_widths(kind, head_dim)
    others = {width: weight for width, weight in beside.items() if width != head_dim}
    on = {False: head_dim in beside, True: bool(others)}
    if draw(choose(OTHER_WIDTH, on.__getitem__)):
        head_dim_v = draw(choose(_affordable(others, lambda width: slots * min(heads) * (head_dim + width), PACKED_BYTES)))
    else:
        head_dim_v = head_dim
    each = slots * (head_dim + head_dim_v)
    on_offer = _affordable(heads, lambda count: count * each, PACKED_BYTES)
    return {"num_heads": draw(choose(on_offer)), "head_dim": head_dim, "head_dim_v": head_dim_v}


def _pool(known: Mapping[str, Any]) -> int:
    """Pages of the pool, at most."""
    return cache_writes.pool_size(known["placing"], known["num_tokens"], known["page_size"])


@st.composite
def _layouts(draw: st.DrawFn, room: _Room, known: Mapping[str, Any], most: int) -> dict[str, Any]:
    """`gap`, orders and pages of both caches, strides of key and value. V often has K's layout, as it does in production."""
    domain, shape = room.domain, dict(known)
    shape["gap"] = draw(choose(allowed(GAPS, domain, "gap")))
    elements = room.pairs(shape)
    each = _pool(known) * room.itemsize
    fitting = tuple(_affordable(elements, lambda pair: each * elements[pair], most))
    drawn: dict[str, Any] = {"gap": shape["gap"]}
    weights = {
        "key_order": kv_caches.orders(known["kind"]),
        "key_pages": kv_caches.PAGES,
        "value_order": kv_caches.orders(known["kind"]),
        "value_pages": kv_caches.PAGES,
    }
    for at, name in enumerate(_LAYOUTS):
        left = {pair[at] for pair in fitting}
        twin = drawn.get(name.replace("value", "key"))
        more = weights[name] if twin is None else weights[name] | {twin: 15}
        drawn[name] = draw(choose(more, left.__contains__))
        fitting = tuple(pair for pair in fitting if pair[at] == drawn[name])
    rows = draw(choose(cache_writes.allowed_rows(domain, "key_layout")))
    beside = cache_writes.allowed_rows(domain, "value_layout")
    return drawn | {
        "key_layout": rows,
        "value_layout": draw(choose({layout: weight + 9 * (layout == rows) for layout, weight in beside.items()})),
    }


@st.composite
def _placed_somewhere(draw: st.DrawFn, domain: Domain, drawn: dict[str, Any]) -> ReshapeAndCacheCase:
    """The case, with `far`, `seed` and what follows from the seed: no choices that other fields would have to shrink around."""
    drawn["platform"] = domain.platform
    far = draw(choose(allowed(cache_writes.FAR, domain, "far"), lambda far: _holds_slots(drawn, far)))
    seed = draw(choose(SEEDS, (lambda seed: _suits_seed(domain, drawn, seed)) if domain.limits else None))
    return ReshapeAndCacheCase(**drawn, **_of_seed(drawn, seed), far=far, seed=seed)


def _holds_slots(drawn: Mapping[str, Any], far: str) -> bool:
    """Whether the slot mapping's dtype holds the last slot."""
    per_token = drawn["num_heads"] * min(drawn["head_dim"], drawn["head_dim_v"])
    return far == "none" or drawn["slot_dtype"] == "int64" or per_token > 1


def _of_seed(drawn: Mapping[str, Any], seed: int) -> dict[str, Any]:
    needed = values.is_fp8(drawn["dtype"], drawn["cache_dtype"])
    scales = (drawn.get("k_scale", 1.0), drawn.get("v_scale", 1.0))
    return {**layouts.placement_fields(seed), "scale_form": values.scale_form(seed, *scales, needed=needed)}


def _suits_seed(domain: Domain, drawn: Mapping[str, Any], seed: int) -> bool:
    return all(domain.allows(name, value) for name, value in _of_seed(drawn, seed).items())


def within(case: ReshapeAndCacheCase, domain: Domain) -> bool:
    """Whether the platform is the target's, and the target has the case's FP8 formats; the whole domain has them all."""
    formats = {case.dtype, case.cache_dtype} & set(fp8.DTYPES)
    return case.platform == domain.platform and formats <= set(fp8.offered(domain.target, whole=domain.whole))


def _placed(*, lead: int, storage: str) -> Callable[[ReshapeAndCacheCase], ReshapeAndCacheCase]:
    return lambda case: replace(case, lead=lead, storage=storage)


PLACEMENTS = {
    "production": _placed(lead=0, storage="large"),
    "small": _placed(lead=0, storage="small"),
    "misaligned": _placed(lead=1, storage="large"),
}


OP = Op(
    name="reshape_and_cache",
    case=ReshapeAndCacheCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(GQA_MODELS),
    within=within,
    # Dtypes and ranks, sizes that tiles follow, and what decides which pointers and strides are divisible by 16.
    compile_time=frozenset(
        {
            *("platform", "kind", "num_heads", "head_dim", "head_dim_v", "dtype", "cache_dtype", "slot_dtype"),
            *("scale_form", "gap", "lead", "storage"),
        }
    ),
    placements=PLACEMENTS,
    facets=FACETS,
    properties=PROPERTIES,
    victim=victim,
)
