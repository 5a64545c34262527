"""The error bound of decode_attention bites: what is wrong exceeds it, and a case knows whether it could show anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from attention_inputs import VALUE_WIDTH, WIDTH, Dense, inputs_of, random_dense, rounding_of
from emulated_attention import DTYPES
from torch import Tensor

from tridiff.reference.decode_attention import reference

LN2 = math.log(2.0)

COUNT = 100
BOUNDARIES = {
    "first key": 0,
    "end of a tile": 15,
    "start of a tile": 16,
    "end of a split": 24,
    "start of a split": 25,
    "end of a page": 31,
    "start of a page": 32,
    "last key": 99,
}
Outputs = dict[str, Tensor]


def peaked(dtype: torch.dtype, peak: int) -> Dense:
    """COUNT keys for heads 4 and 2; key `peak` takes about half of every head's weight."""
    query, keys, values = random_dense(COUNT, heads=(4, 2))
    towards = query * (5 * WIDTH**0.5 / query.square().sum(dim=1, keepdim=True))
    keys[peak] += towards.view(2, 2, WIDTH).sum(dim=1)
    return query.to(dtype), keys.to(dtype), values.to(dtype)


def plain_attention(dense: Dense, heads: Sequence[int] = (0, 0, 1, 1)) -> Outputs:
    """Float64 attention in which query head h reads KV head heads[h]."""
    query, keys, values = (x.double() for x in dense)
    logits = torch.einsum("hd,nhd->hn", query, keys[:, list(heads)]) * query.shape[1] ** -0.5
    output = torch.einsum("hn,nhd->hd", logits.softmax(dim=1), values[:, list(heads)])
    return {"output": output, "lse": logits.logsumexp(dim=1)}


def drop(dense: Dense, peak: int) -> Outputs:
    """Key `peak` forgotten."""
    kept = torch.arange(len(dense[1])) != peak
    return plain_attention((dense[0], dense[1][kept], dense[2][kept]))


def duplicate(dense: Dense, peak: int) -> Outputs:
    """Key `peak` counted twice."""
    keys, values = (torch.cat([x, x[peak : peak + 1]]) for x in dense[1:])
    return plain_attention((dense[0], keys, values))


def zero(dense: Dense, peak: int) -> Outputs:
    """An output that was never computed."""
    return plain_attention(dense) | {"output": torch.zeros(4, VALUE_WIDTH, dtype=torch.float64)}


def swap_heads(dense: Dense, peak: int) -> Outputs:
    """Heads 0 and 1, of one group, in each other's place."""
    return {name: value[[1, 0, 2, 3]] for name, value in plain_attention(dense).items()}


def base_2(dense: Dense, peak: int) -> Outputs:
    """The log-sum-exp as a base-2 logarithm."""
    right = plain_attention(dense)
    return right | {"lse": right["lse"] / LN2}


def interleave_heads(dense: Dense, peak: int) -> Outputs:
    """Query head h reads KV head h % Hkv."""
    return plain_attention(dense, heads=(0, 1, 0, 1))


ALL = (0, 1, 2, 3)
MUTANTS = {
    drop: {"output": ALL, "lse": ALL},
    duplicate: {"output": ALL, "lse": ALL},
    zero: {"output": ALL, "lse": ()},
    swap_heads: {"output": (0, 1), "lse": (0, 1)},
    base_2: {"output": (), "lse": ALL},
    interleave_heads: {"output": (1, 2), "lse": (1, 2)},
}
"""Every mutant with the heads in which each output must show it, and no other may."""


def exceeding(mutant: Tensor, value: Tensor, bound: Tensor) -> tuple[int, ...]:
    """Heads of which an element of `mutant` lies outside the bound of a one-row reference."""
    outside = ((mutant - value[0]).abs() > bound[0]).view(len(mutant), -1)
    return tuple(torch.nonzero(outside.any(dim=1))[:, 0].tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("peak", BOUNDARIES.values(), ids=BOUNDARIES)
def test_mutants_exceed_the_bound(dtype: str, peak: int) -> None:
    """A kernel wrong about the peaked key, about heads or about units is seen in exactly the heads that it gets wrong."""
    dense = peaked(DTYPES[dtype], peak)

    expected = reference(inputs_of(dense), rounding_of(dtype))["outputs"]

    for name, value in plain_attention(dense).items():
        torch.testing.assert_close(expected[name][0][0], value, rtol=1e-12, atol=1e-13)
    for mutant, visible in MUTANTS.items():
        outputs = mutant(dense, peak)
        assert {name: exceeding(outputs[name], *expected[name]) for name in outputs} == visible, mutant.__name__


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [127, 700, 2049])
def test_any_ordinary_key_is_seen_in_the_lse(dtype: str, count: int) -> None:
    """Forgetting any one of many like keys may hide in a bf16 output, but in no lse."""
    query, keys, values = (x.to(DTYPES[dtype]) for x in random_dense(count, heads=(4, 2)))

    result = reference(inputs_of((query, keys, values)), rounding_of(dtype))

    assert result["conclusive"]
    for key in range(0, count, count // 7):
        assert exceeding(drop((query, keys, values), key)["lse"], *result["outputs"]["lse"]) == ALL


@pytest.mark.parametrize(("peak", "expected"), [(0, False), (COUNT - 1, True)])
def test_conclusive_tells_whether_a_dropped_last_key_shows(peak: int, expected: bool) -> None:
    """A last key of negligible weight hides, one that dominates does not."""
    query, keys, values = random_dense(COUNT)
    keys[peak] = 20 * query

    assert reference(inputs_of((query, keys, values)), rounding_of())["conclusive"] is expected


def test_one_visible_row_makes_a_case_conclusive() -> None:
    """A row of one key, without which nothing is left, shows what a longer row hides."""
    query, keys, values = random_dense(COUNT)
    keys[0] = 20 * query
    long, short = (query, keys, values), (query, keys[:1], values[:1])

    assert reference(inputs_of(long, long), rounding_of())["conclusive"] is False
    assert reference(inputs_of(long, short), rounding_of())["conclusive"] is True


def test_case_without_bounds_is_inconclusive() -> None:
    """What may overflow everywhere proves nothing."""
    query, keys, values = random_dense(5)

    assert reference(inputs_of((query * 1e25, keys * 1e25, values)), rounding_of())["conclusive"] is False
