"""Faults of `tridiff.kernels.cache_round_trip`: a writer and a reader that do not share one layout, or one scale."""

_WRITER = "written, read = _as_seen_by(writer, caches), _as_seen_by(reader, caches)"

FAULTS = (
    {
        "name": "native_writer_for_strided",
        "kernel": "cache_round_trip",
        "description": "The native writer is chosen by the page size alone, also where pages are far apart (vLLM, 38502).",
        "patches": (
            (
                "writer = choose_writer(**caches)",
                'writer = NATIVE if page_size in {16, 32} else "triton"',
            ),
        ),
        "checks": ("corruption", "bounds", "nan", "mismatch"),
    },
    {
        "name": "native_reader_for_strided",
        "kernel": "cache_round_trip",
        "description": "The native reader is asked for with caches that look packed, and reads strided ones so (vLLM, 38502).",
        "patches": (
            (
                "reader = choose_reader(\n        **caches,",
                "reader = choose_reader(\n        **{name: packed(cache) for name, cache in caches.items()},",
            ),
        ),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "native_reader_for_strided_in_mixed_batches",
        "kernel": "cache_round_trip",
        "description": "Of a batch with chunks the reader is chosen by the page size alone, also where pages are far apart.",
        "patches": (
            (
                "(**attention, **caches, **rows)",
                '(**attention, **_as_seen_by(NATIVE if page_size in {16, 32} else "triton", caches), **rows)',
            ),
        ),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "chunks_told_as_single_queries",
        "kernel": "cache_round_trip",
        "description": "The driver is told that no sequence has more than one query, and leaves the chunks out.",
        "patches": (('"max_query_len": max_query_len,', '"max_query_len": 1,'),),
        "checks": ("unwritten",),
    },
    {
        "name": "pages_of_values_as_of_keys",
        "kernel": "cache_round_trip",
        "description": "The reader takes the pages of the values to be as far apart as those of the keys.",
        "patches": (
            (
                _WRITER,
                (
                    f"{_WRITER}\n"
                    '    strides = (read["key_cache"].stride(0), *value_cache.stride()[1:])\n'
                    '    read = {**read, "value_cache": read["value_cache"].as_strided(value_cache.shape, strides)}'
                ),
            ),
        ),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "page_size_of_another_dimension",
        "kernel": "cache_round_trip",
        "description": "The writer counts slots in pages of 16 tokens, whatever the cache has.",
        "patches": (
            (
                '"slot_mapping": slot_mapping}',
                (
                    '"slot_mapping": torch.where(slot_mapping < 0, slot_mapping, '
                    "slot_mapping // 16 * page_size + slot_mapping % 16)}"
                ),
            ),
        ),
        "checks": ("corruption", "bounds", "nan", "mismatch"),
    },
    {
        "name": "interleaved_written_plain",
        "kernel": "cache_round_trip",
        "description": "Values of an interleaved cache are written as if it were not.",
        "patches": (("interleaved=interleaved, platform=platform)", "interleaved=False, platform=platform)"),),
        "checks": ("corruption", "nan", "mismatch"),
    },
    {
        "name": "interleaved_read_plain",
        "kernel": "cache_round_trip",
        "description": "Values of an interleaved cache are read as if it were not.",
        "patches": (('attention["interleaved"] = interleaved', 'attention["interleaved"] = False'),),
        "checks": ("nan", "mismatch"),
    },
    {
        "name": "scales_swapped_for_the_reader",
        "kernel": "cache_round_trip",
        "description": "The reader multiplies keys by the scale of the values, and values by that of the keys.",
        "patches": (('{**sequences, **scales, "sm_scale"', '{**sequences, "k_scale": v_scale, "v_scale": k_scale, "sm_scale"'),),
        "checks": ("mismatch",),
    },
    {
        "name": "written_without_scales",
        "kernel": "cache_round_trip",
        "description": "The writer stores numbers in FP8 that it has not divided by their scales.",
        "patches": (("**written, **scales,", "**written, k_scale=None, v_scale=None,"),),
        "checks": ("mismatch",),
    },
    {
        "name": "fnuz_read_as_ocp",
        "kernel": "cache_round_trip",
        "description": "Codes of e4m3fnuz, which the writer stored, are read as those of e4m3fn, which doubles every number.",
        "patches": (
            (
                _WRITER,
                (
                    f"{_WRITER}\n"
                    "    if key_cache.dtype == torch.float8_e4m3fnuz:\n"
                    "        read = {name: cache.view(torch.float8_e4m3fn) for name, cache in read.items()}"
                ),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "skipped_tokens_in_slot_0",
        "kernel": "cache_round_trip",
        "description": "Tokens whose slot is -1 are written into slot 0.",
        "patches": (('"slot_mapping": slot_mapping}', '"slot_mapping": slot_mapping.clamp(min=0)}'),),
        "checks": ("corruption", "mismatch"),
    },
)
