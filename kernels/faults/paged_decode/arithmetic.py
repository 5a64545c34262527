"""Faults of what is computed: window, bias, sinks, scales, the online softmax; each with the checks of which one must catch it.

Windows masked by a finite number, and biases relative to a wrong position, shipped elsewhere.
"""

FAULTS = (
    {
        "name": "window_masked_by_number",
        "kernel": "paged_decode",
        "description": "Keys outside of the window get the score -10000, which is more than scores inside may be.",
        "patches": (
            ("range(oldest // block_n * block_n, seq_len, block_n)", "range(0, seq_len, block_n)"),
            ("live = (tokens >= oldest) & (tokens < seq_len)", "live = tokens < seq_len"),
            (
                'scores = tl.where(live[None, :], scores, float("-inf"))',
                (
                    "scores = tl.where((tokens >= oldest)[None, :], scores, -10000.0)\n"
                    '        scores = tl.where(live[None, :], scores, float("-inf"))'
                ),
            ),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "window_off_by_one",
        "kernel": "paged_decode",
        "description": "The window holds one key more than it is wide.",
        "patches": (("tl.maximum(seq_len - window, 0)", "tl.maximum(seq_len - window - 1, 0)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "tiles_outside_window_unguarded",
        "kernel": "paged_decode",
        "description": "Tiles that lie outside of the window are not skipped, and -inf is subtracted from -inf in them.",
        "patches": (("range(oldest // block_n * block_n, seq_len, block_n)", "range(0, seq_len, block_n)"),),
        "checks": ("nan",),
    },
    {
        "name": "alibi_within_page",
        "kernel": "paged_decode",
        "description": "The bias is computed from the slot of a key in its page, not from its position.",
        "patches": (("(tokens - (seq_len - 1))[None, :]", "(tokens % page_size - (seq_len - 1) % page_size)[None, :]"),),
        "checks": ("mismatch",),
    },
    {
        "name": "sink_counted_twice",
        "kernel": "paged_decode",
        "description": "The sink begins as the running maximum with a weight of 1, and is added once more in the end.",
        "patches": (("total = tl.full([block_h], 1.0, tl.float32)", "total = tl.full([block_h], 2.0, tl.float32)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "sink_once_per_tile",
        "kernel": "paged_decode",
        "description": "Every tile adds the sink to the sum of weights.",
        "patches": (
            (
                "total = tl.full([block_h], 1.0, tl.float32)",
                "sink = peak\n    total = tl.where(seq_len > 0, 0.0, tl.full([block_h], 1.0, tl.float32))",
            ),
            ("total * rescale + tl.sum(weights, axis=1)", "total * rescale + tl.sum(weights, axis=1) + tl.exp(sink - new_peak)"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "values_scaled_as_keys",
        "kernel": "paged_decode",
        "description": "Values of an FP8 cache are multiplied by the scale of the keys.",
        "patches": (("_load_scale(k_scale), _load_scale(v_scale)", "_load_scale(k_scale), _load_scale(k_scale)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "output_saturated_as_fnuz",
        "kernel": "paged_decode",
        "description": "Outputs of FP8 are cut off at 240, the largest number of e4m3fnuz, in all formats.",
        "patches": (("largest=torch.finfo(output.dtype).max if", "largest=240.0 if"),),
        "checks": ("mismatch",),
    },
    {
        "name": "sum_not_rescaled",
        "kernel": "paged_decode",
        "description": "Weighted values of earlier tiles keep their weight when a tile raises the running maximum.",
        "patches": (("acc * rescale[:, None] +", "acc +"),),
        "checks": ("mismatch",),
    },
)
