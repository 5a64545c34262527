"""The kernels of the four cache writers on the cpu engine: layouts, strides, negative slots, codes of FP8 and int8."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from launching import run

from tridiff.kernels.concat_and_cache_mla import concat_and_cache_mla
from tridiff.kernels.reshape_and_cache import TILE, reshape_and_cache
from tridiff.kernels.reshape_and_cache_diffkv import reshape_and_cache_diffkv
from tridiff.kernels.reshape_and_cache_per_token_head import reshape_and_cache_per_token_head

FILLER = 77.0
"""What caches hold before, and keep wherever no token goes."""
SLOTS = (21, -1, 0, 63, -17, 15, 16)
"""Of pages of 16: the first and the last of all, both sides of a page's end, and two that mean none."""
PADDING = 2

FP8_ON = {
    torch.float8_e4m3fn: ("gfx942", "gfx1100", "sm_89", "sm_90"),
    torch.float8_e4m3fnuz: ("gfx942", "gfx90a"),
    torch.float8_e5m2: ("gfx950", "sm_80"),
}


def rows(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 5) -> torch.Tensor:
    """Numbers for the tokens of `SLOTS`, and NaN in the rows of padding."""
    numbers = torch.randn(len(SLOTS) + PADDING, *shape, generator=torch.Generator().manual_seed(seed))
    numbers[len(SLOTS) :] = float("nan")
    return numbers.to(dtype)


def cache(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Four pages of `FILLER`."""
    return torch.full((4, *shape), FILLER).to(dtype)


def write(launcher: Any, target: str = "gfx942", **given: Any) -> None:
    """Launch the kernel on the cpu engine."""
    given.setdefault("slot_mapping", torch.tensor(SLOTS))
    run(partial(launcher, **given, platform="cuda" if target.startswith("sm_") else "hip"), target=target)


def plain(launched: str = "", target: str = "gfx942", **given: Any) -> None:
    """Launch reshape_and_cache without scales, unless they are given."""
    write(reshape_and_cache, target, **{"k_scale": None, "v_scale": None, "interleaved": launched == "interleaved"} | given)


def written() -> list[tuple[int, int, int]]:
    """Token, page and position of each token that is written."""
    return [(token, slot // 16, slot % 16) for token, slot in enumerate(SLOTS) if slot >= 0]


@pytest.mark.parametrize("slot_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(("dtype", "cache_dtype"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)], ids=str)
def test_tokens_first(slot_dtype: torch.dtype, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    """Each row lies at its position, keys and values with strides of their own; nothing else has changed, gaps included."""
    key, value = rows(3, 80, dtype=dtype), rows(3, 72, dtype=dtype, seed=6).transpose(0, 1).contiguous().transpose(0, 1)
    key_room, value_room = cache(16, 5, 100, dtype=cache_dtype), cache(3, 2, 16, 72, dtype=cache_dtype)

    plain(
        key=key,
        value=value,
        key_cache=key_room[:, :, 1:4, 10:90],
        value_cache=value_room[:, :, 1].transpose(1, 2),
        slot_mapping=torch.tensor(SLOTS, dtype=slot_dtype),
    )

    for token, page, position in written():
        for head in range(3):
            for room, row in ((key_room[page, position, 1 + head, 10:90], key), (value_room[page, head, 1, position], value)):
                assert torch.equal(room, row[token, head].to(cache_dtype))
                room.fill_(FILLER)
    assert torch.all(key_room == FILLER)
    assert torch.all(value_room == FILLER)


@pytest.mark.parametrize("layout", ["head_major", "interleaved"])
@pytest.mark.parametrize(("dtype", "pack"), [(torch.float32, 4), (torch.bfloat16, 8), (torch.float8_e4m3fn, 16)], ids=str)
def test_heads_first(layout: str, dtype: torch.dtype, pack: int) -> None:
    """Columns of keys lie in packs of 16 bytes, those of values one behind the other, or all columns of a pack of tokens."""
    heads, width, value_width = 40, 32, 12
    key, value = rows(heads, width, dtype=dtype), rows(heads, value_width, dtype=dtype, seed=6)
    key_cache = cache(heads + 1, width // pack, 18, pack, dtype=dtype)
    value_cache = cache(heads, value_width, 16, dtype=dtype)

    plain(layout, key=key, value=value, key_cache=key_cache[:, 1:, :, :16], value_cache=value_cache)

    packs = value_cache.view(4, heads, 16 // pack, value_width, pack)
    keys, values, filler = (tensor.float() for tensor in (key, value, cache(1, dtype=dtype)[0]))
    for token, page, position in written():
        stored = key_cache.float()[page, 1:, :, position].reshape(heads, width)
        assert torch.equal(stored, keys[token])
        of_pack = packs.float()[page, :, position // pack, :, position % pack]
        stored = of_pack if layout == "interleaved" else value_cache.float()[page, :, :, position]
        assert torch.equal(stored, values[token])
    untouched = 4 * 16 - len(written())
    assert int((value_cache.float() == filler).sum()) == untouched * heads * value_width
    assert int((key_cache.float() == filler).sum()) == (4 * 18 + (untouched + 4 * 2) * heads) * width


def test_keys_and_values_side_by_side() -> None:
    """A head's key is followed by its value, each divided by its own scale; a row of several tiles is written to its end."""
    heads, key_width, value_width = 5, 200, 72
    assert heads * (key_width + value_width) > TILE
    key, value = rows(heads, key_width), rows(heads, value_width, seed=6)
    kv_cache = cache(16, heads + 1, key_width + value_width, dtype=torch.float8_e5m2)
    before = kv_cache.float()

    k_scale, v_scale = torch.tensor(0.25), torch.tensor([4.0])
    write(
        reshape_and_cache_diffkv,
        key=key,
        value=value,
        kv_cache=kv_cache[:, :, 1:],
        k_scale=k_scale,
        v_scale=v_scale,
    )

    for token, page, position in written():
        expected = torch.cat([key[token].float() * 4, value[token].float() / 4], dim=-1).to(torch.float8_e5m2)
        before[page, position, 1:] = expected.float()
    assert torch.equal(kv_cache.float(), before)


def test_latent_vector_and_rotary_part() -> None:
    """Both are divided by the same scale; their rows have strides of their own."""
    fused = rows(1, 100)[:, 0]
    kv_cache = cache(20, 60, dtype=torch.float8_e4m3fnuz)
    before = kv_cache.float()

    write(
        concat_and_cache_mla,
        kv_c=fused[:, 40:80],
        k_pe=rows(1, 20, seed=6)[:, 0],
        kv_cache=kv_cache[:, :16],
        scale=torch.tensor(0.125),
    )

    both = torch.cat([fused[:, 40:80], rows(1, 20, seed=6)[:, 0]], dim=-1).float() * 8
    for token, page, position in written():
        before[page, position] = both[token].to(torch.float8_e4m3fnuz).float()
    assert torch.equal(kv_cache.float(), before)


@pytest.mark.parametrize("dtype", FP8_ON, ids=str)
def test_every_number_becomes_the_nearest_code(dtype: torch.dtype) -> None:
    """All float16 numbers, and what lies next to them in float32: ties to even, saturated, NaN is NaN, -0 is -0."""
    halves = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    near = [torch.from_numpy((halves.numpy().view(np.int32) + step).view(np.float32)) for step in (-1, 0, 1)]
    key = torch.stack(near).reshape(3, 32, 2048)
    largest = torch.finfo(dtype).max
    expected = key.clamp(-largest, largest).to(dtype)

    for target in FP8_ON[dtype]:
        key_cache = torch.zeros(1, 3, 32, 2048).to(dtype)
        slots = torch.arange(3, dtype=torch.int32)
        value = torch.zeros(3, 32, 1)
        plain("", target, key=key, value=value, key_cache=key_cache, value_cache=key_cache[..., :1].clone(), slot_mapping=slots)

        numbers = ~key.isnan()
        assert torch.equal(key_cache[0].view(torch.uint8)[numbers], expected.view(torch.uint8)[numbers])
        assert torch.all(key_cache[0].float()[~numbers].isnan())


def test_a_quotient_is_the_nearest() -> None:
    """A number is divided by the scale, not multiplied by its reciprocal: the codes differ next to ties."""
    generator = torch.Generator().manual_seed(8)
    scale = torch.tensor(0.37)
    ties = (torch.arange(8, 16) + 0.5).repeat(64) * 2.0 ** torch.randint(-5, 4, (512,), generator=generator)
    key = (ties * scale)[None, None]
    dtype = torch.float8_e4m3fn
    key_cache = torch.zeros(1, 1, 1, 512).to(dtype)

    plain(
        "",
        key=key,
        value=key,
        key_cache=key_cache,
        value_cache=key_cache.clone(),
        slot_mapping=torch.zeros(1).long(),
        k_scale=scale,
    )

    codes = key_cache.flatten().view(torch.uint8)
    assert torch.equal(codes, (key / scale).to(dtype).flatten().view(torch.uint8))
    assert not torch.equal(codes, (key * (1 / scale)).to(dtype).flatten().view(torch.uint8))


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.int8, 127.0), (torch.float8_e4m3fn, 448.0), (torch.float8_e4m3fnuz, 224.0)], ids=str
)
def test_a_scale_for_each_head(dtype: torch.dtype, most: float) -> None:
    """The largest magnitude of a row becomes the largest code, zeros stay zeros; scales have strides of their own."""
    key, value = rows(3, 300), rows(3, 17, seed=6)
    key[0, 0] = 0
    key_cache, value_cache = cache(16, 3, 300, dtype=dtype), cache(16, 3, 17, dtype=dtype)
    scale_room = torch.full((2, 4, 3, 16), FILLER)
    scales = [room.transpose(1, 2) for room in scale_room]

    given: dict[str, Any] = {"key": key, "value": value, "key_cache": key_cache, "value_cache": value_cache}
    write(reshape_and_cache_per_token_head, **given, k_scale_cache=scales[0], v_scale_cache=scales[1])

    for row, codes, scale in ((key, key_cache, scales[0]), (value, value_cache, scales[1])):
        for token, page, position in written():
            exact = row[token].double()
            expected = (exact.abs().amax(-1) / most).clamp(min=1e-6)
            assert torch.allclose(scale[page, position].double(), expected, rtol=1e-6, atol=0)
            quotient = exact / scale[page, position].double()[:, None]
            error = (codes[page, position].double() - quotient).abs()
            step = 1.0 if dtype == torch.int8 else torch.clamp(2.0 ** torch.floor(torch.log2(quotient.abs())), 2.0**-7) / 8
            assert torch.all(error <= step * (0.5 + 1e-4))
            scale[page, position] = FILLER
            codes.view(torch.uint8)[page, position] = cache(1, dtype=dtype).view(torch.uint8)[0, 0]
    assert torch.all(scale_room == FILLER)
    assert torch.all(key_cache.view(torch.uint8) == cache(1, dtype=dtype).view(torch.uint8)[0, 0])
    assert torch.all(value_cache.view(torch.uint8) == cache(1, dtype=dtype).view(torch.uint8)[0, 0])


def test_int8_is_rounded_half_away_from_zero() -> None:
    """With scale 1: halves go away from zero, what is next to a half below it does not, and 127 is 127."""
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    numbers = torch.tensor([0.5, -0.5, below, -below, 1.5, -2.5, 126.5, -126.5, 127.0, -127.0, 0.0, 126.49])
    caches: dict[str, Any] = {f"{name}_cache": torch.zeros(1, 1, 1, 12, dtype=torch.int8) for name in ("key", "value")}
    scales: dict[str, Any] = {f"{name}_scale_cache": torch.zeros(1, 1, 1) for name in "kv"}
    row = numbers[None, None]

    write(reshape_and_cache_per_token_head, key=row, value=row, **caches, **scales, slot_mapping=torch.zeros(1).long())

    expected = [1, -1, 0, 0, 2, -3, 127, -127, 127, -127, 0, 126]
    assert caches["key_cache"].flatten().tolist() == caches["value_cache"].flatten().tolist() == expected
    assert scales["k_scale_cache"].item() == 1.0
