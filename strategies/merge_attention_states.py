"""The Op `merge_attention_states`: two partial attentions over disjoint keys joined into the attention over all of them.

A cached prefix and a new suffix, chunks of a long context, or parts of a cascade: each gives an output and the log-sum-exp of
its logits, and these are enough (the merge of attention states, Ye et al. 2025, arXiv 2501.01005, section 2.2). With natural
logarithms:

    m = max(prefix_lse, suffix_lse);  w = exp(lse - m) of either;  output = sum w o / sum w;  output_lse = m + ln(sum w)

Launcher arguments, by keyword: `prefix_output` and `suffix_output` [T, H, D] of one dtype, `prefix_lse` and `suffix_lse` float32
[T, H]; `output` [T, H, D] of that dtype or float32, and `output_lse` float32 [T, H] or None, are written. All have strides of
their own, the last axis of the outputs alone is dense. T = 0 is legal: there is nothing to do.

`tokens_with_context`: the first so many tokens have a prefix. For the others the suffix is copied, and neither of the prefix's
tensors may influence anything. `platform`: "hip" or "cuda".

A side without keys is *empty*: its log-sum-exp is -inf, or +inf (so FlashAttention marks it), and it has no weight whatever
its output holds. A row that is empty on both sides, or whose suffix is empty and that has no prefix, has output 0 and
log-sum-exp -inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from tridiff.harness.api import Domain, Op
from tridiff.strategies import merge_attention_states_case as fields
from tridiff.strategies.draws import allowed, choose, evenly
from tridiff.strategies.layouts import GAPS
from tridiff.strategies.merge_attention_states_case import DTYPES, LARGEST_VALUE, MergeAttentionStatesCase
from tridiff.strategies.merge_attention_states_facets import FACETS
from tridiff.strategies.merge_attention_states_inputs import build
from tridiff.strategies.merge_attention_states_properties import PROPERTIES
from tridiff.strategies.merge_attention_states_room import (
    CONTEXT_WEIGHTS,
    EMPTY_HOLDS_WEIGHTS,
    EMPTY_WEIGHTS,
    FAR_WEIGHTS,
    INDEPENDENT,
    Layouts,
    Room,
    Shape,
    suits_tokens,
)
from tridiff.strategies.models import GQA_MODELS, MLA_MODELS, TP_SIZES, ModelShape

__all__ = ["OP", "MergeAttentionStatesCase", "build", "cases", "preset_cases", "within"]

PATTERN_WEIGHTS = {"gaussian": 7, "cancelling": 2, "limits": 2, "mixed_norms": 2, "equal": 1}
SIGMAS = {1.0: 8, 0.1: 1, 10.0: 1, 1e-3: 1, 1e4: 1, 1e-6: 1, 1e30: 1, 1e-38: 1}
"""Standard deviations of the outputs. 1e-6 is subnormal in float16, 1e-38 in the others, and 1e4 near the limit of the former."""
LSE_LEVELS = {0.0: 7, 10.0: 1, -10.0: 1, 100.0: 2, -100.0: 1, 8000.0: 1, -8000.0: 1}
"""Log-sum-exps of about this: exp(100) overflows in float32, exp(-110) is 0."""
LSE_GAPS = {1.0: 6, 0.0: 2, 1e-3: 1, 10.0: 2, 100.0: 1, 500.0: 1}
SEEDS = evenly(range(255))

PREFILL_WIDTHS = {
    **{"DeepSeek-V2-Lite": 128, "DeepSeek-V3": 128, "Kimi-K2.5": 128, "Kimi-Linear-48B": 128},
    **{"GLM-5": 256, "MiniCPM3-4B": 64},
}
"""Widths of a value head (v_head_dim) of models with latent attention: in prefill its latent cache is expanded to heads."""


def _presets() -> Iterable[Shape]:
    """Every rank of every model; latent attention shares out its heads as they are."""
    for model in (*GQA_MODELS, *MLA_MODELS):
        width = PREFILL_WIDTHS.get(model.name) if model.is_mla else model.head_dim_v
        for tp in TP_SIZES:
            if width is not None and model.splits_over(tp):
                yield Shape(f"{model.name} TP{tp}", model.num_heads // tp, width)


PRESETS = tuple(_presets())


def cases(domain: Domain) -> st.SearchStrategy[MergeAttentionStatesCase]:
    """Cases over the whole of `domain`, within a budget of elements; shrinks towards `MergeAttentionStatesCase()`."""
    room = Room(domain)
    return st.nothing() if room.is_empty else _cases(room, lambda tokens: _shapes(room, tokens))


def preset_cases(domain: Domain) -> st.SearchStrategy[MergeAttentionStatesCase]:
    """Cases with the heads and widths of real models."""
    room = Room(domain, [shape for shape in PRESETS if not domain.models or _names(shape) & set(domain.models)])
    shapes = evenly(room.shapes)
    return st.nothing() if room.is_empty else _cases(room, lambda tokens: choose(shapes, lambda shape: room.fits(tokens, shape)))


def _names(shape: Shape) -> set[str]:
    """The names by which a model is known: with its rank count, and without."""
    return {shape.model, shape.model.rpartition(" ")[0]}


@st.composite
def _shapes(draw: st.DrawFn, room: Room, tokens: int) -> Shape:
    """Heads and width, such that `tokens` of them fit."""
    fewest = min(room.heads)
    width = draw(choose(room.widths, lambda width: room.fits(tokens, Shape("", fewest, width))))
    return Shape("", draw(choose(room.heads, lambda heads: room.fits(tokens, Shape("", heads, width)))), width)


@st.composite
def _cases(draw: st.DrawFn, room: Room, shapes: Callable[[int], st.SearchStrategy[Shape]]) -> MergeAttentionStatesCase:
    """Draws in the order in which fields should become simple: dtypes, values, empty rows, context, shape, layouts."""
    drawn = draw(_values(room.domain)) | draw(_rows(room))
    context, far = drawn.pop("context"), drawn["far"]
    shape = draw(shapes(room.least(context, far)))
    drawn |= shape._asdict()

    def fits(tokens: int) -> bool:
        return suits_tokens(tokens, context, far) and room.fits(tokens, shape)

    drawn["num_tokens"] = draw(choose(room.tokens, fits))
    drawn["tokens_without_context"] = draw(_without_context(context, drawn["num_tokens"]))
    drawn |= draw(_layouts(room.domain, drawn))
    seed = draw(choose(SEEDS))
    return MergeAttentionStatesCase(**drawn, platform=room.domain.platform, lead=_lead(room.domain, seed), seed=seed)


@st.composite
def _values(draw: st.DrawFn, domain: Domain) -> dict[str, Any]:
    """Dtypes, and the values that they can hold."""
    named = ("dtype", "output_dtype", "has_output_lse")
    drawn = {name: draw(choose(allowed(INDEPENDENT[name], domain, name))) for name in named}
    largest = torch.finfo(DTYPES[drawn["dtype"]]).max
    return {
        **drawn,
        "pattern": draw(choose(PATTERN_WEIGHTS)),
        "sigma": draw(choose(SIGMAS, lambda sigma: sigma * LARGEST_VALUE <= largest)),
        "lse_level": draw(choose(LSE_LEVELS)),
        "lse_gap": draw(choose(LSE_GAPS)),
    }


@st.composite
def _rows(draw: st.DrawFn, room: Room) -> dict[str, Any]:
    """Which rows are empty and how, which tokens have a prefix, and how far apart these lie."""
    empty = draw(choose(EMPTY_WEIGHTS, {rows.empty for rows in room.rows}.__contains__))
    context = draw(choose(CONTEXT_WEIGHTS, {rows.context for rows in room.rows if rows.empty == empty}.__contains__))
    drawn = {"empty": empty, "context": context}
    if empty != "none":
        drawn["empty_lse"] = draw(choose(room.empty_lses))
        drawn["empty_holds"] = draw(choose(allowed(EMPTY_HOLDS_WEIGHTS, room.domain, "empty_holds")))
    drawn["far"] = draw(choose(FAR_WEIGHTS, {rows.far for rows in room.rows if rows[:2] == (empty, context)}.__contains__))
    return drawn


def _without_context(context: str, tokens: int) -> st.SearchStrategy[int]:
    """`tokens_without_context` of `tokens`."""
    counts = {"all": (0,), "some": range(1, tokens), "none": (tokens,)}[context]
    return choose(evenly(counts))


@st.composite
def _layouts(draw: st.DrawFn, domain: Domain, shape: dict[str, Any]) -> dict[str, Any]:
    """`gap`, and the layouts of all six tensors. In production prefix and suffix often have one layout."""
    gap = draw(choose(GAPS))
    known = Layouts(domain, {**shape, "gap": gap})
    prefix = draw(choose(fields.STATE_LAYOUTS, known.prefix))
    lse = draw(choose(fields.LSE_LAYOUTS, known.prefix_lse))
    return {
        "gap": gap,
        "prefix_layout": prefix,
        "suffix_layout": draw(choose(fields.STATE_LAYOUTS | {prefix: 12}, lambda suffix: known.suffix(prefix, suffix))),
        "output_layout": draw(choose(fields.STATE_LAYOUTS | {"packed": 7}, known.output)),
        "prefix_lse_layout": lse,
        "suffix_lse_layout": draw(choose(fields.LSE_LAYOUTS | {lse: 11}, lambda suffix: known.suffix_lse(lse, suffix))),
        "output_lse_layout": draw(choose(allowed(INDEPENDENT["output_lse_layout"], domain, "output_lse_layout"))),
    }


def _lead(domain: Domain, seed: int) -> int:
    """`lead`, told by the seed: no choice of its own, that other fields would have to shrink around. None for 3 in 4."""
    offered: list[int] = list(allowed(INDEPENDENT["lead"], domain, "lead"))
    return offered[{5: 1, 7: 2, 11: 3}.get(seed % 16, 0) % len(offered)]


def within(case: MergeAttentionStatesCase, domain: Domain) -> bool:
    """Whether the platform is the target's."""
    return case.platform == domain.platform


def _models(models: Iterable[ModelShape]) -> dict[str, tuple[str, ...]]:
    """Name of each model, with those of its rank counts."""
    variants = {model.name: tuple(shape.model for shape in PRESETS if model.name in _names(shape)) for model in models}
    return {name: found for name, found in variants.items() if found}


def _placed(lead: int) -> Callable[[MergeAttentionStatesCase], MergeAttentionStatesCase]:
    return lambda case: replace(case, lead=lead)


PLACEMENTS = {"production": _placed(0), "misaligned": _placed(1)}


OP = Op(
    name="merge_attention_states",
    case=MergeAttentionStatesCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=_models((*GQA_MODELS, *MLA_MODELS)),
    within=within,
    # Measured on 25 drawn cases, by resetting each field: what changes the specialisation in most of them.
    compile_time=frozenset({"platform", "num_heads", "head_dim", "dtype", "output_dtype", "has_output_lse", "far", "lead"}),
    placements=PLACEMENTS,
    facets=FACETS,
    properties=PROPERTIES,
)
