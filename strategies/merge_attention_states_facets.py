"""Facets of `merge_attention_states`: by what a kernel may narrow the contract."""

from __future__ import annotations

from tridiff.harness.api import Facet
from tridiff.strategies import merge_attention_states_case as fields
from tridiff.strategies import merge_attention_states_layouts as layouts


def empty_of(empty: str, context: str) -> tuple[str, ...]:
    """What of its rows is empty in such a case, by kind, or "none"."""
    return ("none",) if empty == "none" else fields.empty_kinds(empty, context)


def _plain(field: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, field), choices=tuple(fields.CHOICES.get(field, ())))


def _token_stride(name: str) -> Facet:
    description = f"{name} output: a token is as long as its heads (packed), or has a stride of its own (own)"
    return Facet(description=description, of=lambda case: layouts.token_stride(name, vars(case)), choices=("packed", "own"))


FACETS = {
    "num_tokens": _plain("num_tokens", "tokens, T"),
    "num_heads": _plain("num_heads", "heads, H"),
    "head_dim": _plain("head_dim", "width of a head, D"),
    "dtype": _plain("dtype", "dtype of prefix and suffix output"),
    "output_dtype": _plain("output_dtype", "dtype of the merged output: as prefix and suffix (same), or float32"),
    "has_output_lse": _plain("has_output_lse", "whether the merged log-sum-exp is asked for"),
    "context": Facet(
        description="which tokens have a prefix: all, some, none",
        of=lambda case: case.context,
        choices=("all", "some", "none"),
    ),
    "empty": Facet(
        description="rows without keys: none, in the prefix, the suffix, both, or the suffix of a token without prefix (copied)",
        of=lambda case: empty_of(case.empty, case.context),
    ),
    "empty_lse": Facet(
        description="log-sum-exp of what is empty: minus_inf, plus_inf",
        of=lambda case: fields.EMPTY_LSES[case.empty_lse] if case.empty != "none" else (),
    ),
    "empty_holds": Facet(
        description="what the output of an empty side holds: zeros, poison",
        of=lambda case: case.empty_holds if case.empty != "none" else (),
        choices=tuple(fields.EMPTY_HOLDS),
    ),
    "prefix_layout": _plain("prefix_layout", "memory of the prefix's output"),
    "suffix_layout": _plain("suffix_layout", "memory of the suffix's output"),
    "output_layout": _plain("output_layout", "memory of the merged output"),
    "strides": Facet(
        description="whether the suffix's output has the prefix's strides (alike), or its own",
        of=lambda case: layouts.relation(vars(case)),
        choices=("alike", "own"),
    ),
    **{f"{name}_token_stride": _token_stride(name) for name in layouts.STATES},
    "prefix_lse_layout": _plain("prefix_lse_layout", "memory of the prefix's log-sum-exp"),
    "suffix_lse_layout": _plain("suffix_lse_layout", "memory of the suffix's log-sum-exp"),
    "output_lse_layout": Facet(
        description="memory of the merged log-sum-exp, where it is asked for",
        of=lambda case: case.output_lse_layout if case.has_output_lse else (),
    ),
    "lse_strides": Facet(
        description="whether the suffix's log-sum-exp has the strides of the prefix's (alike), or its own",
        of=lambda case: layouts.lse_relation(vars(case)),
        choices=("alike", "own"),
    ),
    "far": _plain("far", "what lies beyond 2^31 elements: none, tokens"),
    "lead": _plain("lead", "elements by which the outputs begin past a 16-byte boundary"),
}
