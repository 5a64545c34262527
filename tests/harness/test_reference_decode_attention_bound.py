"""The error bound of decode_attention is sound and not loose: emulated kernels stay within it, and use a fair part of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from attention_inputs import PROFILES, codes, inputs_of, random_dense, rounding_of
from emulated_attention import DTYPES, FP8_DTYPES, Emulation, Hardware
from torch import Tensor

from tridiff.reference import attention_bound
from tridiff.reference.decode_attention import reference
from tridiff.reference.roundings import UNDERFLOW

LARGEST = torch.finfo(torch.float32).max
TILINGS = [(1, 8, 1), (2, 8, 5), (9, 8, 8), (33, 16, 3), (127, 16, 4), (255, 32, 1), (300, 64, 5)]
"""Keys of a row, keys per tile, splits."""
CAPS = [0.0, 1.0, 30.0, 50.0]
MODES = [(x, p, out) for x in DTYPES for p in dict.fromkeys((x, "float32")) for out in dict.fromkeys((x, "float32"))]
"""Dtypes of the inputs, of p and of the output."""
HARDWARE = [
    Hardware(rough=rough, flushes_exp=flushes_exp, flushes=flushes)
    for flushes_exp, flushes in ((False, False), (True, False), (True, True))
    for rough in (False, True)
]


class Ratios(NamedTuple):
    """Worst |emulated - reference| / bound of one example, and the share of output elements whose bound is finite."""

    output: float
    lse: float
    finite: float


def ratios(
    inputs: dict[str, Any], rounding: dict[str, Any], hardware: Hardware, declared: dict[str, Any] | None = None
) -> Ratios:
    """Compare an emulated kernel with the reference, for one KV head of one row; `declared`: what differs in its `rounding`."""
    query, keys, values = inputs["query"][0], inputs["key_cache"][0, :, 0], inputs["value_cache"][0, :, 0]
    key_scale, value_scale = (1.0 if inputs[name] is None else float(inputs[name]) for name in ("k_scale", "v_scale"))

    emulation = Emulation(rounding, inputs["sm_scale"], inputs["logit_cap"], hardware, (key_scale, value_scale))
    output, lse = emulation.run(query, keys, values)
    expected = reference(inputs, rounding | {"flushes_subnormals": hardware.flushes} | (declared or {}))["outputs"]

    output_ratio = _ratio(output.to(inputs["output"].dtype), *expected["output"])
    finite = expected["output"][1].isfinite().double().mean()
    return Ratios(output_ratio, _ratio(lse, *expected["lse"]), float(finite))


def _ratio(actual: Tensor, value: Tensor, bound: Tensor) -> float:
    known = bound.isfinite()
    ratio = (actual.double() - value[0]).abs()[known[0]] / bound[known]
    assert value.isfinite().all()
    assert not bound.isnan().any()
    assert not ratio.isnan().any()
    return float(ratio.amax()) if len(ratio) else 0.0


def sweep(mode: tuple[str, str, str], precision: str, seed: int = 0) -> Iterator[tuple[str, Ratios]]:
    """All profiles and caps, each with two of the tilings and in turn on all hardware: the profile and its ratios."""
    dtype, p_dtype, out_dtype = mode
    for turn, ((name, profile), cap, _) in enumerate(itertools.product(PROFILES.items(), CAPS, range(2)), start=seed):
        count, block_n, splits = TILINGS[turn % len(TILINGS)]
        query, keys, values = (x.to(DTYPES[dtype]) for x in profile(turn % 11 + seed, count, DTYPES[dtype]))
        inputs = inputs_of((query, keys, values), cap=cap, out_dtype=DTYPES[out_dtype])
        yield name, ratios(inputs, rounding_of(p_dtype, block_n, splits, precision), HARDWARE[turn % len(HARDWARE)])


def require_sound(found: list[tuple[str, Ratios]], record_property: Callable[[str, object], None]) -> None:
    """Nothing leaves its bound; ordinary values use a fair part of it, and it is finite."""
    worst_output, worst_lse = max(r.output for _, r in found), max(r.lse for _, r in found)
    record_property("worst output ratio", worst_output)
    record_property("worst lse ratio", worst_lse)
    assert worst_output <= 1
    assert worst_lse <= 1
    assert max(r.output for name, r in found if "limit" not in name) > 0.05
    assert max(r.lse for name, r in found if "limit" not in name) > 0.05
    assert all(r.finite == 1 for name, r in found if name != "values at the limit")


@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        pytest.param(mode, precision, id="-".join([*mode, precision]))
        for mode in MODES
        for precision in ("ieee", "tf32")
        if precision == "ieee" or "float32" in mode[:2]  # others have no operand that tf32 cuts
    ],
)
def test_emulated_kernels_stay_within_a_bound_that_is_not_loose(
    mode: tuple[str, str, str], precision: str, record_property: Callable[[str, object], None]
) -> None:
    """Whatever the dtypes, the values and what the hardware does to them."""
    require_sound(list(sweep(mode, precision)), record_property)


# FP8 caches.

CONTRACTS = [(dtype, dequantised) for dtype in DTYPES for dequantised in dict.fromkeys((dtype, "float32", "folded"))]
"""Dtypes of the query, and what becomes of FP8 keys and values."""


def fp8_sweep(dtype: str, dequantised: str, seed: int = 0) -> Iterator[tuple[str, Ratios]]:
    """All profiles in two FP8 dtypes; in turn as MLA, with wild or fitting scales, in tf32, with a rounded p and output."""
    for turn, ((name, profile), _) in enumerate(itertools.product(PROFILES.items(), range(2)), start=seed):
        count, block_n, splits = TILINGS[turn % len(TILINGS)]
        cache = tuple(FP8_DTYPES.values())[turn % 3]
        query, *caches = profile(turn % 11 + seed, count, cache)
        largest = torch.finfo(cache).max
        fitting = [min(float(x.abs().amax()) / largest, 1.0) or 1.0 for x in caches]
        scales = (0.37, 3.1) if turn // 3 % 2 else (fitting[0], fitting[1])
        keys, values = (codes(x, scale, cache) for x, scale in zip(caches, scales, strict=True))
        is_mla = turn % 5 == 0
        rounding = rounding_of((dtype, "float32")[turn % 4 // 2], block_n, splits, ("ieee", "tf32")[turn % 3 // 2], dequantised)
        inputs = inputs_of(
            (query.to(DTYPES[dtype]), keys, values),
            cap=CAPS[turn % 4],
            out_dtype=DTYPES[(dtype, "float32")[turn % 7 % 2]],
            scales=scales,
            is_mla=is_mla,
        )
        yield name, ratios(inputs, rounding, HARDWARE[turn % len(HARDWARE)])


@pytest.mark.parametrize(("dtype", "dequantised"), CONTRACTS)
def test_emulated_kernels_with_fp8_caches_stay_within_it(
    dtype: str, dequantised: str, record_property: Callable[[str, object], None]
) -> None:
    """Under each of the three contracts: codes times scale rounded to the query's dtype, to float32, or not at all."""
    require_sound(list(fp8_sweep(dtype, dequantised)), record_property)


# What each widening is for, and what it costs.


def flushing_examples(dtype: str, profile: str, hardware: Hardware, declared: dict[str, Any]) -> Iterator[Ratios]:
    """One profile with all tilings, everything but the stored output in `dtype`."""
    for turn, (count, block_n, splits) in enumerate(TILINGS):
        query, keys, values = (x.to(DTYPES[dtype]) for x in PROFILES[profile](turn, count, DTYPES[dtype]))
        inputs = inputs_of((query, keys, values), out_dtype=torch.float32)
        yield ratios(inputs, rounding_of(dtype, block_n, splits), hardware, declared)


def test_flushed_exponentials_need_the_smallest_normal_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a key of value 0, keys of subnormal weight are the whole output, and lost: half a subnormal does not bound that."""
    profile, hardware = "dominant key, value 0, others subnormal", Hardware(flushes_exp=True)

    right = max(r.output for r in flushing_examples("float32", profile, hardware, {}))
    monkeypatch.setattr(attention_bound, "NORMAL", UNDERFLOW)
    wrong = max(r.output for r in flushing_examples("float32", profile, hardware, {}))

    assert right <= 1
    assert wrong > 1e3


@pytest.mark.parametrize(
    ("dtype", "profile"),
    [
        ("float16", "dominant key, value 0, others subnormal in float16"),  # p
        ("float16", "tiny values"),  # values
        ("float16", "sigma 1e-3"),  # query and keys: seen in the lse, if anywhere
        ("float32", "tiny values, wide logits"),  # results of float32
    ],
)
def test_flushed_subnormals_must_be_declared(dtype: str, profile: str) -> None:
    """A device that takes subnormals for zeros leaves the bound of one that keeps them, and stays within its own."""
    hardware = Hardware(flushes_exp=True, flushes=True)

    right = list(flushing_examples(dtype, profile, hardware, {}))
    wrong = list(flushing_examples(dtype, profile, hardware, {"flushes_subnormals": False}))

    assert max(max(r.output, r.lse) for r in right) <= 1
    assert max(max(r.output, r.lse) for r in wrong) > 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_flushing_costs_nothing_where_nothing_is_subnormal(dtype: str) -> None:
    """Keys, values and p well inside the normal range have the bound of a device that keeps subnormals."""
    query, keys, values = (x.to(DTYPES[dtype]) for x in random_dense(50))
    inputs = inputs_of((query, keys, values.abs() + 0.1))

    keeping = reference(inputs, rounding_of(dtype))["outputs"]["output"][1]
    flushing = reference(inputs, rounding_of(dtype) | {"flushes_subnormals": True})["outputs"]["output"][1]

    torch.testing.assert_close(flushing, keeping, rtol=1e-3, atol=0)


def test_unknowable_logits_leave_the_output_between_its_values() -> None:
    """Where float32 cannot tell the logits apart, the bound is the distance to the farthest value, and not infinite."""
    query, keys, values = random_dense(5)

    value, bound = reference(inputs_of((query * 1e12, keys * 1e12, values)), rounding_of())["outputs"]["output"]

    farthest = (values[:, 0].double() - value[0]).abs().amax(dim=0)
    assert torch.all(bound[0, 0] >= farthest)
    assert torch.all(bound[0, 0] <= 1.001 * farthest + 1e-4)


# Overflow: a bound may be infinite, and is never NaN.


def test_accumulator_that_may_overflow_has_no_bound() -> None:
    """Five values of a quarter of the largest number may add up beyond it before the division; the others are unaffected."""
    query, keys, values = random_dense(5)
    values[..., 0] = LARGEST / 4

    value, bound = reference(inputs_of((query, keys, values)), rounding_of())["outputs"]["output"]

    assert value.isfinite().all()
    assert bound[0, 0, 0] == math.inf
    assert bound[0, 0, 1:].amax() < 1e-3


def test_logits_that_may_overflow_have_no_bound() -> None:
    """Head 1 multiplies 1e25 by 1e25: its output and lse are free, those of head 0 are not."""
    query, keys, values = random_dense(5, heads=(2, 1))
    query[1] *= 1e25

    outputs = reference(inputs_of((query, keys * 1e25, values)), rounding_of())["outputs"]

    for value, bound in outputs.values():
        assert value.isfinite().all()
        assert bound[0, 0].isfinite().all()
        assert torch.all(bound[0, 1] == math.inf)


def test_half_output_that_may_round_to_infinity_has_no_bound() -> None:
    """65504 plus what p may have been rounded up by does not fit into float16."""
    query, keys, _ = random_dense(3)
    values = torch.tensor([65504.0, 1.0]).expand(3, 1, 2)
    half = (query.half(), keys.half(), values.half())

    _, bound = reference(inputs_of(half), rounding_of("float16"))["outputs"]["output"]

    assert bound[0, 0, 0] == math.inf
    assert bound[0, 0, 1] < 0.01
