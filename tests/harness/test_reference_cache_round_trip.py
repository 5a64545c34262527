"""The reference of cache_round_trip by hand, without a kernel; and that its bound shows what goes wrong between two kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tridiff.harness.api import Arena
from tridiff.reference.cache_round_trip import reference
from tridiff.strategies.cache_round_trip import CacheRoundTripCase, build

ROUNDING = {"p_dtype": "float32", "dequantised": "float32", "block_n": 16, "num_kv_splits": 1, "dot_precision": "ieee"}
LENGTHS = (18, 0, 1)


def case_of(**fields: Any) -> CacheRoundTripCase:
    """Three sequences, one of them empty, on shuffled pages, with tokens that are not written in between."""
    common: dict[str, Any] = {"seq_lens": LENGTHS, "skipped": 3, "slot_order": "shuffled", "page_order": "shuffled"}
    return CacheRoundTripCase(num_kv_heads=2, group_size=2, **common, **fields)


def by_hand(
    inputs: dict[str, Any], sequence: int, head: int, keys: torch.Tensor, values: torch.Tensor, *, row: int = -1, seen: int = -1
) -> torch.Tensor:
    """Softmax attention [D] of one query head over the rows of a sequence, found by its slots one by one.

    `row`: of the query, if it is not the sequence's number; `seen`: how many tokens it sees, unless all.
    """
    rows = []
    for at in range(LENGTHS[sequence] if seen < 0 else seen):
        slot = int(inputs["block_table"][sequence, at // 16]) * 16 + at % 16
        rows.append(inputs["slot_mapping"].tolist().index(slot))
    logits = inputs["sm_scale"] * (keys[rows, head // 2].double() @ inputs["query"][sequence if row < 0 else row, head].double())
    return torch.softmax(logits, dim=0) @ values[rows, head // 2].double()


def test_attention_over_the_tokens() -> None:
    """Whatever the caches hold: the output is that of the tokens' rows, and 0 for a sequence without tokens."""
    inputs = build(case_of(), Arena())
    inputs["key_cache"].fill_(float("nan"))

    result = reference(inputs, ROUNDING)

    value, bound = result["outputs"]["output"]
    for sequence, head in ((0, 0), (0, 3), (2, 1)):
        assert torch.allclose(value[sequence, head], by_hand(inputs, sequence, head, inputs["key"], inputs["value"]), atol=1e-12)
    assert torch.all(value[1] == 0)
    assert torch.all(bound[1] == 0)
    assert result["conclusive"]


def test_queries_of_a_mixed_batch() -> None:
    """Each query of a chunk sees the tokens up to its own."""
    inputs = build(case_of(kind="head_major", chunk=3), Arena())

    result = reference(inputs, ROUNDING)

    value, bound = result["outputs"]["output"]
    assert value.shape == (5, 4, 32)
    for row, sequence, seen in ((0, 0, 16), (1, 0, 17), (2, 0, 18), (4, 2, 1)):
        expected = by_hand(inputs, sequence, 3, inputs["key"], inputs["value"], row=row, seen=seen)
        assert torch.allclose(value[row, 3], expected, atol=1e-12)
    assert torch.all(value[3] == 0)
    assert torch.all(bound[3] == 0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2])
def test_tokens_in_fp8(dtype: torch.dtype) -> None:
    """They count as their codes times the scale; what exceeds the format counts as its largest number."""
    inputs = build(case_of(cache_dtype=str(dtype).removeprefix("torch."), k_scale=4.0, v_scale=0.25), Arena())
    inputs["value"][:, :, 0] = 1e9
    largest = torch.finfo(dtype).max

    value, _ = reference(inputs, ROUNDING)["outputs"]["output"]

    keys = (inputs["key"] / 4.0).to(dtype).float() * 4.0
    values = (inputs["value"] * 4.0).clamp(-largest, largest).to(dtype).float() / 4.0
    assert torch.allclose(value[0, 2], by_hand(inputs, 0, 2, keys, values), atol=1e-12, rtol=1e-12)
    assert torch.allclose(value[0, :, 0], torch.tensor(largest / 4.0, dtype=torch.float64), rtol=1e-12)


def test_a_token_that_nobody_writes() -> None:
    """Is no attention that could be judged."""
    inputs = build(case_of(), Arena())
    inputs["slot_mapping"].fill_(-1)

    with pytest.raises(KeyError):
        reference(inputs, ROUNDING)


@pytest.mark.parametrize("wrong", ["last token dropped", "two tokens swapped", "scales swapped", "zeros", "heads swapped"])
def test_bound_bites(wrong: str) -> None:
    """What a pair of kernels may do wrong moves the output out of its bound."""
    inputs = build(case_of(cache_dtype="float8_e4m3fn", k_scale=4.0, dtype="bfloat16"), Arena())
    rounding = ROUNDING | {"p_dtype": "bfloat16", "dequantised": "bfloat16"}
    value, bound = reference(inputs, rounding)["outputs"]["output"]
    mutant = dict(inputs)
    first = inputs["block_table"][0, 0].item() * 16
    rows = [inputs["slot_mapping"].tolist().index(slot) for slot in (first, first + 1)]
    if wrong == "last token dropped":
        mutant["seq_lens"] = inputs["seq_lens"] - torch.tensor([1, 0, 0], dtype=torch.int32)
    elif wrong == "two tokens swapped":
        mutant["value"] = inputs["value"].clone()
        mutant["value"][rows] = inputs["value"][rows[::-1]]
    elif wrong == "scales swapped":
        mutant |= {"k_scale": inputs["v_scale"], "v_scale": inputs["k_scale"]}
        mutant |= {"key": inputs["key"] / 4, "value": inputs["value"] * 4}  # the codes stay as they are

    found, _ = reference(mutant, rounding)["outputs"]["output"]

    found = {"zeros": torch.zeros_like(found), "heads swapped": found.flip(1)}.get(wrong, found)
    assert torch.any((found - value).abs() > bound)
