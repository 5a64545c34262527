"""Merge of attention states: partial attentions over a prefix and over a suffix of the keys become the attention over both.

`merge_attention_states` is the launcher. A program of `_merge_states` works on one token and `block_h` of its heads, a tile of
as many elements as `TILE`; all arithmetic is in float32. Memory bounds it: every element is read once
or written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tridiff.kernels.arguments import DTYPES, PLATFORMS, require, require_dense, require_dtypes

KERNELS = (
    {
        "name": "merge_attention_states",
        "op": "merge_attention_states",
        "launcher": "merge_attention_states",
        "engines": ("cpu",),
    },
)

TILE = 2048
"""Elements of a program's tile, where a token has as many: 16 a thread of four warps of 32, 8 of four wavefronts of 64."""


def merge_attention_states(
    *,
    prefix_output: torch.Tensor,
    prefix_lse: torch.Tensor,
    suffix_output: torch.Tensor,
    suffix_lse: torch.Tensor,
    output: torch.Tensor,
    output_lse: torch.Tensor | None,
    tokens_with_context: int,
    platform: str,
) -> None:
    """Join two attentions of the same queries over disjoint sets of keys; write `output` and `output_lse`.

    With m = max(prefix_lse, suffix_lse) and weights w = exp(lse - m): output = (w_p o_p + w_s o_s) / (w_p + w_s) and
    output_lse = m + log(w_p + w_s), natural logarithms (Ye et al. 2025, arXiv 2501.01005, section 2.2). A side whose lse is
    infinite, of either sign, saw no keys: it counts for nothing, and its output is not read. Where both saw none the output is 0
    and its lse -inf.

    `prefix_output`, `suffix_output`: [T, H, D] of one dtype, float32, bfloat16 or float16. `prefix_lse`, `suffix_lse`: [T, H]
    float32.
    `output`: [T, H, D] of that dtype or float32, written. `output_lse`: [T, H] float32, written; None where nobody needs it.
    `tokens_with_context`: 0 to T. Only the first so many tokens have a prefix; nothing of it is read for the others.
    `platform`: "hip" or "cuda"; the tiles are the same on both.

    The last dimension of the outputs must be dense. Every other stride is honoured, in 64 bits.
    Raises ValueError for anything that the above does not allow.
    """
    _check(
        {
            **{"suffix_output": suffix_output, "suffix_lse": suffix_lse},
            **{"prefix_output": prefix_output, "prefix_lse": prefix_lse, "output": output},
            **({} if output_lse is None else {"output_lse": output_lse}),
        }
    )
    tokens, heads, head_dim = suffix_output.shape
    require(0 <= tokens_with_context <= tokens, f"{tokens_with_context=}: must be from 0 to {tokens}, the number of tokens")
    require(platform in PLATFORMS, f"{platform=}: must be one of {', '.join(map(repr, PLATFORMS))}")
    if tokens == 0:
        return
    block_h, block_d = choose_tile(heads, head_dim)
    _merge_states[(tokens, triton.cdiv(heads, block_h))](
        *(prefix_output, prefix_lse, suffix_output, suffix_lse, output, output_lse),
        *prefix_output.stride()[:2],
        *suffix_output.stride()[:2],
        *output.stride()[:2],
        *prefix_lse.stride(),
        *suffix_lse.stride(),
        *((0, 0) if output_lse is None else output_lse.stride()),
        *(heads, head_dim, tokens_with_context),
        block_h=block_h,
        block_d=block_d,
        num_warps=4,
    )


def choose_tile(heads: int, head_dim: int) -> tuple[int, int]:
    """Heads and columns of a program's tile, both powers of two: all columns, and as many heads as `TILE` has room for."""
    block_d = int(triton.next_power_of_2(head_dim))
    return min(int(triton.next_power_of_2(heads)), max(1, TILE // block_d)), block_d


def _check(tensors: dict[str, torch.Tensor]) -> None:
    """Check the launcher's tensors, by argument name; raises ValueError with the argument, what it is and what is allowed."""
    suffix = tensors["suffix_output"]
    require(suffix.dim() == 3, f"suffix_output has {suffix.dim()} dimensions: must be 3, [tokens, heads, columns]")
    shape = tuple(suffix.shape)
    require(shape[1] > 0 and shape[2] > 0, f"suffix_output has shape {shape}: must have a head and a column at least")
    for name, tensor in tensors.items():
        expected = shape[:2] if name.endswith("_lse") else shape
        actual = tuple(tensor.shape)
        require(actual == expected, f"{name} has shape {actual}: must be {expected} beside suffix_output")
        require(tensor.device == suffix.device, f"{name} is on {tensor.device}: must be where suffix_output is, {suffix.device}")
        if not name.endswith("_lse"):
            require_dense(name, tensor)
    require_dtypes(
        tensors,
        {
            **{"suffix_output": DTYPES, "prefix_output": (suffix.dtype,), "output": (suffix.dtype, torch.float32)},
            **dict.fromkeys(("prefix_lse", "suffix_lse", "output_lse"), (torch.float32,)),
        },
    )


@triton.jit(
    do_not_specialize=(
        *("prefix_lse_token_stride", "prefix_lse_head_stride", "suffix_lse_token_stride", "suffix_lse_head_stride"),
        *("output_lse_token_stride", "output_lse_head_stride", "heads", "tokens_with_context"),
    )
)
def _merge_states(
    prefix_output,
    prefix_lse,
    suffix_output,
    suffix_lse,
    output,
    output_lse,
    prefix_token_stride,
    prefix_head_stride,
    suffix_token_stride,
    suffix_head_stride,
    output_token_stride,
    output_head_stride,
    prefix_lse_token_stride,
    prefix_lse_head_stride,
    suffix_lse_token_stride,
    suffix_lse_head_stride,
    output_lse_token_stride,
    output_lse_head_stride,
    heads,
    head_dim,
    tokens_with_context,
    block_h: tl.constexpr,
    block_d: tl.constexpr,
):
    """Grid (tokens, blocks of heads): one token, `block_h` heads, all columns."""
    # Whatever is multiplied by a stride is 64-bit first: outputs exceed 2^31 elements, also from head to head.
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64) * block_h + tl.arange(0, block_h)
    head_live = head < heads
    dims = tl.arange(0, block_d)
    dim_live = dims < head_dim

    # Tokens without context have no prefix: it counts as empty, whatever stands there.
    has_prefix = head_live & (token < tokens_with_context)
    prefix = _load_lse(prefix_lse + token * prefix_lse_token_stride + head * prefix_lse_head_stride, has_prefix)
    suffix = _load_lse(suffix_lse + token * suffix_lse_token_stride + head * suffix_lse_head_stride, head_live)
    peak = tl.maximum(prefix, suffix)
    # Where both sides are empty peak is -inf, and -inf - -inf is NaN.
    anchor = tl.where(peak > float("-inf"), peak, 0.0)
    prefix_weight = tl.exp(prefix - anchor)
    suffix_weight = tl.exp(suffix - anchor)
    # The total is 0 where both are empty, else at least 1: the larger weight.
    total = prefix_weight + suffix_weight
    divisor = tl.where(total > 0.0, total, 1.0)

    # Weights that add up to 1 keep the sum within what float32 holds.
    prefix_heads = prefix_output + token * prefix_token_stride + head * prefix_head_stride
    suffix_heads = suffix_output + token * suffix_token_stride + head * suffix_head_stride
    merged = _weighted(prefix_heads, prefix, prefix_weight / divisor, dims, dim_live)
    merged += _weighted(suffix_heads, suffix, suffix_weight / divisor, dims, dim_live)
    output_heads = output + token * output_token_stride + head * output_head_stride
    tl.store(output_heads[:, None] + dims[None, :], merged, mask=head_live[:, None] & dim_live[None, :])
    if output_lse is not None:
        lse_heads = output_lse + token * output_lse_token_stride + head * output_lse_head_stride
        tl.store(lse_heads, peak + tl.log(divisor), mask=head_live)


@triton.jit
def _load_lse(pointers, live):
    """Log-sum-exps of heads, in which every empty side is -inf: also those marked by +inf, and those that are not `live`."""
    lse = tl.load(pointers, mask=live, other=float("-inf"))
    return tl.where(lse == float("inf"), float("-inf"), lse)


@triton.jit
def _weighted(heads, lse, weights, dims, dim_live):
    """`weights` times the outputs at `heads`, [heads, dims] in float32; 0 for an empty side, whose output may hold NaN."""
    live = (lse > float("-inf"))[:, None] & dim_live[None, :]
    outputs = tl.load(heads[:, None] + dims[None, :], mask=live, other=0.0)
    return outputs.to(tl.float32) * weights[:, None]
