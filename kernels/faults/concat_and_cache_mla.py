"""Faults of `tridiff.kernels.concat_and_cache_mla`, each with the checks of which one must catch it."""

FAULTS = (
    {
        "name": "negative_slots_clamped",
        "kernel": "concat_and_cache_mla",
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
        "name": "skipped_tokens_write_back",
        "kernel": "concat_and_cache_mla",
        "description": "Nothing branches: a token without a slot writes back what slot 0 holds, and whoever fills that loses it.",
        "patches": (
            ("    if slot >= 0:\n", "    kept = slot >= 0\n    slot = tl.maximum(slot, 0)\n    if slot >= 0:\n"),
            (
                "        tl.store(kv_cache + page * page_stride + position * position_stride + column, codes, mask=",
                (
                    "        cells = kv_cache + page * page_stride + position * position_stride + column\n"
                    "        held = tl.load(cells, mask=is_latent | is_rotary)\n"
                    "        tl.store(cells, tl.where(kept, codes, held), mask="
                ),
            ),
        ),
        "checks": ("corruption",),
    },
    {
        "name": "negative_slots_unguarded",
        "kernel": "concat_and_cache_mla",
        "description": "Nobody looks whether a slot is negative: that of -1 lies just before the first page.",
        "patches": (("if slot >= 0:", "if slot >= -0x7FFFFFFFFFFFFFFF:"),),
        "checks": ("bounds",),
    },
    {
        "name": "page_offset_32bit",
        "kernel": "concat_and_cache_mla",
        "description": "The offset of a page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("page = slot // page_size", "page = (slot // page_size).to(tl.int32)"),),
        "checks": ("bounds",),
    },
    {
        "name": "rotary_part_unscaled",
        "kernel": "concat_and_cache_mla",
        "description": "The rotary part is stored as it is, not divided by the scale.",
        "patches": (("load_scale(scale)", "tl.where(is_latent, load_scale(scale), 1.0)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "rotary_stride_of_latent",
        "kernel": "concat_and_cache_mla",
        "description": "Rotary parts are read with the stride of the latent vectors.",
        "patches": (("kv_c.stride(0), k_pe.stride(0)", "kv_c.stride(0), kv_c.stride(0)"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "page_stride_packed",
        "kernel": "concat_and_cache_mla",
        "description": "Pages are taken to follow each other without gaps, whatever their stride.",
        "patches": (("*kv_cache.stride()[:2]", "kv_cache.shape[1:].numel(), kv_cache.stride(1)"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "latent_of_512",
        "kernel": "concat_and_cache_mla",
        "description": "The rotary part is taken to begin at column 512, as in most models.",
        "patches": (("*(page_size, latent, rotary", "*(page_size, 512, rotary"),),
        "checks": ("bounds", "nan", "unwritten", "corruption", "mismatch"),
    },
    {
        "name": "rotary_part_dropped",
        "kernel": "concat_and_cache_mla",
        "description": "Only the latent vector is written.",
        "patches": (("mask=is_latent | is_rotary", "mask=is_latent"),),
        "checks": ("unwritten",),
    },
    {
        "name": "padding_rows_written",
        "kernel": "concat_and_cache_mla",
        "description": "Every row is taken for a token, also those that have no slot.",
        "patches": (("slot_mapping.shape[0], kv_c.shape[1]", "kv_c.shape[0], kv_c.shape[1]"),),
        "checks": ("bounds",),
    },
    {
        "name": "token_offset_32bit",
        "kernel": "concat_and_cache_mla",
        "description": "The offset of a token in the rows is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("token = tl.program_id(0).to(tl.int64)", "token = tl.program_id(0)"),),
        "checks": ("bounds",),
    },
    {
        "name": "one_tile",
        "kernel": "concat_and_cache_mla",
        "description": "What of a slot does not fit the first tile is not written.",
        "patches": (("triton.cdiv(latent + rotary, TILE)", "1"),),
        "checks": ("unwritten",),
    },
)
