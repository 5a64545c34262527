"""Room: what a domain leaves of the contract of `merge_attention_states`, so that no choice comes to nothing later on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tridiff.harness.api import Domain
from tridiff.strategies import merge_attention_states_case as fields
from tridiff.strategies import merge_attention_states_layouts as layouts
from tridiff.strategies.draws import Weights, allowed
from tridiff.strategies.layouts import GAPS
from tridiff.strategies.merge_attention_states_facets import empty_of

NUM_TOKENS = {
    **{1: 6, 2: 5, 3: 4, 4: 2, 5: 3, 6: 1, 7: 2, 8: 2, 9: 1, 13: 1, 15: 1, 16: 2, 17: 2, 23: 1, 31: 1, 32: 1, 33: 2},
    **{40: 1, 0: 1},
}
"""Around multiples of what a program may take; none at all is a legal call."""

NUM_HEADS = {
    **{1: 8, 2: 6, 3: 3, 4: 4, 5: 2, 6: 1, 7: 2, 8: 4, 9: 1, 12: 1, 16: 4, 17: 2, 20: 1, 24: 1, 32: 2, 33: 1, 40: 1},
    **{48: 1, 64: 2, 71: 1, 96: 1, 112: 1, 128: 2},
}

HEAD_DIMS = {
    **{16: 10, 17: 3, 32: 3, 33: 1, 64: 10, 65: 1, 80: 4, 96: 4, 111: 1, 112: 3, 128: 12, 129: 1, 192: 5, 256: 4},
    **{512: 3, 1: 2, 2: 1, 8: 2},
}
"""Widths D of a head. 1, 2 and 8 come last although they are small: a failure that does not need them should not show them."""

ELEMENTS = 2**18
"""Of one tensor [T, H, D] with its gaps, at most, where a domain does not force more: 1 MiB in float32."""

EMPTY_WEIGHTS = {"none": 7, "prefix": 2, "suffix": 2, "both": 2, "copied": 1, "mixed": 6}
EMPTY_LSE_WEIGHTS = {"minus_inf": 2, "plus_inf": 2, "mixed": 1}
EMPTY_HOLDS_WEIGHTS = {"zeros": 1, "poison": 2}
CONTEXT_WEIGHTS = {"all": 4, "some": 4, "none": 1}
FAR_WEIGHTS = {"none": 9, "tokens": 1}
LEADS = (0, 1, 4, 8)

INDEPENDENT: dict[str, Weights[Any]] = {
    "dtype": {"float32": 3, "bfloat16": 5, "float16": 3},
    "output_dtype": {"same": 3, "float32": 1},
    "has_output_lse": {True: 4, False: 1},
    "output_lse_layout": fields.LSE_LAYOUTS | {"packed": 6},
    "lead": dict.fromkeys(LEADS, 1),
}
"""Facets of which any allowed value will do."""


class Rows(NamedTuple):
    """Which rows are empty, which tokens have a prefix, and how far these lie apart; see the fields of the case."""

    empty: str
    context: str
    far: str


class Shape(NamedTuple):
    """Heads and width of one rank of a model; "" where it is none."""

    model: str
    num_heads: int
    head_dim: int


class Room:
    """What there is room for. `shapes`: those of models; None for all head counts and widths that the domain allows."""

    def __init__(self, domain: Domain, shapes: Iterable[Shape] | None = None) -> None:
        self.domain = domain
        self.tokens = allowed(NUM_TOKENS, domain, "num_tokens")
        self.rows = tuple(self._rows())
        if shapes is None:
            self.heads, self.widths = allowed(NUM_HEADS, domain, "num_heads"), allowed(HEAD_DIMS, domain, "head_dim")
            self.shapes: Sequence[Shape] = [Shape("", heads, width) for heads in self.heads for width in self.widths]
        else:
            known = (shape for shape in shapes if domain.allows("num_heads", shape.num_heads))
            self.shapes = [shape for shape in known if domain.allows("head_dim", shape.head_dim)]
        tokens = max((self.least(rows.context, rows.far) for rows in self.rows), default=0)
        self.elements = max(ELEMENTS, tokens * min(map(size, self.shapes), default=0))

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves nothing."""
        return not (
            self.rows and self.shapes and all(allowed(weights, self.domain, name) for name, weights in INDEPENDENT.items())
        )

    def least(self, context: str, far: str) -> int:
        """Fewest tokens, at least 1, that can have such a context and lie so far apart."""
        return max(1, min(tokens for tokens in self.tokens if suits_tokens(tokens, context, far)))

    def fits(self, tokens: int, shape: Shape) -> bool:
        """Whether so many tokens of `shape` are within the budget."""
        return tokens * size(shape) <= self.elements

    def _rows(self) -> Iterator[Rows]:
        """All that some number of tokens, and some layouts, have room for."""
        for far in FAR_WEIGHTS:
            if not (self.domain.allows("far", far) and _has_layouts(self.domain, far)):
                continue
            for context in CONTEXT_WEIGHTS:
                if self.domain.allows("context", context) and any(suits_tokens(tokens, context, far) for tokens in self.tokens):
                    yield from (Rows(empty, context, far) for empty in EMPTY_WEIGHTS if self._allows_empty(empty, context))

    def _allows_empty(self, empty: str, context: str) -> bool:
        suits = fields.suits_context(empty, context) and self.domain.allows("empty", *empty_of(empty, context))
        return suits and (empty == "none" or bool(self.empty_lses and allowed(EMPTY_HOLDS_WEIGHTS, self.domain, "empty_holds")))

    @property
    def empty_lses(self) -> Weights[str]:
        """Which infinities mark what is empty."""
        marks = EMPTY_LSE_WEIGHTS.items()
        return {lse: weight for lse, weight in marks if self.domain.allows("empty_lse", *fields.EMPTY_LSES[lse])}


def size(shape: Shape) -> int:
    """Elements of a token with its gaps, at most."""
    return shape.num_heads * (shape.head_dim + max(GAPS))


def suits_tokens(tokens: int, context: str, far: str) -> bool:
    """Whether so many tokens can have such a context and lie so far apart; the context of none is "all"."""
    least = {"all": 0, "some": 2, "none": 1}[context]
    return tokens >= max(least, fields.FAR_TOKENS if far == "tokens" else 0)


class Layouts:
    """Which layouts a domain leaves to tensors whose sizes, `gap` and `far` are `known`."""

    def __init__(self, domain: Domain, known: dict[str, Any]) -> None:
        self._domain = domain
        self._known = known
        self._of = {name: [layout for layout in fields.STATE_LAYOUTS if self._suits(name, layout)] for name in layouts.STATES}

    def prefix(self, layout: str) -> bool:
        """Whether the prefix may lie so, beside some suffix."""
        return any(self.suffix(layout, suffix) for suffix in fields.STATE_LAYOUTS)

    def suffix(self, prefix: str, suffix: str) -> bool:
        """Whether the suffix may lie so beside such a prefix."""
        pair = {"prefix_layout": prefix, "suffix_layout": suffix}
        suits = prefix in self._of["prefix"] and suffix in self._of["suffix"]
        return suits and self._domain.allows("strides", layouts.relation(self._known | pair))

    def output(self, layout: str) -> bool:
        """Whether the output may lie so."""
        return layout in self._of["output"]

    def prefix_lse(self, layout: str) -> bool:
        """Whether the prefix's log-sum-exp may lie so, beside some of the suffix."""
        return any(self.suffix_lse(layout, suffix) for suffix in fields.LSE_LAYOUTS)

    def suffix_lse(self, prefix: str, suffix: str) -> bool:
        """Whether the suffix's log-sum-exp may lie so beside such a one of the prefix."""
        pair = {"prefix_lse_layout": prefix, "suffix_lse_layout": suffix}
        suits = all(self._domain.allows(name, layout) for name, layout in pair.items())
        return suits and self._domain.allows("lse_strides", layouts.lse_relation(self._known | pair))

    def _suits(self, name: str, layout: str) -> bool:
        """Whether the tensor `name` may lie so: far tokens lie outermost."""
        stride = layouts.token_stride(name, {**self._known, f"{name}_layout": layout})
        suits = self._domain.allows(f"{name}_layout", layout) and self._domain.allows(f"{name}_token_stride", stride)
        return suits and (self._known["far"] == "none" or layout != "heads_first")


def _has_layouts(domain: Domain, far: str) -> bool:
    """Whether a tensor of several tokens and heads may lie somehow."""
    known = Layouts(domain, {"num_tokens": 3, "num_heads": 2, "head_dim": 16, "gap": 16, "far": far})
    states = any(map(known.prefix, fields.STATE_LAYOUTS)) and any(map(known.output, fields.STATE_LAYOUTS))
    return states and any(map(known.prefix_lse, fields.LSE_LAYOUTS))
