"""The Op `prefix_prefill`: attention of chunks of prompts, over the context in a paged cache and over the chunks themselves.

Caches are head-major (`kv_caches`), of the query's dtype or FP8. Launcher arguments, by keyword: `query` and `output` [T, Hq, D];
`key` and `value` [T, Hkv, D], or None for both; `key_cache` [NB, Hkv, D / x, page size, x] and `value_cache` [NB, Hkv, D, page
size]; `block_table` int32 [B, W]; `query_start_loc` int32 [B + 1], `seq_lens` int32 [B]; `max_query_len`, at least the longest
chunk; `sm_scale`; `k_scale` and `v_scale` of FP8 caches; `alibi_slopes` and `sinks` float32 [Hq] or None; `sliding_window`, 0 for
none; `output_scale` of an FP8 output, else None; `interleaved`; `causal`; `skip_decode`; `platform`.

Row i of sequence b has position ctx + i with ctx = seq_lens[b] - its queries. Keys below ctx come from the cache as
round_to_query_dtype(float(code) * scale), those of the chunk from the rows of key and value, never quantised, or, without them,
from the cache at ctx + j. A key weighs exactly nothing where it lies behind the query (`causal`), or `sliding_window` or more
before it; non-causal, the window limits only that side. Alibi adds slope * (key position - query position), in a window as well.
A row that sees no key is 0. Rows that no sequence has, and with `skip_decode` sequences of one query, are left alone; a sequence
without queries has no row. Block-table entries past cdiv(seq_len, page size) must not be followed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tridiff.harness.api import Arena, Domain, Facet, Inputs, Op, require
from tridiff.strategies import prefill_inputs
from tridiff.strategies.draws import allowed, choose
from tridiff.strategies.paged_readers import PLACEMENTS, within
from tridiff.strategies.paged_readers_models import model_names
from tridiff.strategies.paged_readers_room import ReaderRoom
from tridiff.strategies.prefill_case import PrefillCase
from tridiff.strategies.prefill_drawing import COMPILE_TIME, Batch, is_empty, prefill_fields, room_of
from tridiff.strategies.prefill_facets import FACETS, PROPERTIES
from tridiff.strategies.prefill_lengths import QUERY_LENS

__all__ = ["OP", "PrefixPrefillCase", "build", "cases", "preset_cases"]

SKIP_DECODE = {False: 7, True: 3}
_BATCH = Batch(query_lens=QUERY_LENS)


@dataclass(frozen=True, kw_only=True)
class PrefixPrefillCase(PrefillCase):
    """Parameters of one call; the defaults are the simplest case. `skip_decode`: sequences of one query are left alone."""

    skip_decode: bool = False

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        super().__post_init__()
        for at, (queries, keys) in enumerate(zip(self.query_lens, self.seq_lens, strict=True)):
            require(
                queries <= keys, f"seq_lens[{at}]={keys}: must be at least query_lens[{at}]={queries}, which are a part of them"
            )

    def is_answered(self, sequence: int) -> bool:
        """Whether output is written for a sequence."""
        return self.query_lens[sequence] > (1 if self.skip_decode else 0)


def build(case: PrefixPrefillCase, arena: Arena) -> Inputs:
    """Arguments of `prefix_prefill` for `case`, see `prefill_inputs.build`."""
    return prefill_inputs.build(case, arena) | {"skip_decode": case.skip_decode}


def cases(domain: Domain) -> st.SearchStrategy[PrefixPrefillCase]:
    """Cases over the whole of `domain`, within a budget; shrinks towards `PrefixPrefillCase()`."""
    return _cases(room_of(domain))


def preset_cases(domain: Domain) -> st.SearchStrategy[PrefixPrefillCase]:
    """Cases with the heads of real models, and of hybrid ones the page sizes."""
    return _cases(room_of(domain, models=True))


def _cases(room: ReaderRoom) -> st.SearchStrategy[PrefixPrefillCase]:
    skip_decode = allowed(SKIP_DECODE, room.domain, "skip_decode")
    if is_empty(room) or not skip_decode:
        return st.nothing()
    fields = prefill_fields(room, _BATCH)
    return st.builds(lambda skips, drawn: PrefixPrefillCase(**drawn, skip_decode=skips), choose(skip_decode), fields)


OP = Op(
    name="prefix_prefill",
    case=PrefixPrefillCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=model_names(),
    within=within,
    compile_time=COMPILE_TIME | {"skip_decode"},
    placements=PLACEMENTS,
    facets={
        **FACETS,
        "skip_decode": Facet(
            description="whether sequences of one query are left alone", of=lambda case: case.skip_decode, choices=(False, True)
        ),
    },
    properties=PROPERTIES,
)
