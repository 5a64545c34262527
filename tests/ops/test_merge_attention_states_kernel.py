"""The kernel of merge_attention_states on the cpu engine against attention over all keys; empty sides, strides, limits."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from launching import run

from tridiff.kernels.merge_attention_states import merge_attention_states

TARGETS = {"hip": "gfx942", "cuda": "sm_90"}
NAN, INF = float("nan"), float("inf")


def attention(scores: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [T, H, D] and log-sum-exp [T, H] of attention by scores [T, H, keys] over values [H, keys, D], in float64."""
    return torch.einsum("thk,hkd->thd", torch.softmax(scores, dim=-1), values), torch.logsumexp(scores, dim=-1)


def arguments(*, tokens: int = 5, heads: int = 3, head_dim: int = 8, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Legal arguments: random states, all tokens with context, NaN where something is to be written."""
    generator = torch.Generator().manual_seed(11)
    shape = (tokens, heads, head_dim)
    return {
        "prefix_output": torch.randn(shape, generator=generator).to(dtype),
        "prefix_lse": torch.randn(shape[:2], generator=generator),
        "suffix_output": torch.randn(shape, generator=generator).to(dtype),
        "suffix_lse": torch.randn(shape[:2], generator=generator),
        "output": torch.full(shape, NAN, dtype=dtype),
        "output_lse": torch.full(shape[:2], NAN),
        "tokens_with_context": tokens,
        "platform": "hip",
    }


def merge(given: dict[str, Any]) -> None:
    """Launch the kernel on the cpu engine."""
    run(partial(merge_attention_states, **given), target=TARGETS[given["platform"]])


@pytest.mark.parametrize("platform", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("tokens", "heads", "head_dim"), [(4, 5, 17), (2, 128, 96), (3, 1, 512), (1, 7, 1)])
def test_is_the_attention_over_both(platform: str, dtype: torch.dtype, tokens: int, heads: int, head_dim: int) -> None:
    """Attentions over 6 and over 5 keys become the one over 11, but for the rounding of what is given and of the output."""
    given = arguments(tokens=tokens, heads=heads, head_dim=head_dim, dtype=dtype) | {"platform": platform}
    generator = torch.Generator().manual_seed(3)
    scores = 4 * torch.randn(tokens, heads, 11, generator=generator, dtype=torch.float64)
    values = torch.randn(heads, 11, head_dim, generator=generator, dtype=torch.float64)
    for side, keys in (("prefix", slice(6)), ("suffix", slice(6, None))):
        output, lse = attention(scores[..., keys], values[:, keys])
        given |= {f"{side}_output": output.to(dtype), f"{side}_lse": lse.to(torch.float32)}

    merge(given)

    output, lse = attention(scores, values)
    assert torch.all((given["output"] - output).abs() <= (torch.finfo(dtype).eps + 2e-6) * values.abs().max())
    assert torch.all((given["output_lse"] - lse).abs() <= 4e-6)


def strided(name: str, packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`packed` with other strides, of each tensor its own, and the memory around it, which holds 7."""
    room = torch.full((9, 4, 5, 12) if packed.dim() == 3 else (9, 4, 5), 7.0, dtype=packed.dtype)
    view = {
        "prefix_output": lambda: room[0, :3, :, :8].transpose(0, 1),
        "suffix_output": lambda: room[:5, 0, 1:4, 2:10],
        "output": lambda: room[2:7, 0, ::2, 4:],
        "prefix_lse": lambda: room[0, :3].transpose(0, 1),
        "suffix_lse": lambda: room[:5, 0, 2:],
        "output_lse": lambda: room[:5, :3, 1],
    }[name]().copy_(packed)
    return view, room


def test_every_stride_is_honoured() -> None:
    """Heads first, gaps, columns of a wider tensor and transposed log-sum-exps give what packed tensors give, and no more."""
    packed = arguments()
    pairs = {name: strided(name, tensor) for name, tensor in packed.items() if isinstance(tensor, torch.Tensor)}
    given = packed | {name: view for name, (view, _) in pairs.items()}

    merge(packed)
    merge(given)

    for name in ("output", "output_lse"):
        view, room = pairs[name]
        assert torch.equal(view, packed[name])
        view.fill_(7.0)
        assert torch.all(room == 7.0)


@pytest.mark.parametrize("empty", [-INF, INF])
@pytest.mark.parametrize("held", [0.0, NAN])
def test_an_empty_side_counts_for_nothing(empty: float, held: float) -> None:
    """Token 0 has no prefix, 1 no suffix, 2 neither, 3 one of the other infinity: the other side is copied, or 0 and -inf are."""
    given = arguments()
    for side, tokens in (("prefix", [0, 2]), ("suffix", [1, 2])):
        given[f"{side}_lse"][tokens], given[f"{side}_output"][tokens] = empty, held
    for side, sign in (("prefix", 1), ("suffix", -1)):
        given[f"{side}_lse"][3], given[f"{side}_output"][3] = sign * empty, held

    merge(given)

    assert torch.equal(given["output"][:2], torch.stack([given["suffix_output"][0], given["prefix_output"][1]]))
    assert torch.equal(given["output_lse"][:2], torch.stack([given["suffix_lse"][0], given["prefix_lse"][1]]))
    assert torch.all(given["output"][2:4] == 0)
    assert torch.all(given["output_lse"][2:4] == -INF)
    assert torch.all(given["output"][4].isfinite())


@pytest.mark.parametrize("count", [0, 2, 5])
def test_tokens_without_context_are_copied(count: int) -> None:
    """Nothing of the prefix is read for them; those with context are merged as ever."""
    merged = arguments()
    given = arguments() | {"tokens_with_context": count}
    given["prefix_output"][count:] = NAN
    given["prefix_lse"][count:] = NAN

    merge(merged)
    merge(given)

    for name in ("output", "output_lse"):
        assert torch.equal(given[name][:count], merged[name][:count])
        assert torch.equal(given[name][count:], given[f"suffix_{name.removeprefix('output_')}"][count:])


@pytest.mark.parametrize("magnitude", [-1e4, 1e4])
def test_large_log_sum_exps(magnitude: float) -> None:
    """Only their differences count: at 1e4, 88 apart, equal, or so far apart that one side vanishes."""
    given = arguments(tokens=3)
    given["suffix_lse"] = torch.full((3, 3), magnitude)
    given["prefix_lse"] = given["suffix_lse"] + torch.tensor([[-88.0], [0.0], [300.0]])

    merge(given)

    halves = (given["prefix_output"][1] + given["suffix_output"][1]) / 2
    torch.testing.assert_close(given["output"], torch.stack([given["suffix_output"][0], halves, given["prefix_output"][2]]))
    apart = torch.tensor([[0.0], [math.log(2)], [300.0]])
    assert torch.all((given["output_lse"] - (given["suffix_lse"] + apart)).abs() <= 1e-3)


def test_the_largest_numbers() -> None:
    """Two sides at the limit of float32 do not overflow on their way to an average."""
    given = arguments()
    limit = torch.finfo(torch.float32).max
    for side in ("prefix", "suffix"):
        given[f"{side}_output"].fill_(limit)
        given[f"{side}_lse"].fill_(3.0)

    merge(given)

    assert torch.all(given["output"] == limit)


def test_the_output_may_be_wider_and_its_lse_left_out() -> None:
    """A float32 output of bfloat16 states is not rounded; without `output_lse` the output is the same."""
    given = arguments(dtype=torch.bfloat16) | {"output": torch.full((5, 3, 8), NAN)}
    rounded = arguments(dtype=torch.bfloat16) | {"output_lse": None}

    merge(given)
    merge(rounded)

    assert not torch.equal(given["output"], given["output"].to(torch.bfloat16).to(torch.float32))
    assert torch.equal(given["output"].to(torch.bfloat16), rounded["output"])
