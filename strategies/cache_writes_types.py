"""Dtypes, scales, values and seed of one cache write, such that each choice leaves something for those that follow."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from tridiff.harness.api import Domain
from tridiff.strategies import cache_writes_values as values
from tridiff.strategies.cache_writes_dims import seeds
from tridiff.strategies.draws import Weights, allowed, choose, evenly


class Types:
    """What a domain leaves.

    `scales`: by facet, the scales of FP8 caches that there are. `fits`: whether there are caches with so many bytes an element.
    """

    def __init__(
        self, domain: Domain, scales: Mapping[str, Weights[float]], fits: Callable[[int], bool] = lambda _itemsize: True
    ) -> None:
        self.domain = domain
        self.scales = {name: allowed(weights, domain, name) for name, weights in scales.items()}
        self._seeds = seeds(domain)
        self.seeds = functools.cache(self._suitable)
        combinations = itertools.product(*self.scales.values())
        self._combinations = [chosen for chosen in combinations if self.seeds(1.0 in chosen, needed=True)]
        pairs = (pair for pair in values.allowed_types(domain) if fits(values.cache_type(*pair).itemsize))
        self._pairs = frozenset(pair for pair in pairs if self._has(*pair))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not self._pairs

    def takes(self, dtype: str, cache_dtype: str) -> bool:
        """Whether tokens of `dtype` in such a cache leave scales, values and a seed."""
        return (dtype, cache_dtype) in self._pairs

    def takes_scales(self, *chosen: float) -> bool:
        """Whether the first scales of an FP8 cache, in order, leave others and a seed."""
        return any(combination[: len(chosen)] == chosen for combination in self._combinations)

    def _has(self, dtype: str, cache_dtype: str) -> bool:
        needed = values.is_fp8(dtype, cache_dtype)
        on_offer = bool(self._combinations) if needed else bool(self.seeds(has_one=True, needed=False))
        return on_offer and bool(values.allowed_patterns(self.domain, dtype, cache_dtype))

    def _suitable(self, has_one: bool, *, needed: bool) -> Weights[int]:  # noqa: FBT001 - the cache tells the two apart
        """The seeds that `domain` allows where one of the scales is 1, or none: they tell the scales' form."""
        scale = 1.0 if has_one else 2.0
        forms = ((seed, values.scale_form(seed, scale, needed=needed)) for seed in self._seeds)
        return evenly(seed for seed, form in forms if self.domain.allows("scale_form", form))


@st.composite
def type_fields(draw: st.DrawFn, types: Types) -> dict[str, Any]:
    """`dtype` and `cache_dtype`, the scales of an FP8 cache, `pattern` and `sigma`; simplest: float32 in its own, gaussian."""
    drawn = draw(values.type_fields(types.domain, fits=types.takes))
    if values.is_fp8(**drawn):
        chosen: tuple[float, ...] = ()
        for weights in types.scales.values():
            chosen += (draw(choose(weights, functools.partial(types.takes_scales, *chosen))),)
        return drawn | dict(zip(types.scales, chosen, strict=True)) | draw(values.value_fields(types.domain, **drawn))
    return drawn | draw(values.value_fields(types.domain, **drawn))


@st.composite
def seed_fields(draw: st.DrawFn, types: Types, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """`seed`, and the `scale_form` that it tells for what else was `drawn`."""
    needed = values.is_fp8(drawn["dtype"], drawn["cache_dtype"])
    scales = [drawn[name] for name in types.scales if name in drawn]
    seed = draw(choose(types.seeds(1.0 in scales or not needed, needed=needed)))
    return {"seed": seed, "scale_form": values.scale_form(seed, *scales, needed=needed)}
