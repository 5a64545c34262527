"""How Cases of prefill are drawn: what all readers have from `paged_readers`, and what is asked of chunks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies import paged_readers, paging
from tridiff.strategies.budget import LARGE_PAGES, TYPICAL, Budget
from tridiff.strategies.draws import Weights, allowed, choose, fields, least_of
from tridiff.strategies.lengths import cdiv
from tridiff.strategies.paged_readers_models import model_of, model_shapes
from tridiff.strategies.paged_readers_room import ReaderRoom, Shape
from tridiff.strategies.prefill_lengths import lengths

QUERY_TILE = 64
"""Queries as many of which cost no less than one: kernels take them by tiles."""

BUDGET = Budget(multiply_adds=2**24, cache_bytes=TYPICAL.cache_bytes)
PRESET_BUDGET = Budget(multiply_adds=2**26, cache_bytes=LARGE_PAGES.cache_bytes)
"""Whole tiles of queries counted: 16 heads of width 128 over 256 keys are 2^26."""

CAUSAL = {True: 11, False: 2}
WINDOWED = {False: 5, True: 4}
_ATTENTION: Mapping[str, Weights[Any]] = {"causal": CAUSAL, "alibi": paged_readers.ALIBI, "windowed": WINDOWED}

_CHUNK: Mapping[str, Weights[str]] = {"chunk": {"rows": 7, "cache": 3}, "chunk_slots": {"written": 5, "poison": 6}}
CHUNK_LAYOUTS = {"packed": 4, "fused_qkv": 4, "padded_heads": 1, "heads_first": 1}
CHUNK_VALUE_LAYOUTS = {"packed": 3, "fused_qkv": 3, "padded_heads": 2, "heads_first": 1}
EXTRA_QUERY_LENS = {0: 13, 1: 3, 200: 1}
_OF_CHUNKS: Mapping[str, Weights[Any]] = {
    "chunk_layout": CHUNK_LAYOUTS,
    "chunk_value_layout": CHUNK_VALUE_LAYOUTS,
    "extra_query_len": EXTRA_QUERY_LENS,
}

PEAKS = {
    **{"last": 4, "first": 1, "before_chunk": 2, "after_chunk": 2, "outside_window": 2, "inside_window": 2},
    **{"before_page": 1, "after_page": 1, "before_tile": 1, "after_tile": 1, "anywhere": 1},
}

_WINDOWS = {size: 2 for size in paged_readers.WINDOWS if size}
"""Beside them the longest context, one less and one more."""

T = TypeVar("T")
Limits = Mapping[str, tuple[Any, ...]]
"""Values by facet, as a Domain has them."""

WHOLE = 3
"""Weight of all of the domain, beside its parts."""


USUAL: Limits = {
    "dtype": ("float32", "bfloat16"),
    **{"head_dim": (64,), "cache_dtype": ("same",), "output_dtype": ("same",), "kind": ("head_major",), "chunk": ("rows",)},
    **{"gap": (16,), "lead": (0,), "storage": ("large",)},
}
"""What kernels are compiled for is the same in many Cases: else every one would be a compilation of its own."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What differs from Op to Op: how often which `query_lens`; whether there are sequences without tokens (`empty`).

    `own`: fields that the other Op has not, which are facets. `parts`: parts of the domain, each by its limits and its weight
    beside all of it (`WHOLE`).
    """

    query_lens: Weights[int]
    empty: bool = False
    own: Mapping[str, Weights[Any]] = field(default_factory=dict)
    parts: tuple[tuple[int, Limits], ...] = ()


def prefill_cases(domain: Domain, batch: Batch, made: Callable[[dict[str, Any]], T]) -> st.SearchStrategy[T]:
    """What `made` makes of fields drawn from `domain`, or from one of the parts of it; nothing where there is nothing."""
    whole = room_of(domain)
    if is_empty(whole, batch):
        return st.nothing()
    rooms, weights = [whole], {0: WHOLE}
    for weight, limits in batch.parts:
        part = _part(domain, limits)
        if part is not None and not is_empty(room := room_of(part), batch):
            weights[len(rooms)] = weight
            rooms.append(room)
    return choose(weights).flatmap(lambda at: prefill_fields(rooms[at], batch)).map(made)


def preset_cases(domain: Domain, batch: Batch, made: Callable[[dict[str, Any]], T]) -> st.SearchStrategy[T]:
    """The same with the heads of real models, and the page sizes that they have."""
    room = room_of(domain, models=True)
    return st.nothing() if is_empty(room, batch) else prefill_fields(room, batch).map(made)


def _part(domain: Domain, limits: Limits) -> Domain | None:
    """What `limits` leave of `domain`; None if that is nothing."""
    both = {facet: tuple(value for value in values if domain.allows(facet, value)) for facet, values in limits.items()}
    return replace(domain, limits={**domain.limits, **both}) if all(both.values()) else None


def room_of(domain: Domain, *, models: bool = False) -> ReaderRoom:
    """What there is room for; with `models` for shapes of real ones, those that `domain` names."""
    named = set(domain.models)
    known = [shape for shape in model_shapes() if not named or named & {shape.model, model_of(shape)}]
    queries = max(1, int(least_of(domain.limits.get("query_lens", (1,)))))
    context = max(0, int(least_of(domain.limits.get("context_lens", (0,)))))
    rows = cdiv(queries, QUERY_TILE) * QUERY_TILE
    room = ReaderRoom(domain, PRESET_BUDGET if models else BUDGET, rows_per_key=rows, shapes=known if models else None)
    room.least = max(room.least, context + queries)
    return room


def is_empty(room: ReaderRoom, batch: Batch) -> bool:
    """Whether the domain leaves no Case."""
    domain = room.domain
    return (
        paged_readers.is_empty(room)
        or not all(allowed(weights, domain, name) for name, weights in {**_OF_CHUNKS, **batch.own}.items())
        or not (_attention(domain) and _chunks(domain))
    )


@st.composite
def prefill_fields(draw: st.DrawFn, room: ReaderRoom, batch: Batch) -> dict[str, Any]:
    """Fields of a Case, in the order in which they should become simple: types, values, shape, lengths, masks, layouts, dtype."""
    domain = room.domain
    types = draw(paged_readers.types(room))
    drawn = types | draw(paged_readers.profile(room, types, PEAKS))
    shape = draw(paged_readers.shapes(room))
    page_size = draw(paged_readers.page_size(room, shape))
    drawn |= shape.fields | {"page_size": page_size}
    drawn |= draw(_lengths(room, shape, page_size, batch))
    context = max(keys - queries for keys, queries in zip(drawn["seq_lens"], drawn["query_lens"], strict=True))
    drawn |= draw(_features(domain, drawn["pattern"], context, batch.own))
    drawn |= draw(paging.paging_fields(domain))
    num_pages = paging.pool_size(drawn["seq_lens"], page_size)
    drawn |= draw(paged_readers.cache_layouts(room, shape, page_size, num_pages))
    drawn |= draw(paged_readers.row_layouts(domain))
    elements = paged_readers.elements_of(drawn, shape, num_pages)
    drawn |= draw(paged_readers.dtype_and_seed(room, types, elements=elements))
    return drawn | {"platform": domain.platform}


def _lengths(room: ReaderRoom, shape: Shape, page_size: int, batch: Batch) -> st.SearchStrategy[dict[str, Any]]:
    row = shape.num_kv_heads * shape.group_size * 2 * shape.head_dim

    def cost(context: int, queries: int) -> int:
        return cdiv(queries, QUERY_TILE) * QUERY_TILE * (context + queries) * row

    most, pages = room.budget.multiply_adds, room.most_pages(shape, page_size)
    return lengths(page_size, batch.query_lens, cost=cost, most=most, pages=pages, domain=room.domain, empty=batch.empty)


@st.composite
def _features(draw: st.DrawFn, domain: Domain, pattern: str, context: int, own: Mapping[str, Weights[Any]]) -> dict[str, Any]:
    """Masks, bias and sinks, and how chunks come; windows lie around the longest `context`, too."""
    drawn = _joint(draw, _ATTENTION, _attention(domain))
    windowed = drawn.pop("windowed")
    return {
        **drawn,
        "window": draw(choose(_windows(domain, context, windowed=windowed))),
        "sinks": draw(paged_readers.sinks(domain, pattern)),
        "padding_rows": draw(choose(allowed(paged_readers.PADDING_ROWS, domain, "padding_rows"))),
        **_joint(draw, _CHUNK, _chunks(domain)),
        **draw(fields(**{name: choose(allowed(weights, domain, name)) for name, weights in {**_OF_CHUNKS, **own}.items()})),
    }


def _joint(draw: st.DrawFn, weights: Mapping[str, Weights[Any]], legal: Collection[tuple[Any, ...]]) -> dict[str, Any]:
    """One of the `legal` combinations of values, drawn one after the other: each as its weights say.

    Takes `draw`, and is no strategy, because Hypothesis would copy what one such strategy drew into another.
    """
    chosen: tuple[Any, ...] = ()
    for offered in weights.values():
        left = {each[len(chosen)] for each in legal if each[: len(chosen)] == chosen}
        chosen += (draw(choose(offered, left.__contains__)),)
    return dict(zip(weights, chosen, strict=True))


def _attention(domain: Domain) -> list[tuple[bool, str, bool]]:
    """Legal combinations of `causal`, `alibi`, and whether there is a window."""
    return [
        (causal, alibi, windowed)
        for causal in CAUSAL
        for alibi in (paged_readers.ALIBI if causal else ("none",))
        for windowed in WINDOWED
        if domain.allows("causal", causal)
        and domain.allows("alibi", alibi)
        and domain.allows("alibi_with_window", windowed and alibi != "none")
        and _windows(domain, 1, windowed=windowed)
    ]


def _windows(domain: Domain, context: int, *, windowed: bool) -> Weights[int]:
    """Windows on offer: some that always are, and some around the longest `context`; else 0, none at all."""
    if not windowed:
        return {0: 1} if domain.allows("window", 0) else {}
    around = dict.fromkeys((context - 1, context, context + 1), 2)
    return {size: weight for size, weight in allowed(_WINDOWS | around, domain, "window").items() if size > 0}


def _chunks(domain: Domain) -> list[tuple[str, str]]:
    """Legal combinations of `chunk` and `chunk_slots`: what is read from the cache must be there."""
    every = [("rows", "written"), ("rows", "poison"), ("cache", "written")]
    return [pair for pair in every if domain.allows("chunk", pair[0]) and domain.allows("chunk_slots", pair[1])]


COMPILE_TIME = paged_readers.COMPILE_TIME | {"causal", "chunk"}
