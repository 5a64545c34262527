"""The kernel of the self-test of verdicts: two products in a pipelined loop, reductions, and changes of layout."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(query, keys, values, out, count, block_q: tl.constexpr, block_n: tl.constexpr, block_d: tl.constexpr):
    """One pass of flash attention, without masks."""
    rows, tokens, dims = tl.arange(0, block_q), tl.arange(0, block_n), tl.arange(0, block_d)
    tile = tl.load(query + rows[:, None] * block_d + dims[None, :])
    peak = tl.full([block_q], float("-inf"), tl.float32)
    total = tl.zeros([block_q], tl.float32)
    acc = tl.zeros([block_q, block_d], tl.float32)
    for start in range(0, count, block_n):
        at = (start + tokens)[:, None] * block_d + dims[None, :]
        scores = tl.dot(tile, tl.trans(tl.load(keys + at)))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_peak[:, None])
        rescale = tl.exp(peak - new_peak)
        total = total * rescale + tl.sum(weights, axis=1)
        acc = acc * rescale[:, None] + tl.dot(weights.to(tile.dtype), tl.load(values + at))
        peak = new_peak
    tl.store(out + rows[:, None] * block_d + dims[None, :], (acc / total[:, None]).to(tile.dtype))
