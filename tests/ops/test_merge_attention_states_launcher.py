"""The launcher of merge_attention_states: what it refuses, and the tile that it chooses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from launching import captured

from tridiff.kernels.merge_attention_states import TILE, choose_tile, merge_attention_states


def arguments() -> dict[str, Any]:
    """Legal arguments: 2 tokens, 3 heads, 4 columns, all with context."""
    outputs = {name: torch.zeros(2, 3, 4) for name in ("prefix_output", "suffix_output", "output")}
    lses = {name: torch.zeros(2, 3) for name in ("prefix_lse", "suffix_lse", "output_lse")}
    return {**outputs, **lses, "tokens_with_context": 2, "platform": "hip"}


Change = Callable[[dict[str, Any]], dict[str, Any]]

REFUSED: dict[str, tuple[Change, str]] = {
    "rank": (lambda a: {"suffix_output": torch.zeros(2, 12)}, r"suffix_output has 2 dimensions: must be 3"),
    "no heads": (lambda a: {"suffix_output": torch.zeros(2, 0, 4)}, r"suffix_output has shape \(2, 0, 4\): must have a head"),
    "no columns": (lambda a: {"suffix_output": torch.zeros(2, 3, 0)}, r"suffix_output has shape \(2, 3, 0\): must have a head"),
    "prefix shape": (
        lambda a: {"prefix_output": torch.zeros(1, 3, 4)},
        r"prefix_output has shape \(1, 3, 4\): must be \(2, 3, 4\)",
    ),
    "output shape": (lambda a: {"output": torch.zeros(2, 3, 5)}, r"output has shape \(2, 3, 5\): must be \(2, 3, 4\)"),
    "lse with heads first": (lambda a: {"suffix_lse": torch.zeros(3, 2)}, r"suffix_lse has shape \(3, 2\): must be \(2, 3\)"),
    "output lse shape": (lambda a: {"output_lse": torch.zeros(2, 3, 1)}, r"output_lse has shape \(2, 3, 1\): must be \(2, 3\)"),
    "two dtypes": (lambda a: {"prefix_output": a["output"].half()}, r"prefix_output is torch.float16: must be torch.float32"),
    "double": (lambda a: {"suffix_output": a["output"].double()}, r"suffix_output is torch.float64: must be torch.float32 or"),
    "narrower output": (lambda a: {"output": a["output"].bfloat16()}, r"output is torch.bfloat16: must be torch.float32"),
    "lse dtype": (lambda a: {"prefix_lse": a["prefix_lse"].half()}, r"prefix_lse is torch.float16: must be torch.float32"),
    "output lse dtype": (lambda a: {"output_lse": a["output_lse"].half()}, r"output_lse is torch.float16: must be torch.float32"),
    "sparse columns": (lambda a: {"output": torch.zeros(2, 3, 8)[..., ::2]}, r"output has stride 2 in its last dimension"),
    "device": (lambda a: {"prefix_lse": torch.zeros(2, 3, device="meta")}, r"prefix_lse is on meta: must be where suffix_output"),
    "negative context": (lambda a: {"tokens_with_context": -1}, r"tokens_with_context=-1: must be from 0 to 2"),
    "more context than tokens": (lambda a: {"tokens_with_context": 3}, r"tokens_with_context=3: must be from 0 to 2"),
    "platform": (lambda a: {"platform": "metal"}, r"platform='metal': must be one of 'hip', 'cuda'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_the_contract_does_not_allow(change: Change, message: str) -> None:
    """An illegal argument raises ValueError, with the argument, its value and what is allowed."""
    wrong = arguments()
    wrong |= change(wrong)

    with pytest.raises(ValueError, match=message):
        merge_attention_states(**wrong)


def test_no_tokens_launch_nothing() -> None:
    """With no tokens there is nothing to do, and no driver is needed for it."""
    empty = arguments() | {"tokens_with_context": 0}
    empty |= {name: value[:0] for name, value in empty.items() if isinstance(value, torch.Tensor)}

    merge_attention_states(**empty)

    assert empty["output"].shape == (0, 3, 4)


@pytest.mark.parametrize("heads", [1, 3, 16, 128])
@pytest.mark.parametrize("head_dim", [1, 17, 64, 96, 512, 4096])
def test_a_tile_covers_the_columns(heads: int, head_dim: int) -> None:
    """Its sides are powers of two; it has all columns, no more heads than needed, and as many elements as fit a program."""
    block_h, block_d = choose_tile(heads, head_dim)

    assert block_h & (block_h - 1) == block_d & (block_d - 1) == 0
    assert head_dim <= block_d < 2 * head_dim
    assert block_h < 2 * heads
    assert block_h == 1 or block_h * block_d <= TILE
    assert block_h >= heads or 2 * block_h * block_d > TILE


def test_heads_share_programs() -> None:
    """A program has as many heads as its tile, and the last of them may have fewer."""
    given = arguments()
    given |= {name: torch.zeros(2, 37, *value.shape[2:]) for name, value in given.items() if isinstance(value, torch.Tensor)}
    given |= {name: torch.zeros(2, 37, 128) for name in ("prefix_output", "suffix_output", "output")}

    (launch,) = captured(partial(merge_attention_states, **given))

    assert launch.grid[:2] == (2, 3)
    assert (launch.arguments["block_h"], launch.arguments["block_d"]) == (16, 128)
