"""Faults of `tridiff.kernels.chunked_prefill_paged_decode`, each with the checks of which one must catch it.

The first is the one that the choice of readers is about: a native kernel that assumes packed pages on a cache that is strided.
"""

FAULTS = (
    {
        "name": "native_reader_of_strided_cache",
        "kernel": "chunked_prefill_paged_decode",
        "description": "The native reader is chosen by the shape of the caches alone, however far their pages are apart.",
        "patches": (
            (
                "        key_cache,\n        value_cache,\n        arch=",
                "        packed(key_cache),\n        packed(value_cache),\n        arch=",
            ),
        ),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "prefill_skipped_beside_decodes",
        "kernel": "chunked_prefill_paged_decode",
        "description": "A batch in which one sequence decodes is taken for one of decodes, and its chunks are left out.",
        "patches": (("if max_query_len > 1:", "if max_query_len > 1 and 1 not in query_start_loc.diff():"),),
        "checks": ("unwritten",),
    },
    {
        "name": "max_query_len_ignored",
        "kernel": "chunked_prefill_paged_decode",
        "description": "The grid of the prefill has room for 16 queries of each sequence, however many there are.",
        "patches": (("max_query_len=max_query_len, causal", "max_query_len=min(max_query_len, 16), causal"),),
        "checks": ("unwritten",),
    },
    {
        "name": "decodes_overwritten_by_prefill",
        "kernel": "chunked_prefill_paged_decode",
        "description": "The prefill computes single queries as well, with their own keys as rows, which are not quantised.",
        "patches": (
            ("skip_decode=True", "skip_decode=False"),
            ("    paged_decode(**common, **caches)", "    if max_query_len <= 1:\n        paged_decode(**common, **caches)"),
        ),
        "checks": ("mismatch", "nan"),
    },
    {
        "name": "causality_dropped",
        "kernel": "chunked_prefill_paged_decode",
        "description": "Chunks are computed as causal ones, whatever the caller asked for.",
        "patches": (("causal=causal", "causal=True"),),
        "checks": ("mismatch",),
    },
)
