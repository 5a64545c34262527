"""The launcher of decode_attention: what it refuses, and the tiles that it chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tridiff.kernels.decode_attention import SHARED_MEMORY, choose_tiles, decode_attention, rounding


def arguments() -> dict[str, Any]:
    """Legal arguments: 2 rows, 4 heads over 2 KV heads, 8 key and 4 value columns, 3 pages of 16 tokens."""
    return {
        "query": torch.zeros(2, 4, 8),
        "key_cache": torch.zeros(3, 16, 2, 8),
        "value_cache": torch.zeros(3, 16, 2, 4),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "seq_lens": torch.ones(2, dtype=torch.int32),
        "output": torch.zeros(2, 4, 4),
        "lse": torch.zeros(2, 4),
        "sm_scale": 1.0,
        "logit_cap": 0.0,
        "page_size": 16,
        "num_kv_splits": 1,
        "platform": "hip",
    }


Change = Callable[[dict[str, Any]], dict[str, Any]]

REFUSED: dict[str, tuple[Change, str]] = {
    "query rank": (lambda a: {"query": torch.zeros(2, 8)}, r"query has 2 dimensions: must be 3"),
    "cache rank": (lambda a: {"key_cache": torch.zeros(48, 16)}, r"key_cache has 2 dimensions: must be 4, or 3"),
    "page size of a 4-D cache": (lambda a: {"page_size": 8}, r"key_cache has pages of 16 tokens: must be page_size=8"),
    "page size 0": (lambda a: {"page_size": 0}, r"page_size=0: must be at least 1"),
    "tokens of a 3-D cache": (
        lambda a: {"key_cache": torch.zeros(47, 2, 8), "value_cache": torch.zeros(47, 2, 4)},
        r"key_cache has 47 tokens: must be a multiple of page_size=16",
    ),
    "heads": (lambda a: {"query": torch.zeros(2, 3, 8)}, r"3 query heads: must be a multiple of 2 KV heads"),
    "key width": (lambda a: {"key_cache": torch.zeros(3, 16, 2, 6)}, r"key_cache has shape \(3, 16, 2, 6\)"),
    "output shape": (lambda a: {"output": torch.zeros(2, 4, 8)}, r"output has shape \(2, 4, 8\): must be \(2, 4, 4\)"),
    "lse shape": (lambda a: {"lse": torch.zeros(2, 3)}, r"lse has shape \(2, 3\): must be \(2, 4\)"),
    "rows of the table": (lambda a: {"block_table": torch.zeros(1, 1, dtype=torch.int32)}, r"block_table has shape \(1, 1\)"),
    "cache dtype": (lambda a: {"key_cache": a["key_cache"].half()}, r"key_cache is torch.float16: must be torch.float32"),
    "table dtype": (lambda a: {"block_table": a["block_table"].long()}, r"block_table is torch.int64: must be torch.int32"),
    "lse dtype": (lambda a: {"lse": a["lse"].half()}, r"lse is torch.float16: must be torch.float32"),
    "sparse columns": (lambda a: {"query": torch.zeros(2, 4, 16)[..., ::2]}, r"query has stride 2 in its last dimension"),
    "infinite scale": (lambda a: {"sm_scale": float("inf")}, r"sm_scale=inf: must be finite"),
    "negative cap": (lambda a: {"logit_cap": -1.0}, r"logit_cap=-1.0: must be finite, and 0 for no cap"),
    "no splits": (lambda a: {"num_kv_splits": 0}, r"num_kv_splits=0: must be at least 1"),
    "platform": (lambda a: {"platform": "metal"}, r"platform='metal': must be one of 'hip', 'cuda'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_the_contract_does_not_allow(change: Change, message: str) -> None:
    """An illegal argument raises ValueError, with the argument, its value and what is allowed."""
    wrong = arguments()
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        decode_attention(**wrong)


def test_no_rows_launch_nothing() -> None:
    """With no rows there is nothing to do, and no driver is needed for it."""
    empty = arguments()
    for name in ("query", "block_table", "seq_lens", "output", "lse"):
        empty[name] = empty[name][:0]

    decode_attention(**empty)

    assert empty["output"].shape == (0, 4, 4)


@pytest.mark.parametrize("platform", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("lk", "lv"), [(1, 1), (64, 64), (80, 112), (128, 128), (192, 128), (256, 256), (576, 512)])
def test_tiles_cover_the_columns_within_shared_memory(platform: str, dtype: torch.dtype, lk: int, lv: int) -> None:
    """Tiles are powers of two that cover all columns, and the larger operand tile of a dot fits the shared memory."""
    tiles = choose_tiles(platform=platform, dtype=dtype, group=4, lk=lk, lv=lv)

    sizes = (tiles.block_h, tiles.block_n, tiles.block_dk, tiles.block_dv)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert lk <= tiles.block_dk <= max(16, 2 * lk - 1)
    assert lv <= tiles.block_dv <= max(16, 2 * lv - 1)
    if tiles.block_h > 1:
        assert tiles.block_n >= 16
        assert tiles.block_n * max(tiles.block_dk, tiles.block_dv) * dtype.itemsize <= SHARED_MEMORY[platform]


def test_rounding_follows_the_path() -> None:
    """One head per KV head keeps the weights in float32; a group casts them to the values' dtype."""
    grouped = arguments() | {"query": torch.zeros(2, 4, 8, dtype=torch.bfloat16)}
    single = grouped | {"query": torch.zeros(2, 2, 8, dtype=torch.bfloat16)}

    assert rounding(**grouped)["p_dtype"] == "bfloat16"
    assert rounding(**single)["p_dtype"] == "float32"
