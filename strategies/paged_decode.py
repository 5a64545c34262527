"""The Op `paged_decode`: attention of single query tokens over vLLM's head-major paged caches.

Launcher arguments, by keyword: `query` and `output` [T, Hq, D]; `key_cache` [NB, Hkv, D / x, page size, x] and `value_cache`
[NB, Hkv, D, page size] of the query's dtype or FP8, V in packs of p tokens with `interleaved` (see `kv_caches`); `block_table`
[B, W], `query_start_loc` [B + 1] and `seq_lens` [B], int32; `sm_scale`; `k_scale` and `v_scale`, float32 of one element or None
for 1, by which FP8 codes are multiplied; `alibi_slopes` and `sinks` float32 [Hq] or None; `sliding_window`, 0 for none;
`output_scale`, float32 of one element, where the output is FP8; `platform`, "hip" or "cuda". All strides are honoured; the last
dimension of query and output is dense.

A sequence b with one query token, row query_start_loc[b], is answered, at position q = seq_lens[b] - 1:

    s_t = sm_scale <query, K_t> + slope (t - q), -inf where q - t >= W;  p = softmax of s, with one more logit sink of value 0

and output = sum p_t V_t, 0 without keys. An output in FP8 is divided by output_scale and saturated. Sequences with more query
tokens, or none, are left alone, as are rows that belong to no sequence. Table entries past the last page of a sequence hold
anything, and so do slots past its last token. (vLLM masks a window with -10000 instead of -inf.)
"""

from __future__ import annotations

from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import paged_readers, paging
from tridiff.strategies.budget import LARGE_PAGES, TYPICAL
from tridiff.strategies.paged_decode_case import PagedDecodeCase, build
from tridiff.strategies.paged_readers_facets import FACETS, PROPERTIES
from tridiff.strategies.paged_readers_models import model_names, model_of, model_shapes
from tridiff.strategies.paged_readers_room import ReaderRoom

__all__ = ["OP", "PagedDecodeCase", "build", "cases", "preset_cases"]

QUERY_LENS = {1: 15, 0: 2, 2: 1, 5: 1, 33: 1}
"""Query tokens of a sequence: with other than one it is left alone."""


def cases(domain: Domain) -> st.SearchStrategy[PagedDecodeCase]:
    """Cases over the whole of `domain`, within `TYPICAL`; shrinks towards `PagedDecodeCase()`."""
    return _cases_in(ReaderRoom(domain, TYPICAL))


def preset_cases(domain: Domain) -> st.SearchStrategy[PagedDecodeCase]:
    """Cases with the dimensions of real models and the page sizes that serve them, within `LARGE_PAGES`."""
    named = set(domain.models)
    known = [shape for shape in model_shapes() if not named or named & {shape.model, model_of(shape)}]
    return _cases_in(ReaderRoom(domain, LARGE_PAGES, shapes=known))


def _cases_in(room: ReaderRoom) -> st.SearchStrategy[PagedDecodeCase]:
    return st.nothing() if paged_readers.is_empty(room) else _cases(room)


@st.composite
def _cases(draw: st.DrawFn, room: ReaderRoom) -> PagedDecodeCase:
    """Draws in the order in which fields should become simple: types, values, shape, lengths, masks, layouts, dtype."""
    domain = room.domain
    types = draw(paged_readers.types(room))
    drawn = types | draw(paged_readers.profile(room, types))
    shape = draw(paged_readers.shapes(room))
    page_size = draw(paged_readers.page_size(room, shape))
    drawn |= shape.fields | {"page_size": page_size}
    drawn |= draw(paged_readers.sequences(room, shape, page_size, QUERY_LENS))
    drawn |= draw(paged_readers.features(domain, drawn["pattern"], drawn["seq_lens"]))
    drawn |= draw(paging.paging_fields(domain))
    num_pages = paging.pool_size(drawn["seq_lens"], page_size)
    drawn |= draw(paged_readers.cache_layouts(room, shape, page_size, num_pages))
    drawn |= draw(paged_readers.row_layouts(domain))
    elements = paged_readers.elements_of(drawn, shape, num_pages)
    drawn |= draw(paged_readers.dtype_and_seed(room, types, elements=elements))
    return PagedDecodeCase(**drawn, platform=domain.platform)


OP = Op(
    name="paged_decode",
    case=PagedDecodeCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=model_names(),
    within=paged_readers.within,
    compile_time=paged_readers.COMPILE_TIME,
    placements=paged_readers.PLACEMENTS,
    facets=FACETS,
    properties=PROPERTIES,
)
