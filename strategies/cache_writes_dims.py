"""Sizes of the caches that tokens are written into: heads and widths, and what there is room for.

Every byte of a cache is written, kept and compared, so large pages go with few and narrow heads. What a domain forces beyond the
budget is on offer all the same: the cheapest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies.cache_writes import FAR, FEWEST_FAR
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
    another one. `fits`: (key, value) -> whether there is a cache for such widths.
    """

    def __init__(
        self,
        domain: Domain,
        keys: Weights[int],
        values: Weights[int],
        twins: Mapping[int, int],
        fits: Callable[[int, int], bool] = lambda _key, _value: True,
    ) -> None:
        self._domain = domain
        self._twins = twins
        self._fits = fits
        self._values = allowed(values, domain, "head_dim_v")
        self.keys = {key: weight for key, weight in allowed(keys, domain, "head_dim").items() if self.partners(key)}

    def partners(self, key: int) -> Weights[int]:
        """Widths of values beside keys of width `key`, the usual one first, and in about half of the cases."""
        twin = self._twins.get(key, key)
        offered = self._values if not self._domain.allows("head_dim_v", twin) else {twin: 1, **self._values}
        found = {value: weight for value, weight in offered.items() if self.takes(key, value)}
        return found | {twin: sum(found.values())} if twin in found else found

    def takes(self, key: int, value: int) -> bool:
        """Whether the domain allows such a pair, of widths that it allows each."""
        return self._domain.allows("widths", widths(key, value)) and self._fits(key, value)


class Sizes:
    """Heads and widths that a domain leaves; `shapes`: those of models, None for all that it allows."""

    def __init__(self, domain: Domain, heads: Weights[int], pairs: Pairs, shapes: Iterable[Shape] | None = None) -> None:
        self.heads = allowed(heads, domain, "num_heads")
        self.pairs = pairs
        self.shapes = None if shapes is None else [shape for shape in shapes if self._allows(domain, *shape)]

    @property
    def is_empty(self) -> bool:
        """Whether there are none."""
        return not (self.heads and self.pairs.keys) if self.shapes is None else not self.shapes

    @property
    def far(self) -> Weights[str]:
        """What may lie far away: heads only where there can be enough of them."""
        counts = self.heads if self.shapes is None else [heads for _, heads, _, _ in self.shapes]
        return {far: weight for far, weight in FAR.items() if max(counts, default=0) >= fewest_heads(far)}

    def _allows(self, domain: Domain, model: str, heads: int, key: int, value: int) -> bool:
        fields = {"num_heads": heads, "head_dim": key, "head_dim_v": value}
        allows = is_named(model, domain) and all(domain.allows(name, each) for name, each in fields.items())
        return allows and self.pairs.takes(key, value)


def fewest_heads(far: str) -> int:
    """Heads of caches of which `far` lies far away, at least."""
    return FEWEST_FAR if far == "heads" else 1


@st.composite
def size_fields(
    draw: st.DrawFn, sizes: Sizes, cost: Callable[[int, int, int], float], most: float, far: str = "none"
) -> dict[str, Any]:
    """`num_heads`, `head_dim` and `head_dim_v`, of a model its name as well, whose `cost` is `most` at most, or the least."""
    fewest = fewest_heads(far)
    if sizes.shapes is not None:
        shapes = [shape for shape in sizes.shapes if shape[1] >= fewest]
        fits = affordable(shapes, lambda shape: cost(*shape[1:]), most)
        model, heads, key, value = draw(choose(evenly(shapes), fits))
        return {"model": model, "num_heads": heads, "head_dim": key, "head_dim_v": value}
    counts = {count: weight for count, weight in sizes.heads.items() if count >= fewest}
    narrowest = {key: min(sizes.pairs.partners(key)) for key in sizes.pairs.keys}
    key = min(narrowest, key=lambda key: key + narrowest[key])
    heads = draw(choose(counts, affordable(counts, lambda heads: cost(heads, key, narrowest[key]), most)))
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
