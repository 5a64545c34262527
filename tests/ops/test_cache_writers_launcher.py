"""The launchers of the four cache writers: what they refuse, and what they launch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from launching import captured

from tridiff.kernels.cache_codes import Unsupported
from tridiff.kernels.concat_and_cache_mla import concat_and_cache_mla
from tridiff.kernels.reshape_and_cache import TILE, reshape_and_cache
from tridiff.kernels.reshape_and_cache_diffkv import reshape_and_cache_diffkv
from tridiff.kernels.reshape_and_cache_per_token_head import reshape_and_cache_per_token_head

Launcher = Callable[..., None]

FP8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2)
LAUNCHERS: dict[str, Launcher] = {
    "plain": reshape_and_cache,
    "head_major": reshape_and_cache,
    "interleaved": reshape_and_cache,
    "diffkv": reshape_and_cache_diffkv,
    "per_token_head": reshape_and_cache_per_token_head,
    "mla": concat_and_cache_mla,
}


def arguments(writer: str) -> dict[str, Any]:
    """Legal arguments: 2 tokens and a row of padding, 3 heads, keys of 8 and values of 6 columns, 5 pages of 16 tokens."""
    rows = {"key": torch.ones(3, 3, 8), "value": torch.ones(3, 3, 6)}
    scales = {"k_scale": torch.tensor(1.0), "v_scale": None}
    plain = {"key_cache": torch.zeros(5, 16, 3, 8), "value_cache": torch.zeros(5, 16, 3, 6)}
    head_major = {"key_cache": torch.zeros(5, 3, 2, 16, 4), "value_cache": torch.zeros(5, 3, 6, 16)}
    codes = {name: cache.to(torch.int8) for name, cache in plain.items()}
    scale_caches = {f"{name}_scale_cache": torch.zeros(5, 16, 3) for name in "kv"}
    latent = {"kv_c": torch.ones(3, 8), "k_pe": torch.ones(3, 6), "kv_cache": torch.zeros(5, 16, 14), "scale": None}
    particular: dict[str, dict[str, Any]] = {
        "plain": {**rows, **plain, **scales, "interleaved": False},
        "head_major": {**rows, **head_major, **scales, "interleaved": False},
        "interleaved": {**rows, **head_major, **scales, "interleaved": True},
        "diffkv": {**rows, **scales, "kv_cache": torch.zeros(5, 16, 3, 14)},
        "per_token_head": {**rows, **codes, **scale_caches},
        "mla": latent,
    }
    return {**particular[writer], "slot_mapping": torch.tensor([3, -1]), "platform": "hip"}


def first_row(given: dict[str, Any]) -> str:
    """The name of the first of the rows."""
    return "kv_c" if "kv_c" in given else "key"


def first_cache(given: dict[str, Any]) -> str:
    """The name of the first of the caches."""
    return "kv_cache" if "kv_cache" in given else "key_cache"


Change = Callable[[dict[str, Any]], dict[str, Any]]

COMMON: dict[str, tuple[Change, str]] = {
    "rows of one dimension": (lambda a: {first_row(a): torch.ones(3)}, r"(key|kv_c) has 1 dimensions: must be [23], \[tokens, "),
    "no columns": (lambda a: {first_row(a): a[first_row(a)][..., :0]}, r"(key|kv_c) has shape .*0\): must have one element"),
    "sparse rows": (
        lambda a: {first_row(a): a[first_row(a)].repeat_interleave(2, -1)[..., ::2]},
        r"(key|kv_c) has stride 2 in its last dimension",
    ),
    "two dtypes": (lambda a: {first_row(a): a[first_row(a)].half()}, r"(value|k_pe) is torch.float32: must be torch.float16"),
    "double": (
        lambda a: {name: a[name].double() for name in a if name in {"key", "value", "kv_c", "k_pe"}},
        r"(key|kv_c) is torch.float64: must be torch.float32 or",
    ),
    "rank of the cache": (lambda a: {first_cache(a): torch.zeros(5, 16)}, r"_cache has 2 dimensions: must be [34]"),
    "columns of the cache": (
        lambda a: {first_cache(a): a[first_cache(a)][..., :-1]},
        r"_cache has (shape .*: must be .* beside|packs of 3 columns)",
    ),
    "sparse cache": (
        lambda a: {first_cache(a): a[first_cache(a)].repeat_interleave(2, -1)[..., ::2]},
        r"_cache has stride 2 in its last dimension",
    ),
    "slots of two dimensions": (lambda a: {"slot_mapping": a["slot_mapping"][None]}, r"slot_mapping has 2 dimensions: must be 1"),
    "slots apart": (lambda a: {"slot_mapping": a["slot_mapping"].repeat(2)[::2]}, r"slot_mapping has stride 2 in its last"),
    "more slots than tokens": (
        lambda _: {"slot_mapping": torch.zeros(4).long()},
        r"slot_mapping has 4 slots: must have at most 3",
    ),
    "slots of 16 bits": (
        lambda a: {"slot_mapping": a["slot_mapping"].short()},
        r"slot_mapping is torch.int16: must be torch.int32 or torch.int64",
    ),
    "device": (lambda a: {"slot_mapping": a["slot_mapping"].to("meta")}, r"slot_mapping is on meta: must be where (key|kv_c) is"),
    "platform": (lambda _: {"platform": "metal"}, r"platform='metal': must be one of 'hip', 'cuda'"),
}

PARTICULAR: dict[str, tuple[str, Change, str]] = {
    "heads": ("plain", lambda _: {"value": torch.ones(3, 2, 6)}, r"value has shape \(3, 2, 6\): must be \(3, 3, 6\) beside key"),
    "scale of many": ("plain", lambda _: {"k_scale": torch.ones(3)}, r"k_scale has shape \(3,\): must have one element"),
    "scale of 16 bits": ("mla", lambda _: {"scale": torch.ones(1).half()}, r"scale is torch.float16: must be torch.float32"),
    "caches of two dtypes": (
        "plain",
        lambda a: {"value_cache": a["value_cache"].half()},
        r"value_cache is torch.float16: must be torch.float32",
    ),
    "FP8 rows, another cache": (
        "diffkv",
        lambda a: {name: a[name].to(FP8[0]) for name in ("key", "value")},
        r"kv_cache is torch.float32: must be torch.float8_e4m3fn",
    ),
    "values of the cache": (
        "plain",
        lambda _: {"value_cache": torch.zeros(5, 16, 3, 8)},
        r"value_cache has shape \(5, 16, 3, 8\): must be \(5, 16, 3, 6\) beside value and key_cache",
    ),
    "interleaved tokens first": (
        "plain",
        lambda _: {"interleaved": True},
        r"interleaved with a key_cache of 4 dimensions: must be",
    ),
    "packs do not divide": (
        "head_major",
        lambda _: {"key_cache": torch.zeros(5, 3, 2, 16, 3)},
        r"key_cache has packs of 3 columns: must divide the 8 of key",
    ),
    "page of half a pack": (
        "interleaved",
        lambda _: {"key_cache": torch.zeros(5, 3, 2, 18, 4), "value_cache": torch.zeros(5, 3, 6, 18)},
        r"interleaved with pages of 18 tokens: must be a multiple of the packs of 4",
    ),
    "interleaved with gaps": (
        "interleaved",
        lambda _: {"value_cache": torch.zeros(5, 3, 6, 20)[..., :16]},
        r"value_cache has stride 20 of columns: must be 16 when interleaved",
    ),
    "empty pages": ("mla", lambda _: {"kv_cache": torch.zeros(5, 0, 14)}, r"kv_cache has pages of 0 tokens: must be at least 1"),
    "codes of e5m2": (
        "per_token_head",
        lambda a: {"key_cache": a["key_cache"].to(FP8[2])},
        r"key_cache is torch.float8_e5m2: must be torch.int8 or torch.float8_e4m3fn or torch.float8_e4m3fnuz",
    ),
    "shape of scales": (
        "per_token_head",
        lambda _: {"v_scale_cache": torch.zeros(5, 3, 16)},
        r"v_scale_cache has shape \(5, 3, 16\): must be \(5, 16, 3\) beside key and key_cache",
    ),
}


@pytest.mark.parametrize(("change", "message"), COMMON.values(), ids=COMMON)
@pytest.mark.parametrize("writer", LAUNCHERS)
def test_refuses_what_no_writer_allows(writer: str, change: Change, message: str) -> None:
    """An illegal argument raises ValueError, with the argument, its value and what is allowed."""
    wrong = arguments(writer)
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        LAUNCHERS[writer](**wrong)


@pytest.mark.parametrize(("writer", "change", "message"), PARTICULAR.values(), ids=PARTICULAR)
def test_refuses_what_this_writer_does_not_allow(writer: str, change: Change, message: str) -> None:
    """What is particular to a layout, a dtype or a scale is refused likewise."""
    wrong = arguments(writer)
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        LAUNCHERS[writer](**wrong)


@pytest.mark.parametrize("writer", LAUNCHERS)
def test_no_slots_launch_nothing(writer: str) -> None:
    """Rows without slots are all padding: nothing is launched, and no driver is needed."""
    given = arguments(writer) | {"slot_mapping": torch.zeros(0, dtype=torch.int32)}

    LAUNCHERS[writer](**given)

    assert torch.all(given[first_cache(given)] == 0)


@pytest.mark.parametrize("writer", LAUNCHERS)
@pytest.mark.parametrize(("dtype", "target"), [(FP8[1], "sm_90"), (FP8[0], "sm_86")], ids=["fnuz", "e4m3fn"])
def test_formats_that_the_gpu_lacks(writer: str, dtype: torch.dtype, target: str) -> None:
    """FP8 that the part cannot convert is refused before anything is compiled; what is not converted is no such thing."""
    given = arguments(writer) | {"platform": "cuda"}
    given |= {name: given[name].to(dtype) for name in ("key_cache", "value_cache", "kv_cache") if name in given}
    moved = given | {name: given[name].to(dtype) for name in ("key", "value", "kv_c", "k_pe") if name in given}

    with pytest.raises(Unsupported, match=rf"a cache of {str(dtype).removeprefix('torch.')} on {target}: "):
        captured(partial(LAUNCHERS[writer], **given), target)

    if writer != "per_token_head":
        (launch,) = captured(partial(LAUNCHERS[writer], **moved), target)
        assert launch.arguments["k_scale" if writer != "mla" else "scale"] is None
        assert launch.arguments[first_cache(given)].dtype == torch.uint8


def test_tiles_cover_the_wider_of_both() -> None:
    """A program has as many elements as its tile, of the key and of the value; the last of them has fewer."""
    given = arguments("plain") | {"key": torch.ones(3, 3, 8), "value": torch.ones(3, 3, 700)}
    given["value_cache"] = torch.zeros(5, 16, 3, 700)

    (launch,) = captured(partial(reshape_and_cache, **given))

    assert launch.grid[:2] == (2, -(-3 * 700 // TILE))


@pytest.mark.parametrize("writer", ["head_major", "interleaved"])
def test_layouts_share_one_specialisation(writer: str) -> None:
    """Strides, widths and layouts are numbers to the kernel: none of them has it compiled anew."""
    wide = arguments(writer) | {"key": torch.ones(3, 3, 64), "value": torch.ones(3, 3, 96), "slot_mapping": torch.ones(1).long()}
    wide |= {"key_cache": torch.zeros(5, 3, 16, 16, 4), "value_cache": torch.zeros(5, 3, 96, 16)}

    launches = [captured(partial(reshape_and_cache, **given))[0] for given in (arguments("plain"), wide)]

    assert len({launch.specialisation.name for launch in launches}) == 1
