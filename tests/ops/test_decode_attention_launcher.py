"""The launcher of decode_attention: what it refuses, and the tiles that it chooses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from launching import VERSION, captured

from tridiff.harness.capture import Launch, capturing
from tridiff.harness.targets.pipeline import allocated
from tridiff.kernels.decode_attention import SHARED_MEMORY, Unsupported, choose_tiles, decode_attention, rounding


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


def mla_arguments() -> dict[str, Any]:
    """Legal arguments of MLA: as above with one KV head, values a view of the keys, and one scale for both."""
    keys, scale = torch.zeros(3, 16, 1, 8), torch.ones(1)
    return arguments() | {"key_cache": keys, "value_cache": keys[..., :4], "k_scale": scale, "v_scale": scale, "is_mla": True}


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
    "value dtype": (
        lambda a: {"value_cache": a["value_cache"].to(torch.float8_e5m2)},
        r"value_cache is torch.float8_e5m2: must be torch.float32",
    ),
    "bytes for FP8": (
        lambda a: {"key_cache": a["key_cache"].byte()},
        r"key_cache is torch.uint8: must be torch.float32 or torch.float8_e4m3fn or torch.float8_e4m3fnuz or torch.float8_e5m2",
    ),
    "FP8 query": (lambda a: {"query": a["query"].to(torch.float8_e5m2)}, r"query is torch.float8_e5m2: must be torch.float32"),
    "a scale per head": (lambda a: {"k_scale": torch.ones(2)}, r"k_scale has shape \(2,\): must have one element"),
    "scale in 2-D": (lambda a: {"v_scale": torch.ones(1, 1)}, r"v_scale has shape \(1, 1\): must have one element"),
    "scale dtype": (lambda a: {"v_scale": torch.ones(1).double()}, r"v_scale is torch.float64: must be torch.float32"),
    "scale device": (lambda a: {"k_scale": torch.ones(1, device="meta")}, r"k_scale is on meta: must be where the query is, cpu"),
    "platform": (lambda a: {"platform": "metal"}, r"platform='metal': must be one of 'hip', 'cuda'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_the_contract_does_not_allow(change: Change, message: str) -> None:
    """An illegal argument raises ValueError, with the argument, its value and what is allowed."""
    wrong = arguments()
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        decode_attention(**wrong)


MLA_REFUSED: dict[str, tuple[Change, str]] = {
    "KV heads": (
        lambda a: {"key_cache": torch.zeros(3, 16, 2, 8), "value_cache": torch.zeros(3, 16, 2, 4)},
        r"is_mla with 2 KV heads: must be 1",
    ),
    "wider values": (
        lambda a: {"value_cache": torch.zeros(3, 16, 1, 9), "output": torch.zeros(2, 4, 9)},
        r"is_mla with keys of 8 columns and values of 9",
    ),
    "values elsewhere": (
        lambda a: {"value_cache": torch.zeros(3, 16, 1, 8)[..., :4]},
        r"value_cache is not key_cache\[\.\.\., :4\] when is_mla",
    ),
    "last columns": (lambda a: {"value_cache": a["key_cache"][..., 4:]}, r"value_cache is not key_cache\[\.\.\., :4\]"),
    "other strides": (
        lambda a: {"value_cache": a["key_cache"].as_strided((3, 16, 1, 4), (128, 4, 4, 1))},
        r"their strides are \(128, 4, 4, 1\) and \(128, 8, 8, 1\)",
    ),
    "two scales": (lambda a: {"v_scale": torch.ones(1)}, r"v_scale is not k_scale when is_mla: .* or both None"),
    "one scale": (lambda a: {"v_scale": None}, r"v_scale is not k_scale when is_mla"),
}


@pytest.mark.parametrize(("change", "message"), MLA_REFUSED.values(), ids=MLA_REFUSED)
def test_refuses_what_is_no_mla(change: Change, message: str) -> None:
    """MLA needs one KV head, values that are the first columns of its keys, and one scale; otherwise ValueError says what not."""
    wrong = mla_arguments()
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        decode_attention(**wrong)


@pytest.mark.parametrize("scale", [None, torch.ones(()), torch.ones(1)], ids=["none", "0-d", "1-d"])
@pytest.mark.parametrize("flat", [False, True], ids=["pages", "tokens"])
def test_accepts_mla(scale: torch.Tensor | None, *, flat: bool) -> None:
    """Values may be a view of keys in pages or of single tokens, and the scale a number, a tensor of one element or None."""
    legal = mla_arguments() | {"k_scale": scale, "v_scale": scale}
    if flat:
        legal |= {name: legal[name].flatten(0, 1) for name in ("key_cache", "value_cache")}

    launches = captured(partial(decode_attention, **legal))

    assert [launch.specialisation.name.partition("-")[0] for launch in launches] == ["_attend_split", "_merge_splits"]


def test_scales_concern_fp8_only() -> None:
    """The kernel is given the scales of FP8 caches, and none for others."""
    scales = {"k_scale": torch.ones(1), "v_scale": torch.ones(1)}
    plain = arguments() | scales
    quantised = plain | {name: plain[name].to(torch.float8_e4m3fnuz) for name in ("key_cache", "value_cache")}

    given = [captured(partial(decode_attention, **each))[0].arguments for each in (plain, quantised)]

    assert [given[0][name] for name in scales] == [None, None]
    assert all(given[1][name] is scale for name, scale in scales.items())


FORMATS = [
    ("sm_80", torch.float8_e4m3fn, "needs sm_89 or later, use float8_e5m2 or bfloat16 caches"),
    ("sm_86", torch.float8_e4m3fn, "needs sm_89 or later, use float8_e5m2 or bfloat16 caches"),
    ("sm_89", torch.float8_e4m3fn, None),
    ("sm_86", torch.float8_e5m2, None),
    ("sm_90", torch.float8_e4m3fnuz, "NVIDIA has no such format, convert them to float8_e4m3fn"),
    ("sm_120", torch.float8_e4m3fnuz, "NVIDIA has no such format, convert them to float8_e4m3fn"),
    ("gfx90a", torch.float8_e4m3fnuz, None),
    ("gfx1201", torch.float8_e4m3fnuz, None),
]


@pytest.mark.parametrize(("target", "dtype", "message"), FORMATS)
def test_refuses_formats_that_the_part_lacks(target: str, dtype: torch.dtype, message: str | None) -> None:
    """`Unsupported`, before anything is launched, says which format, which part and what to do; other formats are taken."""
    plain = arguments() | {"platform": "cuda" if target.startswith("sm") else "hip"}
    quantised = plain | {name: plain[name].to(dtype) for name in ("key_cache", "value_cache")}
    launches: list[Launch] = []

    with capturing(target, launches.append, lambda _: None):
        if message is None:
            decode_attention(**quantised)
        else:
            name = str(dtype).removeprefix("torch.")
            with pytest.raises(Unsupported, match=f"^caches of {name} on {target}: {message}$"):
                decode_attention(**quantised)
        decode_attention(**plain)

    assert len(launches) == (2 if message else 4)


def test_refuses_nothing_for_another_back_end() -> None:
    """The tile rules of a platform may be tried with a back end of another vendor: what that one lacks says nothing."""
    quantised = arguments() | {"platform": "cuda"}
    quantised |= {name: quantised[name].to(torch.float8_e4m3fnuz) for name in ("key_cache", "value_cache")}

    assert len(captured(partial(decode_attention, **quantised), "gfx942")) == 2


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


@pytest.mark.parametrize(
    ("lk", "lv", "widths"),
    [
        (576, 512, (512, 64, 512)),
        (320, 256, (256, 64, 256)),
        (288, 256, (256, 32, 256)),
        (192, 128, (128, 64, 128)),
        (640, 512, (512, 128, 512)),
        (200, 192, (256, 16, 256)),
        (513, 512, (512, 16, 512)),
        (256, 256, (256, 0, 256)),
    ],
)
@pytest.mark.parametrize("group", [1, 4])
def test_slab_that_serves_as_values_has_their_width(lk: int, lv: int, widths: tuple[int, int, int], group: int) -> None:
    """For MLA the slab that K and V share is as wide as the accumulator; the rest of K has one of at least 16 columns."""
    for platform in SHARED_MEMORY:
        tiles = choose_tiles(platform=platform, dtype=torch.bfloat16, group=group, lk=lk, lv=lv, is_mla=True)

        assert (tiles.block_dk, tiles.block_dpe, tiles.block_dv) == widths


@pytest.mark.parametrize(
    ("dtype", "lk", "lv", "kind", "block_n"),
    [
        (torch.bfloat16, 576, 512, "mla", 32),
        (torch.bfloat16, 576, 512, "mla fp8", 16),
        (torch.bfloat16, 512, 512, "mla fp8", 32),
        (torch.bfloat16, 768, 512, "mla", 16),
        (torch.float32, 512, 512, "mla", 32),
        (torch.float32, 576, 512, "mla", 16),
        (torch.float32, 640, 512, "mla fp8", 16),
        (torch.bfloat16, 576, 512, "", 32),
        (torch.bfloat16, 576, 512, "fp8", 16),
        (torch.float32, 256, 256, "fp8", 32),
        (torch.float32, 512, 512, "", 16),
    ],
)
def test_keys_per_tile_on_cuda(dtype: torch.dtype, lk: int, lv: int, kind: str, block_n: int) -> None:
    """32 keys where K, V, and codes on their way from an FP8 cache, fit the shared memory beside the query, else 16."""
    flags = {"is_mla": "mla" in kind, "is_fp8": "fp8" in kind}

    tiles = choose_tiles(platform="cuda", dtype=dtype, group=4, lk=lk, lv=lv, **flags)

    assert (tiles.block_h, tiles.block_n) == (16, block_n)


def test_what_does_not_fit_takes_the_normal_path() -> None:
    """Where even 16 keys do not fit, as FP8 codes beside float32 tiles of 512 columns, a program has one head."""
    shape: dict[str, Any] = {"dtype": torch.float32, "group": 4, "lk": 512, "lv": 512}

    assert choose_tiles(platform="cuda", **shape, is_fp8=True).block_h == 1
    assert choose_tiles(platform="hip", **shape, is_fp8=True).block_h == 16
    assert choose_tiles(platform="cuda", **shape).block_h == 16
    wide: dict[str, Any] = {"lk": 1088, "lv": 1024, "group": 4}
    assert choose_tiles(platform="hip", dtype=torch.float32, **wide).block_h == 1
    assert choose_tiles(platform="hip", dtype=torch.bfloat16, **wide).block_h == 16


@pytest.mark.skipif(VERSION != (3, 7), reason="the tile rules count what Triton 3.7 allocates")
@pytest.mark.parametrize(
    ("target", "dtype", "cache", "lk", "lv", "is_mla"),
    [
        ("gfx942", torch.float32, torch.float32, 576, 512, False),
        ("gfx942", torch.bfloat16, torch.float8_e4m3fnuz, 640, 512, True),
        ("sm_86", torch.float32, torch.float32, 512, 512, True),
        ("sm_86", torch.bfloat16, torch.float8_e5m2, 512, 512, True),
        ("sm_86", torch.bfloat16, torch.bfloat16, 576, 512, False),
    ],
)
def test_fits_as_triton_allocates(target: str, dtype: torch.dtype, cache: torch.dtype, lk: int, lv: int, *, is_mla: bool) -> None:
    """What Triton allocates for the largest tiles is within the limit of the platform's smallest part."""
    keys = torch.zeros(3, 16, 1, lk).to(cache)
    given = arguments() | {
        "query": torch.zeros(2, 4, lk, dtype=dtype),
        "key_cache": keys,
        "value_cache": keys[..., :lv] if is_mla else torch.zeros(3, 16, 1, lv).to(cache),
        "output": torch.zeros(2, 4, lv, dtype=dtype),
        "platform": "hip" if target.startswith("gfx") else "cuda",
        "is_mla": is_mla,
    }

    launch = captured(partial(decode_attention, **given), target)[0]

    assert launch.arguments["block_h"] == 16
    assert allocated(launch.specialisation).figures.shared <= SHARED_MEMORY[given["platform"]]


def test_rounding_follows_the_path() -> None:
    """One head per KV head keeps the weights in float32; a group casts them to the values' dtype."""
    grouped = arguments() | {"query": torch.zeros(2, 4, 8, dtype=torch.bfloat16)}
    single = grouped | {"query": torch.zeros(2, 2, 8, dtype=torch.bfloat16)}

    assert rounding(**grouped)["p_dtype"] == "bfloat16"
    assert rounding(**single)["p_dtype"] == "float32"


@pytest.mark.parametrize("platform", SHARED_MEMORY)
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("is_mla", [False, True])
def test_rounding_says_what_is_launched(platform: str, fp8: bool, is_mla: bool) -> None:
    """Tile size and path that the kernel declares are those that it is launched with."""
    dtype = torch.float8_e5m2 if fp8 else torch.bfloat16
    keys = torch.zeros(3, 16, 1, 576).to(dtype)
    given = arguments() | {
        "query": torch.zeros(2, 4, 576, dtype=torch.bfloat16),
        "key_cache": keys,
        "value_cache": keys[..., :512] if is_mla else torch.zeros(3, 16, 1, 512).to(dtype),
        "output": torch.zeros(2, 4, 512),
        "platform": platform,
        "is_mla": is_mla,
    }

    launch = captured(partial(decode_attention, **given), {"hip": "gfx942", "cuda": "sm_86"}[platform])[0]

    declared = rounding(**given)
    assert declared["block_n"] == launch.arguments["block_n"]
    assert declared["p_dtype"] == ("float32" if launch.arguments["block_h"] == 1 else "bfloat16")
    assert declared["dequantised"] == "bfloat16"
