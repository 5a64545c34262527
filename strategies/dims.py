"""Widths of one head: Lk for query and key, Lv for value and output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies.draws import UNLIMITED, Weights, allowed, choose

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

WIDTHS = ("equal", "wider_keys", "wider_values")
"""How Lk and Lv compare: values of the facet `widths`."""

Fits = Callable[[int, int], bool]
"""Whether Lk and Lv are on offer."""


def widths(head_dim: int, head_dim_v: int) -> str:
    """Which of `WIDTHS`."""
    return WIDTHS[(head_dim > head_dim_v) + 2 * (head_dim < head_dim_v)]


def _any(_head_dim: int, _head_dim_v: int) -> bool:
    return True


@st.composite
def head_dims(draw: st.DrawFn, *, max_sum: int, domain: Domain = UNLIMITED, fits: Fits = _any) -> dict[str, Any]:
    """`head_dim` (Lk) and `head_dim_v` (Lv) with Lk + Lv <= `max_sum`, at least 32; simplest: 16 and 16.

    Only what `domain` allows and `fits`: at least one of `pairs` must.
    """

    def on_offer(key: int, value: int) -> bool:
        return key + value <= max_sum and fits(key, value)

    def has_twin(key: int) -> bool:
        return any(on_offer(key, value) for value in _twin(domain, key))

    def has_partner(key: int) -> bool:
        return any(on_offer(key, value) for value in _usual(_partners(domain, key)))

    twins, keys = _twin_keys(domain), allowed(HEAD_DIMS, domain, "head_dim")
    on = {"equal": (has_twin, twins), "any": (has_partner, keys)}
    if draw(choose(RELATIONS, lambda relation: any(map(*on[relation])))) == "equal":
        key = draw(choose(twins, has_twin))
        return {"head_dim": key, "head_dim_v": LATENT.get(key, key)}
    key = draw(choose(keys, has_partner))
    return {"head_dim": key, "head_dim_v": draw(choose(_partners(domain, key), lambda width: on_offer(key, width)))}


@st.composite
def latent_dims(draw: st.DrawFn, *, max_sum: int, domain: Domain = UNLIMITED, fits: Fits = _any) -> dict[str, Any]:
    """`head_dim` and `head_dim_v` of latent attention, Lv <= Lk, with Lk + Lv <= `max_sum` (at least 48); simplest: 32 and 16.

    Only what `domain` allows and `fits`: at least one of `latent_pairs` must.
    """

    def on_offer(rank: int, rope: int) -> bool:
        return 2 * rank + rope <= max_sum and fits(rank + rope, rank)

    def has_rope(rank: int) -> bool:
        return any(on_offer(rank, rope) for rope in _usual(_ropes(domain, rank)))

    rank = draw(choose(_ranks(domain), has_rope))
    rope = draw(choose(_ropes(domain, rank), lambda rope: on_offer(rank, rope)))
    return {"head_dim": rank + rope, "head_dim_v": rank}


def pairs(domain: Domain) -> Iterator[tuple[int, int]]:
    """Lk and Lv that `domain` allows `head_dims` to draw."""
    for key in _twin_keys(domain):
        yield from ((key, value) for value in _twin(domain, key))
    for key in allowed(HEAD_DIMS, domain, "head_dim"):
        yield from ((key, value) for value in _usual(_partners(domain, key)))


def latent_pairs(domain: Domain) -> Iterator[tuple[int, int]]:
    """Lk and Lv that `domain` allows `latent_dims` to draw."""
    for rank in _ranks(domain):
        yield from ((rank + rope, rank) for rope in _usual(_ropes(domain, rank)))


def _allows(domain: Domain, key: int, value: int) -> bool:
    sizes = domain.allows("head_dim", key) and domain.allows("head_dim_v", value)
    return sizes and domain.allows("widths", widths(key, value))


def _twin_keys(domain: Domain) -> Weights[int]:
    """Lk of "equal" widths, those included that a Kernel names for Lv alone."""
    return allowed(HEAD_DIMS | _named(domain, "head_dim_v") | HEAD_DIMS, domain, "head_dim") if domain.limits else HEAD_DIMS


def _twin(domain: Domain, key: int) -> list[int]:
    """The Lv that is taken for equal, where it is allowed."""
    value = LATENT.get(key, key)
    return [value] if _allows(domain, key, value) else []


def _partners(domain: Domain, key: int) -> Weights[int]:
    """Lv on offer beside `key`."""
    values = allowed(HEAD_DIMS_V, domain, "head_dim_v")
    return {value: weight for value, weight in values.items() if _allows(domain, key, value)} if domain.limits else values


def _ranks(domain: Domain) -> Weights[int]:
    return allowed(KV_LORA_RANKS, domain, "head_dim_v")


def _ropes(domain: Domain, rank: int) -> Weights[int]:
    """Lk - Lv on offer for a rank, those included that a Kernel's Lk leave."""
    if not domain.limits:
        return ROPE_DIMS
    named = {key - rank: 1 for key in _named(domain, "head_dim") if key >= rank}
    return {rope: weight for rope, weight in (ROPE_DIMS | named | ROPE_DIMS).items() if _allows(domain, rank + rope, rank)}


def _named(domain: Domain, facet: str) -> dict[int, int]:
    """Widths that a Kernel names one by one."""
    limit = domain.limits.get(facet, ())
    return {} if isinstance(limit, range) else dict.fromkeys(limit, 1)


def _usual(found: Weights[int]) -> list[int]:
    """Without tiny widths, which come where others would fit as well; those alone where there are no others."""
    return [width for width in found if width >= SMALLEST] or list(found)
