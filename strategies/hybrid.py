"""Page sizes of hybrid models, whose KV caches share a pool of pages with recurrent states.

Every page of the pool is as large as every other. So an attention page must hold at least one recurrent state, and as what it
holds is whole tokens, its page size (vLLM's `block_size`) is raised until it does. With cdiv(a, b) = ceil(a / b):

    token_bytes = 2 * max(1, KV heads / TP) * head_dim * bytes of a cache element        (K and V)
                = width of the latent row * bytes of a cache element                     (latent attention)
    state_bytes = (conv - 1) * channels / TP * bytes of a model element + state elements / TP * bytes of a state element
    align       = lcm(max(16, the user's page size, 128 with latent attention), stride of prefix checkpoints)
    page size   = align * cdiv(state_bytes, align * token_bytes), rounded up to a multiple of every backend's smallest block

and at least the user's own. The state's page is then padded to page size * token_bytes; attention pages carry no padding. The
channels of the convolution and the elements of the state, for each kind of recurrence, are told by its function here.

Source: vLLM 0.33, what `Platform._align_hybrid_block_size` and `MambaStateShapeCalculator` are documented to do, and the sizes
that its logs report. Figures of models are those of their published configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Any

from hypothesis import strategies as st

from tridiff.strategies.draws import choose, evenly
from tridiff.strategies.kv_caches import KVCache, is_head_major, pack_of
from tridiff.strategies.lengths import cdiv
from tridiff.strategies.models import TP_SIZES

SMALLEST_PAGE_SIZE = 16
"""Tokens of the smallest page that backends take."""
SMALLEST_LATENT_PAGE_SIZE = 128
"""The same for latent attention in hybrid models since vLLM 0.33: its kernels split pages into blocks of 32 or 64."""
CONV_WIDTH = 4
"""Taps of the causal convolution in all models here; one less columns are kept as state."""
MODEL_BYTES = 2
"""Bytes of an element of the convolution's state: bf16 or fp16."""

STATE_BYTES = {2: 3, 4: 2}
"""Bytes of an element of the recurrent state: of the model's type, or float32."""
CACHE_BYTES = {2: 3, 1: 2}
"""Bytes of an element of the KV cache: of the model's type, or FP8."""


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """What one recurrent layer keeps of a sequence, before any split.

    `heads`: what ranks share evenly. `channels`: of the convolution, without `groups`, each of which adds `group_channels`; a
    number of groups that the ranks do not divide is raised to theirs. `elements`: of the recurrent state.
    """

    heads: int
    channels: int
    elements: int
    groups: int = 0
    group_channels: int = 0

    def state_bytes(self, tp: int, element_bytes: int) -> int:
        """Bytes on one of `tp` ranks; `element_bytes`: of the recurrent state."""
        groups = tp if self.groups % tp else self.groups
        channels = (self.channels + groups * self.group_channels) // tp
        return (CONV_WIDTH - 1) * channels * MODEL_BYTES + self.elements // tp * element_bytes


def mamba1(*, inner: int, state: int) -> Recurrence:
    """Mamba-1: `inner` channels, each with a state of `state` elements."""
    return Recurrence(heads=inner, channels=inner, elements=inner * state)


def mamba2(*, heads: int, head_dim: int, state: int, groups: int) -> Recurrence:
    """Mamba-2: per head a state [head_dim, state]; B and C of each group go through the convolution as well."""
    inner = heads * head_dim
    return Recurrence(heads=heads, channels=inner, elements=inner * state, groups=groups, group_channels=2 * state)


def gated_delta_net(*, key_heads: int, value_heads: int, key_dim: int, value_dim: int) -> Recurrence:
    """Gated DeltaNet: per value head a state [value_dim, key_dim]; query, key and value go through the convolution."""
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    return Recurrence(heads=key_heads, channels=channels, elements=value_heads * value_dim * key_dim)


def kimi_delta_attention(*, heads: int, head_dim: int) -> Recurrence:
    """Kimi Delta Attention: a Gated DeltaNet with as many keys as values."""
    return gated_delta_net(key_heads=heads, value_heads=heads, key_dim=head_dim, value_dim=head_dim)


@dataclass(frozen=True, kw_only=True)
class HybridModel:
    """Attention heads of a model and its recurrence; `is_latent`: `head_dim` is the row that all query heads share."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    recurrence: Recurrence
    is_latent: bool = False

    def kv_heads(self, tp: int) -> int:
        """KV heads of one of `tp` ranks: divided until one is left, which is then repeated."""
        return max(1, self.num_kv_heads // tp)

    def token_bytes(self, tp: int, cache_bytes: int) -> int:
        """Bytes of a token in an attention page of one rank; `cache_bytes`: of an element."""
        return (1 if self.is_latent else 2 * self.kv_heads(tp)) * self.head_dim * cache_bytes

    def splits_over(self, tp: int) -> bool:
        """Whether `tp` ranks can share all heads evenly."""
        kv_evenly = self.num_kv_heads % tp == 0 or tp % self.num_kv_heads == 0
        return kv_evenly and self.num_heads % tp == 0 and self.recurrence.heads % tp == 0

    def page(
        self, *, tp: int = 1, state_bytes: int = 2, cache_bytes: int = 2, smallest: int | None = None, checkpoint: int = 1
    ) -> HybridPage:
        """The page of one of `tp` ranks; `state_bytes`, `cache_bytes`: of an element.

        `smallest`: the smallest page size, the user's own where that is larger; None: the backends' alone.
        """
        least = SMALLEST_LATENT_PAGE_SIZE if self.is_latent else SMALLEST_PAGE_SIZE
        state, token = self.recurrence.state_bytes(tp, state_bytes), self.token_bytes(tp, cache_bytes)
        size = page_size(state, token, smallest=least if smallest is None else smallest, checkpoint=checkpoint)
        return HybridPage(page_size=size, token_bytes=token, state_bytes=state)


@dataclass(frozen=True, kw_only=True)
class HybridPage:
    """A page of the pool: tokens of an attention page, bytes of one token, and of the state that a page can hold instead."""

    page_size: int
    token_bytes: int
    state_bytes: int

    @property
    def page_bytes(self) -> int:
        """Bytes of every page of the pool: K and V of all tokens, or a recurrent state with its padding."""
        return self.page_size * self.token_bytes

    @property
    def padding_bytes(self) -> int:
        """Bytes of a page that hold no state."""
        return self.page_bytes - self.state_bytes


def page_size(
    state_bytes: int,
    token_bytes: int,
    *,
    smallest: int = SMALLEST_PAGE_SIZE,
    checkpoint: int = 1,
    block: int = SMALLEST_PAGE_SIZE,
) -> int:
    """Tokens of an attention page that is as large as a recurrent state; formula: see the module.

    `smallest`: the larger one of the backend's smallest page and the user's. `checkpoint`: stride of prefix checkpoints in
    tokens, where the prefix cache aligns to them. `block`: a multiple of every attention backend's smallest block.
    """
    align = lcm(smallest, checkpoint)
    return block * cdiv(align * cdiv(state_bytes, align * token_bytes), block)


def caches(
    page_size: int, *, num_kv_heads: int, head_dim: int, itemsize: int, kind: str, pages: str, gap: int = 0
) -> tuple[KVCache, KVCache]:
    """K and V of such pages; `kind`, `pages` and `gap`: see `kv_caches`. Raises `ValueError` where K's packs do not fit.

    "block_interior" is what a pool of hybrid models has: page stride 2P with P = page_size * num_kv_heads * head_dim elements.
    With x = 16 / itemsize, head-major strides are K (2P, head_dim * page_size, page_size * x, x, 1) and V (2P, head_dim *
    page_size, page_size, 1).
    """
    if is_head_major(kind) and head_dim % pack_of(itemsize):
        raise ValueError(
            f"head_dim {head_dim} is no multiple of the pack {pack_of(itemsize)}: take kind nhd, or another head_dim"
        )
    shared: Mapping[str, Any] = {
        **{"kind": kind, "order": "token_major", "pages": pages, "gap": gap, "page_size": page_size},
        **{"num_heads": num_kv_heads, "width": head_dim, "neighbour": head_dim, "itemsize": itemsize},
    }
    return KVCache(role="key", **shared), KVCache(role="value", **shared)


MODELS = (
    HybridModel(
        name="Qwen3-Next-80B-A3B",
        num_heads=16,
        num_kv_heads=2,
        head_dim=256,
        recurrence=gated_delta_net(key_heads=16, value_heads=32, key_dim=128, value_dim=128),
    ),
    HybridModel(
        name="Qwen3.5-9B",
        num_heads=16,
        num_kv_heads=4,
        head_dim=256,
        recurrence=gated_delta_net(key_heads=16, value_heads=32, key_dim=128, value_dim=128),
    ),
    HybridModel(
        name="Qwen3.5-27B",
        num_heads=24,
        num_kv_heads=4,
        head_dim=256,
        recurrence=gated_delta_net(key_heads=16, value_heads=48, key_dim=128, value_dim=128),
    ),
    HybridModel(
        name="Nemotron-Nano-9B-v2",
        num_heads=40,
        num_kv_heads=8,
        head_dim=128,
        recurrence=mamba2(heads=128, head_dim=80, state=128, groups=8),
    ),
    HybridModel(
        name="Nemotron-H-8B",
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        recurrence=mamba2(heads=128, head_dim=64, state=128, groups=8),
    ),
    HybridModel(
        name="Bamba-9B",
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        recurrence=mamba2(heads=128, head_dim=64, state=128, groups=1),
    ),
    HybridModel(
        name="Bamba defaults",  # the configuration's class has a state of 256, the published model one of 128
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        recurrence=mamba2(heads=128, head_dim=64, state=256, groups=1),
    ),
    HybridModel(
        name="Granite-4.0-h-tiny",
        num_heads=12,
        num_kv_heads=4,
        head_dim=128,
        recurrence=mamba2(heads=48, head_dim=64, state=128, groups=1),
    ),
    HybridModel(
        name="Jamba-1.5-Mini",
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        recurrence=mamba1(inner=8192, state=16),
    ),
    HybridModel(
        name="Kimi-Linear-48B",
        num_heads=32,
        num_kv_heads=1,
        head_dim=512 + 64,
        recurrence=kimi_delta_attention(heads=32, head_dim=128),
        is_latent=True,
    ),
)
"""Hybrid models by their published configurations."""

BY_NAME = {model.name: model for model in MODELS}

CHECKPOINTS = {1: 4, 64: 1, 256: 1}
"""Stride of prefix checkpoints; 1: the prefix cache does not align to any."""
USER_PAGE_SIZES = {16: 6, 32: 2, 64: 1, 128: 1, 48: 1}
"""Page size that the user asked for, as far as it goes."""

Drawn = tuple[HybridModel, dict[str, int]]
"""A model, and the arguments of its `page`."""


def settings(models: st.SearchStrategy[HybridModel]) -> st.SearchStrategy[Drawn]:
    """One of `models`, and arguments of its `page`: ranks over which it splits, bytes, alignment; simplest: one rank, 2 bytes."""

    def around(model: HybridModel) -> st.SearchStrategy[Drawn]:
        least = SMALLEST_LATENT_PAGE_SIZE if model.is_latent else SMALLEST_PAGE_SIZE
        arguments = st.fixed_dictionaries(
            {
                "tp": choose(evenly(tp for tp in TP_SIZES if model.splits_over(tp))),
                "state_bytes": choose(STATE_BYTES),
                "cache_bytes": choose(CACHE_BYTES),
                "smallest": choose(USER_PAGE_SIZES).map(lambda size: max(size, least)),
                "checkpoint": choose(CHECKPOINTS),
            }
        )
        return st.tuples(st.just(model), arguments)

    return models.flatmap(around)


def real_models() -> st.SearchStrategy[HybridModel]:
    """One of `MODELS`."""
    return choose(evenly(MODELS))


def free_models() -> st.SearchStrategy[HybridModel]:
    """A model that nobody trained: any heads and widths, each kind of recurrence."""
    return st.builds(
        _free,
        kv_heads=choose({1: 2, 2: 2, 4: 2, 8: 1, 3: 1}),
        group=choose({1: 2, 4: 2, 7: 1, 8: 1}),
        head_dim=choose({64: 2, 128: 3, 256: 2, 32: 1, 80: 1, 96: 1, 192: 1}),
        recurrence=_recurrences(),
        is_latent=choose({False: 4, True: 1}),
    )


def _free(*, kv_heads: int, group: int, head_dim: int, recurrence: Recurrence, is_latent: bool) -> HybridModel:
    heads = 1 if is_latent else kv_heads
    return HybridModel(
        name="free",
        num_heads=kv_heads * group,
        num_kv_heads=heads,
        head_dim=head_dim,
        recurrence=recurrence,
        is_latent=is_latent,
    )


def _recurrences() -> st.SearchStrategy[Recurrence]:
    heads = choose({16: 2, 32: 2, 48: 1, 128: 2, 1: 1})
    width, state, groups = choose({64: 2, 128: 2, 80: 1}), choose({128: 3, 16: 1, 256: 1}), choose({1: 2, 8: 2, 2: 1})
    return st.one_of(
        st.builds(mamba1, inner=choose({4096: 1, 8192: 2, 1536: 1}), state=choose({16: 2, 8: 1})),
        st.builds(mamba2, heads=heads, head_dim=width, state=state, groups=groups),
        st.builds(gated_delta_net, key_heads=heads, value_heads=heads, key_dim=width, value_dim=state),
        st.builds(kimi_delta_attention, heads=heads, head_dim=width),
    )


Fits = Callable[[Mapping[str, Any]], bool]
"""Whether fields of a Case are on offer."""


def preset_shapes(fits: Fits = lambda _fields: True) -> st.SearchStrategy[dict[str, Any]]:
    """`model`, `num_kv_heads`, `group_size`, `head_dim`, `page_size` and `cache_bytes` of one rank of a real model.

    Without latent ones. Of those that `fits`; where none does, that is an error of the caller.
    """
    return choose(evenly(range(len(_PRESETS))), lambda index: fits(_PRESETS[index])).map(lambda index: dict(_PRESETS[index]))


def preset_names() -> dict[str, tuple[str, ...]]:
    """Name of each model, with the names that its presets have."""
    return {
        model.name: tuple(dict.fromkeys(each["model"] for each in _PRESETS if each["model"].startswith(f"{model.name} TP")))
        for model in MODELS
        if not model.is_latent
    }


def page_sizes_of_models() -> dict[str, tuple[int, ...]]:
    """By name of each rank of the models without latent attention, the page sizes that follow, ascending."""
    found: dict[str, set[int]] = {}
    for each in _PRESETS:
        found.setdefault(each["model"], set()).add(each["page_size"])
    return {model: tuple(sorted(sizes)) for model, sizes in found.items()}


def _presets() -> list[dict[str, Any]]:
    return [
        {
            "model": f"{model.name} TP{tp}",
            "num_kv_heads": model.kv_heads(tp),
            "group_size": model.num_heads // tp // model.kv_heads(tp),
            "head_dim": model.head_dim,
            "page_size": model.page(tp=tp, state_bytes=state_bytes, cache_bytes=cache_bytes).page_size,
            "cache_bytes": cache_bytes,
        }
        for model in MODELS
        if not model.is_latent
        for tp in TP_SIZES
        if model.splits_over(tp)
        for state_bytes in STATE_BYTES
        for cache_bytes in CACHE_BYTES
    ]


_PRESETS = _presets()
