"""Widths of one head: Lk for query and key, Lv for value and output."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tridiff.strategies.draws import choose

# Every block size is a compilation of its own, so 16, 64 and 128 carry most of the weight. 17 to 129: just above a power of
# two, and odd. 1, 2 and 8 come last although they are small: a failure that does not need them should not show them.
HEAD_DIMS = {
    **{16: 14, 17: 1, 19: 1, 32: 2, 33: 1, 64: 26, 65: 1, 71: 1, 80: 5, 96: 5, 111: 1, 112: 2},
    **{128: 20, 129: 1, 192: 5, 256: 4, 576: 2, 1: 1, 2: 1, 8: 2},
}
"""Widths Lk of queries and keys."""

HEAD_DIMS_V = {
    **{16: 6, 17: 2, 19: 1, 32: 2, 33: 1, 64: 12, 65: 1, 71: 1, 80: 3, 96: 4, 111: 1, 112: 2},
    **{128: 14, 129: 1, 192: 2, 256: 2, 512: 1, 1: 1, 2: 1, 8: 1},
}
"""Widths Lv of values and outputs where they are not drawn to equal Lk."""

RELATIONS = {"equal": 13, "any": 7}

LATENT = {576: 512, 192: 128}
"""Widths of real models whose keys are wider than their values; these pairs are "equal" here."""

SMALLEST = 16

# Latent attention: V is the first Lv = kv_lora_rank columns of K, and the Lk - Lv others carry the position (rope). Together
# they give 576/512, 320/256, 288/256, 192/128 and 640/512, those of real models, and others. 17 and 72 are no powers of two,
# nor is 192.
KV_LORA_RANKS = {16: 5, 17: 1, 64: 6, 72: 1, 128: 5, 192: 2, 256: 6, 512: 5}
"""Widths Lv of latent caches."""

ROPE_DIMS = {16: 4, 32: 3, 64: 7, 128: 1, 0: 2, 24: 2, 96: 2, 1: 1, 2: 1, 4: 1, 8: 1}
"""Lk - Lv. NVIDIA's matrix instructions add up no fewer than 16 columns: a slab of 1 to 8 must be padded. 24 and 96 are no powers
of two: the last columns of their slab are padding, too."""


@st.composite
def head_dims(draw: st.DrawFn, *, max_sum: int) -> dict[str, Any]:
    """`head_dim` (Lk) and `head_dim_v` (Lv) with Lk + Lv <= `max_sum`, at least 32; simplest: 16 and 16."""
    equal = draw(choose(RELATIONS)) == "equal"
    if equal:
        key = draw(choose(HEAD_DIMS, lambda width: width + LATENT.get(width, width) <= max_sum))
        return {"head_dim": key, "head_dim_v": LATENT.get(key, key)}
    key = draw(choose(HEAD_DIMS, lambda width: width + SMALLEST <= max_sum))
    return {"head_dim": key, "head_dim_v": draw(choose(HEAD_DIMS_V, lambda width: key + width <= max_sum))}


@st.composite
def latent_dims(draw: st.DrawFn, *, max_sum: int) -> dict[str, Any]:
    """`head_dim` and `head_dim_v` of latent attention, Lv <= Lk, with Lk + Lv <= `max_sum` (at least 48); simplest: 32 and 16."""
    rank = draw(choose(KV_LORA_RANKS, lambda rank: 2 * rank + SMALLEST <= max_sum))
    rope = draw(choose(ROPE_DIMS, lambda rope: 2 * rank + rope <= max_sum))
    return {"head_dim": rank + rope, "head_dim_v": rank}
