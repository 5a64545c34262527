"""The error bound of paged_decode: a correct kernel stays below it, and what is wrong exceeds it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from emulated_paged_attention import emulate
from paged_attention_inputs import ROUNDING, Sequence_, inputs_of, sequence
from torch import Tensor

from tridiff.harness.api import Arena
from tridiff.harness.checks.values import worst_ratio
from tridiff.harness.declarations import verdict_of
from tridiff.harness.registry import Registry
from tridiff.harness.runner.drawing import drawn
from tridiff.reference.attention_bound import FP8_DTYPES
from tridiff.reference.paged_decode import reference
from tridiff.strategies.paged_decode import OP, PagedDecodeCase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# A correct kernel


@functools.cache
def cases() -> list[PagedDecodeCase]:
    """Drawn cases, those that cost least."""
    registry = Registry()
    registry.ops[OP.name] = OP
    found = drawn(registry, OP.name, "gfx942", count=50, seed=3)
    return [case for case in found if sum(case.seq_lens) * case.num_heads * case.head_dim < 2**17]


def ratio_of(case: PagedDecodeCase, *, base_2: bool, block_n: int) -> float:
    """What an emulated kernel uses of its bound."""
    inputs = OP.build(case, Arena())
    rounding = {**ROUNDING, "p_dtype": case.dtype, "dequantised": case.dtype, "block_n": block_n, "epsilon": 1e-10}
    verdict = verdict_of(OP.name, reference(inputs, rounding), inputs)
    rows = verdict.outputs["output"].at
    assert rows is not None
    output = inputs["output"].view(torch.uint8) if inputs["output"].dtype in FP8_DTYPES else inputs["output"]
    found = emulate(inputs, rounding, base_2=base_2)
    output[rows] = found.view(output.dtype)
    return worst_ratio(verdict, {"output": inputs["output"]})


def test_a_correct_kernel_stays_below_its_bound() -> None:
    """Whatever is drawn; and float32 uses a good part of it, so that it is not idle."""
    ratios: dict[bool, list[float]] = {False: [], True: []}
    for at, case in enumerate(cases()):
        ratio = ratio_of(case, base_2=bool(at % 2), block_n=(32, 128)[at % 3 == 0])
        assert ratio <= 1.0, case
        if case.output_dtype == "same":
            ratios[case.dtype == "float32"].append(ratio)

    assert len(cases()) > 25
    assert max(ratios[True]) > 0.02
    assert max(ratios[False]) > 0.5


# Wrong kernels

COUNT = 40
WINDOW = 17
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
SINKS = torch.tensor([3.0, 2.0, 2.5, 4.0])


def peaked(dtype: torch.dtype, peak: int) -> Sequence_:
    """COUNT keys for heads 4 and 2, of which key `peak` takes about half of every head's weight."""
    query, keys, values = sequence(COUNT)
    towards = query[0] * (5 * 32**0.5 / query[0].square().sum(dim=1, keepdim=True))
    keys[peak] += towards.view(2, 2, 32).sum(dim=1)
    return query.to(dtype), keys.to(dtype), values.to(dtype)


def expected(inputs: dict[str, Any], dtype: str) -> tuple[Tensor, Tensor]:
    """Value and bound, [Hq, D], for a kernel whose p have that dtype."""
    value, bound, _ = reference(inputs, {**ROUNDING, "p_dtype": dtype, "dequantised": dtype})["outputs"]["output"]
    return value[0], bound[0]


Change = Callable[[Sequence_], dict[str, Any]]
"""Arguments of which the right result is what a wrong kernel gives for `ARGUMENTS`."""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": WINDOW},
    "alibi": {"alibi_slopes": SLOPES},
    "sinks": {"sinks": SINKS},
}


def without(whole: Sequence_, dropped: int) -> Sequence_:
    """Key `dropped` forgotten."""
    query, keys, values = whole
    kept = torch.arange(len(keys)) != dropped % len(keys)
    return query, keys[kept], values[kept]


MUTANTS: dict[str, tuple[str, int, Callable[[Sequence_], dict[str, Any]]]] = {
    "last key dropped": ("plain", COUNT - 1, lambda whole: inputs_of(without(whole, -1))),
    "last key of a page dropped": ("plain", 15, lambda whole: inputs_of(without(whole, 15))),
    "first key of a page dropped": ("plain", 16, lambda whole: inputs_of(without(whole, 16))),
    "window one too wide": ("window", COUNT - WINDOW - 1, lambda whole: inputs_of(whole, sliding_window=WINDOW + 1)),
    "window one too narrow": ("window", COUNT - WINDOW, lambda whole: inputs_of(whole, sliding_window=WINDOW - 1)),
    "window ignored": ("window", COUNT - WINDOW - 1, inputs_of),
    "alibi ignored": ("alibi", 0, inputs_of),
    "alibi of the next head": ("alibi", 0, lambda whole: inputs_of(whole, alibi_slopes=SLOPES.roll(1))),
    "sink dropped": ("sinks", 0, inputs_of),
    "sink twice": ("sinks", 0, lambda whole: inputs_of(whole, sinks=SINKS + 0.6931)),
    "sink of the next head": ("sinks", 0, lambda whole: inputs_of(whole, sinks=SINKS.roll(1))),
}
"""By name: arguments, the key that is peaked, and arguments whose right result is what a wrong kernel gives."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_exceed_the_bound(name: str, dtype: str) -> None:
    """In every head."""
    arguments, peak, mutated = MUTANTS[name]
    whole = peaked(DTYPES[dtype], peak)

    value, bound = expected(inputs_of(whole, **ARGUMENTS[arguments]), dtype)

    wrong, _ = expected(mutated(whole), dtype)
    assert bool(((wrong - value).abs() > bound).any(dim=1).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_alibi_relative_to_another_position(dtype: str) -> None:
    """A bias that is off by the same for all keys changes nothing but against a sink."""
    whole = peaked(DTYPES[dtype], 0)

    value, bound = expected(inputs_of(whole, alibi_slopes=SLOPES * 8, sinks=SINKS), dtype)

    one_more = inputs_of(whole, alibi_slopes=SLOPES * 8, sinks=SINKS + SLOPES * 8)
    assert bool(((expected(one_more, dtype)[0] - value).abs() > bound).any(dim=1).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_that_were_never_computed_or_are_swapped(dtype: str) -> None:
    """Zeros, and the heads of a group in each other's place."""
    value, bound = expected(inputs_of(peaked(DTYPES[dtype], 3)), dtype)

    assert bool((value.abs() > bound).any(dim=1).all())
    assert bool(((value[[1, 0, 3, 2]] - value).abs() > bound).any(dim=1).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exchanged", ["k_scale", "v_scale"])
def test_the_scale_of_the_other_cache(dtype: str, exchanged: str) -> None:
    """K's scale for V, or V's for K."""
    query, keys, values = peaked(DTYPES[dtype], 3)
    whole = query, keys.to(torch.float8_e4m3fn), values.to(torch.float8_e4m3fn)
    scales = {"k_scale": torch.tensor(0.37), "v_scale": torch.tensor(1.7)}

    value, bound = expected(inputs_of(whole, **scales), dtype)

    other = next(name for name in scales if name != exchanged)
    wrong, _ = expected(inputs_of(whole, **{**scales, exchanged: scales[other]}), dtype)
    assert bool(((wrong - value).abs() > bound).any(dim=1).all())


@pytest.mark.parametrize("output", FP8_DTYPES)
def test_fp8_outputs_bite(output: torch.dtype) -> None:
    """Half the distance of its codes is all that a right kernel may be off; so a scale that was forgotten is seen."""
    whole = peaked(torch.float32, 3)
    inputs = inputs_of(whole, output=torch.empty_like(whole[0], dtype=output), output_scale=torch.tensor(0.37))

    value, bound = expected(inputs, "float32")

    limits = torch.finfo(output)
    assert bool((bound < 0.5 * limits.eps * (value.abs() + limits.smallest_normal) + 1e-4).all())
    assert bool(((value * 0.37 - value).abs() > bound).any(dim=1).all())


# What a case can show


@pytest.mark.parametrize(("peak", "expected"), [(0, False), (COUNT - 1, True)])
def test_conclusive_tells_whether_a_dropped_last_key_shows(peak: int, expected: bool) -> None:
    """A last key of negligible weight hides, one that dominates does not."""
    query, keys, values = sequence(COUNT, heads=(1, 1))
    keys[peak] = 20 * query[0]

    assert reference(inputs_of((query, keys, values)), ROUNDING)["conclusive"] is expected


def test_conclusive_with_an_fp8_output() -> None:
    """What saturates hides a key."""
    query, keys, values = sequence(COUNT, heads=(1, 1))
    keys[-1] = 0.5 * query[0]
    values = values.abs() + 1.0
    arguments = {"output": torch.empty_like(query, dtype=torch.float8_e4m3fn)}

    found: Sequence[bool] = [
        reference(inputs_of((query, keys, values), **arguments, output_scale=torch.tensor(scale)), ROUNDING)["conclusive"]
        for scale in (1.0, 2.0**-20)
    ]

    assert found == [True, False]


def test_masked_keys_cost_nothing() -> None:
    """However many keys a window leaves out, and whatever they hold, the bound hardly grows."""
    query, keys, values = sequence(400)
    values[:-5] *= 1e6
    bounds = [
        expected(inputs_of(part, sliding_window=5), "bfloat16")[1]
        for part in ((query, keys[-5:], values[-5:]), (query, keys, values))
    ]

    assert bool((bounds[1] < 1.05 * bounds[0]).all())
