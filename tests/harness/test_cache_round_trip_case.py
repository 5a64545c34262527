"""Cases of cache_round_trip: what is drawn, what is refused, and what their inputs hold."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tridiff.harness.api import Arena, CaseError, Domain
from tridiff.harness.registry import builtin
from tridiff.harness.runner.drawing import batches, drawn
from tridiff.strategies import kv_caches
from tridiff.strategies.cache_round_trip import OP, PRESETS, CacheRoundTripCase, build, within


@functools.cache
def sample() -> tuple[CacheRoundTripCase, ...]:
    """As many cases as must show every page size."""
    return tuple(drawn(builtin(), OP.name, "gfx942", count=500, seed=0))


def test_every_page_size_is_drawn() -> None:
    """500 cases have each of them, in all kinds of caches, packed and strided ones."""
    assert {case.page_size for case in sample()} >= set(kv_caches.PAGE_SIZES)
    assert {case.kind for case in sample()} == set(kv_caches.KINDS)
    assert {(case.kind, case.layout_class) for case in sample()} >= {(kind, "packed") for kind in kv_caches.KINDS}
    assert {case.cache_dtype for case in sample()} == {"same", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"}


def test_native_kernels_have_cases() -> None:
    """Pages of 16 and 32 tokens, in 16 bits and 64 or 128 columns, are there packed, and strided with tokens on a later page."""
    suited = [case for case in sample() if case.page_size in {16, 32} and case.head_dim in {64, 128} and case.dtype != "float32"]
    suited = [case for case in suited if case.kind != "nhd"]

    assert {case.layout_class for case in suited} == {"packed", "strided"}
    assert any(case.page_order == "shuffled" for case in suited if case.layout_class == "strided")


def test_both_readers_have_cases() -> None:
    """The driver is given chunks, single queries and both, over strided caches as well, and never caches that it cannot read."""
    readers = {OP.properties["reader"](case) for case in sample()}
    assert readers == {"decode", "driver, mixed", "driver, chunks", "driver, single queries"}
    driven = [case for case in sample() if case.chunk]
    assert {case.layout_class for case in driven} == {"packed", "strided"}
    assert {case.kind for case in driven} == {"head_major", "interleaved"}
    assert 0.05 < len(driven) / len(sample()) < 0.25


def test_chunks_alternate_with_single_queries() -> None:
    """A chunk is no longer than its sequence, and a sequence without tokens has a query all the same."""
    case = CacheRoundTripCase(kind="head_major", chunk=5, seq_lens=(9, 9, 3, 9, 0))

    inputs = build(case, Arena())

    assert case.query_lens == (5, 1, 3, 1, 1)
    assert inputs["query_start_loc"].tolist() == [0, 5, 6, 9, 10, 11]
    assert inputs["max_query_len"] == 5
    assert inputs["query"].shape == inputs["output"].shape == (11, 1, 32)


def test_cases_lie_in_the_domain() -> None:
    """Platform and FP8 formats are those of the target."""
    domain = Domain(target="sm_86")

    cases = drawn(builtin(), OP.name, "sm_86", count=40, seed=1)

    assert all(within(case, domain) for case in cases)
    assert {case.cache_dtype for case in cases} == {"same", "float8_e5m2"}


def test_presets_are_those_of_the_model() -> None:
    """Heads, width and page size of one rank, and caches in 16 bits or FP8 as the page size asks for."""
    domain = Domain(target="gfx942", models=("Qwen3-Next-80B-A3B TP1",))

    cases = next(batches(builtin(), OP.name, domain, seed=0, size=24))

    cases = [case for case in cases if case.model]
    assert {case.model for case in cases} == {"Qwen3-Next-80B-A3B TP1"}
    known = {(shape["page_size"], shape["cache_bytes"]) for shape in PRESETS if shape["model"] == "Qwen3-Next-80B-A3B TP1"}
    assert {(case.page_size, 2 - (case.cache_dtype != "same")) for case in cases} <= known
    assert {(544, 2), (1072, 1)} <= known


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "head_major", "key_order": "side_by_side"}, "key_order='side_by_side': must be one of"),
        ({"kind": "head_major", "head_dim": 18}, "head_dim=18: must be a multiple of 4"),
        ({"kind": "interleaved", "page_size": 18}, "page_size=18: must be a multiple of 4"),
        ({"k_scale": 0.5}, "k_scale=0.5: must be 1.0 unless cache_dtype is an FP8 format"),
        ({"cache_dtype": "float8_e5m2", "v_scale": 0.3}, "v_scale=0.3: must be a power of two"),
        ({"cache_dtype": "float8_e5m2", "dtype": "float16", "v_scale": 4.0}, "float8_e5m2 times that overflows float16"),
        ({"chunk": 1}, "chunk=1: must be 0 for kind='nhd', which the driver cannot read"),
        ({"seq_lens": ()}, "seq_lens=\\(\\): must have 1 to"),
        ({"seq_lens": (1, -1)}, r"seq_lens\[1\]=-1: must be"),
    ],
)
def test_refuses_what_is_not_legal(fields: dict[str, Any], message: str) -> None:
    """By the field, its value and what is allowed."""
    with pytest.raises(CaseError, match=message):
        CacheRoundTripCase(**fields)


@pytest.mark.parametrize("order", ["ascending", "shuffled"])
def test_every_token_has_a_slot_of_its_own(order: str) -> None:
    """The slots of all tokens are those that the block table names, once each, and -1 lies in between."""
    case = CacheRoundTripCase(
        seq_lens=(17, 0, 3), skipped=4, padding_rows=2, slot_order=order, page_order="shuffled", table_tail=1
    )

    inputs = build(case, Arena())

    slots = inputs["slot_mapping"].tolist()
    table = inputs["block_table"]
    named = [int(table[row, at // 16]) * 16 + at % 16 for row, length in enumerate(case.seq_lens) for at in range(length)]
    assert slots.count(-1) == 4
    assert sorted(slot for slot in slots if slot >= 0) == sorted(named)
    assert ([slot for slot in slots if slot >= 0] == named) == (order == "ascending")
    assert inputs["key"].shape == (26, 1, 32)
    assert inputs["key"][24:].isnan().all()
    assert inputs["key"][:24].isfinite().all()


@pytest.mark.parametrize("dtype", ["same", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"])
def test_caches_hold_finite_numbers(dtype: str) -> None:
    """As if they were other tokens': one that is read by mistake makes no NaN, by which chance would decide what is found."""
    inputs = build(CacheRoundTripCase(dtype="bfloat16", cache_dtype=dtype, head_dim=256, seq_lens=(40,)), Arena())

    for name in ("key_cache", "value_cache"):
        numbers = inputs[name].float()
        assert numbers.isfinite().all()
        assert (numbers != 0).all()


def test_caches_are_full_of_known_data() -> None:
    """Nothing in them is poison, gaps included, and only the elements of tokens may be changed."""
    case = CacheRoundTripCase(kind="head_major", seq_lens=(2,), value_pages="layers", key_pages="block_interior", head_dim=16)
    arena = Arena()

    inputs = build(case, arena)

    for name in ("key_cache", "value_cache"):
        allocation = arena.allocations[name]
        assert allocation.permitted.size == 2 * 16
        assert allocation.writable.size == 0
        start, stop = allocation.legal[0]
        assert len(torch.unique(allocation.storage[start:stop].view(torch.int32))) > (stop - start) * 0.99
    assert arena.written() == ("output",)
    assert inputs["k_scale"] is None
