"""The driver of chunks beside decodes: what it launches, the reader that it takes, and whose keys each query sees."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from launching import captured, run

from tridiff.harness.capture import Launch
from tridiff.kernels import chunked_prefill_paged_decode as driver
from tridiff.kernels import paged_decode, prefix_prefill
from tridiff.kernels.native_choice import NATIVE

LENGTHS, QUERIES = (20, 7, 0, 33, 5), (1, 3, 1, 1, 0)
HEAD_DIM, PAGE_SIZE, HEADS = 16, 16, 4
DTYPE = torch.float32


def arguments(*, gap: int = 0) -> dict[str, Any]:
    """Legal arguments in float32: two KV heads, shuffled pages with so many elements between them, chunks in their own rows."""
    generator = torch.Generator().manual_seed(3)
    pack, num_pages = 4, 8
    page = 2 * HEAD_DIM * PAGE_SIZE
    storages = [torch.randn(num_pages * (page + gap), generator=generator) for _ in range(2)]
    return {
        "query": torch.randn(sum(QUERIES), HEADS, HEAD_DIM, generator=generator),
        "key": torch.randn(sum(QUERIES), 2, HEAD_DIM, generator=generator),
        "value": torch.randn(sum(QUERIES), 2, HEAD_DIM, generator=generator),
        "output": torch.full((sum(QUERIES), HEADS, HEAD_DIM), math.nan),
        "key_cache": storages[0].as_strided(
            (num_pages, 2, HEAD_DIM // pack, PAGE_SIZE, pack), (page + gap, page // 2, PAGE_SIZE * pack, pack, 1)
        ),
        "value_cache": storages[1].as_strided((num_pages, 2, HEAD_DIM, PAGE_SIZE), (page + gap, page // 2, PAGE_SIZE, 1)),
        "block_table": torch.tensor([[6, 1, 0], [3, 0, 0], [0, 0, 0], [2, 5, 7], [4, 0, 0]], dtype=torch.int32),
        "query_start_loc": torch.tensor([0, *QUERIES]).cumsum(0).to(torch.int32),
        "seq_lens": torch.tensor(LENGTHS, dtype=torch.int32),
        "max_query_len": max(QUERIES),
        "sm_scale": 0.25,
        "sliding_window": 9,
        "sinks": torch.tensor([0.0, 1.0, -math.inf, 2.0]),
        "platform": "hip",
    }


def seen(given: dict[str, Any], role: str, sequence: int, head: int) -> torch.Tensor:
    """Keys or values of a sequence, [length, columns]: those of a chunk from its rows, all others from the cache."""
    cache, start = given[f"{role}_cache"], int(given["query_start_loc"][sequence])
    count = QUERIES[sequence] if QUERIES[sequence] > 1 else 0
    rows = []
    for token in range(LENGTHS[sequence] - count):
        page, slot = int(given["block_table"][sequence, token // PAGE_SIZE]), token % PAGE_SIZE
        rows.append(cache[page, head, :, slot].reshape(HEAD_DIM))
    rows += [given[role][start + at, head] for at in range(count)]
    return torch.stack(rows).to(torch.float64)


def expected(given: dict[str, Any], sequence: int, query: int, head: int) -> torch.Tensor:
    """Attention of one query head, float64 [columns]."""
    keys, values = (seen(given, role, sequence, head // 2) for role in ("key", "value"))
    position = LENGTHS[sequence] - QUERIES[sequence] + query
    row = int(given["query_start_loc"][sequence]) + query
    distance = position - torch.arange(LENGTHS[sequence])
    logits = given["sm_scale"] * (keys @ given["query"][row, head].to(torch.float64))
    logits = logits.masked_fill((distance < 0) | (distance >= given["sliding_window"]), -math.inf)
    weights = torch.softmax(torch.cat([logits, given["sinks"][head, None].to(torch.float64)]), dim=0)
    return weights[:-1] @ values


@pytest.mark.parametrize("gap", [0, 48])
def test_every_query_attends_to_its_keys(gap: int) -> None:
    """Chunks see their context and the rows of their own keys, decodes the cache alone; a sequence without keys gets 0."""
    given = arguments(gap=gap)

    run(partial(driver.chunked_prefill_paged_decode, **given))

    for sequence, (length, queries) in enumerate(zip(LENGTHS, QUERIES, strict=True)):
        for query in range(queries):
            for head in range(HEADS):
                row = given["output"][int(given["query_start_loc"][sequence]) + query, head]
                value = expected(given, sequence, query, head) if length else torch.zeros(HEAD_DIM)
                assert torch.allclose(row.to(torch.float64), value.to(torch.float64), rtol=0, atol=2e-6)


def test_prefill_is_launched_for_chunks_alone() -> None:
    """Where no sequence has more than one query there is the decode kernel only, and without sequences nothing."""
    given = arguments()
    names = [
        [launch.specialisation.name.partition("-")[0] for launch in launches(given | change)]
        for change in ({}, {"max_query_len": 1}, {"max_query_len": 0}, NOTHING)
    ]

    assert names == [["_attend_chunk", "_decode"], ["_decode"], ["_decode"], []]


NOTHING = {
    "block_table": torch.zeros((0, 1), dtype=torch.int32),
    "query_start_loc": torch.zeros(1, dtype=torch.int32),
    "seq_lens": torch.zeros(0, dtype=torch.int32),
}


def launches(given: dict[str, Any], target: str = "gfx942") -> list[Launch]:
    """What the driver launches."""
    return captured(partial(driver.chunked_prefill_paged_decode, **given), target)


def test_decode_gets_the_strides_of_the_chosen_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches have their own strides for our reader and for the prefill, and packed ones where a native reader is chosen."""
    given = arguments(gap=48)
    page = 2 * HEAD_DIM * PAGE_SIZE

    ours = [launch.arguments["key_page_stride"] for launch in launches(given)]
    monkeypatch.setattr(driver, "choose_reader", lambda *_, **__: NATIVE)
    native = launches(given)

    assert ours == [page + 48, page + 48]
    assert native[0].arguments["key_page_stride"] == page + 48
    assert [native[1].arguments[f"{role}_page_stride"] for role in ("key", "value")] == [page, page]


def test_reader_is_chosen_by_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """`choose_reader` is told the part, and what the call asks for; the width of the table bounds the length of a sequence."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(driver, "choose_reader", lambda *_, **arguments: told.append(arguments))
    alibi = {"alibi_slopes": torch.ones(HEADS), "sinks": None, "sliding_window": 0, "platform": "cuda"}

    launches(arguments())
    launches(arguments() | alibi, "sm_90")
    launches(arguments() | {"arch": "gfx1201"})

    common = {"query_dtype": DTYPE, "num_heads": HEADS, "max_seq_len": 3 * PAGE_SIZE}
    assert told == [
        common | {"arch": "gfx942", "sliding_window": 9, "has_alibi": False, "has_sinks": True},
        common | {"arch": "sm_90", "sliding_window": 0, "has_alibi": True, "has_sinks": False},
        common | {"arch": "gfx1201", "sliding_window": 9, "has_alibi": False, "has_sinks": True},
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_query_len": -1}, "max_query_len=-1: must be at least 0"),
        ({"causal": False, "alibi_slopes": torch.ones(HEADS)}, "alibi_slopes without causal: must be None"),
        ({"key": None}, "value is given without the other"),
        ({"sliding_window": -1}, "sliding_window=-1: must be at least 0"),
    ],
)
def test_refuses_what_one_of_the_kernels_does_not_allow(change: dict[str, Any], message: str) -> None:
    """An illegal argument raises ValueError before anything is launched."""
    with pytest.raises(ValueError, match=message):
        launches(arguments() | change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [32, 80, 128, 256])
@pytest.mark.parametrize("platform", ["hip", "cuda"])
def test_both_kernels_round_alike(dtype: torch.dtype, head_dim: int, platform: str) -> None:
    """One declaration of where the driver rounds holds for chunks and decodes."""
    given: dict[str, Any] = {"query": torch.zeros(1, 2, head_dim, dtype=dtype), "max_query_len": 40, "platform": platform}

    assert driver.rounding(**given) == paged_decode.rounding(**given) == prefix_prefill.rounding(**given)
