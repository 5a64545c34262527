"""Faults of `tridiff.kernels.merge_attention_states`, each with the checks of which one must catch it.

The defects that such kernels had elsewhere are among them: +inf for a side without keys, NaN where both sides have none, strides
of one tensor taken for another's, a token stride taken to be packed, NaN times 0.
"""

FAULTS = (
    {
        "name": "peak_not_subtracted",
        "kernel": "merge_attention_states",
        "description": "Weights are exponentials of the log-sum-exps themselves, which overflow beyond 88.",
        "patches": (
            ('anchor = tl.where(peak > float("-inf"), peak, 0.0)', "anchor = tl.zeros_like(peak)"),
            ("peak + tl.log(divisor)", "tl.log(total)"),
        ),
        "checks": ("nan", "mismatch"),
    },
    {
        "name": "prefix_for_peak",
        "kernel": "merge_attention_states",
        "description": "The prefix's log-sum-exp is subtracted, not the larger one: the suffix's weight overflows above it.",
        "patches": (
            ("peak = tl.maximum(prefix, suffix)", 'peak = tl.where(prefix > float("-inf"), prefix, suffix)'),
            ("peak + tl.log(divisor)", "peak + tl.log(total)"),
        ),
        "checks": ("nan", "mismatch"),
    },
    {
        "name": "both_empty_unguarded",
        "kernel": "merge_attention_states",
        "description": "-inf is subtracted from -inf where both sides are empty.",
        "patches": (('anchor = tl.where(peak > float("-inf"), peak, 0.0)', "anchor = peak"),),
        "checks": ("nan",),
    },
    {
        "name": "both_empty_divided",
        "kernel": "merge_attention_states",
        "description": "Where both sides are empty their weights are divided by a total of 0.",
        "patches": (("divisor = tl.where(total > 0.0, total, 1.0)", "divisor = total"),),
        "checks": ("nan",),
    },
    {
        "name": "plus_infinity_not_empty",
        "kernel": "merge_attention_states",
        "description": "Only -inf marks an empty side, and +inf, as some kernels write it, is taken for a number.",
        "patches": (('tl.where(lse == float("inf"), float("-inf"), lse)', "lse"),),
        "checks": ("nan",),
    },
    {
        "name": "empty_side_times_zero",
        "kernel": "merge_attention_states",
        "description": "The output of an empty side is multiplied by weight 0, which keeps the NaN in it.",
        "patches": (
            ("_weighted(prefix_heads, prefix,", "_weighted(prefix_heads, tl.where(has_prefix, 0.0, prefix),"),
            ("_weighted(suffix_heads, suffix,", "_weighted(suffix_heads, tl.where(head_live, 0.0, suffix),"),
        ),
        "checks": ("nan",),
    },
    {
        "name": "weights_swapped",
        "kernel": "merge_attention_states",
        "description": "Each side has the weight of the other.",
        "patches": (
            ("prefix, prefix_weight / divisor", "prefix, suffix_weight / divisor"),
            ("suffix, suffix_weight / divisor", "suffix, prefix_weight / divisor"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "weights_not_normalised",
        "kernel": "merge_attention_states",
        "description": "The sum of both sides is not divided by the sum of their weights.",
        "patches": (
            ("prefix, prefix_weight / divisor", "prefix, prefix_weight"),
            ("suffix, suffix_weight / divisor", "suffix, suffix_weight"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "weights_in_base_2",
        "kernel": "merge_attention_states",
        "description": "The log-sum-exps are natural logarithms, and the weights are powers of 2.",
        "patches": (
            ("tl.exp(prefix - anchor)", "tl.exp2(prefix - anchor)"),
            ("tl.exp(suffix - anchor)", "tl.exp2(suffix - anchor)"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "equal_sides_counted_once",
        "kernel": "merge_attention_states",
        "description": "The prefix is left out where both log-sum-exps are the same.",
        "patches": (("tl.exp(prefix - anchor)", "tl.where(prefix == suffix, 0.0, tl.exp(prefix - anchor))"),),
        "checks": ("mismatch",),
    },
    {
        "name": "lse_without_peak",
        "kernel": "merge_attention_states",
        "description": "The log-sum-exp of the union lacks what was subtracted before.",
        "patches": (("peak + tl.log(divisor)", "tl.log(divisor)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "lse_in_base_2",
        "kernel": "merge_attention_states",
        "description": "The log-sum-exp of the union is written in base 2.",
        "patches": (("peak + tl.log(divisor)", "(peak + tl.log(divisor)) * 1.4426950408889634"),),
        "checks": ("mismatch",),
    },
    {
        "name": "weighted_in_16_bits",
        "kernel": "merge_attention_states",
        "description": "Outputs and weights are multiplied in the dtype of the outputs.",
        "patches": (
            ("outputs.to(tl.float32) * weights[:, None]", "(outputs * weights[:, None].to(outputs.dtype)).to(tl.float32)"),
        ),
        "checks": ("mismatch",),
    },
    {
        "name": "rounded_before_stored",
        "kernel": "merge_attention_states",
        "description": "The result is rounded to the dtype of what is merged, also where the output has more bits.",
        "patches": (("+ dims[None, :], merged, mask", "+ dims[None, :], merged.to(suffix_output.dtype.element_ty), mask"),),
        "checks": ("mismatch",),
    },
    {
        "name": "suffix_strides_of_prefix",
        "kernel": "merge_attention_states",
        "description": "The suffix is read with the strides of the prefix.",
        "patches": (("*suffix_output.stride()[:2]", "*prefix_output.stride()[:2]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "output_strides_of_prefix",
        "kernel": "merge_attention_states",
        "description": "The output is written with the strides of the prefix.",
        "patches": (("*output.stride()[:2]", "*prefix_output.stride()[:2]"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "token_stride_packed",
        "kernel": "merge_attention_states",
        "description": "Tokens of the prefix are taken to follow each other without gaps, whatever their stride.",
        "patches": (("*prefix_output.stride()[:2]", "heads * prefix_output.stride(1), prefix_output.stride(1)"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "lse_strides_swapped",
        "kernel": "merge_attention_states",
        "description": "Log-sum-exps of the prefix are read as if heads came before tokens.",
        "patches": (("*prefix_lse.stride()", "*prefix_lse.stride()[::-1]"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "lse_stored_as_output",
        "kernel": "merge_attention_states",
        "description": "The log-sum-exp is written with the strides of the output.",
        "patches": (("else output_lse.stride()", "else output.stride()[:2]"),),
        "checks": ("bounds", "corruption", "unwritten"),
    },
    {
        "name": "token_offset_32bit",
        "kernel": "merge_attention_states",
        "description": "The offset of a token is computed in 32 bits and wraps beyond 2^31 elements.",
        "patches": (("token = tl.program_id(0).to(tl.int64)", "token = tl.program_id(0)"),),
        "checks": ("bounds",),
    },
    {
        "name": "context_one_too_long",
        "kernel": "merge_attention_states",
        "description": "The first token without context is merged with a prefix that nobody has written.",
        "patches": (("(token < tokens_with_context)", "(token <= tokens_with_context)"),),
        "checks": ("bounds", "nan", "mismatch"),
    },
    {
        "name": "context_one_too_short",
        "kernel": "merge_attention_states",
        "description": "The prefix of the last token with context is left out.",
        "patches": (("(token < tokens_with_context)", "(token + 1 < tokens_with_context)"),),
        "checks": ("mismatch",),
    },
    {
        "name": "peak_over_missing_prefix",
        "kernel": "merge_attention_states",
        "description": "The maximum also sees the prefix of tokens without context: it swallows NaN, but not a finite poison.",
        "patches": (
            (
                "peak = tl.maximum(prefix, suffix)",
                (
                    "lse_heads = prefix_lse + token * prefix_lse_token_stride + head * prefix_lse_head_stride\n"
                    "    peak = tl.maximum(_load_lse(lse_heads, head_live), suffix)"
                ),
            ),
        ),
        "checks": ("poison",),
    },
    {
        "name": "copied_lse_skipped",
        "kernel": "merge_attention_states",
        "description": "The log-sum-exp of tokens without context is left as it was.",
        "patches": (("peak + tl.log(divisor), mask=head_live)", "peak + tl.log(divisor), mask=has_prefix)"),),
        "checks": ("unwritten",),
    },
    {
        "name": "last_heads_dropped",
        "kernel": "merge_attention_states",
        "description": "Heads behind the last whole block of them are not merged.",
        "patches": (("triton.cdiv(heads, block_h)", "max(1, heads // block_h)"),),
        "checks": ("unwritten",),
    },
    {
        "name": "heads_unmasked",
        "kernel": "merge_attention_states",
        "description": "The padding of a block of heads is read and written behind the last head.",
        "patches": (("head_live = head < heads", "head_live = head >= 0"),),
        "checks": ("bounds", "corruption"),
    },
    {
        "name": "columns_unmasked",
        "kernel": "merge_attention_states",
        "description": "The padding of a head whose columns are no power of two is read and written.",
        "patches": (("dim_live = dims < head_dim", "dim_live = dims >= 0"),),
        "checks": ("bounds", "corruption"),
    },
    {
        "name": "columns_not_padded",
        "kernel": "merge_attention_states",
        "description": "A tile is as wide as a head, also where that is no power of two.",
        "patches": (("int(triton.next_power_of_2(head_dim))", "head_dim"),),
        "checks": ("launch",),
    },
)
