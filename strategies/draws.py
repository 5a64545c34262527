"""Weighted choices. `Weights` map each value, simplest first, to how often it is drawn relative to the others.

Weights become repetitions, and their sum should stay below `UNIFORM`: in a longer sequence Hypothesis favours the start.
No two choices of one case should have equal values and weights: Hypothesis takes them for one and the same, and spends
most of its examples on copying the outcome of one into the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from hypothesis import strategies as st

from tridiff.harness.api import Allowed, Domain

T = TypeVar("T")
Weights = Mapping[T, int]

UNLIMITED = Domain(target="")
"""A domain that allows all there is."""

UNIFORM = 256
"""Choices up to which Hypothesis draws all with the same probability."""


def choose(weights: Weights[T], fits: Callable[[T], bool] | None = None) -> st.SearchStrategy[T]:
    """One of the values for which `fits` holds; shrinks towards the first of them. At least one must fit.

    Of no values at all, nothing can be drawn: the strategy is empty, and so are `fields` with it.

    The choice is made among what fits: nothing is drawn and then thrown away.
    """
    offered = ((value, weight) for value, weight in weights.items() if fits is None or fits(value))
    entries = tuple(offered)
    if weights and not entries:  # an empty strategy would make Hypothesis throw away what was drawn before, without a word
        raise ValueError(f"none of {', '.join(map(repr, weights))} fits: what was drawn before must leave one")
    return _chosen(entries, type(next(iter(weights), None)).__name__)


def allowed(weights: Weights[T], domain: Domain, facet: str) -> Weights[T]:
    """Those of `weights` that `domain` allows for `facet`; empty where it allows none of them.

    Of numbers that a Kernel names one by one, also those that `weights` lack, last and once each; of a range at least the least.
    """
    limit = domain.limits.get(facet)
    if limit is None:
        return weights
    within = {value: weight for value, weight in weights.items() if value in limit}
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in weights):
        return within
    named = [least_of(limit)] if isinstance(limit, range) else limit
    return within | {value: 1 for value in named if value not in within}


def least_of(limit: Allowed) -> Any:
    """The smallest value; of a range without a look at all of them."""
    return min(limit[0], limit[-1]) if isinstance(limit, range) else min(limit)


@functools.lru_cache(maxsize=4096)
def _chosen(entries: tuple[tuple[T, int], ...], _: str) -> st.SearchStrategy[T]:
    """One strategy for equal entries, because making one costs more than drawing from it.

    The type is a key of the cache because 1 equals 1.0.
    """
    if not entries:
        return st.nothing()
    values = repeated(dict(entries))
    # A single value would be no choice, and Hypothesis takes fewer choices for simpler: it would shrink towards cases that
    # leave no choice, the largest ones.
    return st.sampled_from(values if len(values) > 1 else values * 2)


def repeated(weights: Weights[T]) -> tuple[T, ...]:
    """Each value as often as its weight says: all of them once, in order, then the repetitions.

    Shrinking goes by position and tries few of them: among repetitions of one value it would stop short of the simplest.
    """
    again = (value for value, weight in weights.items() for _ in range(weight - 1))
    return (*weights, *again)


def fields(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a case by name, drawn in the given order.

    Nothing can be drawn where one of them is empty. Not `fixed_dictionaries`: all of those look alike to Hypothesis, which then
    copies the draws of one into another.
    """
    return st.nothing() if any(each.is_empty for each in strategies.values()) else st.builds(dict, **strategies)


def evenly(values: Iterable[T]) -> dict[T, int]:
    """Weight 1 for each of `values`."""
    return dict.fromkeys(values, 1)
