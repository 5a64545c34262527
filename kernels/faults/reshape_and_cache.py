"""Faults of `tridiff.kernels.reshape_and_cache`, each with the checks of which one must catch it.

Most shipped somewhere: negative slots that overwrite live data, strides of one cache taken for the other's, pages taken to be
packed where hybrid models keep other states between them, 32-bit offsets, FP8 that overflows into NaN.
"""

FAULTS = (
    {
        "name": "negative_slots_clamped",
        "kernel": "reshape_and_cache",
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
        "name": "negative_slots_unguarded",
        "kernel": "reshape_and_cache",
        "description": "Nobody looks whether a slot is negative: that of -1 lies just before the first page.",
        "patches": (("if slot >= 0:", "if slot >= -0x7FFFFFFFFFFFFFFF:"),),
        "checks": ("bounds",),
    },
    {
        "name": "minus_one_alone_guarded",
        "kernel": "reshape_and_cache",
        "description": "Of the negative slots only -1 is taken to mean none.",
        "patches": (("if slot >= 0:", "if slot != -1:"),),
        "checks": ("bounds",),
    },
    {
        "name": "value_strides_of_keys",
        "kernel": "reshape_and_cache",
        "description": "Values are written with the strides of the cache of keys.",
        "patches": (
            ("_tokens_first(key_cache), _tokens_first(value_cache)", "_tokens_first(key_cache), _tokens_first(key_cache)"),
            (
                "pages, heads, columns = value_cache.stride()[:3]",
                "pages, heads, columns = *key_cache.stride()[:2], value_cache.stride(2)",
            ),
        ),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "head_stride_packed",
        "kernel": "reshape_and_cache",
        "description": "Heads of a token are taken to follow each other without gaps, whatever their stride.",
        "patches": (
            ("pages, positions, heads = cache.stride()[:3]", "pages, positions, heads = *cache.stride()[:2], cache.shape[3]"),
        ),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "page_stride_packed",
        "kernel": "reshape_and_cache",
        "description": "Pages are taken to follow each other without gaps, as native writers do, also where they do not.",
        "patches": (
            (
                "pages, positions, heads = cache.stride()[:3]",
                "pages, positions, heads = cache.shape[1:].numel(), *cache.stride()[1:3]",
            ),
            (
                "pages, heads, packs, positions = key_cache.stride()[:4]",
                "pages, heads, packs, positions = key_cache.shape[1:].numel(), *key_cache.stride()[1:4]",
            ),
            (
                "pages, heads, columns = value_cache.stride()[:3]",
                "pages, heads, columns = value_cache.shape[1:].numel(), *value_cache.stride()[1:3]",
            ),
        ),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "key_scale_for_values",
        "kernel": "reshape_and_cache",
        "description": "Values are divided by the scale of the keys.",
        "patches": (("load_scale(v_scale)", "load_scale(k_scale)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "scale_multiplied",
        "kernel": "reshape_and_cache",
        "description": "Keys are multiplied by their scale, not divided by it.",
        "patches": (("load_scale(k_scale)", "1.0 / load_scale(k_scale)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "not_saturated",
        "kernel": "reshape_and_cache",
        "description": "What exceeds the largest number of an FP8 format becomes NaN.",
        "patches": (
            (
                "    stored = converted(numbers, scale, largest, cell.dtype.element_ty)",
                (
                    "    if cell.dtype.element_ty.is_fp8():\n"
                    '        numbers = tl.where(tl.abs(numbers) > largest * scale, float("nan"), numbers)\n'
                    "    stored = converted(numbers, scale, largest, cell.dtype.element_ty)"
                ),
            ),
        ),
        "checks": ("nan",),
    },
    {
        "name": "fnuz_written_as_ocp",
        "kernel": "reshape_and_cache",
        "description": "Codes of e4m3fnuz are written as those of e4m3fn, which stand for twice the number.",
        "patches": (
            (
                "        require_convertible(key_cache.dtype)\n",
                (
                    "        require_convertible(key_cache.dtype)\n"
                    "        if key_cache.dtype == torch.float8_e4m3fnuz:\n"
                    "            ocp = torch.float8_e4m3fn\n"
                    "            key_cache, value_cache = key_cache.view(ocp), value_cache.view(ocp)\n"
                ),
            ),
        ),
        "checks": ("nan", "mismatch"),
    },
    {
        "name": "codes_divided_again",
        "kernel": "reshape_and_cache",
        "description": "Rows that are of the FP8 format already are taken for numbers, and divided by the scale.",
        "patches": (
            (" and key.dtype != key_cache.dtype", ""),
            (
                "    numbers = tl.load(row + head * row_head_stride + column, mask=live, other=0.0)",
                "    numbers = tl.load(row + head * row_head_stride + column, mask=live).to(tl.float32)",
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "negative_zero_lost",
        "kernel": "reshape_and_cache",
        "description": "Something is added to every number, 0 here, by which -0 becomes 0.",
        "patches": (("stored = converted(numbers, scale,", "stored = converted(numbers + 0.0, scale,"),),
        "checks": ("mismatch",),
    },
    {
        "name": "page_offset_32bit",
        "kernel": "reshape_and_cache",
        "description": "The offset of a page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("page = slot // page_size", "page = (slot // page_size).to(tl.int32)"),),
        "checks": ("bounds",),
    },
    {
        "name": "slot_32bit",
        "kernel": "reshape_and_cache",
        "description": "Slots of 32 bits stay so, and the offset of a page with them, which wraps beyond 2^31 elements.",
        "patches": (("slot = tl.load(slots + token).to(tl.int64)", "slot = tl.load(slots + token)"),),
        "checks": ("bounds",),
    },
    {
        "name": "interleaved_pack_ahead",
        "kernel": "reshape_and_cache",
        "description": "Interleaved values go to the pack behind their own.",
        "patches": (
            (
                "_along(position, value_position_pack, value_position_step)",
                "_along(position + (value_position_pack // 2) * 2, value_position_pack, value_position_step)",
            ),
        ),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "interleaved_columns_apart",
        "kernel": "reshape_and_cache",
        "description": "Interleaved values have the columns of those that are not.",
        "patches": (("column_step=pack if interleaved else columns", "column_step=columns"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "packs_of_8",
        "kernel": "reshape_and_cache",
        "description": "Packs of head-major keys have 8 columns, as those of 16 bits do, whatever the dtype.",
        "patches": (("column_pack=pack,", "column_pack=8,"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "one_tile",
        "kernel": "reshape_and_cache",
        "description": "What of a token does not fit the first tile is not written.",
        "patches": (("triton.cdiv(heads * max(key_width, value_width), TILE)", "1"),),
        "checks": ("unwritten",),
    },
    {
        "name": "tile_unmasked",
        "kernel": "reshape_and_cache",
        "description": "The padding of a tile is written behind the last head.",
        "patches": (("stored, mask=live)", "stored)"),),
        "checks": ("bounds", "corruption"),
    },
    {
        "name": "padding_rows_written",
        "kernel": "reshape_and_cache",
        "description": "Every row is taken for a token, also those that have no slot.",
        "patches": (("slot_mapping.shape[0], key.shape[1:]", "key.shape[0], key.shape[1:]"),),
        "checks": ("bounds",),
    },
    {
        "name": "rows_packed",
        "kernel": "reshape_and_cache",
        "description": "Keys of tokens are taken to follow each other without gaps, whatever their stride.",
        "patches": (("*key.stride()[:2]", "heads * key_width, key_width"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "token_offset_32bit",
        "kernel": "reshape_and_cache",
        "description": "The offset of a token in the rows is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("token = tl.program_id(0).to(tl.int64)", "token = tl.program_id(0)"),),
        "checks": ("bounds",),
    },
    {
        "name": "head_offset_32bit",
        "kernel": "reshape_and_cache",
        "description": "The offset of a head is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("head = (element // width).to(tl.int64)", "head = element // width"),),
        "checks": ("bounds",),
    },
    {
        "name": "position_offset_32bit",
        "kernel": "reshape_and_cache",
        "description": "The offset of a position in its page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("return (entry // pack).to(tl.int64) * step", "return (entry // pack).to(tl.int32) * step"),),
        "checks": ("bounds",),
    },
)
