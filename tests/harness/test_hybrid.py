"""Page sizes of hybrid models: the published table row by row, and the arithmetic for any dimensions."""

from __future__ import annotations

import itertools
from math import lcm
from typing import Any

import pytest
from hypothesis import given, settings

from tridiff.harness.api import dense_strides
from tridiff.strategies import hybrid, kv_caches
from tridiff.strategies.hybrid import BY_NAME, Drawn, HybridModel

ROWS: list[tuple[str, dict[str, int], int]] = [
    ("Qwen3-Next-80B-A3B", {"tp": 1}, 544),
    ("Qwen3-Next-80B-A3B", {"tp": 2}, 544),
    ("Qwen3-Next-80B-A3B", {"tp": 4}, 272),
    ("Qwen3-Next-80B-A3B", {"tp": 8}, 144),
    ("Qwen3-Next-80B-A3B", {"tp": 1, "state_bytes": 4}, 1056),
    ("Qwen3-Next-80B-A3B", {"tp": 2, "state_bytes": 4}, 1056),
    ("Qwen3-Next-80B-A3B", {"tp": 4, "state_bytes": 4}, 528),
    ("Qwen3-Next-80B-A3B", {"tp": 8, "state_bytes": 4}, 272),
    ("Qwen3-Next-80B-A3B", {"cache_bytes": 1}, 1072),
    ("Qwen3-Next-80B-A3B", {"cache_bytes": 1, "state_bytes": 4}, 2096),
    ("Qwen3.5-9B", {"state_bytes": 4}, 528),
    ("Qwen3.5-9B", {"state_bytes": 4, "cache_bytes": 1}, 1056),
    ("Qwen3.5-27B", {"state_bytes": 4}, 784),
    ("Qwen3.5-27B", {"state_bytes": 4, "cache_bytes": 1}, 1568),
    ("Nemotron-Nano-9B-v2", {}, 672),
    ("Nemotron-Nano-9B-v2", {"state_bytes": 4}, 1312),
    ("Nemotron-H-8B", {}, 528),
    ("Nemotron-H-8B", {"state_bytes": 4}, 1040),
    ("Bamba-9B", {}, 528),
    ("Bamba-9B", {"state_bytes": 4}, 1040),
    ("Bamba defaults", {}, 1040),
    ("Bamba defaults", {"state_bytes": 4}, 2064),
    ("Granite-4.0-h-tiny", {}, 400),
    ("Granite-4.0-h-tiny", {"state_bytes": 4}, 784),
    ("Granite-4.0-h-tiny", {"cache_bytes": 1}, 800),
    ("Granite-4.0-h-tiny", {"cache_bytes": 1, "state_bytes": 4}, 1568),
    ("Jamba-1.5-Mini", {}, 80),
    ("Jamba-1.5-Mini", {"state_bytes": 4}, 144),
    ("Jamba-1.5-Mini", {"cache_bytes": 1}, 160),
    ("Jamba-1.5-Mini", {"cache_bytes": 1, "state_bytes": 4}, 288),
    # Kimi Delta Attention keeps its state in float32 whatever the model's type is.
    ("Kimi-Linear-48B", {"tp": 4, "state_bytes": 4, "smallest": 16}, 480),
    ("Kimi-Linear-48B", {"tp": 4, "state_bytes": 4}, 512),
]
"""Model, what differs from one rank and 2 bytes everywhere, page size. Two sizes that are told elsewhere are no rows: the 7808
tokens of GLM-5.3-Flash, of which no configuration is published to derive it from, and the 2048 of Jamba in vLLM's PR 38502: the
configuration of Jamba-1.5-Mini gives those above. `PAGE_SIZES` has 2048 all the same."""

RATIOS: list[tuple[str, dict[str, int], float]] = [
    ("Qwen3-Next-80B-A3B", {}, 536),
    ("Qwen3-Next-80B-A3B", {"tp": 4}, 268),
    ("Qwen3-Next-80B-A3B", {"tp": 8}, 134),
    ("Qwen3-Next-80B-A3B", {"cache_bytes": 1}, 1072),
    ("Qwen3.5-9B", {"state_bytes": 4}, 524),
    ("Qwen3.5-27B", {"state_bytes": 4}, 783),
    ("Bamba-9B", {}, 524.375),
    ("Bamba defaults", {}, 1036.75),
    ("Granite-4.0-h-tiny", {}, 393.75),
    ("Jamba-1.5-Mini", {}, 76),
]
"""Tokens that are exactly as large as a state."""


@pytest.mark.parametrize(("name", "arguments", "size"), ROWS)
def test_every_row_of_the_table_follows_from_the_configuration(name: str, arguments: dict[str, int], size: int) -> None:
    """The page sizes that are documented or logged for real models."""
    assert BY_NAME[name].page(**arguments).page_size == size


@pytest.mark.parametrize(("name", "arguments", "ratio"), RATIOS)
def test_the_exact_ratios_follow_as_well(name: str, arguments: dict[str, int], ratio: float) -> None:
    """State over token, before anything is rounded."""
    page = BY_NAME[name].page(**arguments)

    assert page.state_bytes / page.token_bytes == ratio


def test_padding_is_what_the_log_says() -> None:
    """Qwen3.5-9B: the state's page is padded by 0.76 %."""
    page = BY_NAME["Qwen3.5-9B"].page(state_bytes=4)

    assert round(100 * page.padding_bytes / page.state_bytes, 2) == 0.76


def test_a_group_that_ranks_cannot_share_is_repeated_on_each() -> None:
    """Mamba-2 with one group over four ranks: a quarter of the heads, and the whole group."""
    recurrence = hybrid.mamba2(heads=48, head_dim=64, state=128, groups=1)

    assert recurrence.state_bytes(4, 2) == 3 * (48 * 64 // 4 + 2 * 128) * 2 + 12 * 64 * 128 * 2


@given(hybrid.settings(hybrid.real_models() | hybrid.free_models()))
@settings(max_examples=200)
def test_a_page_holds_a_state_is_aligned_and_no_larger_than_needed(drawn: Drawn) -> None:
    """For any model: page >= state, a multiple of the alignment, and one alignment less would be too small."""
    model, arguments = drawn
    page = model.page(**arguments)
    align = lcm(arguments["smallest"], arguments["checkpoint"])

    assert page.page_bytes >= page.state_bytes
    assert page.page_size % align == 0
    assert page.page_size % hybrid.SMALLEST_PAGE_SIZE == 0
    assert (page.page_size - align) * page.token_bytes < page.state_bytes
    assert page.page_size >= arguments["smallest"]
    assert page.padding_bytes == page.page_bytes - page.state_bytes


def test_the_smallest_block_of_a_backend_is_kept_as_well() -> None:
    """A page of 48 tokens that another backend can only have as a multiple of 32."""
    assert hybrid.page_size(47 * 8, 8, smallest=48, block=32) == 64


def _strides(page_size: int, **arguments: Any) -> list[tuple[int, ...]]:
    return [cache.strides for cache in hybrid.caches(page_size, **arguments)]


def test_head_major_strides_are_those_of_qwen3_next() -> None:
    """TP1, bf16, K and V of a page adjacent: page stride 2P with P = 278528."""
    strides = _strides(544, num_kv_heads=2, head_dim=256, itemsize=2, kind="head_major", pages="block_interior")

    assert strides == [(557056, 139264, 4352, 8, 1), (557056, 139264, 544, 1)]


def test_head_major_strides_are_those_of_a_captured_cache() -> None:
    """Qwen3-class 27B, TP2, FP8 on gfx1201: as logged there."""
    page = BY_NAME["Qwen3.5-27B"].page(tp=2, state_bytes=4, cache_bytes=1)
    strides = _strides(page.page_size, num_kv_heads=2, head_dim=256, itemsize=1, kind="head_major", pages="block_interior")

    assert page.page_size == 1568
    assert strides == [(1605632, 401408, 25088, 16, 1), (1605632, 401408, 1568, 1)]


@pytest.mark.parametrize("kind", kv_caches.KINDS)
def test_the_page_of_a_pool_is_k_and_v(kind: str) -> None:
    """Block-interior page strides are the bytes of the pool's pages; packed ones half of them."""
    page = BY_NAME["Granite-4.0-h-tiny"].page()
    inside, packed = (
        hybrid.caches(page.page_size, num_kv_heads=4, head_dim=128, itemsize=2, kind=kind, pages=pages)
        for pages in ("block_interior", "packed")
    )

    assert [cache.page_stride * 2 for cache in inside] == [page.page_bytes] * 2
    assert [cache.page_stride * 4 for cache in packed] == [page.page_bytes] * 2
    assert packed[0].strides == dense_strides(packed[0].sizes(3))


def test_packs_that_do_not_fit_are_refused() -> None:
    """K of 8-byte rows cannot be cut into 16-byte packs."""
    with pytest.raises(ValueError, match="head_dim 20 is no multiple of the pack 8"):
        hybrid.caches(16, num_kv_heads=1, head_dim=20, itemsize=2, kind="head_major", pages="packed")


def test_page_sizes_on_offer_are_those_that_models_get() -> None:
    """Every row of the table is drawn by the caches' strategy, of whatever model."""
    assert {size for _, _, size in ROWS} - {512} <= set(kv_caches.PAGE_SIZES)


@given(hybrid.preset_shapes(lambda shape: shape["head_dim"] == 256))
@settings(max_examples=50)
def test_presets_are_shapes_of_real_models(shape: dict[str, Any]) -> None:
    """Heads of one rank, and a page size of that model."""
    model, _, tp = shape["model"].rpartition(" TP")

    assert shape["num_kv_heads"] * shape["group_size"] * int(tp) == BY_NAME[model].num_heads
    assert shape["head_dim"] == 256
    assert shape["model"] in hybrid.preset_names()[model]
    assert _has_page(BY_NAME[model], int(tp), shape)


def _has_page(model: HybridModel, tp: int, shape: dict[str, Any]) -> bool:
    return any(
        (model.page(tp=tp, state_bytes=state, cache_bytes=cache).page_size, cache) == (shape["page_size"], shape["cache_bytes"])
        for state, cache in itertools.product(hybrid.STATE_BYTES, hybrid.CACHE_BYTES)
    )
