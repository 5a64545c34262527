"""The inputs of `merge_attention_states`: every tensor of a Case, with its values."""

from __future__ import annotations

import torch

from tridiff.harness.api import Arena, Inputs
from tridiff.strategies import merge_attention_states_values as values
from tridiff.strategies.merge_attention_states_case import DTYPES, MergeAttentionStatesCase
from tridiff.strategies.merge_attention_states_layouts import committed, lse_strides, strides_of


def build(case: MergeAttentionStatesCase, arena: Arena) -> Inputs:
    """Arguments of `merge_attention_states` for `case`; deterministic bit for bit.

    Of the prefix nothing is filled in for tokens without context: they keep their poison. Raises `StagingError` when the
    machine has no address space for far tokens.
    """
    prefix_output, suffix_output = values.outputs(case)
    prefix_lse, suffix_lse = values.lses(case)
    prefix_empty, suffix_empty = values.empty_rows(case)
    has_prefix = (torch.arange(case.num_tokens) < case.tokens_with_context)[:, None].expand(prefix_empty.shape)
    has_suffix = torch.ones_like(has_prefix)
    return {
        "prefix_output": _state(case, arena, "prefix", prefix_output, prefix_empty, has_prefix),
        "prefix_lse": _lse(case, arena, "prefix", prefix_lse, prefix_empty, has_prefix),
        "suffix_output": _state(case, arena, "suffix", suffix_output, suffix_empty, has_suffix),
        "suffix_lse": _lse(case, arena, "suffix", suffix_lse, suffix_empty, has_suffix),
        "output": _output(case, arena),
        "output_lse": _output_lse(case, arena) if case.has_output_lse else None,
        "tokens_with_context": case.tokens_with_context,
        "platform": case.platform,
    }


def _sizes(case: MergeAttentionStatesCase) -> tuple[int, int, int]:
    return case.num_tokens, case.num_heads, case.head_dim


def _state(
    case: MergeAttentionStatesCase, arena: Arena, name: str, content: torch.Tensor, empty: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    """`content` in the rows that are `present` and not `empty`; those that are hold what the case says."""
    sizes, strides = _sizes(case), strides_of(name, vars(case))
    spans = committed(sizes, strides, case.far)
    state = arena.tensor(f"{name}_output", sizes, DTYPES[case.dtype], strides=strides, committed=spans, lead=case.lead)
    written = present if case.empty_holds == "zeros" else present & ~empty
    state[written] = torch.where(empty[..., None], 0.0, content).to(state.dtype)[written]
    return state


def _lse(
    case: MergeAttentionStatesCase, arena: Arena, name: str, content: torch.Tensor, empty: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    sizes = _sizes(case)[:2]
    strides = lse_strides(getattr(case, f"{name}_lse_layout"), sizes, gap=case.gap)
    lse = arena.tensor(f"{name}_lse", sizes, torch.float32, strides=strides)
    lse[present] = torch.where(empty, values.empty_lses(case, name), content)[present]
    return lse


def _output(case: MergeAttentionStatesCase, arena: Arena) -> torch.Tensor:
    sizes, strides = _sizes(case), strides_of("output", vars(case))
    dtype = DTYPES[case.dtype if case.output_dtype == "same" else case.output_dtype]
    spans = committed(sizes, strides, case.far)
    return arena.output("output", sizes, dtype, strides=strides, committed=spans, lead=case.lead)


def _output_lse(case: MergeAttentionStatesCase, arena: Arena) -> torch.Tensor:
    sizes = _sizes(case)[:2]
    return arena.output("output_lse", sizes, torch.float32, strides=lse_strides(case.output_lse_layout, sizes, gap=case.gap))
