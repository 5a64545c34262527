"""Faults of `tridiff.kernels.prefix_prefill`: causality, windows, biases, sinks, strides and scales gone wrong."""

_TABLE = "tl.load(table_row + tokens // page_size, mask=live, other=0)"
_CACHED_MASK = "        mask = live[:, None] & column_live[None, :]\n        key_tile"

FAULTS = (
    {
        "name": "causal_off_by_one",
        "kernel": "prefix_prefill",
        "description": "A query sees the key behind its own as well.",
        "patches": (("(distance <= 0)", "(distance <= 1)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "context_is_all",
        "kernel": "prefix_prefill",
        "description": "The context is taken to have seq_len keys, the chunk included.",
        "patches": (("context = tl.load(seq_lens + sequence) - query_len", "context = tl.load(seq_lens + sequence)"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "finite_mask",
        "kernel": "prefix_prefill",
        "description": "What a query must not see is masked with -10000 instead of -inf, which wins over very negative logits.",
        "patches": (
            (
                'scores = tl.where(allowed, scores, float("-inf"))',
                'scores = tl.where(live[None, :], tl.where(allowed, scores, -10000.0), float("-inf"))',
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "window_ignored_with_alibi",
        "kernel": "prefix_prefill",
        "description": "With ALiBi all keys are seen, whatever the window (vLLM's alibi kernel).",
        "patches": (("(-distance < window)", "((-distance < window) | has_alibi)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "alibi_from_chunk",
        "kernel": "prefix_prefill",
        "description": "For ALiBi the keys of the chunk are counted from its start, as if they had no context before them.",
        "patches": (
            ("    has_alibi: tl.constexpr,\n):", "    has_alibi: tl.constexpr,\n    shift=0,\n):"),
            ("slope * distance", "slope * (distance - shift)"),
            ("is not None,\n            )", "is not None,\n                shift=context,\n            )"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "sink_per_tile",
        "kernel": "prefix_prefill",
        "description": "The sink is added to the sum again with every tile of cached keys.",
        "patches": (
            (
                _CACHED_MASK,
                f'        total += tl.where(peak > float("-inf"), tl.exp(sink - peak), 0.0)\n{_CACHED_MASK}',
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "unguarded_peak",
        "kernel": "prefix_prefill",
        "description": "The softmax subtracts -inf from -inf while a query has seen no key.",
        "patches": (('anchor = tl.where(new_peak > float("-inf"), new_peak, 0.0)', "anchor = new_peak"),),
        "checks": ("nan",),
    },
    {
        "name": "value_strides_of_keys",
        "kernel": "prefix_prefill",
        "description": "Values of the chunk are read with the strides of its keys.",
        "patches": (
            (
                "other_rows * value_row_stride + kv_head * value_head_stride",
                "other_rows * key_row_stride + kv_head * key_head_stride",
            ),
        ),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "values_scaled_as_keys",
        "kernel": "prefix_prefill",
        "description": "Values of an FP8 cache are multiplied by the scale of the keys.",
        "patches": (("_load_scale(k_scale), _load_scale(v_scale)", "_load_scale(k_scale), _load_scale(k_scale)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "output_not_saturated",
        "kernel": "prefix_prefill",
        "description": "An FP8 output larger than the largest number of its format becomes NaN.",
        "patches": (
            (
                "        result = tl.minimum(tl.maximum(result / tl.load(output_scale), -largest), largest)",
                (
                    "        result = result / tl.load(output_scale)\n"
                    '        result = tl.where(tl.abs(result) > largest, float("nan"), result)'
                ),
            ),
        ),
        "checks": ("nan",),
    },
    {
        "name": "page_stride_packed",
        "kernel": "prefix_prefill",
        "description": "Pages of the key cache are taken to follow each other without gaps.",
        "patches": (("*key_cache.stride()[:4]", "key_cache[0].numel(), *key_cache.stride()[1:4]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "page_offset_in_32_bits",
        "kernel": "prefix_prefill",
        "description": "Offsets of pages are computed in 32 bits.",
        "patches": ((f"{_TABLE}.to(tl.int64)", _TABLE),),
        "checks": ("bounds",),
    },
    {
        "name": "interleaved_by_one_pack",
        "kernel": "prefix_prefill",
        "description": "Values of an interleaved cache are sought one pack of tokens further on.",
        "patches": (("slot // pack * head_dim * pack", "(slot // pack + 1) * head_dim * pack"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "table_tail_dereferenced",
        "kernel": "prefix_prefill",
        "description": "Lanes past the last cached key look up a page in the tail of the block table and read a key there.",
        "patches": (
            (_TABLE, "tl.load(table_row + tokens // page_size)"),
            (_CACHED_MASK, "        mask = (tokens >= 0)[:, None] & column_live[None, :]\n        key_tile"),
        ),
        "checks": ("bounds",),
    },
    {
        "name": "last_tile_unmasked",
        "kernel": "prefix_prefill",
        "description": "Values behind the last cached key of its page are multiplied by weight 0, which keeps their NaN.",
        "patches": (
            (_TABLE, "tl.load(table_row + tl.minimum(tokens, cached - 1) // page_size)"),
            (
                _CACHED_MASK,
                (
                    "        mask = (tokens // page_size <= (cached - 1) // page_size)[:, None] & column_live[None, :]\n"
                    "        key_tile"
                ),
            ),
        ),
        "checks": ("nan", "mismatch"),
    },
    {
        "name": "decodes_not_skipped",
        "kernel": "prefix_prefill",
        "description": "Sequences of one query are computed although the decode kernel is to do so.",
        "patches": (("tl.where(skip_decode & (query_len == 1), 0, query_len)", "query_len"),),
        "checks": ("corruption",),
    },
    {
        "name": "tail_rows_stored",
        "kernel": "prefix_prefill",
        "description": "All rows of a tile of queries are stored, those behind the last query included.",
        "patches": (("stored = (members < query_len)", "stored = (members >= 0)"),),
        "checks": ("bounds", "corruption", "mismatch", "nan"),
    },
)
