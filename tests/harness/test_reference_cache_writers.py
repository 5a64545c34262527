"""References of the cache writers beside `reshape_and_cache`: against figures worked out by hand, and against emulated kernels.

What is wrong leaves the bound, and what rounds otherwise within what the contract leaves open does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tridiff.harness.api import Arena, Expected
from tridiff.harness.checks.values import judged_part, ratio
from tridiff.harness.declarations import verdict_of
from tridiff.reference import concat_and_cache_mla, reshape_and_cache_diffkv, reshape_and_cache_per_token_head
from tridiff.reference.reshape_and_cache_per_token_head import codes, scales
from tridiff.strategies.reshape_and_cache_per_token_head import CODE_WEIGHTS, PATTERN_WEIGHTS, build
from tridiff.strategies.reshape_and_cache_per_token_head import ReshapeAndCachePerTokenHeadCase as Case

NAN, INF = math.nan, math.inf
E4M3FN, E4M3FNUZ, E5M2 = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2
CODES = {"int8": torch.int8, "float8_e4m3fn": E4M3FN, "float8_e4m3fnuz": E4M3FNUZ}


# Latent caches, keys and values side by side


def latent(
    rows: list[list[float]], rope: list[list[float]], slots: list[int], cache: torch.dtype, **others: Any
) -> dict[str, Any]:
    """Inputs of `concat_and_cache_mla` with two pages of two tokens."""
    width = len(rows[0]) + len(rope[0])
    dtype = others.pop("dtype", torch.float32)
    return {
        "kv_c": torch.tensor(rows).to(dtype),
        "k_pe": torch.tensor(rope).to(dtype),
        "kv_cache": torch.zeros(2, 2, width).to(cache),
        "slot_mapping": torch.tensor(slots, dtype=others.pop("slot_dtype", torch.int64)),
        "scale": None,
        "platform": "hip",
    } | others


def written(answer: Mapping[str, Any], name: str, inputs: Mapping[str, Any]) -> Tensor:
    """The output `name` as the reference wants it, NaN where it says nothing."""
    value, bound, at = answer["outputs"][name]
    assert bound.shape == value.shape
    filled = torch.full(inputs[name].shape, NAN, dtype=torch.float64)
    filled[at] = value
    return filled


def same(actual: Tensor, expected: list[Any]) -> bool:
    """Whether they are equal, NaN included."""
    return torch.equal(actual.nan_to_num(nan=12345.0), torch.tensor(expected, dtype=torch.float64).nan_to_num(nan=12345.0))


def test_a_latent_token_lies_in_its_slot() -> None:
    """Slot 3 is the last position of the second page; of slot -1 and of padding nothing is said."""
    inputs = latent([[1, 2], [3, 4], [5, 6]], [[7], [8], [9]], [3, -1], torch.float32)
    answer = concat_and_cache_mla.reference(inputs, {})

    empty = [NAN, NAN, NAN]
    assert same(written(answer, "kv_cache", inputs), [[empty, empty], [empty, [1, 2, 7]]])
    assert answer["conclusive"] is True


def test_a_latent_token_in_fp8() -> None:
    """Both parts are divided by the one scale, saturate, and keep NaN; 17 is a tie, and 16 is even."""
    inputs = latent([[8.5, 1e4], [-INF, NAN]], [[-1e4], [9.5]], [0, 1], E4M3FN, scale=torch.tensor([0.5]))

    answer = concat_and_cache_mla.reference(inputs, {})

    assert same(written(answer, "kv_cache", inputs)[0], [[16, 448, -448], [-448, NAN, 20]])


@pytest.mark.parametrize(
    ("cache", "expected"),
    [(torch.float16, [INF, 1.0]), (torch.bfloat16, [99840.0, 1.0]), (torch.float32, [1e5, 1.0 + 2**-12])],
)
def test_a_latent_token_in_a_float_cache(cache: torch.dtype, expected: list[float]) -> None:
    """Rounded to nearest even, beyond the largest number to infinity; the scale is not read."""
    inputs = latent([[1e5]], [[1.0 + 2**-12]], [0], cache, scale=torch.tensor(NAN))
    expected[1] = float(torch.tensor(expected[1]).to(cache))

    answer = concat_and_cache_mla.reference(inputs, {})

    assert same(written(answer, "kv_cache", inputs)[0, 0], expected)


def test_codes_are_stored_as_they_are() -> None:
    """FP8 tokens in an FP8 cache are not divided."""
    inputs = latent([[16.0, NAN]], [[448.0]], [1], E4M3FN, dtype=E4M3FN, scale=torch.tensor(0.25), slot_dtype=torch.int32)

    answer = concat_and_cache_mla.reference(inputs, {})

    assert same(written(answer, "kv_cache", inputs)[0, 1], [16, NAN, 448])


def test_key_and_value_side_by_side() -> None:
    """Each head holds its key, by the key's scale, and then its value, by the value's."""
    key = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    value = torch.tensor([[[5.0], [6.0]]])
    cache = torch.zeros(1, 2, 2, 3).to(E5M2)
    scales_of = {"k_scale": torch.tensor(0.5), "v_scale": torch.tensor(2.0)}
    inputs = {"key": key, "value": value, "kv_cache": cache, "slot_mapping": torch.tensor([1]), **scales_of, "platform": "hip"}

    answer = reshape_and_cache_diffkv.reference(inputs, {})

    nothing = [[NAN] * 3] * 2
    assert same(written(answer, "kv_cache", inputs), [[nothing, [[2, 4, 2.5], [6, 8, 3]]]])


@pytest.mark.parametrize(("cache", "signed"), [(torch.float32, True), (E5M2, True), (E4M3FNUZ, False)])
def test_zeros_keep_their_sign(cache: torch.dtype, signed: bool) -> None:
    """Where the format has two: a kernel that stores another zero is told from a right one."""
    rows = torch.tensor([[[-0.0]]])
    side_by_side = {"key": rows, "value": rows, "kv_cache": torch.zeros(1, 2, 1, 2).to(cache), "slot_mapping": torch.tensor([1])}
    calls = {
        concat_and_cache_mla: latent([[-0.0]], [[-0.0]], [1], cache),
        reshape_and_cache_diffkv: side_by_side | {"k_scale": None, "v_scale": None},
    }

    for module, inputs in calls.items():
        expected = verdict_of(module.__name__, module.reference(inputs, {}), inputs).outputs["kv_cache"]

        assert (
            ratio(expected, torch.zeros_like(expected.value)).bool().tolist() == torch.full_like(expected.value, signed).tolist()
        )
        assert not ratio(expected, expected.value).any()


def quantised(key: list[float], cache: torch.dtype, slots: list[int] | None = None) -> dict[str, Any]:
    """Inputs of `reshape_and_cache_per_token_head` with one head, whose value is 2, and one page of two tokens."""
    width = len(key)
    return {
        "key": torch.tensor([[key]]),
        "value": torch.tensor([[[2.0]]]),
        "key_cache": torch.zeros(1, 2, 1, width, dtype=torch.float32).to(cache),
        "value_cache": torch.zeros(1, 2, 1, 1).to(cache),
        "k_scale_cache": torch.zeros(1, 2, 1),
        "v_scale_cache": torch.zeros(1, 2, 1),
        "slot_mapping": torch.tensor([1] if slots is None else slots),
        "platform": "hip",
    }


@pytest.mark.parametrize(
    ("cache", "key", "scale", "expected"),
    [
        (torch.int8, [127.0, 0.5, -0.5, 1.5, -2.5, 0.49], 1.0, [127, 1, -1, 2, -3, 0]),
        (torch.int8, [-254.0, 1.0, 3.0], 2.0, [-127, 1, 2]),
        (E4M3FN, [448.0, 17.0, -19.0, 2.0**-10], 1.0, [448, 16, -20, 0]),
        (E4M3FN, [-224.0, 8.5], 0.5, [-448, 16]),
        (E4M3FNUZ, [224.0, 17.0, -19.0, 2.0**-11], 1.0, [224, 16, -20, 0]),
        (torch.int8, [0.0, -0.0], 1e-6, [0, 0]),
        (E4M3FN, [2.0**-149, 0.0], 1e-6, [0, 0]),
        (torch.int8, [1e-6, 4e-5], 1e-6, [1, 40]),
    ],
)
def test_codes_of_a_row(cache: torch.dtype, key: list[float], scale: float, expected: list[float]) -> None:
    """The largest magnitude becomes QMAX; from ties int8 goes away from zero and FP8 to even; 1e-6 is the least scale."""
    inputs = quantised(key, cache)
    answer = reshape_and_cache_per_token_head.reference(inputs, {})

    assert written(answer, "k_scale_cache", inputs)[0, 1, 0] == float(torch.tensor(scale))
    assert written(answer, "key_cache", inputs)[0, 1, 0].tolist() == expected
    assert written(answer, "value_cache", inputs)[0, 1, 0].tolist() == [_qmax(cache)]
    assert written(answer, "v_scale_cache", inputs)[0, 1, 0] == float(torch.tensor(2.0) / _qmax(cache))
    assert all(bool((bound == 0).all()) for _, bound, _ in answer["outputs"].values())


def _qmax(cache: torch.dtype) -> float:
    return {torch.int8: 127.0, E4M3FN: 448.0, E4M3FNUZ: 224.0}[cache]


def test_what_is_said_of_no_token() -> None:
    """Nothing: no output is judged where all slots are negative, or there are none."""
    assert concat_and_cache_mla.reference(latent([[1.0]], [[1.0]], [-3], torch.float32), {})["outputs"] == {}
    assert reshape_and_cache_per_token_head.reference(quantised([1.0], E4M3FN, []), {})["outputs"] == {}


@pytest.mark.parametrize(
    ("inputs", "rounding", "message"),
    [
        (latent([[1.0]], [[1.0]], [4], torch.float32), {}, "slot_mapping holds 4: must be below 4, the slots of the cache"),
        (latent([[1.0]] * 2, [[1.0]] * 2, [2, 2], torch.float32), {}, r"slot_mapping is \[2, 2\]: no two tokens may have"),
        (latent([[1.0]], [[1.0]], [0], E5M2, scale=torch.tensor(0.0)), {}, "a scale is 0.0: must be a positive number"),
        (latent([[1.0]], [[1.0]], [0], E5M2), {"steps": 1}, "rounding has the unknown entry 'steps'"),
    ],
)
def test_a_bad_input_is_named(inputs: dict[str, Any], rounding: dict[str, Any], message: str) -> None:
    """One line: what, which value, what is allowed."""
    with pytest.raises(ValueError, match=message):
        concat_and_cache_mla.reference(inputs, rounding)


def test_a_row_that_is_not_finite() -> None:
    """It has no scale by which a kernel could be judged."""
    with pytest.raises(ValueError, match="key holds what is no finite number in a token that has a slot"):
        reshape_and_cache_per_token_head.reference(quantised([1.0, INF], torch.int8), {})


# Kernels of `reshape_and_cache_per_token_head`, emulated


@dataclass(frozen=True)
class Way:
    """How a kernel quantises: by how many ulps each of its divisions is off, and what else it does."""

    scale_ulps: int = 0
    inverse_ulps: int = 0
    divides: bool = False
    fused: bool = False
    qmax: float = 0.0
    floor: float = 1e-6
    truncates: bool = False
    to_even: bool = False
    clamps: bool = True
    signed: bool = False
    shift: int = 0
    """Of each row, the scale of the one so many heads before it."""


def quantise(rows: Tensor, dtype: torch.dtype, way: Way) -> tuple[Tensor, Tensor]:
    """Codes and scales of float32 `rows`, as numbers."""
    largest = way.qmax or _qmax(dtype)
    most = rows.amax(dim=-1, keepdim=True) if way.signed else rows.abs().amax(dim=-1, keepdim=True)
    scale = _off(most / largest, way.scale_ulps).clamp(min=way.floor)
    scale = scale.roll(way.shift, dims=1)
    product = rows / scale if way.divides else rows * _off(1 / scale, way.inverse_ulps)
    limit = _qmax(dtype) if dtype == torch.int8 else float(torch.finfo(dtype).max)
    if way.clamps:
        product = product.clamp(-128.0 if dtype == torch.int8 else -_qmax(dtype), _qmax(dtype))
    if dtype != torch.int8:
        return product.clamp(-limit, limit).to(dtype).float(), scale
    half = torch.copysign(torch.tensor(0.5), product)
    rounded = product.round() if way.to_even else torch.trunc(product if way.truncates else product + half)
    if way.fused:
        rounded = torch.trunc((rows.double() * _off(1 / scale, way.inverse_ulps).double() + half).float()).clamp(-128, 127)
    return ((rounded + 128) % 256) - 128, scale


def _off(values: Tensor, ulps: int) -> Tensor:
    towards = torch.full_like(values, math.copysign(INF, ulps))
    for _ in range(abs(ulps)):
        values = torch.nextafter(values, towards)
    return values


def rows_of(name: str, pattern: str, **fields: Any) -> tuple[Tensor, torch.dtype]:
    """Rows as a Case has them, float32."""
    case = Case(**{"num_tokens": 8, "num_heads": 4, "head_dim": 64, "cache_dtype": name, "pattern": pattern, **fields})
    return build(case, Arena())["key"].float(), CODES[name]


def worst(rows: Tensor, dtype: torch.dtype, way: Way, division: str = "ieee") -> float:
    """The largest share of its bound that such a kernel uses."""
    found = quantise(rows, dtype, way)
    expected = [judge(rows.double(), dtype, division) for judge in (codes, scales)]
    ratios = [
        ratio(Expected(value=value, bound=bound), each.double()) for each, (value, bound) in zip(found, expected, strict=True)
    ]
    return max(float(each.max()) for each in ratios)


INPUTS = list(itertools.product(CODE_WEIGHTS, PATTERN_WEIGHTS))
EXACT = [Way(), Way(divides=True), Way(fused=True)]
INEXACT = [Way(scale_ulps=s, inverse_ulps=i) for s, i in itertools.product((-2, 0, 2), repeat=2)]


@pytest.mark.parametrize("sigma", [1.0, 3e-5, 1e-39])
def test_right_kernels_stay_within(sigma: float) -> None:
    """The contract's arithmetic gives the very codes; a quotient instead of the product, or a fused sum, a legitimate one."""
    for name, pattern in INPUTS:
        rows, dtype = rows_of(name, pattern, sigma=sigma)

        assert worst(rows, dtype, Way()) == 0.0, (name, pattern)
        assert max(worst(rows, dtype, way) for way in EXACT) <= 1.0, (name, pattern)
        assert max(worst(rows, dtype, way, "approximate") for way in INEXACT) <= 1.0, (name, pattern)


def test_inexact_divisions_must_be_declared() -> None:
    """Off by two ulps, the scale is seen in itself, and the codes where numbers lie half-way between two of them."""
    rows, dtype = rows_of("float8_e4m3fn", "ties")

    assert min(worst(rows, dtype, way) for way in INEXACT if way != Way()) > 1.0


WRONG: dict[str, tuple[Way, str]] = {
    "int8 truncated": (Way(truncates=True), "int8"),
    "int8 to even": (Way(to_even=True), "int8"),
    "int8 by 128": (Way(qmax=128.0), "int8"),
    "int8 not clamped": (Way(qmax=130.0, clamps=False), "int8"),
    "e4m3fnuz by 240": (Way(qmax=240.0), "float8_e4m3fnuz"),
    "e4m3fn by 224": (Way(qmax=224.0), "float8_e4m3fn"),
    "largest instead of largest magnitude": (Way(signed=True), "float8_e4m3fn"),
    "scale of another head": (Way(shift=1), "int8"),
    "no least scale": (Way(floor=0.0), "int8"),
    "another least scale": (Way(floor=1e-5), "float8_e4m3fnuz"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_leave_the_bound(name: str) -> None:
    """By far, with some of the values that are drawn, whatever their divisions are declared to be."""
    way, cache_dtype = WRONG[name]
    drawn = [rows_of(cache_dtype, pattern, sigma=sigma) for pattern in PATTERN_WEIGHTS for sigma in (1.0, 1e-5)]

    assert max(worst(*each, way) for each in drawn) > 10.0
    if name != "int8 to even":  # seen in exact ties alone, which only exact divisions have
        assert max(worst(*each, way, "approximate") for each in drawn) > 10.0


def test_the_bound_is_no_wider_than_it_must_be() -> None:
    """One code at most, for less than one number in a hundred of ordinary rows; and what it allows does occur."""
    rows, dtype = rows_of("int8", "gaussian", num_tokens=64, head_dim=256)
    _, bound = codes(rows.double(), dtype, "approximate")
    reached = [quantise(rows, dtype, replace(way, truncates=False))[0] for way in INEXACT]
    differ = torch.stack(reached).double().amax(dim=0) - torch.stack(reached).double().amin(dim=0)

    assert bound.max() == 1.0
    assert 0 < float((bound > 0).double().mean()) < 1e-4
    assert float((differ > 0).double().sum()) > 0
    assert bool((bound[differ > 0] > 0).all())


@pytest.mark.parametrize(("distance", "expected"), [(1e-7, 1.0), (-1e-7, 1.0), (1e-6, 0.0), (-1e-6, 0.0)])
@pytest.mark.parametrize(("dtype", "tie"), [(torch.int8, 10.5), (E4M3FN, 17.0)])
def test_how_near_a_tie_another_code_is_right(dtype: torch.dtype, tie: float, distance: float, expected: float) -> None:
    """Within three float32 roundings, 2e-7 relatively, and for int8 that of a sum; beyond that one code alone."""
    scale = 100.0 / _qmax(dtype)
    row = torch.tensor([[[100.0, tie * (1 + distance) * scale]]], dtype=torch.float64)

    _, bound = codes(row, dtype, "ieee")

    assert bound[0, 0, 0] == 0.0
    assert bound[0, 0, 1] == expected * (1.0 if dtype == torch.int8 else 2.0)


Changed = Callable[[dict[str, Tensor]], None]


def _swap_halves(cache: dict[str, Tensor]) -> None:
    """Value first, then key."""
    cache["kv_cache"] = cache["kv_cache"].roll(16, dims=-1)


def _drop_last(cache: dict[str, Tensor]) -> None:
    cache["kv_cache"][..., -1] = 0.0


def _next_head(cache: dict[str, Tensor]) -> None:
    cache["kv_cache"] = cache["kv_cache"].roll(1, dims=-2)


@pytest.mark.parametrize("change", [_swap_halves, _drop_last, _next_head])
def test_a_bound_of_zero_shows_everything(change: Changed) -> None:
    """Of what is cast or divided exactly nothing may differ: halves, a column, heads."""
    torch.manual_seed(0)
    key, value = torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    cache = torch.zeros(2, 2, 2, 32)
    inputs: dict[str, Any] = {"key": key, "value": value, "kv_cache": cache, "slot_mapping": torch.tensor([2, -1, 1])}
    inputs |= {"k_scale": None, "v_scale": None, "platform": "hip"}
    value_of, bound, at = reshape_and_cache_diffkv.reference(inputs, {})["outputs"]["kv_cache"]
    cache[at] = value_of.float()
    changed = {"kv_cache": cache.clone()}
    change(changed)
    expected = Expected(value=value_of, bound=bound, at=at)

    assert float(ratio(expected, judged_part(expected, cache)).max()) == 0.0
    assert float(ratio(expected, judged_part(expected, changed["kv_cache"])).max()) > 1.0
