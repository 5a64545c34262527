"""What a Kernel may restrict of the contract of `decode_attention`."""

from __future__ import annotations

from collections.abc import Mapping

from tridiff.harness.api import Facet
from tridiff.strategies import layouts
from tridiff.strategies.decode_attention_case import CHOICES, DecodeAttentionCase
from tridiff.strategies.dims import WIDTHS, widths


def _field(name: str, description: str) -> Facet:
    return Facet(description=description, of=lambda case: getattr(case, name), choices=tuple(CHOICES.get(name, ())))


def _widths(case: DecodeAttentionCase) -> str:
    return widths(case.head_dim, case.head_dim_v)


def _cache_strides(case: DecodeAttentionCase) -> str:
    equal = case.head_dim == case.head_dim_v
    return layouts.cache_strides(case.key_layout, case.value_layout, equal_widths=equal, is_mla=case.is_mla)


def _cache_ranks(case: DecodeAttentionCase) -> tuple[int, int]:
    return layouts.rank(case.key_layout), layouts.rank(case.value_layout)


FACETS: Mapping[str, Facet] = {
    name: _field(name, description)
    for name, description in {
        "is_mla": "whether values are the first columns of the keys (latent attention)",
        "num_kv_heads": "KV heads",
        "group_size": "query heads that share a KV head",
        "head_dim": "width of queries and keys, Lk",
        "head_dim_v": "width of values and outputs, Lv",
        "seq_lens": "keys of every row",
        "page_size": "tokens per page",
        "num_kv_splits": "parts into which the keys of a row are split",
        "key_layout": "memory order and gaps of the keys, see `layouts.CacheShape.strides`",
        "value_layout": "memory order and gaps of the values, likewise",
        "gap": "elements of each gap in the layouts",
        "far": "what lies beyond 2^31 elements: nothing, the last pages or the last heads",
        "lead": "elements by which queries and caches begin past a 16-byte boundary",
        "storage": "whether the caches' storage exceeds 2 GiB",
        "query_layout": "strides of the queries, see `layouts.row_strides`",
        "output_layout": "strides of the output, likewise",
        "lse_layout": "strides of the log-sum-exp, likewise",
        "table_layout": "strides of the block table, likewise",
        "page_order": "whether pages are numbered as they are used",
        "page_sharing": "which pages rows have in common",
        "table_tail": "unused columns of the block table",
        "dtype": "dtype of the queries, and of caches that are not in FP8",
        "cache_dtype": "FP8 format of the caches, or the queries' dtype",
        "output_dtype": "dtype of the output: the queries', or float32",
        "seq_lens_dtype": "dtype of the lengths",
        "k_scale": "by what codes of keys are multiplied",
        "v_scale": "by what codes of values are multiplied",
        "scale_form": "how scales reach the launcher, see `fp8.SCALE_FORMS`",
        "scale_factor": "by what sm_scale exceeds 1 / sqrt(Lk)",
        "logit_cap": "soft cap of the logits, 0 for none",
        "pattern": "what the keys and values hold, see `profiles`",
    }.items()
} | {
    "unused_slots": Facet(
        description="what slots that no row reads hold in a page that some row reads: poison, or zeros",
        of=lambda case: case.unused_slots,
        choices=tuple(CHOICES["unused_slots"]),
        counted=False,  # all Cases hold poison there, but those for a kernel that does not bear it
    ),
    "widths": Facet(description="how Lk and Lv compare", of=_widths, choices=WIDTHS),
    "cache_strides": Facet(
        description="whether the value cache has the strides of the key cache", of=_cache_strides, choices=layouts.STRIDES
    ),
    "cache_rank": Facet(description="dimensions of each cache: 3 where pages and tokens are one axis", of=_cache_ranks),
}
