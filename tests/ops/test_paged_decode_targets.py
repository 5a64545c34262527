"""paged_decode compiles for every kind of part, and fits, whatever the page: cases that need most, and how tiles are chosen."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from launching import captured

from tridiff.harness.api import Clean
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.targets.parts import part
from tridiff.kernels.paged_decode import Unsupported, choose_tiles, paged_decode, rounding
from tridiff.strategies.paged_decode import PagedDecodeCase

REF = KernelRef(kernel="paged_decode")
LARGEST: dict[str, Any] = {"page_size": 2048, "head_dim": 256, "group_size": 16, "window": 40, "sinks": "mixed"}
CASES: dict[str, dict[str, Any]] = {
    "float32": LARGEST | {"dtype": "float32", "alibi": "standard"},
    "FP8": LARGEST | {"dtype": "bfloat16", "cache_dtype": "float8_e5m2", "kind": "interleaved", "output_dtype": "float8_e5m2"},
}


def platform_of(target: str) -> str:
    """The target's platform."""
    return "cuda" if target.startswith("sm_") else "hip"


@pytest.mark.parametrize("target", ["gfx942", "gfx1201", "sm_86"])
@pytest.mark.parametrize("name", CASES)
def test_compiles_and_fits(target: str, name: str) -> None:
    """No check of the compiler fires with pages of 2048 tokens and heads of 256 columns."""
    case = PagedDecodeCase(**CASES[name], platform=platform_of(target))

    outcome = examine(REF, EngineSpec(name=COMPILER, target=target, placement="production"), case)

    assert isinstance(outcome, Clean)
    (entry,) = outcome.compiled
    assert 0 < entry.shared <= part(target).shared_bytes


def arguments(page_size: int = 16, *, dtype: torch.dtype = torch.bfloat16, group: int = 3) -> dict[str, Any]:
    """Legal arguments: 2 sequences of one query, `group` query heads on each of 2 KV heads of 16 columns, 3 pages."""
    pack = 16 // dtype.itemsize
    return {
        "query": torch.zeros(2, 2 * group, 16, dtype=torch.bfloat16),
        "key_cache": torch.zeros(3, 2, 16 // pack, page_size, pack, dtype=dtype),
        "value_cache": torch.zeros(3, 2, 16, page_size, dtype=dtype),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "query_start_loc": torch.tensor([0, 1, 2], dtype=torch.int32),
        "seq_lens": torch.ones(2, dtype=torch.int32),
        "output": torch.zeros(2, 2 * group, 16, dtype=torch.bfloat16),
        "sm_scale": 1.0,
        "platform": "hip",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("head_dim", "keys"), [(8, (32, 32)), (64, (32, 32)), (80, (32, 32)), (192, (16, 32)), (256, (16, 32))])
def test_tile_depends_on_columns_alone(dtype: torch.dtype, head_dim: int, keys: tuple[int, int]) -> None:
    """Tiles are powers of two that cover all columns; of the keys they hold 32, or 16 where those take 16 KiB."""
    for platform, stages in (("hip", 1), ("cuda", 2)):
        tiles = choose_tiles(platform=platform, dtype=dtype, head_dim=head_dim)

        assert tiles.block_h == 16
        assert max(16, head_dim) <= tiles.block_d <= max(16, 2 * head_dim - 1)
        assert tiles.block_d.bit_count() == 1
        assert (tiles.block_n, tiles.num_stages) == (keys[dtype.itemsize == 2], stages)


def test_refuses_other_platforms() -> None:
    """There are tile rules for two platforms."""
    with pytest.raises(ValueError, match="platform='metal': must be one of 'hip', 'cuda'"):
        choose_tiles(platform="metal", dtype=torch.float32, head_dim=16)


@pytest.mark.parametrize(("group", "blocks"), [(1, 1), (16, 1), (17, 2), (40, 3)])
def test_grid_knows_no_lengths(group: int, blocks: int) -> None:
    """A program for each sequence and each 16 query heads of a KV head, however long sequences may be; the tile is declared."""
    for page_size in (16, 544, 2048):
        given = arguments(page_size, group=group)
        (launch,) = captured(partial(paged_decode, **given))

        assert tuple(launch.grid)[:2] == (2, 2 * blocks)
        assert launch.arguments["block_n"] == rounding(**given)["block_n"] == 32


def test_scales_concern_fp8_only() -> None:
    """The kernel is given the scales of FP8 caches, and none for others."""
    scales = {"k_scale": torch.ones(1), "v_scale": torch.ones(())}

    plain, quantised = (
        captured(partial(paged_decode, **arguments(dtype=dtype), **scales))[0].arguments
        for dtype in (torch.bfloat16, torch.float8_e4m3fnuz)
    )

    assert [plain[name] for name in scales] == [None, None]
    assert all(quantised[name] is scale for name, scale in scales.items())


@pytest.mark.parametrize("role", ["cache", "output"])
@pytest.mark.parametrize(
    ("target", "dtype", "message"),
    [
        ("sm_86", torch.float8_e4m3fn, "float8_e4m3fn on sm_86: needs sm_89 or later"),
        ("sm_90", torch.float8_e4m3fnuz, "float8_e4m3fnuz on sm_90: NVIDIA has no such format"),
        ("sm_89", torch.float8_e4m3fn, None),
        ("sm_86", torch.float8_e5m2, None),
        ("gfx1201", torch.float8_e4m3fnuz, None),
    ],
)
def test_refuses_formats_that_the_part_lacks(target: str, dtype: torch.dtype, message: str | None, role: str) -> None:
    """`Unsupported`, before anything is launched, says which format, which part and what to do; other formats are taken."""
    given = arguments(dtype=dtype) if role == "cache" else arguments()
    given["platform"] = platform_of(target)
    if role == "output":
        given |= {"output": given["output"].to(dtype), "output_scale": torch.ones(1)}

    if message is None:
        assert len(captured(partial(paged_decode, **given), target)) == 1
    else:
        with pytest.raises(Unsupported, match=message):
            captured(partial(paged_decode, **given), target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_cache": torch.zeros(3, 16, 2, 16)}, r"key_cache has 4 dimensions: must be 5"),
        ({"sm_scale": float("inf")}, "sm_scale=inf: must be finite"),
        ({"output_scale": torch.ones(1)}, "output is torch.bfloat16 and output_scale given"),
        ({"query_start_loc": torch.zeros(2, dtype=torch.int32)}, r"query_start_loc has shape \(2,\): must be \(3,\)"),
        (
            {"interleaved": True, "value_cache": torch.zeros(3, 2, 16, 32, dtype=torch.bfloat16)[..., :16]},
            "must be 16, a dense head",
        ),
    ],
)
def test_refuses_what_the_contract_does_not_allow(change: dict[str, Any], message: str) -> None:
    """An illegal argument raises ValueError, with the argument, its value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        paged_decode(**(arguments() | change))


def test_no_sequences_launch_nothing() -> None:
    """With no sequences there is nothing to do, and no driver is needed for it."""
    given = arguments()
    given |= {name: given[name][:0] for name in ("block_table", "seq_lens")} | {"query_start_loc": given["query_start_loc"][:1]}

    paged_decode(**given)

    assert torch.all(given["output"] == 0)
