"""What the inputs of `merge_attention_states` hold: two partial outputs, their log-sum-exps, and which rows are empty.

All arithmetic is elementwise in float32, so the bits are the same on every machine.
"""

from __future__ import annotations

import math

import torch

from tridiff.harness.api import integers
from tridiff.strategies.merge_attention_states_case import DTYPES, MergeAttentionStatesCase, empty_kinds
from tridiff.strategies.profiles import normals

_ORDINARY_SHARE = 4


def outputs(case: MergeAttentionStatesCase) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [T, H, D] of prefix and of suffix, normal with standard deviation `sigma`, changed by `pattern`.

    "gaussian": nothing. "cancelling": the suffix is the negated prefix, up to about 1/64 of it. "limits": about every eighth
    element of each is the dtype's largest number or its negative. "mixed_norms": about half of the rows of each are 2^-10 of the
    others. "equal": the suffix is the prefix.
    """
    shape = (case.num_tokens, case.num_heads, case.head_dim)
    prefix, suffix = (normals(case.seed, name, shape) * case.sigma for name in ("prefix", "suffix"))
    if case.pattern == "equal":
        return prefix, prefix.clone()
    if case.pattern == "cancelling":
        return prefix, suffix / 64 - prefix
    if case.pattern == "limits":
        return _limited(case, "prefix", prefix), _limited(case, "suffix", suffix)
    if case.pattern == "mixed_norms":
        return prefix * _norms(case, "prefix"), suffix * _norms(case, "suffix")
    return prefix, suffix


def lses(case: MergeAttentionStatesCase) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [T, H] of prefix and of suffix, as if no row were empty.

    The larger one is `lse_level` plus twice a standard normal, and either side's. The other lies below it, by `lse_gap` times
    the magnitude of a standard normal; about every fourth time by that magnitude alone, where `lse_gap` exceeds 1: some rows of
    a large case are then mixtures.
    """
    shape = (case.num_tokens, case.num_heads)
    larger = case.lse_level + 2 * normals(case.seed, "lse", shape)
    gap = torch.full(shape, case.lse_gap)
    gap[_drawn(case, "ordinary", _ORDINARY_SHARE) == 1] = min(case.lse_gap, 1.0)
    smaller = larger - gap * normals(case.seed, "lse_gap", shape).abs()
    prefix_first = _drawn(case, "larger", 2) == 0
    return torch.where(prefix_first, larger, smaller), torch.where(prefix_first, smaller, larger)


def empty_rows(case: MergeAttentionStatesCase) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of prefix and of suffix, bool [T, H] each, that are without keys.

    For every kind that `empty` names, about half of the rows that can be of it, and their first one in any case; where several
    kinds meet, one of them or none. Tokens without context have no prefix at all, which is not told here.
    """
    shape = (case.num_tokens, case.num_heads)
    has_context = (torch.arange(case.num_tokens) < case.tokens_with_context)[:, None].expand(shape)
    kinds = empty_kinds(case.empty, case.context)
    merged = tuple(kind for kind in kinds if kind != "copied")
    prefix, suffix = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    chosen = _chosen(case, "merged", len(merged), has_context)
    for number, kind in enumerate(merged, start=1):
        prefix |= (chosen == number) & (kind != "suffix")
        suffix |= (chosen == number) & (kind != "prefix")
    if "copied" in kinds:
        suffix |= _chosen(case, "copied", 1, ~has_context) == 1
    return prefix, suffix


def empty_lses(case: MergeAttentionStatesCase, name: str) -> torch.Tensor:
    """float32 [T, H] of infinities: what marks the rows of `name` that are empty."""
    signs = {"minus_inf": -1.0, "plus_inf": 1.0}
    shape = (case.num_tokens, case.num_heads)
    sign = torch.full(shape, signs.get(case.empty_lse, 1.0))
    if case.empty_lse == "mixed":
        sign[_drawn(case, f"{name}_sign", 2) == 1] = -1.0
    return sign * math.inf


def _chosen(case: MergeAttentionStatesCase, name: str, kinds: int, eligible: torch.Tensor) -> torch.Tensor:
    """Of each `eligible` row the number of its kind, from 1 to `kinds`, or 0; the first of them is not 0."""
    if not kinds or not bool(eligible.any()):
        return torch.zeros(eligible.shape, dtype=torch.int64)
    drawn = _drawn(case, name, 2 * kinds)
    first = int(eligible.flatten().to(torch.int8).argmax())
    drawn.view(-1)[first] %= kinds
    return torch.where(eligible & (drawn < kinds), drawn + 1, 0)


def _drawn(case: MergeAttentionStatesCase, name: str, bound: int) -> torch.Tensor:
    """int64 [T, H] of integers in [0, bound)."""
    shape = (case.num_tokens, case.num_heads)
    return torch.from_numpy(integers(case.seed, name, math.prod(shape), bound)).reshape(shape)


def _limited(case: MergeAttentionStatesCase, name: str, values: torch.Tensor) -> torch.Tensor:
    largest = torch.finfo(DTYPES[case.dtype]).max
    at_limit = torch.from_numpy(integers(case.seed, f"{name}_limits", values.numel(), 8) == 0).reshape(values.shape)
    return torch.where(at_limit, torch.where(values < 0, -largest, largest), values)


def _norms(case: MergeAttentionStatesCase, name: str) -> torch.Tensor:
    """float32 [T, H, 1]: 1 or 2^-10."""
    return torch.where(_drawn(case, f"{name}_norm", 2) == 0, 1.0, 2.0**-10)[..., None]
