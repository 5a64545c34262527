"""Faults of what memory is read and written: tiles, pages, strides, masks, rows; each with the checks of which one catches it.

Most of them shipped somewhere: tiles made from the page size of hybrid models, values behind the last key, table entries behind
the last page, caches whose pages are taken to be packed, rows of sequences without a query.
"""

FAULTS = (
    {
        "name": "tile_from_page",
        "kernel": "paged_decode",
        "description": "A tile holds a whole page, of which those of hybrid models have up to 2048 tokens.",
        "patches": (("        block_n=tiles.block_n,", "        block_n=triton.next_power_of_2(page_size),"),),
        "checks": ("resources",),
        "target": "gfx942",
    },
    {
        "name": "tile_from_page_unpadded",
        "kernel": "paged_decode",
        "description": "A tile holds a whole page, also where that is no power of two, such as 544.",
        "patches": (("        block_n=tiles.block_n,", "        block_n=page_size,"),),
        "checks": ("compile",),
        "target": "gfx942",
    },
    {
        "name": "last_values_unmasked",
        "kernel": "paged_decode",
        "description": "Values behind the last key of its page are loaded and multiplied by weight 0, which keeps their NaN.",
        "patches": (
            (
                "live = (tokens >= oldest) & (tokens < seq_len)",
                (
                    "live = (tokens >= oldest) & (tokens < seq_len)\n"
                    "        mapped = (tokens >= oldest) & (tokens // page_size <= (seq_len - 1) // page_size)"
                ),
            ),
            ("mask=live, other=0)", "mask=mapped, other=0)"),
            ("value_rows, tile_live, value_scale", "value_rows, mapped[:, None] & dim_live[None, :], value_scale"),
        ),
        "checks": ("nan",),
    },
    {
        "name": "table_tail_dereferenced",
        "kernel": "paged_decode",
        "description": "Lanes past the last key look up a page in the tail of the block table and read a key there.",
        "patches": (
            ("tl.load(table_row + tokens // page_size, mask=live, other=0)", "tl.load(table_row + tokens // page_size)"),
            ("key_rows, tile_live, key_scale", "key_rows, (tokens >= oldest)[:, None] & dim_live[None, :], key_scale"),
        ),
        "checks": ("bounds",),
    },
    {
        "name": "key_dropped_at_page_end",
        "kernel": "paged_decode",
        "description": "The last key of a page is lost where the page ends inside of a tile.",
        "patches": (
            (
                "live = (tokens >= oldest) & (tokens < seq_len)",
                (
                    "live = (tokens >= oldest) & (tokens < seq_len)\n"
                    "        inner = (tokens < start + block_n - 1) & (tokens < seq_len - 1)\n"
                    "        live &= (tokens % page_size < page_size - 1) | ~inner"
                ),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "page_stride_packed",
        "kernel": "paged_decode",
        "description": "Pages of keys are taken to follow each other without gaps, whatever the tensor's page stride.",
        "patches": (("*key_cache.stride()[:3]", "key_cache[0].numel(), *key_cache.stride()[1:3]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "value_page_stride_of_keys",
        "kernel": "paged_decode",
        "description": "Values are read with the page stride of the keys.",
        "patches": (("*value_cache.stride()[:3]", "key_cache.stride(0), *value_cache.stride()[1:3]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "page_offset_32bit",
        "kernel": "paged_decode",
        "description": "The offset of a page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("mask=live, other=0).to(tl.int64)", "mask=live, other=0)"),),
        "checks": ("bounds",),
    },
    {
        "name": "interleaved_off_by_one_pack",
        "kernel": "paged_decode",
        "description": "Interleaved values are sought one pack of tokens behind where they lie.",
        "patches": (("slot // pack * pack * head_dim", "(slot // pack + 1) * pack * head_dim"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "row_without_query_written",
        "kernel": "paged_decode",
        "description": "A sequence without a query is computed as if it had one, and its result stored in the next one's row.",
        "patches": (("- row != 1:", "- row > 1:"),),
        "checks": ("bounds", "corruption", "mismatch", "nan"),
    },
    {
        "name": "rows_of_chunks_written",
        "kernel": "paged_decode",
        "description": "The first query of a longer chunk is computed as if it were its last, and its row written.",
        "patches": (("- row != 1:", "- row < 1:"),),
        "checks": ("corruption",),
    },
    {
        "name": "rows_of_chunks_written_back",
        "kernel": "paged_decode",
        "description": "Rows of longer chunks are written back as they were, which whoever computes them at the time loses.",
        "patches": (
            (
                "    if tl.load(query_start_loc + sequence + 1) - row != 1:",
                (
                    "    is_single = tl.load(query_start_loc + sequence + 1) - row == 1\n"
                    "    if tl.load(query_start_loc + sequence + 1) - row < 1:"
                ),
            ),
            (
                "    tl.store(output_rows[:, None] + dims[None, :], result, mask=live_rows)",
                (
                    "    places = output_rows[:, None] + dims[None, :]\n"
                    "    held = tl.load(places, mask=live_rows)\n"
                    "    tl.store(places, tl.where(is_single, result.to(held.dtype), held), mask=live_rows)"
                ),
            ),
        ),
        "checks": ("corruption",),
    },
    {
        "name": "padding_heads_stored",
        "kernel": "paged_decode",
        "description": "The rows that pad a group of query heads to 16 are stored behind it.",
        "patches": (("result, mask=live_rows)", "result, mask=dim_live[None, :])"),),
        "checks": ("bounds", "corruption", "mismatch"),
    },
)
