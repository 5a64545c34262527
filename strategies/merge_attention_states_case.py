"""The Case of `merge_attention_states`: its fields, their ranges, and which of them go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from tridiff.harness.api import require, require_range
from tridiff.strategies.case_fields import check_fields

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OUTPUT_DTYPES = ("same", "float32")
PLATFORMS = ("hip", "cuda")

STATE_LAYOUTS = {"packed": 6, "padded_rows": 3, "column_slice": 3, "padded_heads": 2, "heads_first": 2}
"""Memory of a tensor [T, H, D], see `merge_attention_states_layouts.state_strides`."""

LSE_LAYOUTS = {"packed": 5, "transposed": 5, "padded_rows": 2, "padded_transposed": 1, "padded_heads": 1}
"""Memory of a tensor [T, H], see `merge_attention_states_layouts.lse_strides`."""

FAR = ("none", "tokens")

CONTEXTS = ("all", "some", "none")
"""Which tokens have a prefix."""

EMPTY = {"none": (), "prefix": ("prefix",), "suffix": ("suffix",), "both": ("both",), "copied": ("copied",)} | {
    "mixed": ("prefix", "suffix", "both", "copied")
}
"""What of a row may be without keys: the prefix, the suffix, both, or the suffix of a token that has no prefix."""

EMPTY_LSES = {"minus_inf": ("minus_inf",), "plus_inf": ("plus_inf",), "mixed": ("minus_inf", "plus_inf")}
EMPTY_HOLDS = ("zeros", "poison")
PATTERNS = ("gaussian", "cancelling", "limits", "mixed_norms", "equal")

FAR_TOKENS = 3
"""Fewest tokens that can be spread over 2^31 elements by a stride that itself fits into 32 bits."""

LARGEST_VALUE = 4.0
"""More than any `gaussian` yields, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class MergeAttentionStatesCase:
    """Parameters of one call; the defaults are the simplest case.

    What the call computes: `num_tokens` (T) of `num_heads` (H) heads of width `head_dim` (D); the last `tokens_without_context`
    of them have no prefix; `dtype` of prefix and suffix, `output_dtype` ("same" or "float32"); `has_output_lse`, whether the
    log-sum-exp is asked for; `platform`.

    Where it lies: `prefix_layout`, `suffix_layout` and `output_layout`, `prefix_lse_layout`, `suffix_lse_layout` and
    `output_lse_layout`, see `merge_attention_states_layouts`; `gap`, elements of each gap or padding in those; `lead`, elements
    by which prefix, suffix and output begin past a 16-byte boundary; `far`, "tokens" where in these three the last token begins
    beyond 2^31 elements.

    What it holds: `empty`, which rows are without keys, see `EMPTY`, with `empty_lse` (-inf or +inf) as their log-sum-exp and
    `empty_holds` (zeros, or poison) in their output; `pattern` and `sigma` of the outputs, `lse_level` and `lse_gap`, see
    `merge_attention_states_values`; `seed`.

    `model`: name and rank count of the preset, "" without one.
    """

    model: str = ""
    platform: str = "hip"
    num_tokens: int = 1
    num_heads: int = 1
    head_dim: int = 16
    tokens_without_context: int = 0
    has_output_lse: bool = True
    empty: str = "none"
    empty_lse: str = "minus_inf"
    empty_holds: str = "zeros"
    prefix_layout: str = "packed"
    suffix_layout: str = "packed"
    output_layout: str = "packed"
    prefix_lse_layout: str = "packed"
    suffix_lse_layout: str = "packed"
    output_lse_layout: str = "packed"
    far: str = "none"
    gap: int = 16
    lead: int = 0
    dtype: str = "float32"
    output_dtype: str = "same"
    pattern: str = "gaussian"
    sigma: float = 1.0
    lse_level: float = 0.0
    lse_gap: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        check_fields(self, _RANGES, CHOICES)
        require_range("tokens_without_context", self.tokens_without_context, 0, self.num_tokens)
        needs = _EMPTY_NEEDS.get(self.empty)
        require(
            needs is None or self.num_tokens == 0 or self.context in needs,
            f"empty={self.empty!r}: must be combined with tokens that have {'no ' * (self.empty == 'copied')}context",
        )
        largest = torch.finfo(DTYPES[self.dtype]).max
        require(
            self.sigma * LARGEST_VALUE <= largest,
            f"sigma={self.sigma}: must be at most {largest / LARGEST_VALUE:.4g}, or values overflow {self.dtype}",
        )
        if self.far == "tokens":
            self._check_far()

    def _check_far(self) -> None:
        require(
            self.num_tokens >= FAR_TOKENS, f"num_tokens={self.num_tokens}: must be at least {FAR_TOKENS} with far={self.far!r}"
        )
        for field in ("prefix_layout", "suffix_layout", "output_layout"):
            layout = getattr(self, field)
            require(layout != "heads_first", f"{field}={layout!r}: must be one with tokens outermost with far={self.far!r}")

    @property
    def tokens_with_context(self) -> int:
        """The first so many tokens have a prefix."""
        return self.num_tokens - self.tokens_without_context

    @property
    def context(self) -> str:
        """Which tokens have a prefix: "all", "some" or "none"; without any tokens "all"."""
        if self.tokens_without_context == 0:
            return "all"
        return "none" if self.tokens_with_context == 0 else "some"


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_tokens": (0, 4096),
    "num_heads": (1, 1024),
    "head_dim": (1, 4096),
    "gap": (1, 65536),
    "lead": (0, 64),
    "sigma": (0.0, 1e37),
    "lse_level": (-1e4, 1e4),
    "lse_gap": (0.0, 1e3),
    "seed": (0, 2**63 - 1),
}

CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "empty": EMPTY,
    "empty_lse": EMPTY_LSES,
    "empty_holds": EMPTY_HOLDS,
    "prefix_layout": STATE_LAYOUTS,
    "suffix_layout": STATE_LAYOUTS,
    "output_layout": STATE_LAYOUTS,
    "prefix_lse_layout": LSE_LAYOUTS,
    "suffix_lse_layout": LSE_LAYOUTS,
    "output_lse_layout": LSE_LAYOUTS,
    "far": FAR,
    "dtype": DTYPES,
    "output_dtype": OUTPUT_DTYPES,
    "pattern": PATTERNS,
}

_EMPTY_NEEDS = {
    **dict.fromkeys(("prefix", "suffix", "both"), ("all", "some")),
    "copied": ("some", "none"),
}
"""The contexts in which there are such rows."""


def suits_context(empty: str, context: str) -> bool:
    """Whether with `context` there are rows that can be `empty` so."""
    return context in _EMPTY_NEEDS.get(empty, CONTEXTS)


def empty_kinds(empty: str, context: str) -> tuple[str, ...]:
    """What of the rows may be without keys: of "mixed" what `context` allows."""
    return tuple(kind for kind in EMPTY[empty] if suits_context(kind, context))
