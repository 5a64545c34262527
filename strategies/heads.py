"""Head counts: KV heads, and the group of query heads that shares each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies.draws import Weights, allowed, choose, fields

NUM_KV_HEADS = {1: 6, 2: 6, 3: 1, 4: 3, 8: 1}

# A group size is a compile-time constant of most kernels, so a few frequent ones carry most of the weight. 17, 20, 24 and 40
# need a last head program that is only partly filled; 20 with two KV heads is the shape for which upstream's grid was short.
GROUP_SIZES = {
    **{1: 22, 2: 2, 3: 1, 4: 16, 5: 1, 6: 1, 7: 2, 8: 4, 12: 1, 16: 2, 17: 2, 20: 10},
    **{24: 1, 32: 1, 40: 1, 48: 1, 64: 1, 96: 1, 112: 1, 128: 1},
}


@functools.cache
def heads() -> st.SearchStrategy[dict[str, Any]]:
    """`num_kv_heads` and `group_size` (query heads per KV head), independent of each other; simplest: one head, group 1."""
    return fields(num_kv_heads=choose(NUM_KV_HEADS), group_size=choose(GROUP_SIZES))


LATENT_HEADS = {
    1: 3,
    2: 2,
    3: 1,
    4: 3,
    5: 1,
    6: 1,
    8: 3,
    12: 1,
    16: 5,
    17: 2,
    20: 1,
    24: 1,
    32: 2,
    48: 1,
    64: 1,
    96: 1,
    112: 1,
    128: 1,
}
"""Query heads of one rank in latent attention, which all share the one head of the cache."""


@functools.cache
def latent_heads() -> st.SearchStrategy[dict[str, Any]]:
    """`num_kv_heads`, which is 1, and `group_size`; simplest: 1.

    As many choices as `heads` makes: Hypothesis takes fewer for simpler.
    """
    return fields(num_kv_heads=choose({1: 1}), group_size=choose(LATENT_HEADS))


@st.composite
def allowed_heads(draw: st.DrawFn, domain: Domain, fits: Callable[[int, int], bool], *, is_mla: bool) -> dict[str, Any]:
    """As `heads` or `latent_heads`, of what `domain` allows and `fits`, (KV heads, group): of each at least one must."""
    counts, groups = pools(domain, is_mla=is_mla)
    num_kv_heads = draw(choose(counts, lambda count: any(fits(count, group) for group in groups)))
    return {"num_kv_heads": num_kv_heads, "group_size": draw(choose(groups, lambda group: fits(num_kv_heads, group)))}


def pools(domain: Domain, *, is_mla: bool) -> tuple[Weights[int], Weights[int]]:
    """KV heads and groups that `domain` allows; latent attention has one KV head."""
    if is_mla:
        return ({1: 1} if domain.allows("num_kv_heads", 1) else {}), allowed(LATENT_HEADS, domain, "group_size")
    return allowed(NUM_KV_HEADS, domain, "num_kv_heads"), allowed(GROUP_SIZES, domain, "group_size")
