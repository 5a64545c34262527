"""The Ops of prefill: their cases, what is drawn of them, and the inputs built from them."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from drawn_cases import draws

from tridiff.harness.api import Arena, CaseError, Domain, Op
from tridiff.reference.paged_attention import unpack
from tridiff.strategies import chunked_prefill_paged_decode, fp8, kv_caches, prefix_prefill
from tridiff.strategies.chunked_prefill_paged_decode import ChunkedPrefillPagedDecodeCase
from tridiff.strategies.paged_readers_inputs import tokens
from tridiff.strategies.paged_readers_models import model_shapes
from tridiff.strategies.prefill_drawing import BUDGET, QUERY_TILE
from tridiff.strategies.prefix_prefill import PrefixPrefillCase

PREFIX, DRIVER = prefix_prefill.OP, chunked_prefill_paged_decode.OP


COUNTS = {PREFIX.name: 300, DRIVER.name: 400}
"""Cases of each Op that the tests look at: of the rarest page size some 9 are expected."""


@functools.cache
def drawn(op: str, count: int, *, presets: bool = False) -> tuple[Any, ...]:
    """`count` cases of one of the Ops, the same in every run."""
    known: Op = {each.name: each for each in (PREFIX, DRIVER)}[op]
    return draws((known.presets if presets else known.strategy)(Domain(target="gfx942")), count)


# Cases


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"causal": False, "alibi": "steep"}, "alibi='steep': must be 'none' unless causal"),
        ({"chunk": "cache", "chunk_slots": "poison"}, "chunk_slots='poison': must be 'written' where chunk='cache'"),
        ({"chunk": "none"}, "chunk='none': must be one of 'rows', 'cache'"),
        ({"extra_query_len": -1}, "extra_query_len=-1: must be from 0"),
        ({"seq_lens": (0,)}, r"seq_lens\[0\]=0: must be at least query_lens\[0\]=1"),
        ({"query_lens": (3,), "seq_lens": (2,)}, r"query_lens\[0\]=3: must be at most seq_lens\[0\]=2"),
    ],
)
def test_refuses(fields: dict[str, Any], message: str) -> None:
    """What is out of range, or does not go together, is told in one line."""
    with pytest.raises(CaseError, match=message):
        PrefixPrefillCase(**fields)


def test_a_decode_without_tokens_is_the_drivers_alone() -> None:
    """One query without keys, as in padded batches; its context is one less than none."""
    assert ChunkedPrefillPagedDecodeCase(seq_lens=(0,)).context_lens == (-1,)
    with pytest.raises(CaseError, match="arch='': must have 1 to 20 characters"):
        ChunkedPrefillPagedDecodeCase(arch="")


# What is drawn


@pytest.mark.parametrize("op", [PREFIX.name, DRIVER.name])
def test_everything_is_drawn(op: str) -> None:
    """Every page size there is, and every value of all that has few."""
    found = drawn(op, COUNTS[op])

    assert {case.page_size for case in found} == set(kv_caches.PAGE_SIZES)
    few: dict[str, set[Any]] = {
        "kind": {"head_major", "interleaved"},
        "key_pages": set(kv_caches.PAGES),
        "value_pages": set(kv_caches.PAGES),
        "far": {"none", "pages"},
        "alibi": {"none", "standard", "steep"},
        "sinks": {"none", "normal", "minus_infinity", "large", "mixed"},
        "dtype": {"float32", "bfloat16", "float16"},
        "cache_dtype": {"same", *fp8.DTYPES},
        "output_dtype": {"same", *fp8.DTYPES},
        "chunk": {"rows", "cache"},
        "chunk_slots": {"written", "poison"},
        "chunk_layout": {"packed", "fused_qkv", "padded_heads", "heads_first"},
        "causal": {True, False},
        "extra_query_len": {0, 1, 200},
        "padding_rows": {0, 1, 3},
        "peak_at": {"before_chunk", "after_chunk", "outside_window", "inside_window"},
    }
    for name, choices in few.items():
        assert {getattr(case, name) for case in found} >= choices, name
    assert {0, 1, 2, 31, 32, 33} <= {queries for case in found for queries in case.query_lens}
    assert any(max(case.query_lens) >= 127 for case in found)
    assert any(case.alibi != "none" and case.window for case in found)


@pytest.mark.parametrize("op", [PREFIX.name, DRIVER.name])
def test_contexts_lie_where_kernels_change_their_course(op: str) -> None:
    """None, one key, around tiles of 32 and 128, around one page and around two, and around the window."""
    found = drawn(op, COUNTS[op])

    pairs = [(context, case.page_size) for case in found for context in case.context_lens]
    assert {0, 1, 31, 32, 33, 127, 128, 129} <= {context for context, _ in pairs}
    assert {(pages, context - pages * size) for context, size in pairs for pages in (1, 2)} >= {
        (pages, delta) for pages in (1, 2) for delta in (-1, 0, 1)
    }
    assert {-1, 0, 1} <= {case.window - max(case.context_lens) for case in found if case.window}


def test_batches() -> None:
    """Most of the driver's sequences decode, some of them without any key; and many could be read by a native kernel."""
    found = drawn(DRIVER.name, COUNTS[DRIVER.name])

    queries = [each for case in found for each in case.query_lens]
    assert 0.5 < queries.count(1) / len(queries) < 0.75
    assert any(0 in case.seq_lens for case in found)
    assert {DRIVER.properties["batch"](case) for case in found} == {"no queries", "single queries", "chunks", "mixed"}
    usual: dict[str, set[Any]] = {
        "head_dim": {64, 128},
        "page_size": {16, 32},
        "dtype": {"bfloat16", "float16"},
        "window": {0},
        "sinks": {"none"},
    }
    native = [case for case in found if all(getattr(case, name) in values for name, values in usual.items())]
    assert len(native) > 40
    strided = [case for case in native if not case.is_native and 1 in case.query_lens and max(case.seq_lens) > case.page_size]
    assert len(strided) > 10


@pytest.mark.parametrize("op", [PREFIX.name, DRIVER.name])
def test_budget(op: str) -> None:
    """Products, whole tiles of queries counted, and memory stay inside by construction."""
    for case in drawn(op, COUNTS[op]):
        tiles = (math.ceil(queries / QUERY_TILE) * QUERY_TILE for queries in case.query_lens)
        work = sum(tile * keys for tile, keys in zip(tiles, case.seq_lens, strict=True))
        assert work * case.num_heads * 2 * case.head_dim <= BUDGET.multiply_adds
        pages = max(1, sum(-(-keys // case.page_size) for keys in case.seq_lens)) + 1
        bytes_ = pages * (case.cache("key").page_stride + case.cache("value").page_stride) * case.stored_dtype.itemsize
        assert bytes_ <= BUDGET.cache_bytes


def test_presets_are_real_models() -> None:
    """With page sizes that they have."""
    known = {shape.model: shape for shape in model_shapes()}

    for case in drawn(PREFIX.name, 20, presets=True):
        shape = known[case.model]
        assert (case.num_kv_heads, case.group_size, case.head_dim) == shape[:3]
        assert case.page_size in shape.page_sizes


# Inputs

BATCH = PrefixPrefillCase(
    num_kv_heads=2,
    group_size=3,
    query_lens=(3, 0, 1, 20),
    seq_lens=(20, 5, 9, 20),
    padding_rows=2,
    kind="interleaved",
    key_pages="block_interior",
    value_pages="layers",
    page_order="shuffled",
    dtype="bfloat16",
    cache_dtype="float8_e4m3fn",
    k_scale=0.37,
    v_scale=1.7,
    chunk_layout="fused_qkv",
    extra_query_len=5,
)


def variant(**fields: Any) -> PrefixPrefillCase:
    """`BATCH` with other fields."""
    return PrefixPrefillCase(**{**vars(BATCH), **fields})


def driver(**fields: Any) -> ChunkedPrefillPagedDecodeCase:
    """The same batch for the driver."""
    common = {name: value for name, value in vars(BATCH).items() if name != "skip_decode"}
    return ChunkedPrefillPagedDecodeCase(**{**common, **fields})


def test_what_is_written() -> None:
    """Rows of sequences with queries, without those of padding, and with `skip_decode` without single queries."""
    for case, rows in ((BATCH, range(24)), (variant(skip_decode=True), [0, 1, 2, *range(4, 24)]), (driver(), range(24))):
        op = DRIVER if isinstance(case, ChunkedPrefillPagedDecodeCase) else PREFIX
        arena = Arena()
        output = op.build(case, arena)["output"]
        allocation = arena.allocations["output"]
        first = int(output.storage_offset())
        assert output.shape == (26, 6, 32)
        assert sorted({(int(cell) - first) // output.stride(0) for cell in allocation.writable}) == list(rows)


@pytest.mark.parametrize("slots", ["written", "poison"])
def test_chunks(slots: str) -> None:
    """Rows hold the chunk's own numbers; the cache its codes, or poison, behind the context."""
    case = variant(chunk_slots=slots)
    every, inputs = tokens(case), PREFIX.build(case, Arena())

    assert bool(inputs["key"][:24].isfinite().all())
    assert bool(inputs["key"][24:].isnan().all())
    assert inputs["key"].stride(0) > inputs["value"].stride(0)
    first = every.pages.slot(3, 0)
    assert torch.equal(inputs["key"][4:24], every.keys[first : first + 20].to(torch.bfloat16))
    assert torch.equal(inputs["value"][4:24], every.values[first : first + 20].to(torch.bfloat16))
    context = unpack(inputs, {"dequantised": "bfloat16"}, 0, 17)
    assert bool(context[0].isfinite().all())
    if slots == "written":
        assert unpack(inputs, {"dequantised": "bfloat16"}, 3, 20)[0].shape == (20, 2, 32)
        return
    for row, count in ((0, 18), (2, 9), (3, 1)):
        with pytest.raises(ValueError, match="no finite number"):
            unpack(inputs, {"dequantised": "bfloat16"}, row, count)


def test_a_chunk_in_the_cache() -> None:
    """Then there are no rows of keys and values, and all slots are written."""
    inputs = PREFIX.build(variant(chunk="cache"), Arena())

    assert inputs["key"] is None
    assert inputs["value"] is None
    for row, count in ((0, 20), (2, 9), (3, 20)):
        assert unpack(inputs, {"dequantised": "bfloat16"}, row, count)[1].shape == (count, 2, 32)


def test_decodes_of_the_driver_lie_in_the_cache() -> None:
    """All of it does, where chunks are poison there; the row of keys that nobody needs is poison."""
    inputs = DRIVER.build(driver(chunk_slots="poison"), Arena())

    assert unpack(inputs, {"dequantised": "bfloat16"}, 2, 9)[0].shape == (9, 2, 32)
    assert bool(inputs["key"][3].isnan().all())
    assert bool(inputs["key"][:3].isfinite().all())
    with pytest.raises(ValueError, match="no finite number"):
        unpack(inputs, {"dequantised": "bfloat16"}, 3, 20)


def test_numbers() -> None:
    """Arguments that are no tensors, and those that are read for lengths."""
    inputs = PREFIX.build(BATCH, Arena())
    driven = DRIVER.build(driver(), Arena())

    assert inputs["query_start_loc"].tolist() == [0, 3, 3, 4, 24]
    assert inputs["seq_lens"].tolist() == [20, 5, 9, 20]
    assert (inputs["max_query_len"], inputs["causal"], inputs["skip_decode"], inputs["interleaved"]) == (25, True, False, True)
    assert set(driven) == set(inputs) - {"skip_decode"} | {"arch"}
    assert driven["arch"] == "gfx942"
