"""Shapes of real models that vLLM serves from head-major caches, with the page sizes that serve them.

Hybrid models keep recurrent states in the pool of their KV caches, so a page must be as large as a state: the arithmetic of the
page sizes is `hybrid`'s, for states and caches of every width that it knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from tridiff.strategies import hybrid
from tridiff.strategies.models import GQA_MODELS, TP_SIZES, ModelShape
from tridiff.strategies.paged_readers_room import Shape

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
    page_sizes = hybrid.page_sizes_of_models()
    for model in hybrid.MODELS:
        names = {tp: f"{model.name} TP{tp}" for tp in TP_SIZES}
        for tp, name in names.items():
            if name in page_sizes:
                kv_heads = model.kv_heads(tp)
                yield Shape(kv_heads, model.num_heads // tp // kv_heads, model.head_dim, name, page_sizes[name])


def _usual() -> Iterable[Shape]:
    for model in GQA_MODELS:
        if model.name not in hybrid.BY_NAME and model.head_dim == model.head_dim_v:
            yield from (_shape(model, tp) for tp in TP_SIZES if model.splits_over(tp))


def _shape(model: ModelShape, tp: int) -> Shape:
    rank = model.sharded(tp)
    return Shape(rank["num_kv_heads"], rank["group_size"], rank["head_dim"], rank["model"], USUAL_PAGE_SIZES)
