"""What reports count of the Cases of `decode_attention`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tridiff.harness.api import Property
from tridiff.strategies import layouts
from tridiff.strategies.decode_attention_case import DTYPES, DecodeAttentionCase
from tridiff.strategies.properties import (
    BLOCK_CLASSES,
    GROUPS,
    LENGTHS,
    group_class,
    length_class,
    of_block,
    of_field,
)

_GAPS = ("page_gap", "token_gap", "every_gap")
_HEADS_FIRST = ("heads_in_page", "heads_outermost")
LAYOUT_CLASSES = ("packed", "gaps", "interleaved", "cross_layer", "heads first", "flat")


def layout_class(layout: str) -> str:
    """Which of `LAYOUT_CLASSES` one of `layouts.CACHE_LAYOUTS` is."""
    if layouts.is_flat(layout):
        return "flat"
    return "gaps" if layout in _GAPS else "heads first" if layout in _HEADS_FIRST else layout


def _strides(case: DecodeAttentionCase) -> str:
    equal = case.head_dim == case.head_dim_v
    return layouts.cache_strides(case.key_layout, case.value_layout, equal_widths=equal, is_mla=case.is_mla)


PROPERTIES: Mapping[str, Callable[[DecodeAttentionCase], str]] = {
    "attention": Property(lambda case: "latent" if case.is_mla else "separate values", ("separate values", "latent")),
    "dtype": of_field("dtype", DTYPES),
    "cache_dtype": lambda case: case.cache_dtype,
    "page_size": lambda case: str(case.page_size),
    "block_class": of_block(BLOCK_CLASSES),
    "layout_class": Property(lambda case: layout_class(case.key_layout), LAYOUT_CLASSES),
    "value_strides": Property(_strides, layouts.STRIDES),
    "far": of_field("far", layouts.FAR),
    "group": Property(lambda case: group_class(case.group_size), GROUPS),
    "longest_row": Property(lambda case: length_class(case.seq_lens, case.page_size), LENGTHS),
    "logit_cap": Property(lambda case: "capped" if case.logit_cap else "none", ("none", "capped")),
}
