"""Shapes of real models that vLLM serves from head-major caches, with the page sizes that serve them.

Hybrid models keep recurrent states in the pool of their KV caches, so a page must be as large as a state: the spec of the page
size is `hybrid`'s. Here stand the shapes with the sizes that it gives for states and caches in 16 bits, for states in float32,
and for caches in FP8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tridiff.strategies.models import GQA_MODELS, TP_SIZES, ModelShape
from tridiff.strategies.paged_readers_room import Shape

_Sizes = tuple[int, ...]

HYBRID_MODELS: Mapping[ModelShape, Mapping[int, _Sizes]] = {
    ModelShape("Qwen3-Next-80B-A3B", 16, 2, 256, 256): {
        **{1: (544, 1056, 1072, 2096), 2: (544, 1056, 1072, 2096)},
        **{4: (272, 528), 8: (144, 272)},
    },
    ModelShape("Qwen3.5-9B class", 16, 4, 256, 256): dict.fromkeys((1, 2, 4), (528, 1056)),
    ModelShape("Qwen3-class 27B", 24, 4, 256, 256): dict.fromkeys((1, 2, 4), (784, 1568)),
    ModelShape("Nemotron-Nano-9B-v2", 40, 8, 128, 128): dict.fromkeys((1, 2, 4, 8), (672, 1312)),
    ModelShape("Nemotron-H-8B", 32, 8, 128, 128): dict.fromkeys((1, 2, 4, 8), (528, 1040)),
    ModelShape("Bamba-9B", 32, 8, 128, 128): dict.fromkeys((1, 2, 4, 8), (528, 1040, 2064)),
    ModelShape("Granite-4.0-h-tiny", 12, 4, 128, 128): dict.fromkeys((1, 2, 4), (400, 784, 800, 1568)),
    ModelShape("Jamba-1.5-Mini", 32, 8, 128, 128): dict.fromkeys((1, 2, 4, 8), (80, 144, 160, 288)),
}
"""By rank count, the page sizes that follow."""

USUAL_PAGE_SIZES = (16, 32, 64)
"""Of models whose layers all attend."""


def model_shapes() -> tuple[Shape, ...]:
    """Every rank count of every model: hybrid ones first."""
    return (*_hybrid(), *_usual())


def model_names() -> dict[str, tuple[str, ...]]:
    """Name of each model, with those of its rank counts."""
    names: dict[str, list[str]] = {}
    for shape in model_shapes():
        names.setdefault(model_of(shape), []).append(shape.model)
    return {model: tuple(variants) for model, variants in names.items()}


def model_of(shape: Shape) -> str:
    """The name of the model, without its rank count."""
    return shape.model.rpartition(" ")[0]


def _hybrid() -> Iterable[Shape]:
    for model, sizes in HYBRID_MODELS.items():
        yield from (_shape(model, tp, pages) for tp, pages in sizes.items())


def _usual() -> Iterable[Shape]:
    hybrid = {model.name for model in HYBRID_MODELS}
    for model in GQA_MODELS:
        if model.name not in hybrid and model.head_dim == model.head_dim_v:
            yield from (_shape(model, tp, USUAL_PAGE_SIZES) for tp in TP_SIZES if model.splits_over(tp))


def _shape(model: ModelShape, tp: int, page_sizes: _Sizes) -> Shape:
    rank = model.sharded(tp)
    return Shape(rank["num_kv_heads"], rank["group_size"], rank["head_dim"], rank["model"], page_sizes)
