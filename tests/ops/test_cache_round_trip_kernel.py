"""The launcher of cache_round_trip on the cpu engine: what one kernel writes the other reads, and whom it chooses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from launching import captured

from tridiff.harness.api import Arena, Clean
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.kernels import chunked_prefill_paged_decode as mixed
from tridiff.kernels.cache_round_trip import Unsupported, cache_round_trip, rounding
from tridiff.strategies.cache_round_trip import CacheRoundTripCase, build

REF = KernelRef(kernel="cache_round_trip")
BATCH: dict[str, Any] = {"seq_lens": (18, 0, 3), "skipped": 2, "page_order": "shuffled", "slot_order": "shuffled"}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"key_order": "side_by_side", "value_order": "heads_in_page"},
    "native": {"kind": "head_major", "head_dim": 64, "dtype": "bfloat16"},
    "strided": {"kind": "head_major", "head_dim": 64, "dtype": "bfloat16", "key_pages": "layers", "value_pages": "padded"},
    "interleaved": {"kind": "interleaved", "page_size": 48, "cache_dtype": "float8_e5m2", "k_scale": 4.0, "num_kv_heads": 2},
    "mixed batch": {"kind": "head_major", "head_dim": 64, "dtype": "bfloat16", "chunk": 5, "page_size": 32},
    "mixed, strided": {"kind": "interleaved", "chunk": 2, "value_pages": "block_interior", "cache_dtype": "float8_e4m3fn"},
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read(name: str) -> None:
    """The output is attention over the tokens, and nothing else changes."""
    outcome = examine(REF, EngineSpec(), CacheRoundTripCase(**BATCH, **CASES[name]))

    assert isinstance(outcome, Clean)
    assert outcome.ratio <= 1.0


def strides_given(**fields: Any) -> dict[str, tuple[int, int]]:
    """The page strides of K and V that writer and reader are given, by the name of the kernel."""
    case = CacheRoundTripCase(kind="head_major", head_dim=64, dtype="bfloat16", page_order="shuffled", **fields)
    read = ("key_page_stride", "value_page_stride")
    names = {"_write_tokens": ("key_page_step", "value_page_step"), "_decode": read, "_attend_chunk": read}
    given = {}
    for launch in captured(partial(cache_round_trip, **build(case, Arena()))):
        function = launch.specialisation.name.partition("-")[0]
        found = tuple(int(launch.arguments[name]) for name in names[function])
        given[function] = (found[0], found[1])
    return given


@pytest.mark.parametrize("page_size", [16, 48])
@pytest.mark.parametrize("pages", ["packed", "block_interior"])
def test_both_are_given_the_same_strides(page_size: int, pages: str) -> None:
    """Native or not: those of the cache, since a native kernel is only chosen where they are what it assumes."""
    given = strides_given(page_size=page_size, key_pages=pages, value_pages=pages)

    stride = page_size * 64 * (1 if pages == "packed" else 2)
    assert given == {"_write_tokens": (stride, stride), "_decode": (stride, stride)}


@pytest.mark.parametrize("pages", ["packed", "block_interior"])
def test_chunks_are_given_them_too(pages: str) -> None:
    """A mixed batch is read by two kernels."""
    given = strides_given(seq_lens=(3, 2), chunk=2, key_pages=pages, value_pages=pages)

    stride = 16 * 64 * (1 if pages == "packed" else 2)
    assert given == dict.fromkeys(("_write_tokens", "_attend_chunk", "_decode"), (stride, stride))


def test_mixed_batches_are_head_major() -> None:
    """The driver reads no other caches."""
    inputs = build(CacheRoundTripCase(), Arena()) | {"query_start_loc": torch.tensor([0, 1], dtype=torch.int32)}

    with pytest.raises(ValueError, match=r"query_start_loc with caches that are not head-major: must be None"):
        cache_round_trip(**inputs)


def test_pages_must_have_their_size() -> None:
    """A page size that is not the cache's is refused: slots would mean two things."""
    inputs = build(CacheRoundTripCase(), Arena()) | {"page_size": 32}

    with pytest.raises(ValueError, match=r"key_cache has pages of 16 tokens: must be page_size=32"):
        cache_round_trip(**inputs)


@pytest.mark.parametrize("kind", ["nhd", "head_major"])
def test_refuses_formats_that_the_part_lacks(kind: str) -> None:
    """By an exception class of its own, which says what the writer or the reader says."""
    inputs = build(CacheRoundTripCase(kind=kind, cache_dtype="float8_e4m3fnuz", platform="cuda"), Arena())

    with pytest.raises(Unsupported, match=r"float8_e4m3fnuz.* on sm_90|sm_90.*float8_e4m3fnuz"):
        captured(partial(cache_round_trip, **inputs), "sm_90")


@pytest.mark.parametrize(("kind", "splits"), [("nhd", 2), ("head_major", 1)])
def test_rounds_as_its_reader_does(kind: str, splits: int) -> None:
    """The reader's tiles and splits are what the bound is made of."""
    declared = rounding(**build(CacheRoundTripCase(kind=kind, group_size=4, dtype="float16"), Arena()))

    assert declared["p_dtype"] == str(torch.float16).removeprefix("torch.")
    assert declared["num_kv_splits"] == splits


def test_rounds_as_the_driver_does() -> None:
    """By the tiles of a mixed batch."""
    inputs = build(CacheRoundTripCase(kind="head_major", chunk=20, seq_lens=(30,), head_dim=256), Arena())

    assert rounding(**inputs) == mixed.rounding(**inputs)
