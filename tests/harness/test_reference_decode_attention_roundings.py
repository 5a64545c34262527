"""Kernels that round more often than ours: what they declare bounds what they do, and nothing less would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_inputs import gaussian, inputs_of, rounding_of

from tridiff.reference.attention_bound import NARROW
from tridiff.reference.decode_attention import reference

KEYS, WIDTH, WIDTH_V = 65, 64, 16
KINDS: dict[str, dict[str, Any]] = {
    "scaled query": {"scaled_query": True, "query_dtype": "bfloat16"},
    "FP8 query": {"query_dtype": "float8_e4m3fnuz", "query_columns": 40},
    "products": {"product_dtype": "bfloat16"},
    "FP8 weights": {"p_dtype": "float8_e5m2"},
    "sums": {"p_dtype": "bfloat16", "sum_dtype": "bfloat16"},
    "partial outputs": {"partial_dtype": "bfloat16"},
}


def emulated(inputs: dict[str, Any], declared: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [heads, Lv] and lse [heads] of one row: two-pass softmax in float32, rounding where `declared` says so."""
    query, keys, values = inputs["query"][0], inputs["key_cache"][0, :, 0], inputs["value_cache"][0, :, 0]
    scale = torch.tensor(inputs["sm_scale"], dtype=torch.float32)
    if declared.get("scaled_query"):
        query, scale = query * scale, torch.tensor(1.0)
    if "query_dtype" in declared:
        columns = declared.get("query_columns", WIDTH)
        query = torch.cat([query[:, :columns].to(NARROW[declared["query_dtype"]]).float(), query[:, columns:]], dim=1)
    products = (query[:, None] * keys[None]).to(NARROW[declared.get("product_dtype", "float32")]).float()
    logits = products.sum(dim=2) * scale
    top = logits.amax(dim=1, keepdim=True)
    p = torch.exp(logits - top)
    rounded = p.to(NARROW[declared["p_dtype"]])
    total = sum_of(rounded, declared) if "sum_dtype" in declared else p.sum(dim=1)
    output = (rounded.float() @ values / total[:, None]).to(NARROW[declared.get("partial_dtype", "float32")]).float()
    return output, top[:, 0] + torch.log(total)


def sum_of(p: torch.Tensor, declared: dict[str, Any]) -> torch.Tensor:
    """Tile by tile, one after the other in the declared dtype; tiles in float32."""
    total = torch.zeros(len(p))
    for tile in p.to(NARROW[declared["sum_dtype"]]).split(declared["block_n"], dim=1):
        part = torch.zeros_like(tile[:, 0])
        for column in tile.T:
            part = part + column
        total += part.float()
    return total


def worst(seed: int, computed: dict[str, Any], declared: dict[str, Any]) -> float:
    """The largest ratio of a difference to its bound: a kernel that rounds as `computed` says, judged by what is `declared`."""
    shapes = ((4, WIDTH), (KEYS, 1, WIDTH), (KEYS, 1, WIDTH_V))
    inputs = inputs_of(tuple(gaussian(3 * seed + at, *shape) for at, shape in enumerate(shapes)))  # type: ignore[arg-type]

    results = emulated(inputs, computed)
    expected = reference(inputs, declared)["outputs"]

    pairs = zip(results, (expected["output"], expected["lse"]), strict=True)
    return max(float(((result.double() - value[0]).abs() / bound[0]).max()) for result, (value, bound) in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_declared(kind: str) -> None:
    """A kernel that rounds as it declares stays within the bound, and uses a part of it."""
    declared = rounding_of(splits=1) | KINDS[kind]

    ratios = [worst(seed, declared, declared) for seed in range(5)]

    assert max(ratios) <= 1
    assert max(ratios) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_undeclared(kind: str) -> None:
    """Without the declaration it leaves the bound."""
    declared = rounding_of(splits=1)

    assert max(worst(seed, declared | KINDS[kind], declared) for seed in range(5)) > 1


@pytest.mark.parametrize(
    ("multiple", "expected"), [(1, 2 + 9), (32, 4 + 5), (16, 2 + 9)], ids=["whatever", "longer splits", "as long anyway"]
)
def test_split_multiple(multiple: int, expected: int) -> None:
    """Splits whose length is a multiple are fewer and longer: 130 keys in 9 splits, 8 keys a tile."""
    from tridiff.reference.attention_bound import Contract  # noqa: PLC0415 - for this test alone

    inputs = inputs_of((gaussian(0, 1, 8), gaussian(1, 130, 1, 8), gaussian(2, 130, 1, 8)))
    declared = rounding_of(block_n=8, splits=9) | {"split_multiple": multiple}

    assert Contract.of(inputs, declared).steps(130) == expected


def test_query_beyond_the_format() -> None:
    """A query that FP8 cannot hold is refused: it says nothing of a kernel."""
    inputs = inputs_of((gaussian(0, 1, 8) * 1e4, gaussian(1, 3, 1, 8), gaussian(2, 3, 1, 8)))

    with pytest.raises(ValueError, match="query holds in row 0"):
        reference(inputs, rounding_of() | {"query_dtype": "float8_e4m3fnuz"})
