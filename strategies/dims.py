"""Widths of one head: Lk for query and key, Lv for value and output."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tridiff.strategies.draws import choose, evenly

FREQUENT = {(16, 16): 30, (64, 64): 52, (80, 80): 8, (96, 96): 8, (128, 128): 45, (256, 256): 4}
"""Pairs (Lk, Lv) that get most of the weight: every block size is a compilation of its own."""

UNEQUAL = {(64, 80): 4, (80, 64): 4, (64, 128): 6, (128, 64): 6, (128, 96): 4, (192, 128): 6, (576, 512): 2}
"""Lk != Lv, on both sides of a power of two."""

ODD = evenly([(17, 16), (16, 17), (19, 16), (33, 32), (65, 64), (64, 65), (71, 64), (129, 128), (111, 96)])
"""Odd differences, and widths just above a power of two."""

COMMON = (64, 80, 96, 112, 128, 192, 256)
"""Every pair of these once."""

SMALL = evenly([(16, 32), (32, 16), (32, 32), (16, 64), (64, 16)])
TINY = evenly([(1, 1), (2, 2), (8, 8), (1, 16), (16, 1), (8, 16), (16, 2), (8, 64), (64, 1)])

Pair = tuple[int, int]


def _simplicity(pair: Pair) -> tuple[bool, int, bool, int]:
    """Tiny widths come last although they are small: a failure that does not need them should not show them."""
    key, value = pair
    return pair in TINY, key + value, key != value, key


_PAIRS = evenly((key, value) for key in COMMON for value in COMMON)
_WEIGHTS = _PAIRS | FREQUENT | UNEQUAL | ODD | SMALL | TINY
HEAD_DIMS = {pair: _WEIGHTS[pair] for pair in sorted(_WEIGHTS, key=_simplicity)}
"""Pairs (Lk, Lv), simplest first, with their weights."""


def head_dims(max_sum: int) -> st.SearchStrategy[dict[str, Any]]:
    """`head_dim` (Lk) and `head_dim_v` (Lv) with Lk + Lv <= `max_sum`, at least 32; simplest: 16 and 16."""
    pairs = choose(HEAD_DIMS, lambda pair: sum(pair) <= max_sum)
    return pairs.map(lambda pair: {"head_dim": pair[0], "head_dim_v": pair[1]})
