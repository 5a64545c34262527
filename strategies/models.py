"""Attention shapes of real models, and how tensor parallelism splits them.

Figures are those of the models' published configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tridiff.strategies.draws import Weights, choose, evenly

TP_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class ModelShape:
    """Query heads, KV heads and the widths of key and value of one attention layer, before any split.

    `is_mla`: latent attention, where the head of the cache is shared by all query heads and held by every rank.
    """

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    is_mla: bool = False

    def sharded(self, tp: int) -> dict[str, Any]:
        """Case fields of one of `tp` ranks: heads are divided, KV heads too until one is left, which is then repeated."""
        num_kv_heads = max(1, self.num_kv_heads // tp)
        return {
            "model": f"{self.name} TP{tp}",
            "num_kv_heads": num_kv_heads,
            "group_size": self.num_heads // tp // num_kv_heads,
            "head_dim": self.head_dim,
            "head_dim_v": self.head_dim_v,
            "is_mla": self.is_mla,
        }

    def splits_over(self, tp: int) -> bool:
        """Whether `tp` ranks can share the heads evenly."""
        kv_evenly = self.num_kv_heads % tp == 0 or tp % self.num_kv_heads == 0
        return self.num_heads % tp == 0 and kv_evenly


GQA_MODELS = (
    ModelShape("Llama-3-8B", 32, 8, 128, 128),
    ModelShape("Llama-3.2-1B", 32, 8, 64, 64),
    ModelShape("Llama-3-70B", 64, 8, 128, 128),
    ModelShape("Llama-3.1-405B", 128, 8, 128, 128),
    ModelShape("Qwen2.5-1.5B", 12, 2, 128, 128),
    ModelShape("Qwen2.5-7B", 28, 4, 128, 128),
    ModelShape("Qwen2.5-32B", 40, 8, 128, 128),
    ModelShape("Qwen3-Next-80B-A3B", 16, 2, 256, 256),
    ModelShape("Qwen3-class 27B", 24, 4, 256, 256),
    ModelShape("gpt-oss-120b", 64, 8, 64, 64),
    ModelShape("Mixtral-8x22B", 48, 8, 128, 128),
    ModelShape("MiMo-V2-Flash", 64, 4, 192, 128),
    ModelShape("Falcon-7B", 71, 1, 64, 64),
    ModelShape("StarCoder", 48, 1, 128, 128),
    ModelShape("Gemma-7B", 16, 16, 256, 256),
    ModelShape("Gemma-2-9B", 16, 8, 256, 256),
    ModelShape("Phi-2", 32, 32, 80, 80),
    ModelShape("Phi-3-mini", 32, 32, 96, 96),
)
"""Models with separate keys and values; KV heads from one (multi-query) to one per query head."""


def _latent(name: str, num_heads: int, kv_lora_rank: int, rope: int) -> ModelShape:
    return ModelShape(name, num_heads, 1, kv_lora_rank + rope, kv_lora_rank, is_mla=True)


MLA_MODELS = (
    _latent("DeepSeek-V2-Lite", 16, 512, 64),
    _latent("DeepSeek-V3", 128, 512, 64),
    _latent("Kimi-K2.5", 64, 512, 64),
    _latent("Kimi-K3 class", 96, 512, 64),
    _latent("Kimi-Linear-48B", 32, 512, 64),
    _latent("GLM-5", 64, 512, 64),
    _latent("Mistral-Small-4", 32, 256, 64),
    _latent("MiniCPM3-4B", 40, 256, 32),
)
"""Models with latent attention; of `num_heads` query heads one rank of sixteen may have a single one."""


def names(models: Iterable[ModelShape]) -> dict[str, tuple[str, ...]]:
    """Name of each model, with those of its rank counts: "DeepSeek-V3" with "DeepSeek-V3 TP1" to "DeepSeek-V3 TP16"."""
    return {model.name: tuple(model.sharded(tp)["model"] for tp in TP_SIZES if model.splits_over(tp)) for model in models}


Fits = Callable[[Mapping[str, Any]], bool]
"""Whether the fields of one rank are on offer."""


def model_shapes(
    models: Weights[ModelShape], named: Sequence[str] = (), fits: Fits = lambda _fields: True
) -> st.SearchStrategy[dict[str, Any]]:
    """`model`, `num_kv_heads`, `group_size`, `head_dim`, `head_dim_v` and `is_mla` of one rank of one of `models`, TP 1 to 16.

    `named`: names of models or of their rank counts, see `names`, to keep to; none for all. Shrinks towards the first model and
    one rank; where none `fits`, nothing can be drawn.
    """
    sizes = {model: ranks(model, named, fits) for model in models}
    return choose(models, lambda model: bool(sizes[model])).flatmap(lambda model: choose(evenly(sizes[model])).map(model.sharded))


def ranks(model: ModelShape, named: Sequence[str], fits: Fits) -> list[int]:
    """The rank counts over which `model` splits, those of which `fits`; `named`: see `model_shapes`."""
    whole = not named or model.name in named
    sharded = {tp: model.sharded(tp) for tp in TP_SIZES if model.splits_over(tp)}
    return [tp for tp, fields in sharded.items() if (whole or fields["model"] in named) and fits(fields)]
