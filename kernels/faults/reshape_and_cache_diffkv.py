"""Faults of `tridiff.kernels.reshape_and_cache_diffkv`, each with the checks of which one must catch it."""

FAULTS = (
    {
        "name": "negative_slots_clamped",
        "kernel": "reshape_and_cache_diffkv",
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
        "kernel": "reshape_and_cache_diffkv",
        "description": "Of the negative slots only -1 is taken to mean none.",
        "patches": (("if slot >= 0:", "if slot != -1:"),),
        "checks": ("bounds",),
    },
    {
        "name": "page_offset_32bit",
        "kernel": "reshape_and_cache_diffkv",
        "description": "The offset of a page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("page = slot // page_size", "page = (slot // page_size).to(tl.int32)"),),
        "checks": ("bounds",),
    },
    {
        "name": "value_before_key",
        "kernel": "reshape_and_cache_diffkv",
        "description": "A head's value is written before its key.",
        "patches": (
            ("is_key = column < key_width", "is_key = column >= value_width"),
            ("keys + column, mask=live & is_key", "keys + (column - value_width), mask=live & is_key"),
            (
                "values + (column - key_width), mask=live & (column >= key_width)",
                "values + column, mask=live & (column < value_width)",
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "value_as_wide_as_key",
        "kernel": "reshape_and_cache_diffkv",
        "description": "A head is taken to have as many columns of its value as of its key.",
        "patches": (("width = key_width + value_width", "width = key_width + key_width"),),
        "checks": ("bounds", "unwritten", "corruption", "mismatch", "nan"),
    },
    {
        "name": "value_read_from_key_width",
        "kernel": "reshape_and_cache_diffkv",
        "description": "Values are read behind as many columns as the key has.",
        "patches": (("values + (column - key_width)", "values + column"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "key_scale_for_values",
        "kernel": "reshape_and_cache_diffkv",
        "description": "Values are divided by the scale of the keys.",
        "patches": (("load_scale(v_scale)", "load_scale(k_scale)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "page_stride_packed",
        "kernel": "reshape_and_cache_diffkv",
        "description": "Pages are taken to follow each other without gaps, whatever their stride.",
        "patches": (("*kv_cache.stride()[:3]", "kv_cache.shape[1:].numel(), *kv_cache.stride()[1:3]"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "position_stride_packed",
        "kernel": "reshape_and_cache_diffkv",
        "description": "Positions of a page are taken to follow each other without gaps, whatever their stride.",
        "patches": (("*kv_cache.stride()[:3]", "kv_cache.stride(0), heads * kv_cache.shape[3], kv_cache.stride(2)"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "last_tile_dropped",
        "kernel": "reshape_and_cache_diffkv",
        "description": "What of a token does not fit whole tiles is not written.",
        "patches": (
            ("triton.cdiv(heads * (key_width + value_width), TILE)", "max(1, heads * (key_width + value_width) // TILE)"),
        ),
        "checks": ("unwritten",),
    },
    {
        "name": "head_offset_32bit",
        "kernel": "reshape_and_cache_diffkv",
        "description": "The offset of a head is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("head = (element // width).to(tl.int64)", "head = element // width"),),
        "checks": ("bounds",),
    },
)
