"""The Op `chunked_prefill_paged_decode`: attention of a mixed batch, chunks of prompts beside sequences that decode one token.

A driver over two kernels that write one output: the prefix prefill for sequences of more than one query, launched only where
`max_query_len` is above 1, and a decode kernel for sequences of one. Launcher arguments: those of `prefix_prefill` but for
`skip_decode`, and `arch`, the architecture of the GPU ("gfx942"), by which a native decode kernel is chosen. That one takes pages
for packed: chosen for caches that are not, it reads garbage.

A sequence of one query has all its keys in the caches, its own token's included, and may have none at all (seq_len 0): then its
row is 0. `key` and `value` hold the chunks of the others, and rows of it that nobody may need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Arena, Domain, Inputs, Op, require
from tridiff.strategies import prefill_inputs
from tridiff.strategies.draws import choose
from tridiff.strategies.paged_readers import PLACEMENTS, within
from tridiff.strategies.paged_readers_models import model_names
from tridiff.strategies.paged_readers_room import ReaderRoom
from tridiff.strategies.prefill_case import PrefillCase
from tridiff.strategies.prefill_drawing import COMPILE_TIME, Batch, is_empty, prefill_fields, room_of
from tridiff.strategies.prefill_facets import FACETS, PROPERTIES
from tridiff.strategies.prefill_lengths import MIXED_QUERY_LENS

__all__ = ["OP", "ChunkedPrefillPagedDecodeCase", "build", "cases", "preset_cases"]

_BATCH = Batch(query_lens=MIXED_QUERY_LENS, empty=True)

NATIVE_LIMITS: Mapping[str, tuple[Any, ...]] = {
    "head_dim": (64, 128),
    "page_size": (16, 32),
    "dtype": ("bfloat16", "float16"),
    "window": (0,),
    "sinks": ("none",),
}
"""Where vLLM chooses its native decode kernel on CDNA, if pages are packed: drawn often, so that the choice matters."""

NATIVE = {False: 5, True: 2}


@dataclass(frozen=True, kw_only=True)
class ChunkedPrefillPagedDecodeCase(PrefillCase):
    """Parameters of one call; the defaults are the simplest case. `arch`: architecture of the GPU, see `native_choice`."""

    arch: str = "gfx942"

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        super().__post_init__()
        require(0 < len(self.arch) <= 20, f"arch={self.arch!r}: must have 1 to 20 characters")

    def decodes(self, sequence: int) -> bool:
        """Whether all keys of a sequence are read from the caches although its chunk comes as rows."""
        return self.query_lens[sequence] == 1


def build(case: ChunkedPrefillPagedDecodeCase, arena: Arena) -> Inputs:
    """Arguments of `chunked_prefill_paged_decode` for `case`, see `prefill_inputs.build`."""
    return prefill_inputs.build(case, arena) | {"arch": case.arch}


def cases(domain: Domain) -> st.SearchStrategy[ChunkedPrefillPagedDecodeCase]:
    """Cases over the whole of `domain`, within a budget; shrinks towards `ChunkedPrefillPagedDecodeCase()` on gfx942."""
    rooms = {False: room_of(domain)}
    narrowed = native(domain)
    if narrowed is not None:
        rooms[True] = room_of(narrowed)
    rooms = {is_native: room for is_native, room in rooms.items() if not is_empty(room)}
    if not rooms:
        return st.nothing()
    return choose({key: weight for key, weight in NATIVE.items() if key in rooms}).flatmap(lambda key: _cases(rooms[key]))


def preset_cases(domain: Domain) -> st.SearchStrategy[ChunkedPrefillPagedDecodeCase]:
    """Cases with the heads of real models, and of hybrid ones the page sizes."""
    room = room_of(domain, models=True)
    return st.nothing() if is_empty(room) else _cases(room)


def native(domain: Domain) -> Domain | None:
    """The part of `domain` where a native kernel may be chosen; None where there is none."""
    limits = dict(domain.limits)
    for facet, values in NATIVE_LIMITS.items():
        limits[facet] = tuple(value for value in values if domain.allows(facet, value))
    return replace(domain, limits=limits) if all(limits[facet] for facet in NATIVE_LIMITS) else None


def _cases(room: ReaderRoom) -> st.SearchStrategy[ChunkedPrefillPagedDecodeCase]:
    arch = room.domain.target or ChunkedPrefillPagedDecodeCase().arch
    return prefill_fields(room, _BATCH).map(lambda drawn: ChunkedPrefillPagedDecodeCase(**drawn, arch=arch))


OP = Op(
    name="chunked_prefill_paged_decode",
    case=ChunkedPrefillPagedDecodeCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=model_names(),
    within=lambda case, domain: within(case, domain) and case.arch == domain.target,
    compile_time=COMPILE_TIME,
    placements=PLACEMENTS,
    facets=FACETS,
    properties=PROPERTIES,
)
