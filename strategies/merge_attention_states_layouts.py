"""Layouts of `merge_attention_states`: strides of outputs [T, H, D] and of log-sum-exps [T, H], in elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tridiff.strategies.layouts import FAR_ELEMENTS, Span, Strides, row_strides, span
from tridiff.strategies.lengths import cdiv

STATES = ("prefix", "suffix", "output")
"""The tensors [T, H, D]; each has a field NAME_layout, and one NAME_lse_layout for its log-sum-exp."""


def state_strides(layout: str, sizes: tuple[int, int, int], *, gap: int, far: str) -> Strides:
    """Strides of a tensor [T, H, D], its last axis dense.

    "packed": dense. "padded_rows": `gap` elements after every token. "column_slice": the first D of D + `gap` columns, as where
    values were padded to the width of the keys; a token is then as long as its heads. "padded_heads": `gap` after every head and
    every token. "heads_first": memory order [H, T, D]. With `far` "tokens" the token stride is so long that the last of T
    tokens begins beyond 2^31 elements.
    """
    tokens, heads, width = sizes
    if layout == "column_slice":
        strides: Strides = (heads * (width + gap), width + gap, 1)
    else:
        strides = row_strides(layout, sizes, gap=gap)
    return strides if far == "none" else (64 * cdiv(FAR_ELEMENTS, 64 * (tokens - 1)), *strides[1:])


def lse_strides(layout: str, sizes: tuple[int, int], *, gap: int) -> Strides:
    """Strides of a tensor [T, H].

    "packed": dense. "padded_rows": `gap` elements after every token, a slice of columns. "padded_heads": after every head, one
    column of a tensor [T, H, 1 + `gap`]. "transposed", "padded_transposed": memory order [H, T], as FlashAttention writes it,
    without and with `gap` elements after every head.
    """
    tokens, heads = sizes
    return {
        "packed": (heads, 1),
        "padded_rows": (heads + gap, 1),
        "padded_heads": (heads * (1 + gap), 1 + gap),
        "transposed": (1, max(tokens, 1)),
        "padded_transposed": (1, tokens + gap),
    }[layout]


def committed(sizes: tuple[int, int, int], strides: Strides, far: str) -> list[Span] | None:
    """Spans of elements with content, one for each token; None: all."""
    if far == "none":
        return None
    token = span(sizes[1:], strides[1:])
    return [(index * strides[0], index * strides[0] + token) for index in range(sizes[0])]


def strides_of(name: str, fields: Mapping[str, Any]) -> Strides:
    """Strides of the tensor `name` of `STATES` for the `fields` of a case."""
    sizes = (fields["num_tokens"], fields["num_heads"], fields["head_dim"])
    return state_strides(fields[f"{name}_layout"], sizes, gap=fields["gap"], far=fields["far"])


def token_stride(name: str, fields: Mapping[str, Any]) -> str:
    """Whether a token of the tensor `name` of `STATES` is as long as its heads ("packed"), or has a stride of its "own"."""
    token, head, _ = strides_of(name, fields)
    return "packed" if token == fields["num_heads"] * head else "own"


def relation(fields: Mapping[str, Any]) -> str:
    """Whether the suffix has the prefix's strides ("alike"), or its "own"."""
    return "alike" if strides_of("suffix", fields) == strides_of("prefix", fields) else "own"


def lse_relation(fields: Mapping[str, Any]) -> str:
    """Whether the suffix's log-sum-exp has the strides of the prefix's ("alike"), or its "own"."""
    sizes = (fields["num_tokens"], fields["num_heads"])
    prefix, suffix = (lse_strides(fields[f"{name}_lse_layout"], sizes, gap=fields["gap"]) for name in ("prefix", "suffix"))
    return "alike" if prefix == suffix else "own"
