"""Faults that show when the kernel runs, or is made for the `cpu` engine, each with the checks of which one must catch it.

Several are defects that shipped elsewhere: 32-bit page offsets, page strides guessed from the page size, a tile of V as wide
as the key's, slabs made for one model's widths, head blocks that cross KV heads, NaN from an empty split. The rest make every
check fail once.
"""

FAULTS = (
    {
        "name": "page_offset_32bit",
        "kernel": "decode_attention",
        "description": "The offset of a page is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("mask=live, other=0).to(tl.int64)", "mask=live, other=0)"),),
        "checks": ("bounds",),
    },
    {
        "name": "page_stride_guessed",
        "kernel": "decode_attention",
        "description": "Pages of keys are taken to follow each other without gaps, whatever the tensor's page stride.",
        "patches": (("*keys.stride()[:3]", "page_size * keys.stride(1), *keys.stride()[1:3]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "value_strides_of_keys",
        "kernel": "decode_attention",
        "description": "Values are read with the strides of the keys.",
        "patches": (("*values.stride()[:3]", "*keys.stride()[:3]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "head_blocks_cross_groups",
        "kernel": "decode_attention",
        "description": "Query heads are cut into blocks of 16 regardless of where the next KV head's group begins.",
        "patches": (
            ("kv_heads * triton.cdiv(group, tiles.block_h)", "triton.cdiv(heads, min(group, tiles.block_h))"),
            (
                "head_live = members < group\n    head = kv_head * group + members",
                (
                    "head = tl.program_id(1).to(tl.int64) * tl.minimum(group, block_h) + tl.arange(0, block_h)\n"
                    "    head_live = (tl.arange(0, block_h) < group) & (head < heads)"
                ),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "value_tile_from_key_width",
        "kernel": "decode_attention",
        "description": "The value tile is as wide as the key tile, so that it does not fit the accumulator.",
        "patches": (("dims_v = tl.arange(0, block_dv)", "dims_v = tl.arange(0, block_dk)"),),
        "checks": ("launch",),
    },
    {
        "name": "mla_slab_from_key_width",
        "kernel": "decode_attention",
        "description": "With MLA the slab that serves as V is as wide as the whole key, which does not fit the accumulator.",
        "patches": (("block_dk, block_dpe = block_dv,", "block_dk, block_dpe = _padded(lk),"),),
        "checks": ("launch",),
    },
    {
        "name": "mla_slabs_512_and_64",
        "kernel": "decode_attention",
        "description": "The PE slab is taken to begin at column 512 and to have 64 columns, as in models whose Lv is 512.",
        "patches": (
            ("_padded(lk - lv) if lk > lv else 0", "64 if lk > lv else 0"),
            ("dims_pe = lv + tl.arange(0, block_dpe)", "dims_pe = 512 + tl.arange(0, block_dpe)"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "mla_pe_dropped",
        "kernel": "decode_attention",
        "description": "Scores of MLA leave out the columns of the PE slab.",
        "patches": (
            (
                "scores += _scores(query_tile_pe, _load_cached(key_rows, dims_pe, live, lk, key_scale, query_tile.dtype))",
                "scores += 0.0",
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "mla_pe_counted_twice",
        "kernel": "decode_attention",
        "description": "The slab that serves as V is masked by Lk, so that its padding holds columns that the PE slab holds too.",
        "patches": (("columns_k = lv if is_mla else lk", "columns_k = lk"),),
        "checks": ("mismatch",),
    },
    {
        "name": "mla_values_from_last_columns",
        "kernel": "decode_attention",
        "description": "With MLA the values are the last Lv columns of the key instead of the first.",
        "patches": (
            (
                "value_tile = key_tile if is_mla else",
                ("value_tile = _load_cached(key_rows + (lk - lv), dims_v, live, lv, key_scale, query_tile.dtype) if is_mla else"),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "fnuz_read_as_ocp",
        "kernel": "decode_attention",
        "description": "The bytes of an e4m3fnuz cache are decoded as e4m3fn, which doubles every number.",
        "patches": (
            (
                "*(query, keys, values, block_table, seq_lens, partial_output, partial_lse),\n        *((",
                (
                    "query,\n        *(cache.view(torch.float8_e4m3fn) if cache.dtype == torch.float8_e4m3fnuz else cache "
                    "for cache in (keys, values)),\n        *(block_table, seq_lens, partial_output, partial_lse),\n        *(("
                ),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "v_scale_ignored",
        "kernel": "decode_attention",
        "description": "Values of an FP8 cache are not multiplied by their scale.",
        "patches": (("_load_scale(k_scale), _load_scale(v_scale)", "_load_scale(k_scale), 1.0"),),
        "checks": ("mismatch",),
    },
    {
        "name": "values_scaled_as_keys",
        "kernel": "decode_attention",
        "description": "Values of an FP8 cache are multiplied by the scale of the keys.",
        "patches": (("_load_scale(k_scale), _load_scale(v_scale)", "_load_scale(k_scale), _load_scale(k_scale)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "scale_applied_twice",
        "kernel": "decode_attention",
        "description": "Codes of an FP8 cache are multiplied by their scale twice.",
        "patches": (("(tile.to(tl.float32) * scale).to(dtype)", "(tile.to(tl.float32) * scale * scale).to(dtype)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "short_split_never_ends",
        "kernel": "decode_attention",
        "description": "The loop over tiles advances by nothing in a split that is shorter than a tile.",
        "patches": (
            ("for start in range(first, last, block_n):", "start = first\n    while start < last:"),
            (
                "acc = acc * rescale[:, None] + _weighted_sum(weights, value_tile)",
                (
                    "acc = acc * rescale[:, None] + _weighted_sum(weights, value_tile)\n"
                    "        start += block_n * tl.minimum(split_len // block_n, 1)"
                ),
            ),
        ),
        "checks": ("hang",),
    },
    {
        "name": "table_tail_dereferenced",
        "kernel": "decode_attention",
        "description": "Lanes past the last key look up a page in the tail of the block table and read a key there.",
        "patches": (
            ("tl.load(table_row + tokens // page_size, mask=live, other=0)", "tl.load(table_row + tokens // page_size)"),
            ("_load_cached(key_rows, dims_k, live, columns_k", "_load_cached(key_rows, dims_k, tokens >= 0, columns_k"),
        ),
        "checks": ("bounds",),
    },
    {
        "name": "zero_length_reads_table",
        "kernel": "decode_attention",
        "description": "A row of length 0 is treated as one key long and looks up its first page.",
        "patches": (("tl.load(seq_lens + row).to(tl.int32)", "tl.maximum(tl.load(seq_lens + row).to(tl.int32), 1)"),),
        "checks": ("bounds",),
    },
    {
        "name": "output_tail_unmasked",
        "kernel": "decode_attention",
        "description": "The padding columns of the value tile are stored behind each head of the output.",
        "patches": (("acc / divisor, mask=dims < lv)", "acc / divisor)"),),
        "checks": ("bounds",),
    },
    {
        "name": "lse_stride_packed",
        "kernel": "decode_attention",
        "description": "Rows of the log-sum-exp are taken to follow each other without gaps.",
        "patches": (("lse.stride(0)", "heads"),),
        "checks": ("corruption",),
    },
    {
        "name": "zero_length_rows_skipped",
        "kernel": "decode_attention",
        "description": "Output and log-sum-exp of a row of length 0 are left as they were.",
        "patches": (
            ("acc / divisor, mask=dims < lv)", "acc / divisor, mask=(dims < lv) & (total > 0.0))"),
            ("peak + tl.log(divisor))", "peak + tl.log(divisor), mask=total > 0.0)"),
        ),
        "checks": ("unwritten",),
    },
    {
        "name": "merge_unguarded",
        "kernel": "decode_attention",
        "description": "The merge subtracts -inf from -inf while it has seen only empty splits.",
        "patches": (('anchor = tl.where(new_peak > float("-inf"), new_peak, 0.0)', "anchor = new_peak"),),
        "checks": ("nan",),
    },
    {
        "name": "stale_lse_merged",
        "kernel": "decode_attention",
        "description": "An empty split stores nothing, and the merge reads whatever its scratch held.",
        "patches": (("peak + tl.log(total), mask=head_live)", "peak + tl.log(total), mask=head_live & (first < last))"),),
        "checks": ("nan",),
    },
    {
        "name": "stale_output_merged",
        "kernel": "decode_attention",
        "description": "The merge multiplies the unwritten output of an empty split by weight 0, which keeps its NaN.",
        "patches": (('mask = (dims < lv) & (split_lse > float("-inf"))', "mask = dims < lv"),),
        "checks": ("nan",),
    },
    {
        "name": "tail_values_unmasked",
        "kernel": "decode_attention",
        "description": "Values behind the last key of its page are loaded and multiplied by weight 0, which keeps their NaN.",
        "patches": (
            ("live = tokens < last", "live = tokens < last\n        mapped = tokens // page_size <= (last - 1) // page_size"),
            ("tokens // page_size, mask=live", "tokens // page_size, mask=mapped"),
            ("_load_cached(value_rows, dims_v, live", "_load_cached(value_rows, dims_v, mapped"),
        ),
        "checks": ("nan",),
    },
    {
        "name": "key_dropped_at_page_start",
        "kernel": "decode_attention",
        "description": "The first key of a page is lost where the page begins inside a tile.",
        "patches": (("live = tokens < last", "live = (tokens < last) & ((tokens % page_size != 0) | (tokens == start))"),),
        "checks": ("mismatch",),
    },
    {
        "name": "last_split_dropped",
        "kernel": "decode_attention",
        "description": "The merge leaves out the last of several splits.",
        "patches": (("for split in range(num_kv_splits):", "for split in range(tl.maximum(num_kv_splits - 1, 1)):"),),
        "checks": ("mismatch",),
    },
    {
        "name": "lse_in_base_2",
        "kernel": "decode_attention",
        "description": "The log-sum-exp is written in base 2.",
        "patches": (("peak + tl.log(divisor))", "(peak + tl.log(divisor)) * 1.4426950408889634)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "cap_after_mask",
        "kernel": "decode_attention",
        "description": "Scores are capped after masking, which turns the -inf of dead lanes into a finite score.",
        "patches": (
            (
                (
                    "if has_cap:\n            scores = _soft_cap(scores, logit_cap)\n"
                    '        scores = tl.where(live[None, :], scores, float("-inf"))'
                ),
                (
                    'scores = tl.where(live[None, :], scores, float("-inf"))\n'
                    "        if has_cap:\n            scores = _soft_cap(scores, logit_cap)"
                ),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "scale_after_cap",
        "kernel": "decode_attention",
        "description": "Inner products are capped first and scaled afterwards.",
        "patches": (
            ("        scores *= sm_scale\n", ""),
            ("tl.where(live[None, :], scores, ", "tl.where(live[None, :], scores * sm_scale, "),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "products_rounded",
        "kernel": "decode_attention",
        "description": "The normal path multiplies and adds queries and keys in their own dtype.",
        "patches": (("query_tile.to(tl.float32) * key_tile.to(tl.float32)", "query_tile * key_tile"),),
        "checks": ("mismatch", "nan"),
    },
    {
        "name": "peak_over_tail",
        "kernel": "decode_attention",
        "description": "The running maximum sees the slots behind the last key: it swallows NaN, but not a finite poison.",
        "patches": (
            (
                "live = tokens < last",
                "live = tokens < last\n        tail = (tokens >= seq_len) & (tokens // page_size <= (seq_len - 1) // page_size)",
            ),
            ("tokens // page_size, mask=live", "tokens // page_size, mask=live | tail"),
            ("_load_cached(key_rows, dims_k, live, columns_k", "_load_cached(key_rows, dims_k, live | tail, columns_k"),
            (
                'scores = tl.where(live[None, :], scores, float("-inf"))',
                'scores = tl.where((live | tail)[None, :], scores, float("-inf"))',
            ),
            (
                "new_peak = tl.maximum(peak, tl.max(scores, axis=1))",
                (
                    "new_peak = tl.maximum(peak, tl.max(scores, axis=1))\n"
                    '        scores = tl.where(live[None, :], scores, float("-inf"))'
                ),
            ),
        ),
        "checks": ("poison",),
    },
    {
        "name": "empty_split_known_by_nan",
        "kernel": "decode_attention",
        "description": "An empty split stores nothing, and the merge skips it only if its scratch happens to hold NaN.",
        "patches": (
            ("peak + tl.log(total), mask=head_live)", "peak + tl.log(total), mask=head_live & (first < last))"),
            (
                "weight = tl.exp(split_lse - anchor)",
                'weight = tl.where(split_lse > float("-inf"), tl.exp(split_lse - anchor), 0.0)',
            ),
        ),
        "checks": ("poison",),
    },
    {
        "name": "assumes_full_splits",
        "kernel": "decode_attention",
        "description": "The compiler is promised (tl.assume) that every split has keys, as rows shorter than the splits break.",
        "patches": (
            (
                "    last = tl.minimum(first + split_len, seq_len)\n",
                "    last = tl.minimum(first + split_len, seq_len)\n    tl.assume(last > first)\n",
            ),
        ),
        "checks": ("assertion",),
    },
    {
        "name": "extension_aborts",
        "kernel": "decode_attention",
        "description": "For more than two rows the launcher calls into an extension that trips an assertion of its own.",
        "patches": (
            (
                "    if rows == 0:\n        return\n",
                "    if rows == 0:\n        return\n    if rows > 2:\n        import os\n\n        os.abort()\n",
            ),
        ),
        "checks": ("crash",),
    },
    {
        "name": "workspace_for_every_split",
        "kernel": "decode_attention",
        "description": "From eight splits on every split gets a workspace of 4 GiB, as if sequences had no end.",
        "patches": (
            (
                "    partial_output = torch.empty(",
                (
                    "    workspaces = [torch.ones(1 << 26) for _ in range(16 * num_kv_splits) if num_kv_splits >= 8]\n"
                    "    partial_output = torch.empty("
                ),
            ),
        ),
        "checks": ("memory",),
    },
)
