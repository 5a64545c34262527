"""Sizes of the caches that tokens are written into: heads and widths, and what there is room for.

Every byte of a cache is written, kept and compared, so large pages go with few and narrow heads. What a domain forces beyond the
budget is on offer all the same: the cheapest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies.dims import widths
from tridiff.strategies.draws import Weights, allowed, choose, evenly
from tridiff.strategies.layouts import placement_fields
from tridiff.strategies.models import ModelShape, ranks

T = TypeVar("T")

MEBI = 2**20

CACHE_BYTES = 2 * MEBI
"""Of all caches of a call together, at most, gaps and unused pages included."""

PRESET_BYTES = 10 * MEBI
"""Room for two pages of 2096 tokens of a real model's latent cache, or of four KV heads of 128 and 128, in 16 bits."""

SEEDS = evenly(range(256))

Shape = tuple[str, int, int, int]
"""Name of the model and rank count, "" where it is none; heads, width of keys, width of values."""


def shapes_of(models: Iterable[ModelShape]) -> Iterator[Shape]:
    """The KV heads and widths of every rank of `models`."""
    for model in models:
        for tp in ranks(model, (), lambda _fields: True):
            fields = model.sharded(tp)
            yield fields["model"], fields["num_kv_heads"], fields["head_dim"], fields["head_dim_v"]


def is_named(model: str, domain: Domain) -> bool:
    """Whether `domain` names the model, with this rank count or without one, or names none at all."""
    return not domain.models or model in domain.models or model.rpartition(" ")[0] in domain.models


class Pairs:
    """Pairs of widths, of keys and of values, that a domain allows for facets `head_dim`, `head_dim_v` and `widths`.

    `keys`, `values`: what is on offer without a domain. `twins`: by width of the keys, the usual width of the values where it is
    another one.
    """

    def __init__(self, domain: Domain, keys: Weights[int], values: Weights[int], twins: Mapping[int, int]) -> None:
        self._domain = domain
        self._twins = twins
        self._values = allowed(values, domain, "head_dim_v")
        self.keys = {key: weight for key, weight in allowed(keys, domain, "head_dim").items() if self.partners(key)}

    def partners(self, key: int) -> Weights[int]:
        """Widths of values beside keys of width `key`, the usual one first, and in about half of the cases."""
        twin = self._twins.get(key, key)
        offered = self._values if not self._domain.allows("head_dim_v", twin) else {twin: 1, **self._values}
        found = {value: weight for value, weight in offered.items() if self._domain.allows("widths", widths(key, value))}
        return found | {twin: sum(found.values())} if twin in found else found


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes:
    """Heads and widths on offer; `shapes`: those of models, None for all that a domain allows."""

    heads: Weights[int]
    pairs: Pairs
    shapes: Sequence[Shape] | None

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not (self.heads and self.pairs.keys) if self.shapes is None else not self.shapes


def allowed_shapes(shapes: Iterable[Shape], domain: Domain) -> list[Shape]:
    """Those of `shapes` that `domain` allows and names."""
    return [
        (model, heads, key, value)
        for model, heads, key, value in shapes
        if is_named(model, domain)
        and domain.allows("num_heads", heads)
        and domain.allows("head_dim", key)
        and domain.allows("head_dim_v", value)
        and domain.allows("widths", widths(key, value))
    ]


@st.composite
def size_fields(draw: st.DrawFn, sizes: Sizes, cost: Callable[[int, int, int], float], most: float) -> dict[str, Any]:
    """`num_heads`, `head_dim` and `head_dim_v`, of a model its name as well, whose `cost` is `most` at most, or the least."""
    if sizes.shapes is not None:
        fits = affordable(sizes.shapes, lambda shape: cost(*shape[1:]), most)
        model, heads, key, value = draw(choose(evenly(sizes.shapes), fits))
        return {"model": model, "num_heads": heads, "head_dim": key, "head_dim_v": value}
    narrowest = {key: min(sizes.pairs.partners(key)) for key in sizes.pairs.keys}
    key = min(narrowest, key=lambda key: key + narrowest[key])
    heads = draw(choose(sizes.heads, affordable(sizes.heads, lambda heads: cost(heads, key, narrowest[key]), most)))
    key = draw(choose(sizes.pairs.keys, affordable(narrowest, lambda key: cost(heads, key, narrowest[key]), most)))
    values = sizes.pairs.partners(key)
    value = draw(choose(values, affordable(values, lambda value: cost(heads, key, value), most)))
    return {"num_heads": heads, "head_dim": key, "head_dim_v": value}


def affordable(values: Iterable[T], cost: Callable[[T], float], most: float) -> Callable[[T], bool]:
    """Whether one of `values` costs `most` at most, or as little as the cheapest of them."""
    costs = {value: cost(value) for value in values}
    limit = max(most, min(costs.values(), default=most))
    return lambda value: costs[value] <= limit


def seeds(domain: Domain) -> Weights[int]:
    """Seeds whose `lead` and `storage`, see `layouts.placement_fields`, a domain allows."""
    if not domain.limits:
        return SEEDS
    return evenly(seed for seed in SEEDS if all(domain.allows(field, value) for field, value in placement_fields(seed).items()))
