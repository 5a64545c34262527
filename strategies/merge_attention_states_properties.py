"""What reports count of the Cases of `merge_attention_states`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tridiff.harness.api import Property
from tridiff.strategies import merge_attention_states_case as fields
from tridiff.strategies import merge_attention_states_layouts as layouts
from tridiff.strategies.merge_attention_states_case import MergeAttentionStatesCase
from tridiff.strategies.properties import of_field

TOKENS = ("0", "1", "several")

PROPERTIES: Mapping[str, Callable[[MergeAttentionStatesCase], str]] = {
    "dtype": of_field("dtype", fields.DTYPES),
    "output_dtype": of_field("output_dtype", fields.OUTPUT_DTYPES),
    "tokens": Property(lambda case: TOKENS[min(case.num_tokens, 2)], TOKENS),
    "context": Property(lambda case: case.context, fields.CONTEXTS),
    "empty": of_field("empty", fields.EMPTY),
    "layout_class": of_field("prefix_layout", fields.STATE_LAYOUTS),
    "strides": Property(lambda case: layouts.relation(vars(case)), ("alike", "own")),
    "far": of_field("far", fields.FAR),
}
