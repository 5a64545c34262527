"""The reference of paged_decode: what is right, worked out by hand, for caches that were written element by element."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from paged_attention_inputs import PAGE_SIZE, ROUNDING, inputs_of, plain, sequence
from torch import Tensor

from tridiff.reference.paged_attention import seen, unpack
from tridiff.reference.paged_decode import reference

Q_POS = 19
COUNT = Q_POS + 1


def value_of(inputs: dict[str, Any], **rounding: Any) -> Tensor:
    """What the reference expects of the first answered sequence, [Hq, D]."""
    value: Tensor = reference(inputs, {**ROUNDING, **rounding})["outputs"]["output"][0][0]
    return value


def close(found: Tensor, expected: Tensor) -> None:
    """Equal but for roundings of float64."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


# The caches


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_unpacks_what_was_written(dtype: torch.dtype, interleaved: bool) -> None:
    """Every element of both caches, in every size of element, over page boundaries and from pages out of order."""
    query, keys, values = sequence(2 * PAGE_SIZE + 3)
    keys, values = keys.to(dtype), values.to(dtype)
    inputs = inputs_of((query, keys[:5], values[:5]), (query, keys, values), interleaved=interleaved)

    found = unpack(inputs, ROUNDING, 1, len(keys))

    assert torch.equal(found[0], keys.double())
    assert torch.equal(found[1], values.double())


def test_unpack_honours_strides() -> None:
    """Pages and heads that lie apart, K and V differently."""
    _, keys, values = whole = sequence(COUNT)
    inputs = inputs_of(whole)
    for name, gaps in {"key_cache": (7, 3), "value_cache": (0, 11)}.items():
        dense = inputs[name]
        head = dense.stride(1) + gaps[1]
        strides = (dense.shape[1] * head + gaps[0], head, *dense.stride()[2:])
        storage = torch.full((1 + sum((n - 1) * s for n, s in zip(dense.shape, strides, strict=True)),), math.nan)
        inputs[name] = storage.as_strided(dense.shape, strides).copy_(dense)

    assert torch.equal(unpack(inputs, ROUNDING, 0, COUNT)[0], keys.double())
    assert torch.equal(unpack(inputs, ROUNDING, 0, COUNT)[1], values.double())
    inputs["interleaved"] = True
    inputs["value_cache"] = inputs_of(whole, interleaved=True)["value_cache"]
    assert torch.equal(unpack(inputs, ROUNDING, 0, COUNT)[1], values.double())


def test_no_tokens() -> None:
    """Nothing is read where there is nothing."""
    keys, values = unpack(inputs_of(sequence(0)), ROUNDING, 0, 0)

    assert keys.shape == values.shape == (0, 2, 32)


@pytest.mark.parametrize("contract", ["bfloat16", "float32", "folded"])
def test_fp8_is_dequantised_as_declared(contract: str) -> None:
    """Codes times the scale of their own cache, rounded where the kernel rounds."""
    query, keys, values = sequence(COUNT)
    codes = keys.to(torch.float8_e4m3fn), values.to(torch.float8_e4m3fn)
    inputs = inputs_of((query, *codes), k_scale=torch.tensor(0.37), v_scale=torch.tensor([1.7]))

    found = value_of(inputs, dequantised=contract)

    numbers = []
    for code, scale in zip(codes, (inputs["k_scale"], inputs["v_scale"]), strict=True):
        exact = code.double() * scale.double()
        rounded = {"folded": exact, "float32": exact.float(), "bfloat16": (code.float() * scale).bfloat16()}
        numbers.append(rounded[contract].double())
    close(found, plain(query[0], *numbers))


def test_scales_of_other_caches_are_not_read() -> None:
    """They may hold anything."""
    whole = sequence(COUNT)
    poison = torch.tensor(math.nan)

    close(value_of(inputs_of(whole, k_scale=poison, v_scale=poison)), plain(whole[0][0], *whole[1:]))


# The mathematics


def test_plain_attention() -> None:
    """Softmax over all keys; query heads share KV heads in order."""
    query, keys, values = whole = sequence(COUNT)

    close(value_of(inputs_of(whole)), plain(query[0], keys, values))


@pytest.mark.parametrize("window", [1, 2, COUNT - 1, COUNT, 10**6])
def test_window(window: int) -> None:
    """The newest `window` keys, the query's own included, and not one more."""
    query, keys, values = whole = sequence(COUNT)

    close(value_of(inputs_of(whole, sliding_window=window)), plain(query[0], keys[-window:], values[-window:]))


def test_window_of_keys_far_below_the_others() -> None:
    """Masked is -inf: however low the logits inside of the window are, nothing outside weighs anything."""
    query, keys, values = sequence(COUNT, heads=(1, 1))
    keys = -4000.0 * query.sign() + keys
    found = value_of(inputs_of((query, keys, values), sliding_window=2))

    logits = (keys[-2:, 0].double() @ query[0, 0].double()) / math.sqrt(32)
    assert float(logits.max()) < -10000
    # Float64 logits of this size are known to some 1e-12.
    expected = logits.softmax(dim=0) @ values[-2:, 0].double()
    torch.testing.assert_close(found[0], expected, rtol=0.0, atol=1e-10)


def test_alibi() -> None:
    """The bias is slope (t - q), of each query head's own slope, and nothing for the newest key."""
    query, keys, values = whole = sequence(COUNT)
    slopes = torch.tensor([0.5, 0.25, 0.125, 1.0])

    found = value_of(inputs_of(whole, alibi_slopes=slopes))

    close(found, plain(query[0], keys, values, bias=slopes[:, None] * torch.arange(-Q_POS, 1)))
    without = value_of(inputs_of(sequence(1)))
    assert torch.equal(value_of(inputs_of(sequence(1), alibi_slopes=slopes)), without)


def test_alibi_in_a_window() -> None:
    """Both at once."""
    query, keys, values = whole = sequence(COUNT)
    slopes = torch.tensor([0.5, 0.25, 0.125, 1.0])

    found = value_of(inputs_of(whole, alibi_slopes=slopes, sliding_window=5))

    close(found, plain(query[0], keys[-5:], values[-5:], bias=slopes[:, None] * torch.arange(-4, 1)))


def test_sinks() -> None:
    """exp(sink) of each head joins the denominator; -inf is none, and no window masks a sink."""
    query, keys, values = whole = sequence(COUNT)
    sinks = torch.tensor([0.3, -math.inf, 20.0, -2.0])

    close(value_of(inputs_of(whole, sinks=sinks)), plain(query[0], keys, values, sinks=sinks))
    windowed = value_of(inputs_of(whole, sinks=sinks, sliding_window=1))
    close(windowed, plain(query[0], keys[-1:], values[-1:], sinks=sinks))
    no_sinks = value_of(inputs_of(whole, sinks=torch.full((4,), -math.inf)))
    close(no_sinks, plain(query[0], keys, values))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_output_is_divided_and_saturated(dtype: torch.dtype) -> None:
    """By its scale; beyond the largest number it is that number, without any leeway."""
    query, keys, values = sequence(COUNT)
    whole = query, keys, values * 1000
    scale = torch.tensor(2.0**-9)
    inputs = inputs_of(whole, output=torch.empty_like(query, dtype=dtype), output_scale=scale)

    value, bound, _ = reference(inputs, ROUNDING)["outputs"]["output"]

    largest = torch.finfo(dtype).max
    close(value[0], (plain(query[0], *whole[1:]) * 2**9).clamp(-largest, largest))
    saturated = value.abs() == largest
    assert bool(saturated.any())
    assert bool((bound[saturated] == 0).all())
    assert bool(bound.isfinite().all())


# Which rows


def test_rows() -> None:
    """Sequences with one query are answered, at their rows; those with none or more, and rows of none, are not spoken of."""
    lone, empty, longer, last = sequence(3), sequence(4, queries=0), sequence(9, queries=2), sequence(21, seed=1)
    inputs = inputs_of(lone, empty, longer, last)
    inputs["query"] = torch.cat([inputs["query"], torch.full((1, 4, 32), math.nan)])
    inputs["output"] = torch.empty_like(inputs["query"])

    value, _, at = reference(inputs, ROUNDING)["outputs"]["output"]

    assert [tuple(part.shape) for part in at] == [(2, 1, 1), (4, 1), (32,)]
    assert at[0].flatten().tolist() == [0, 3]
    close(value[0], plain(lone[0][0], *lone[1:]))
    close(value[1], plain(last[0][0], *last[1:]))


def test_nothing_to_answer() -> None:
    """No row at all: nothing is expected, and nothing can hide."""
    result = reference(inputs_of(sequence(4, queries=0), sequence(9, queries=2)), ROUNDING)

    assert result["outputs"]["output"][0].shape == (0, 4, 32)
    assert result["conclusive"]


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.3, -math.inf, 20.0, -2.0])])
def test_no_keys(sinks: Tensor | None) -> None:
    """The output is 0, exactly, with sinks or without."""
    result = reference(inputs_of(sequence(0), sinks=sinks), ROUNDING)

    value, bound, _ = result["outputs"]["output"]
    assert not bool(value.any())
    assert not bool(bound.any())
    assert result["conclusive"]


def test_seen() -> None:
    """By hand: queries at 2 and 3, keys 0 to 3; without causality a window bounds the past alone."""
    positions = torch.tensor([2, 3]), torch.arange(4)

    assert seen(*positions, window=0).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert seen(*positions, window=2).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert seen(*positions, window=2, causal=False).int().tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert seen(*positions, window=0, causal=False).all()


# What cannot be judged


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k_scale", 0.0, "k_scale is 0.0: must be a positive number"),
        ("v_scale", math.inf, "v_scale is inf: must be a positive number"),
        ("output_scale", -1.0, "output_scale is -1.0: must be a positive number"),
    ],
)
def test_scales_must_be_positive(name: str, value: float, message: str) -> None:
    """A scale of zero is a defect of the case."""
    query, keys, values = sequence(3)
    whole = query, keys.to(torch.float8_e5m2), values.to(torch.float8_e5m2)

    with pytest.raises(ValueError, match=message):
        reference(inputs_of(whole, **{name: torch.tensor(value)}), ROUNDING)


@pytest.mark.parametrize("name", ["key_cache", "value_cache", "query"])
def test_numbers_must_be_finite(name: str) -> None:
    """A NaN that a kernel must read leaves nothing to judge, and is told by the tensor's name."""
    inputs = inputs_of(sequence(PAGE_SIZE))
    inputs[name] = inputs[name].clone()
    inputs[name][(0,) * inputs[name].dim()] = math.nan

    with pytest.raises(ValueError, match=f"{name} holds .* what is no finite number"):
        reference(inputs, ROUNDING)


@pytest.mark.parametrize("epsilon", [-1e-10, 1e-3])
def test_epsilon_is_small(epsilon: float) -> None:
    """What a denominator is increased by is no excuse for a wrong one."""
    with pytest.raises(ValueError, match=r"rounding\['epsilon'\] is .*: must be between 0.0 and 1e-06"):
        reference(inputs_of(sequence(3)), {**ROUNDING, "epsilon": epsilon})
