"""Faults of `tridiff.kernels.reshape_and_cache_per_token_head`, each with the checks of which one must catch it."""

FAULTS = (
    {
        "name": "negative_slots_clamped",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Negative slots are clamped to 0, where live data is overwritten.",
        "patches": (
            (
                "slot = tl.load(slots + token).to(tl.int64)",
                "slot = tl.maximum(tl.load(slots + token).to(tl.int64), 0)",
            ),
        ),
        "checks": ("corruption",),
    },
    {
        "name": "minus_one_alone_guarded",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Of the negative slots only -1 is taken to mean none.",
        "patches": (("if slot >= 0:", "if slot != -1:"),),
        "checks": ("bounds",),
    },
    {
        "name": "page_offset_32bit",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "The offset of a page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("page = slot // page_size", "page = (slot // page_size).to(tl.int32)"),),
        "checks": ("bounds",),
    },
    {
        "name": "truncated",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Codes of int8 are cut, not rounded.",
        "patches": (("(whole + (rest >= 0.5).to(tl.int32) - (rest <= -0.5).to(tl.int32)).to(tl.int8)", "whole.to(tl.int8)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "halves_toward_zero",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Halves between two codes of int8 are rounded toward zero.",
        "patches": (
            ("(rest >= 0.5)", "(rest > 0.5)"),
            ("(rest <= -0.5)", "(rest < -0.5)"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "scale_of_first_head",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Every head has the scale of the token's first one.",
        "patches": (("_scale_of(row, key_width,", "_scale_of(key + token * key_token_stride, key_width,"),),
        "checks": ("mismatch",),
    },
    {
        "name": "key_scale_for_values",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Values have the scale of the keys.",
        "patches": (
            ("_scale_of(row, value_width,", "_scale_of(key + token * key_token_stride + head * key_head_stride, key_width,"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "largest_not_magnitude",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "The scale comes from the largest number, not from the largest magnitude.",
        "patches": (
            ("tl.abs(_load_row(row, start + tl.arange(0, tile), width))", "_load_row(row, start + tl.arange(0, tile), width)"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "zeros_divided_by_zero",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Nothing keeps the scale of a head of zeros from being 0.",
        "patches": (
            ("tl.maximum(tl.div_rn(tl.max(peaks, axis=0), largest), least_scale)", "tl.div_rn(tl.max(peaks, axis=0), largest)"),
        ),
        "checks": ("nan", "mismatch"),
    },
    {
        "name": "fnuz_up_to_240",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Codes of e4m3fnuz go up to the largest number of the format.",
        "patches": (("(-224.0, 224.0)", "(-240.0, 240.0)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "scale_strides_packed",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Scales of the keys are taken to follow each other without gaps, whatever their strides.",
        "patches": (("*k_scale_cache.stride()", "key_cache.shape[1] * heads, heads, 1"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "value_strides_of_keys",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Values are written with the strides of the cache of keys.",
        "patches": (("*value_cache.stride()[:3]", "*key_cache.stride()[:3]"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "page_stride_packed",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Pages of keys are taken to follow each other without gaps, whatever their stride.",
        "patches": (("*key_cache.stride()[:3]", "key_cache.shape[1:].numel(), *key_cache.stride()[1:3]"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "first_tile_alone",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "Columns that do not fit the first tile get no codes.",
        "patches": (
            ("for start in range(0, width, tile):\n        columns", "for start in range(0, tile, tile):\n        columns"),
        ),
        "checks": ("unwritten",),
    },
    {
        "name": "head_offset_32bit",
        "kernel": "reshape_and_cache_per_token_head",
        "description": "The offset of a head is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("head = tl.program_id(1).to(tl.int64)", "head = tl.program_id(1)"),),
        "checks": ("bounds",),
    },
)
