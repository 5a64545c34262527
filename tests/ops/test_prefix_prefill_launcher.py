"""The launcher of prefix_prefill: what it refuses, the tiles that it chooses, and that they fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from launching import captured

from tridiff.harness.targets.parts import part
from tridiff.harness.targets.pipeline import allocated
from tridiff.kernels.prefix_prefill import Unsupported, choose_tiles, prefix_prefill, rounding

BF16, FP32 = torch.bfloat16, torch.float32
E4M3FN, E4M3FNUZ, E5M2 = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2


def arguments(
    *, width: int = 16, page_size: int = 16, dtype: torch.dtype = FP32, cache: torch.dtype | None = None
) -> dict[str, Any]:
    """Legal arguments: 2 sequences of 3 and 1 queries, 4 heads over 2 KV heads, 3 pages."""
    held = cache or dtype
    pack = 16 // held.itemsize
    return {
        "query": torch.zeros(4, 4, width, dtype=dtype),
        "key": torch.zeros(4, 2, width, dtype=dtype),
        "value": torch.zeros(4, 2, width, dtype=dtype),
        "output": torch.zeros(4, 4, width, dtype=dtype),
        "key_cache": torch.zeros(3, 2, width // pack, page_size, pack, dtype=held),
        "value_cache": torch.zeros(3, 2, width, page_size, dtype=held),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "query_start_loc": torch.tensor([0, 3, 4], dtype=torch.int32),
        "seq_lens": torch.tensor([5, 1], dtype=torch.int32),
        "max_query_len": 3,
        "sm_scale": 1.0,
        "platform": "hip",
    }


Change = Callable[[dict[str, Any]], dict[str, Any]]

REFUSED: dict[str, tuple[Change, str]] = {
    "query rank": (lambda a: {"query": torch.zeros(4, 64)}, r"query has 2 dimensions: must be 3"),
    "plain K": (lambda a: {"key_cache": torch.zeros(3, 16, 2, 16)}, r"key_cache has 4 dimensions: must be 5"),
    "K in other packs": (
        lambda a: {"key_cache": torch.zeros(3, 2, 2, 16, 8)},
        r"key_cache has 8 elements in its last dimension: must be 4",
    ),
    "V with tokens first": (
        lambda a: {"value_cache": torch.zeros(3, 2, 8, 32)},
        r"value_cache has shape \(3, 2, 8, 32\): must be \(3, 2, 16, 16\)",
    ),
    "width": (
        lambda a: {"query": torch.zeros(4, 4, 18)},
        r"query has 18 columns: must be 16",
    ),
    "heads": (lambda a: {"query": torch.zeros(4, 3, 16)}, r"3 query heads: must be a multiple of 2 KV heads"),
    "key alone": (lambda a: {"value": None}, r"key is given without the other: must be both, or both None"),
    "value alone": (lambda a: {"key": None}, r"value is given without the other: must be both"),
    "rows of the chunk": (lambda a: {"key": torch.zeros(3, 2, 16)}, r"key has shape \(3, 2, 16\): must be \(4, 2, 16\)"),
    "rows of the table": (lambda a: {"block_table": torch.zeros(1, 1, dtype=torch.int32)}, r"block_table has shape \(1, 1\)"),
    "starts": (lambda a: {"query_start_loc": a["seq_lens"]}, r"query_start_loc has shape \(2,\): must be \(3,\)"),
    "slopes": (lambda a: {"alibi_slopes": torch.zeros(2)}, r"alibi_slopes has shape \(2,\): must be \(4,\)"),
    "sinks": (lambda a: {"sinks": torch.zeros(4, dtype=BF16)}, r"sinks is torch.bfloat16: must be torch.float32"),
    "slopes without causal": (
        lambda a: {"alibi_slopes": torch.zeros(4), "causal": False},
        r"alibi_slopes without causal: must be None",
    ),
    "cache dtype": (
        lambda a: {"key_cache": a["key_cache"].int()},
        r"key_cache is torch.int32: must be torch.float32 or",
    ),
    "value cache dtype": (
        lambda a: {"value_cache": a["value_cache"].half()},
        r"value_cache is torch.float16: must be torch.float32",
    ),
    "key dtype": (lambda a: {"key": a["key"].half()}, r"key is torch.float16: must be torch.float32"),
    "lengths of 64 bits": (lambda a: {"seq_lens": a["seq_lens"].long()}, r"seq_lens is torch.int64: must be torch.int32"),
    "FP8 output without a scale": (
        lambda a: {"output": a["output"].to(E5M2)},
        r"output is torch.float8_e5m2 and output_scale None: must be given for an output of FP8",
    ),
    "scale without FP8 output": (
        lambda a: {"output_scale": torch.ones(1)},
        r"output is torch.float32 and output_scale given: must be given for an output of FP8, and for no other",
    ),
    "scale per head": (lambda a: {"k_scale": torch.ones(2)}, r"k_scale has shape \(2,\): must have one element"),
    "scale dtype": (lambda a: {"v_scale": torch.ones(1).double()}, r"v_scale is torch.float64: must be torch.float32"),
    "device": (lambda a: {"sinks": torch.zeros(4, device="meta")}, r"sinks is on meta: must be where the query is"),
    "sparse columns": (lambda a: {"output": torch.zeros(4, 4, 32)[..., ::2]}, r"output has stride 2 in its last dimension"),
    "infinite scale": (lambda a: {"sm_scale": float("inf")}, r"sm_scale=inf: must be finite"),
    "window": (lambda a: {"sliding_window": -1}, r"sliding_window=-1: must be at least 0"),
    "most queries": (lambda a: {"max_query_len": -1}, r"max_query_len=-1: must be at least 0"),
    "platform": (lambda a: {"platform": "metal"}, r"platform='metal': must be one of 'hip', 'cuda'"),
    "pages of no packs": (
        lambda a: {"interleaved": True, **{k: arguments(page_size=18)[k] for k in ("key_cache", "value_cache")}},
        r"interleaved with pages of 18 tokens: must be a multiple of 4",
    ),
    "heads with gaps": (
        lambda a: {"interleaved": True, "value_cache": torch.zeros(3, 2, 16, 32)[..., :16]},
        r"interleaved with stride 32 from column to column: must be 16",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_the_contract_does_not_allow(change: Change, message: str) -> None:
    """An illegal argument raises ValueError, with the argument, its value and what is allowed."""
    wrong = arguments()
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        prefix_prefill(**wrong)


@pytest.mark.parametrize("empty", ["sequences", "queries"])
def test_nothing_to_do_launches_nothing(empty: str) -> None:
    """Without sequences, or where none has a query, no driver is needed."""
    given = arguments()
    if empty == "sequences":
        given |= {
            "block_table": given["block_table"][:0],
            "seq_lens": given["seq_lens"][:0],
            "query_start_loc": given["seq_lens"][:1],
        }
    else:
        given["max_query_len"] = 0

    assert captured(partial(prefix_prefill, **given)) == []


@pytest.mark.parametrize("queries", [1, 16, 17, 63, 64, 65])
def test_a_program_for_every_tile_of_queries(queries: int) -> None:
    """The grid has sequences, query heads, and as many tiles as the most queries need."""
    (launch,) = captured(partial(prefix_prefill, **arguments() | {"max_query_len": queries}))

    assert launch.grid == (2, 4, 1 if queries < 65 else 2)
    assert launch.arguments["block_m"] == (16 if queries <= 16 else 64)


def test_scales_concern_fp8_only() -> None:
    """The kernel is given the scales of FP8 caches, and none for others."""
    scales = {"k_scale": torch.ones(1), "v_scale": torch.ones(())}

    given = [captured(partial(prefix_prefill, **arguments(cache=cache) | scales))[0].arguments for cache in (None, E5M2)]

    assert [given[0][name] for name in scales] == [None, None]
    assert all(given[1][name] is scale for name, scale in scales.items())


@pytest.mark.parametrize(
    ("target", "dtype", "message"),
    [
        ("sm_86", E4M3FN, "needs sm_89 or later, use float8_e5m2 or bfloat16"),
        ("sm_90", E4M3FNUZ, "NVIDIA has no such format, use float8_e4m3fn"),
        ("sm_86", E5M2, None),
        ("sm_90", E4M3FN, None),
        ("gfx1201", E4M3FNUZ, None),
    ],
)
@pytest.mark.parametrize("what", ["caches", "output"])
def test_refuses_formats_that_the_part_lacks(target: str, dtype: torch.dtype, message: str | None, what: str) -> None:
    """`Unsupported`, before anything is launched, says which format, which part and what to do; others are taken."""
    given = arguments(cache=dtype if what == "caches" else None) | {"platform": "cuda" if target.startswith("sm") else "hip"}
    if what == "output":
        given |= {"output": given["output"].to(dtype), "output_scale": torch.ones(())}

    if message is None:
        assert len(captured(partial(prefix_prefill, **given), target)) == 1
    else:
        name = str(dtype).removeprefix("torch.")
        with pytest.raises(Unsupported, match=f"^{name} on {target}: {message}$"):
            captured(partial(prefix_prefill, **given), target)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("width", [16, 80, 128, 256])
@pytest.mark.parametrize("queries", [4, 100])
def test_declares_the_tiles_it_uses(dtype: torch.dtype, width: int, queries: int) -> None:
    """Tiles are powers of two of at least 16, cover the columns, and the tile of keys is what `rounding` says."""
    given = arguments(width=width, dtype=dtype) | {"max_query_len": queries}

    tiles = choose_tiles(platform="hip", dtype=dtype, head_dim=width, max_query_len=queries)

    sizes = (tiles.block_m, tiles.block_n, tiles.block_d)
    assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
    assert width <= tiles.block_d < 2 * width
    assert rounding(**given)["block_n"] == tiles.block_n
    assert rounding(**given)["p_dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("target", ["gfx942", "sm_86"])
@pytest.mark.parametrize(("dtype", "cache"), [(FP32, E5M2), (BF16, E5M2)], ids=str)
def test_the_widest_heads_fit(target: str, dtype: torch.dtype, cache: torch.dtype) -> None:
    """Heads of 256 columns in pages of 2048 tokens fit the smallest part of each platform."""
    given = arguments(width=256, page_size=2048, dtype=dtype, cache=cache)
    given |= {"max_query_len": 64, "platform": "hip" if target.startswith("gfx") else "cuda"}

    (launch,) = captured(partial(prefix_prefill, **given), target)

    assert 0 < allocated(launch.specialisation).figures.shared <= part(target).shared_bytes
