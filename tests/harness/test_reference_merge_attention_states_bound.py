"""The error bound of `merge_attention_states`: right kernels stay within it, on bad hardware too, and wrong ones leave it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from emulated_merge import WAYS, Hardware, emulated, written
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from tridiff.harness.api import Arena, Domain, Expected
from tridiff.harness.checks.values import RATIO_LIMIT, ratio
from tridiff.reference import merge_attention_states
from tridiff.reference.merge_attention_states import reference
from tridiff.reference.roundings import gamma
from tridiff.strategies.merge_attention_states import MergeAttentionStatesCase as Case
from tridiff.strategies.merge_attention_states import build, cases

Inputs = dict[str, Any]

IDEAL = Hardware()
BAD = [
    Hardware(exp=exp, division=division, log=log, base_2=base_2, flushes=base_2)
    for exp, division, log, base_2 in itertools.product((-2, 2), (-2, 2), (-2, 2), (False, True))
]
"""Every function off by two ulps."""


@functools.cache
def inputs_of(case: Case) -> Inputs:
    """Inputs that nobody writes to."""
    return build(case, Arena())


@functools.cache
def drawn() -> tuple[Case, ...]:
    """Cases as a fuzz run draws them, the same in every run; far tokens are as near ones here."""
    seen: list[Case] = []

    @settings(database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=80)
    @given(cases(Domain(target="gfx942", limits={"far": ("none",), "num_heads": range(1, 20)})))
    def collect(case: Case) -> None:
        seen.append(case)

    collect()
    return tuple(seen)


def ratios(inputs: Inputs, outputs: Mapping[str, Tensor], **rounding: object) -> dict[str, Tensor]:
    """By output, how much of the bound is used: the largest of a row [T, H]."""
    expected = reference(inputs, rounding)["outputs"]
    assert set(outputs) == set(expected)
    found = {name: ratio(Expected(value=value, bound=bound), outputs[name].double()) for name, (value, bound) in expected.items()}
    return {name: each.amax(dim=-1) if each.dim() == 3 else each for name, each in found.items()}


def worst(case: Case, hardware: Hardware, way: str, **rounding: object) -> float:
    """The largest ratio of a right kernel."""
    inputs = inputs_of(case)
    found = ratios(inputs, emulated(inputs, hardware, WAYS[way]), **rounding).values()
    return max((float(each.max()) for each in found if each.numel()), default=0.0)


def test_right_kernels_stay_within() -> None:
    """However they divide, on ideal hardware and on such as is off by two ulps everywhere."""
    kinds = itertools.cycle(itertools.product([IDEAL, *BAD], WAYS))
    sample = [(case, *next(kinds)) for case in drawn() for _ in range(3)]

    assert max(worst(*each) for each in sample) <= 1.0


SCALED = [replace(hardware, scaled=True, base_2=False) for hardware in BAD]
"""Log-sum-exps go to base 2 before their difference is taken."""


def test_scaled_lses_have_a_bound_of_their_own() -> None:
    """A kernel that declares them stays within; one that does not leaves the bound by far, where the lse is large."""
    sample = [(case, hardware, "sum") for case, hardware in zip(drawn(), itertools.cycle(SCALED), strict=False)]
    large = Case(num_tokens=8, num_heads=8, lse_level=8000.0)

    assert max(worst(*each, scaled_lse=True) for each in sample) <= 1.0
    assert max(worst(large, hardware, "sum") for hardware in SCALED) > 100
    assert 0.2 < max(worst(large, hardware, "sum", scaled_lse=True) for hardware in SCALED) <= 1.0


@pytest.mark.parametrize("lse_level", [0.0, 8000.0])
@pytest.mark.parametrize(("lse_gap", "needed"), [(1.0, 0.4), (30.0, 0.2)])
def test_bad_hardware_uses_much_of_it(lse_level: float, lse_gap: float, needed: float) -> None:
    """In float32, where nothing but what the terms count is there: they are not far too large."""
    case = Case(num_tokens=16, num_heads=8, head_dim=32, lse_level=lse_level, lse_gap=lse_gap)

    assert needed < max(worst(case, hardware, way) for hardware in BAD for way in WAYS) <= 1.0


def without(name: str, value: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Patch of a constant of the reference."""
    return lambda patch: patch.setattr(merge_attention_states, name, value)


def fewer(roundings: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Patch: of every count of roundings only this share is left."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(merge_attention_states, "gamma", lambda count: gamma(count * roundings))

    return apply


def lighter_weight(patch: pytest.MonkeyPatch) -> None:
    """Patch: exp is taken for exact."""
    patch.setattr(merge_attention_states, "_gamma", torch.zeros_like)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (fewer(0.4), {}),
        (lighter_weight, {"lse_gap": 30.0, "pattern": "cancelling"}),
        (without("NORMAL", 0.0), {"lse_gap": 95.0, "pattern": "limits"}),
        (without("UNDERFLOW", 0.0), {"sigma": 1e-38, "lse_gap": 3.0}),
    ],
    ids=["sums and divisions", "weights", "flushed weights", "subnormal products"],
)
def test_every_term_is_needed(
    change: Callable[[pytest.MonkeyPatch], None], fields: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it a right kernel on bad hardware would be wrong."""
    case = Case(**({"num_tokens": 16, "num_heads": 16, "head_dim": 32, **fields}))
    kinds = list(itertools.product(BAD, WAYS))
    right = max(worst(case, *kind) for kind in kinds)
    change(monkeypatch)
    wrong = max(worst(case, *kind) for kind in kinds)

    assert right <= 1 < wrong


# What is wrong leaves the bound

ORDINARY = {"num_tokens": 6, "num_heads": 5, "tokens_without_context": 2, "lse_gap": 1.0, "lse_level": 10.0, "seed": 3}


def sides(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs and log-sum-exps of prefix and suffix, float64, for the tokens with context."""
    names = ("prefix_output", "suffix_output", "prefix_lse", "suffix_lse")
    prefix, suffix, prefix_lse, suffix_lse = (inputs[name][: inputs["tokens_with_context"]].double() for name in names)
    return prefix, suffix, prefix_lse, suffix_lse


def right(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Output [T, H, D] and log-sum-exp [T, H], float64, where no row is empty."""
    prefix, suffix, prefix_lse, suffix_lse = sides(inputs)
    lse = torch.logaddexp(prefix_lse, suffix_lse)
    merged = torch.exp(prefix_lse - lse)[..., None] * prefix + torch.exp(suffix_lse - lse)[..., None] * suffix
    joined = inputs["tokens_with_context"]
    output, output_lse = inputs["suffix_output"].double(), inputs["suffix_lse"].double()
    return torch.cat([merged, output[joined:]]), torch.cat([lse, output_lse[joined:]])


def swapped(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Each side has the other's weight."""
    exchanged = {"prefix_lse": inputs["suffix_lse"], "suffix_lse": inputs["prefix_lse"]}
    return right(inputs | exchanged)[0], right(inputs)[1]


def mean(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Both sides weigh the same."""
    prefix, suffix, _, _ = sides(inputs)
    output, lse = right(inputs)
    output[: len(prefix)] = (prefix + suffix) / 2
    return output, lse


def prefix_dropped(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The suffix alone, everywhere."""
    return inputs["suffix_output"].double(), inputs["suffix_lse"].double()


def suffix_dropped(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The prefix alone, where there is one."""
    output, lse = right(inputs)
    prefix, _, prefix_lse, _ = sides(inputs)
    output[: len(prefix)], lse[: len(prefix)] = prefix, prefix_lse
    return output, lse


def lse_without_maximum(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Only the logarithm of the sum of the weights."""
    output, lse = right(inputs)
    _, _, prefix_lse, suffix_lse = sides(inputs)
    lse[: len(prefix_lse)] -= torch.maximum(prefix_lse, suffix_lse)
    return output, lse


def lse_in_base_2(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The logarithm of the sum of the weights to base 2."""
    output, lse = right(inputs)
    _, _, prefix_lse, suffix_lse = sides(inputs)
    largest = torch.maximum(prefix_lse, suffix_lse)
    lse[: len(largest)] = largest + (lse[: len(largest)] - largest) / 0.6931471805599453
    return output, lse


def weights_in_base_2(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """2^x for e^x."""
    scaled = {name: inputs[name] * 0.6931471805599453 for name in ("prefix_lse", "suffix_lse")}
    return right(inputs | scaled)[0], right(inputs)[1]


def unnormalised(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The weighted sum, not divided by that of the weights."""
    output, lse = right(inputs)
    _, _, prefix_lse, suffix_lse = sides(inputs)
    output[: len(prefix_lse)] *= torch.exp(lse[: len(prefix_lse)] - torch.maximum(prefix_lse, suffix_lse))[..., None]
    return output, lse


def heads_shifted(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Each head has the next one's result."""
    output, lse = right(inputs)
    return output.roll(1, dims=1), lse.roll(1, dims=1)


def zeros(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Nothing."""
    output, lse = right(inputs)
    return torch.zeros_like(output), torch.zeros_like(lse)


JOINED = slice(0, 4)
ALL = slice(0, 6)
WRONG: dict[str, tuple[Callable[[Inputs], tuple[Tensor, Tensor]], str, slice]] = {
    "weights swapped": (swapped, "output", JOINED),
    "mean": (mean, "output", JOINED),
    "prefix dropped, seen in the output": (prefix_dropped, "output", JOINED),
    "prefix dropped, seen in the lse": (prefix_dropped, "output_lse", JOINED),
    "suffix dropped, seen in the output": (suffix_dropped, "output", JOINED),
    "suffix dropped, seen in the lse": (suffix_dropped, "output_lse", JOINED),
    "lse without the maximum": (lse_without_maximum, "output_lse", JOINED),
    "lse in base 2": (lse_in_base_2, "output_lse", JOINED),
    "weights in base 2": (weights_in_base_2, "output", JOINED),
    "not normalised": (unnormalised, "output", JOINED),
    "heads shifted, seen in the output": (heads_shifted, "output", ALL),
    "heads shifted, seen in the lse": (heads_shifted, "output_lse", ALL),
    "zeros, seen in the output": (zeros, "output", ALL),
    "zeros, seen in the lse": (zeros, "output_lse", ALL),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_leaves_the_bound(name: str, dtype: str) -> None:
    """In every row that it gets wrong, whatever the dtype; what is right stays within in all of them."""
    compute, output, tokens = WRONG[name]
    inputs = inputs_of(Case(**ORDINARY, dtype=dtype))  # type: ignore[arg-type] # a dict of several types
    found = ratios(inputs, written(inputs, *compute(inputs)))[output]
    others = ratios(inputs, written(inputs, *right(inputs)))

    assert bool((found[tokens] > 1).all())
    assert max(float(each.max()) for each in others.values()) <= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_copies_are_exact(dtype: str) -> None:
    """Of a token without context the last bit counts, of its output and of its log-sum-exp."""
    inputs = inputs_of(Case(**ORDINARY, dtype=dtype))  # type: ignore[arg-type] # a dict of several types
    outputs = written(inputs, *right(inputs))
    for name, exact in outputs.items():
        wrong = torch.nextafter(exact, torch.full_like(exact, torch.inf))
        found = ratios(inputs, outputs | {name: wrong})[name]

        assert bool((found[4:] == RATIO_LIMIT).all())


def test_sixteen_bits_are_too_few_for_weights() -> None:
    """Weights in bfloat16 show where outputs are float32."""
    inputs = inputs_of(Case(**ORDINARY))  # type: ignore[arg-type] # a dict of several types
    prefix, suffix, prefix_lse, suffix_lse = sides(inputs)
    output, lse = right(inputs)
    share = torch.sigmoid(prefix_lse - suffix_lse).bfloat16().double()[..., None]
    output[JOINED] = share * prefix + (1 - share) * suffix

    assert bool((ratios(inputs, written(inputs, output, lse))["output"][JOINED] > 100).float().mean() > 0.8)


def test_without_the_maximum_exp_overflows() -> None:
    """At log-sum-exps of 100: infinite or not a number, where something finite is due."""
    inputs = inputs_of(Case(num_tokens=2, num_heads=3, lse_level=100.0))
    prefix, suffix, prefix_lse, suffix_lse = (each.float() for each in sides(inputs))
    weights = torch.exp(prefix_lse), torch.exp(suffix_lse)
    output = (weights[0][..., None] * prefix + weights[1][..., None] * suffix) / (weights[0] + weights[1])[..., None]
    found = ratios(inputs, {"output": output, "output_lse": torch.log(weights[0] + weights[1])})

    assert all(bool((each == RATIO_LIMIT).all()) for each in found.values())


@pytest.mark.parametrize(("mark", "holds"), [("minus_inf", "poison"), ("plus_inf", "zeros")])
def test_empty_rows_that_are_not_guarded(mark: str, holds: str) -> None:
    """A poisoned output times 0, and exp(inf): NaN, which no bound lets pass."""
    inputs = inputs_of(Case(num_tokens=4, num_heads=4, empty="prefix", empty_lse=mark, empty_holds=holds))
    empty = inputs["prefix_lse"].isinf()
    found = ratios(inputs, written(inputs, *right(inputs)))["output"]

    assert bool((found[empty] == RATIO_LIMIT).all())
    assert bool((found[~empty] <= 1).all())
