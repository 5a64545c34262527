"""The reference of `merge_attention_states`: it gives the attention over all keys, and keeps to its contract."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tridiff.harness.api import Arena
from tridiff.reference.merge_attention_states import reference
from tridiff.strategies.merge_attention_states import MergeAttentionStatesCase as Case
from tridiff.strategies.merge_attention_states import build

INF = math.inf


def rows(*lses: tuple[float, float], outputs: tuple[float, float] = (3.0, 5.0), **given: Any) -> dict[str, Any]:
    """A token for each pair of log-sum-exps (of prefix and of suffix), one head, width 1, constant outputs."""
    inputs = {
        f"{side}_{what}": torch.tensor(values)[:, None, None] if what == "output" else torch.tensor(values)[:, None]
        for at, side in enumerate(("prefix", "suffix"))
        for what, values in (("output", [outputs[at]] * len(lses)), ("lse", [pair[at] for pair in lses]))
    }
    shape = (len(lses), 1)
    written = {"output": torch.empty(*shape, 1), "output_lse": torch.empty(shape)}
    return inputs | written | {"tokens_with_context": len(lses), "platform": "hip"} | given


def answer(inputs: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Values of output and log-sum-exp of each row."""
    outputs = reference(inputs, {})["outputs"]
    return outputs["output"][0].flatten().tolist(), outputs["output_lse"][0].flatten().tolist()


def bound_of(inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Bounds of output and log-sum-exp of each row."""
    outputs = reference(inputs, {})["outputs"]
    return outputs["output"][1].flatten(), outputs["output_lse"][1].flatten()


def attention(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention [T, H, D] of logits [T, H, N] over values [N, H, D], and its log-sum-exp [T, H]."""
    return torch.einsum("thn,nhd->thd", logits.softmax(dim=-1), values), logits.logsumexp(dim=-1)


@pytest.mark.parametrize("split", [1, 7, 12])
def test_two_parts_make_the_whole(split: int) -> None:
    """Attention over the first keys and over the others, merged, is the attention over all of them."""
    generator = torch.Generator().manual_seed(split)
    logits = 5 * torch.randn(4, 3, 13, generator=generator, dtype=torch.float64)
    values = torch.randn(13, 3, 8, generator=generator, dtype=torch.float64)
    prefix = attention(logits[..., :split], values[:split])
    suffix = attention(logits[..., split:], values[split:])
    whole = attention(logits, values)
    inputs = {
        **dict(zip(("prefix_output", "prefix_lse"), prefix, strict=True)),
        **dict(zip(("suffix_output", "suffix_lse"), suffix, strict=True)),
        **dict(zip(("output", "output_lse"), whole, strict=True)),
        "tokens_with_context": 4,
    }

    outputs = reference(inputs, {})["outputs"]

    for name in ("output", "output_lse"):
        torch.testing.assert_close(outputs[name][0], inputs[name], rtol=1e-13, atol=1e-13)


def test_weights() -> None:
    """Equal sides give the mean and ln 2 more; a side three times as heavy counts for three quarters; one far below for none."""
    output, lse = answer(rows((7.0, 7.0), (0.0, math.log(3.0)), (1e4, 0.0), (-1e4, -9000.0)))

    assert output == pytest.approx([4.0, 4.5, 3.0, 5.0], rel=1e-7)
    assert lse == pytest.approx([7 + math.log(2), math.log(4), 1e4, -9000.0], rel=1e-7)


def test_log_sum_exps_as_far_apart_as_float32_allows() -> None:
    """The heavier side alone counts, and the bound stays finite."""
    inputs = rows((3e38, -3e38), (-3e38, 3e38), (1e5, -1e5))
    output, lse = answer(inputs)

    assert output == [3.0, 5.0, 3.0]
    assert lse == pytest.approx([3e38, 3e38, 1e5], rel=1e-6)
    assert all(bool(((bound >= 0) & (bound < 1e32)).all()) for bound in bound_of(inputs))
    assert bool((bound_of(inputs)[0] < 1e-5).all())


@pytest.mark.parametrize("mark", [-INF, INF])
def test_an_empty_side_does_not_count(mark: float) -> None:
    """Whatever its output holds; without any keys output 0 and log-sum-exp -inf, exactly."""
    inputs = rows((mark, 2.0), (2.0, mark), (mark, -INF), (INF, mark))
    inputs["prefix_output"][[0, 2, 3]] = math.nan
    inputs["suffix_output"][[1, 2, 3]] = math.inf

    bounds = bound_of(inputs)

    assert answer(inputs) == ([5.0, 3.0, 0.0, 0.0], [2.0, 2.0, -INF, -INF])
    assert [bound[2:].tolist() for bound in bounds] == [[0.0, 0.0]] * 2
    assert all(bool((bound[:2] > 0).all()) for bound in bounds)


def test_tokens_without_context_are_copied() -> None:
    """Exactly: the prefix is not read, bounds are 0, and an infinite log-sum-exp says that there are no keys."""
    inputs = rows((0.0, 0.0), (math.nan, 1.5), (math.nan, INF), (math.nan, -INF), tokens_with_context=1)
    inputs["prefix_output"][1:] = math.nan

    output, lse = answer(inputs)

    assert (output[1:], lse[1:]) == ([5.0, 0.0, 0.0], [1.5, -INF, -INF])
    assert [bound[1:].tolist() for bound in bound_of(inputs)] == [[0.0] * 3] * 2


def test_lse_that_is_not_asked_for() -> None:
    """Is not answered for either."""
    assert set(reference(rows((0.0, 0.0), output_lse=None), {})["outputs"]) == {"output"}


def test_no_tokens() -> None:
    """A call with nothing to do is judged by nothing."""
    case = Case(num_tokens=0, num_heads=3)

    verdict = reference(build(case, Arena()), {})

    assert verdict["outputs"]["output"][0].shape == (0, 3, 16)
    assert verdict["conclusive"] is True


def test_strides_do_not_matter_and_nothing_is_written() -> None:
    """Any layout gives the same answer, and no input changes."""
    fields: dict[str, Any] = {
        "num_tokens": 5,
        "num_heads": 3,
        "tokens_without_context": 2,
        "empty": "mixed",
        "empty_holds": "poison",
    }
    moved: dict[str, Any] = {
        "prefix_layout": "heads_first",
        "suffix_layout": "padded_heads",
        "suffix_lse_layout": "transposed",
        "far": "none",
    }
    answers = []
    for each in (fields, fields | moved):
        arena = Arena()
        inputs = build(Case(**each), arena)
        arena.seal()
        answers.append(reference(inputs, {})["outputs"])
        assert not any(allocation.changed() for allocation in arena)

    for name in ("output", "output_lse"):
        assert all(torch.equal(one, other) for one, other in zip(answers[0][name], answers[1][name], strict=True))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("suffix_lse", math.nan, "suffix_lse holds NaN"),
        ("prefix_output", math.nan, "prefix_output holds what is no finite number in a row that has keys"),
        ("suffix_output", INF, "suffix_output holds what is no finite number in a row that has keys"),
    ],
)
def test_inputs_that_judge_nothing_are_refused(name: str, value: float, message: str) -> None:
    """By name; each would make every kernel wrong."""
    inputs = rows((0.0, 0.0))
    inputs[name].fill_(value)

    with pytest.raises(ValueError, match=message):
        reference(inputs, {})


def test_unknown_roundings_are_refused() -> None:
    """An entry that would be ignored."""
    with pytest.raises(ValueError, match="rounding has the unknown entry 'block_n'"):
        reference(rows((0.0, 0.0)), {"block_n": 16})


@pytest.mark.parametrize(
    ("lses", "given", "expected"),
    [
        ([(0.0, 0.0)], {}, True),
        ([(0.0, -40.0)], {}, False),
        ([(0.0, -40.0), (0.0, -3.0)], {}, True),
        ([(1e4, 1e4 - 12)], {"outputs": (1.0, 1.0)}, False),
        ([(0.0, -1.0)], {"outputs": (1.0, 1.0)}, True),
        ([(0.0, -1.0)], {"outputs": (1.0, 1.0), "output_lse": None}, False),
        ([(0.0, -40.0), (0.0, 0.0)], {"tokens_with_context": 1}, False),
        ([(0.0, INF), (-INF, -INF)], {}, True),
        ([(0.0, 0.0)], {"tokens_with_context": 0}, True),
    ],
)
def test_conclusive(lses: list[tuple[float, float]], given: dict[str, Any], expected: bool) -> None:
    """Whether a kernel that drops the lighter side would be seen in some row; without rows of two sides nothing hides."""
    assert reference(rows(*lses, **given), {})["conclusive"] is expected
