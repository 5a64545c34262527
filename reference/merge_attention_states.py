"""Reference of `merge_attention_states`: two partial attentions joined in float64, and how far a correct kernel may be off.

Read `reference` first, then `merged` (the mathematics: the merge of attention states, Ye et al. 2025, arXiv 2501.01005, section
2.2). How far a correct kernel may be off, `bounds`, is derived in `docs/explanation/tolerance.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tridiff.reference.roundings import LARGEST, NORMAL, UNDERFLOW, UNIT, gamma, stored


@dataclass(frozen=True, kw_only=True)
class State:
    """A partial attention, float64: `output` [T, H, D] and `lse` [T, H]; 0 and -inf where it has no keys."""

    output: Tensor
    lse: Tensor


def reference(inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> dict[str, Any]:
    """Attention over the keys of a prefix and of a suffix together, from the partial attention over each.

    `inputs`: the launcher's keyword arguments. prefix_output and suffix_output [T, H, D], prefix_lse and suffix_lse [T, H], any
    strides; output and output_lse (or None) are read for shape and dtype only. A log-sum-exp of -inf or +inf says that the side
    has no keys; its output is not read then, nor is anything of the prefix from token `tokens_with_context` on. No input is
    written. `rounding`: optionally `scaled_lse`, True where a kernel multiplies the log-sum-exps by log2(e) before it takes their
    difference. All is float32.

    Returns {"outputs": {"output": (value, bound), "output_lse": (value, bound)}, "conclusive": bool}, the latter output only
    where it is asked for: float64 tensors on the CPU of shapes [T, H, D] and [T, H]. Rows without keys have output 0 and
    log-sum-exp -inf. Their bound is 0, and so is that of tokens without context, whose suffix is copied. A bound is finite, but
    where a correct kernel may overflow: there it is inf. `conclusive` is False when in no row that joins two sides a kernel
    could be seen to drop the lighter one; a case without such rows is conclusive.
    Raises KeyError for a missing argument, ValueError for an unknown entry of `rounding`, and for a side with keys whose output
    is not finite or whose log-sum-exp is NaN.
    """
    unknown = sorted(set(rounding) - {"scaled_lse"})
    if unknown:
        raise ValueError(f"rounding has the unknown entry {unknown[0]!r}: known is scaled_lse")
    joined = int(inputs["tokens_with_context"])
    prefix, suffix = _state(inputs, "prefix", joined), _state(inputs, "suffix", len(inputs["suffix_lse"]))
    exact = merged(prefix, suffix)
    scaled = bool(rounding.get("scaled_lse", False))
    bound = bounds(prefix, suffix, exact, torch.finfo(inputs["output"].dtype), scaled=scaled)
    for tensor in (bound.output, bound.lse):
        tensor[joined:] = 0.0
    outputs = {"output": (exact.output, bound.output)}
    if inputs["output_lse"] is not None:
        outputs["output_lse"] = (exact.lse, bound.lse)
    return {"outputs": outputs, "conclusive": _conclusive(prefix, suffix, outputs)}


def merged(prefix: State, suffix: State) -> State:
    """The attention over the keys of both: outputs weighted by exp(lse), relative to the larger one."""
    largest = torch.maximum(prefix.lse, suffix.lse)
    largest = torch.where(largest.isinf(), 0.0, largest)
    prefix_weight, suffix_weight = torch.exp(prefix.lse - largest), torch.exp(suffix.lse - largest)
    total = prefix_weight + suffix_weight
    weighted = prefix_weight[..., None] * prefix.output + suffix_weight[..., None] * suffix.output
    return State(output=torch.where(total[..., None] > 0, weighted / total[..., None], 0.0), lse=largest + torch.log(total))


def bounds(prefix: State, suffix: State, exact: State, dtype: torch.finfo, *, scaled: bool) -> State:
    """Bound the legitimate difference of output, stored in `dtype`, and log-sum-exp from `exact`; 0 for rows without keys.

    `scaled`: whether the kernel takes the difference of log-sum-exps that it has multiplied by log2(e).
    """
    joined = prefix.lse.isfinite() & suffix.lse.isfinite()
    prefix_share, suffix_share = (torch.where(joined, torch.exp(side.lse - exact.lse), 0.0) for side in (prefix, suffix))
    lighter = torch.minimum(prefix_share, suffix_share)
    # Beyond a distance of 1000 the lighter side weighs nothing, in float32 and float64 alike.
    distance = torch.where(joined, (prefix.lse - suffix.lse).abs().clamp(max=1000.0), 0.0)
    # Relative error of its weight. 3: of the difference, and of log2(e) and the product with it in a base-2 exp. 4: of exp.
    # Scaled: the product of either log-sum-exp is rounded.
    scaling = torch.where(joined, prefix.lse.abs() + suffix.lse.abs(), 0.0) if scaled else 0.0
    weight = _gamma(3 * distance + 4 + scaling)
    # A weight that exp flushes, or that is subnormal: lost, or off by two ulps.
    flushed = torch.where(joined, (lighter + 4 * UNDERFLOW).clamp(max=NORMAL), 0.0)

    magnitude = torch.maximum(prefix.output.abs(), suffix.output.abs())
    moved = (prefix_share * suffix_share * torch.expm1(weight))[..., None] * (prefix.output - suffix.output).abs()
    moved += 2 * flushed[..., None] * magnitude + 4 * UNDERFLOW
    weighted = _weighted(prefix, suffix, exact)
    # 1 product, 1 sum, 1 sum of the weights, 4 + 1 a division as the product with a reciprocal that is off by two ulps.
    output = moved + gamma(8) * (weighted + moved)
    # The numerator, the mean times the sum of the weights, may legitimately overflow.
    total = torch.where(joined, torch.exp(exact.lse - torch.maximum(prefix.lse, suffix.lse)), 1.0)
    output[weighted * total[..., None] * (1 + gamma(8)) > LARGEST] = math.inf
    # 1 for the sum of the weights, 4 for a logarithm of at most ln 2, 2 for ln(2) and the product with it.
    lse = lighter * torch.expm1(weight) + flushed + gamma(7)
    if scaled:
        # 3: log2(e), the product, the sum. 3: back by a division of two ulps, in which the constant cancels, or less by ln(2).
        lse += gamma(6) * (exact.lse.abs() + 1)

    empty = exact.lse.isinf()
    return State(
        output=stored(exact.output, output, dtype).masked_fill(empty[..., None], 0.0),
        lse=stored(exact.lse, lse, torch.finfo(torch.float32)).masked_fill(empty, 0.0),
    )


def _weighted(prefix: State, suffix: State, exact: State) -> Tensor:
    """Mean of the magnitudes [T, H, D], weighted as the output is."""
    magnitudes = (State(output=side.output.abs(), lse=side.lse) for side in (prefix, suffix))
    return torch.where(exact.lse[..., None].isinf(), 0.0, merged(*magnitudes).output)


def _gamma(roundings: Tensor) -> Tensor:
    product = roundings * UNIT
    return product / (1 - product)


def _state(inputs: Mapping[str, Any], name: str, tokens: int) -> State:
    """The side `name`, of which the first `tokens` are there; the others are without keys."""
    shape = inputs["suffix_output"].shape
    lse = torch.full(shape[:2], -math.inf, dtype=torch.float64)
    output = torch.zeros(shape, dtype=torch.float64)
    lse[:tokens] = inputs[f"{name}_lse"][:tokens].to("cpu", torch.float64)
    if bool(lse.isnan().any()):
        raise ValueError(f"{name}_lse holds NaN: no kernel can be judged by it")
    lse = lse.masked_fill(lse == math.inf, -math.inf)
    given = inputs[f"{name}_output"][:tokens].to("cpu", torch.float64)
    output[:tokens] = given.masked_fill(lse[:tokens, :, None].isinf(), 0.0)
    if not bool(output.isfinite().all()):
        raise ValueError(f"{name}_output holds what is no finite number in a row that has keys: no kernel can be judged by it")
    return State(output=output, lse=lse)


def _conclusive(prefix: State, suffix: State, outputs: Mapping[str, tuple[Tensor, Tensor]]) -> bool:
    joined = prefix.lse.isfinite() & suffix.lse.isfinite()
    if not bool(joined.any()):
        return True
    heavier = prefix.lse >= suffix.lse
    alone = {
        "output": torch.where(heavier[..., None], prefix.output, suffix.output),
        "output_lse": torch.maximum(prefix.lse, suffix.lse),
    }
    return any(bool(((alone[name] - value).abs() > bound)[joined].any()) for name, (value, bound) in outputs.items())
