"""Room: which choices for a Case of `decode_attention` leave something for those that follow, within a budget and a domain.

Nothing is filtered afterwards: what would leave no head count, no page size, no layout, ... is not on offer in the first place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from tridiff.harness.api import Domain
from tridiff.strategies import dims, fp8, heads, layouts, lengths, paging, profiles
from tridiff.strategies.budget import Budget
from tridiff.strategies.decode_attention_case import DTYPES
from tridiff.strategies.decode_attention_inputs import cache_shapes
from tridiff.strategies.draws import Weights, allowed, evenly

SEEDS = evenly(range(256))
NUM_KV_SPLITS = evenly((1, 2, 3, 4, 5, 8, 16, 64, 264))

DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 5, "float16": 2}
NARROW_DTYPES = {"bfloat16": 5, "float16": 2}
OUTPUT_DTYPE_WEIGHTS = {"same": 3, "float32": 1}
SEQ_LENS_DTYPE_WEIGHTS = {"int32": 3, "int64": 1}

NARROW = 2
"""Bytes of a 16-bit element: pages are counted in these, and float32 is offered where it fits as well."""

_WIDE = 4
_FEW_SPLITS = 4
"""As many splits are always on offer. With 128 heads of 512 columns the scratch of five rows then takes 5 MiB."""

_INDEPENDENT: Mapping[str, Weights[Any]] = {
    "num_kv_splits": NUM_KV_SPLITS,
    "pattern": profiles.PATTERNS,
    "logit_cap": profiles.LOGIT_CAPS,
    "scale_factor": profiles.SCALE_FACTORS,
    "page_order": paging.PAGE_ORDERS,
    "page_sharing": paging.PAGE_SHARINGS,
    "table_tail": paging.TABLE_TAILS,
    "query_layout": layouts.QUERY_LAYOUTS,
    "output_layout": layouts.ROW_LAYOUTS,
    "lse_layout": layouts.LSE_LAYOUTS,
    "table_layout": layouts.TABLE_LAYOUTS,
    "output_dtype": OUTPUT_DTYPE_WEIGHTS,
    "seq_lens_dtype": SEQ_LENS_DTYPE_WEIGHTS,
}
"""Facets of which any allowed value will do."""

_OF_SEED = frozenset({"lead", "storage", "scale_form"})
_OF_LAYOUTS = frozenset({"gap", "key_layout", "value_layout", "cache_rank", "cache_strides", "far"})


class Room:
    """What there is room for. `shapes`: those of models; None for all head counts and widths that the domain allows."""

    def __init__(
        self, domain: Domain, page_sizes: Weights[int], budget: Budget, shapes: tuple[Mapping[str, Any], ...] | None = None
    ) -> None:
        self.domain = domain
        self.budget = budget
        self.page_sizes = allowed(page_sizes, domain, "page_size")
        self.splits = allowed(NUM_KV_SPLITS, domain, "num_kv_splits")
        self._shapes = shapes
        self._least = lengths.least(domain)
        # Kept for as long as this object lives: they are asked again and again.
        self.takes = functools.cache(self._takes)
        self.heads_fit = functools.cache(self._heads_fit)
        self._has_shape_of = functools.cache(self._has_shape)
        self._fits_as = functools.cache(self._fits)
        self._layouts = functools.cache(self._allowed_layouts)

    @property
    def is_empty(self) -> bool:
        """Whether the domain leaves no Case."""
        formats = ("same", *fp8.offered(self.domain.target, whole=self.domain.whole))
        scales = [allowed(pool, self.domain, facet) for facet, pool in (("k_scale", fp8.K_SCALES), ("v_scale", fp8.V_SCALES))]
        return not (
            all(allowed(weights, self.domain, facet) for facet, weights in _INDEPENDENT.items())
            and any(
                self.takes(name, k_scale, v_scale)
                for name in formats
                for k_scale in (scales[0] if name != "same" else (1.0,))
                for v_scale in (scales[1] if name != "same" else (1.0,))
            )
        )

    # Cache dtypes and scales, which are drawn first

    def _takes(self, cache_dtype: str, k_scale: float, v_scale: float) -> bool:
        """Whether such caches leave values, seeds, dtypes and a shape."""
        return (
            _has_values(cache_dtype, k_scale)
            and _has_values(cache_dtype, v_scale)
            and any(self.has(is_mla, cache_dtype, k_scale, v_scale) for is_mla in (False, True))
        )

    def has(self, is_mla: bool, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> bool:  # noqa: FBT001 - a value
        """Whether there is a shape for such caches; in latent attention the scale of K is that of V, too."""
        return self._allows_types(cache_dtype, k_scale, k_scale if is_mla else v_scale) and (
            any(self.takes_dtype(name, cache_dtype, k_scale, v_scale) for name in DTYPE_WEIGHTS)
            and self._has_shape_of(is_mla, self.element_bytes(cache_dtype))
        )

    def _allows_types(self, cache_dtype: str, k_scale: float, v_scale: float) -> bool:
        domain = self.domain
        return not domain.limits or (
            domain.allows("cache_dtype", cache_dtype)
            and domain.allows("k_scale", k_scale)
            and domain.allows("v_scale", v_scale)
            and any(self.takes_seed(seed, cache_dtype, k_scale, v_scale) for seed in SEEDS)
        )

    def takes_dtype(self, name: str, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> bool:
        """Whether queries may be of that dtype, in which all numbers of the caches must be finite."""
        finite = fp8.stays_finite(cache_dtype, max(k_scale, v_scale), DTYPES[name])
        return finite and self.domain.allows("dtype", name)

    def takes_seed(self, seed: int, cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> bool:
        """Whether what the seed tells is allowed."""
        domain = self.domain
        return not _OF_SEED & domain.limits.keys() or (
            all(domain.allows(facet, value) for facet, value in layouts.placement_fields(seed).items())
            and domain.allows("scale_form", fp8.scale_form(seed, cache_dtype, k_scale, v_scale))
        )

    def element_bytes(self, cache_dtype: str) -> int:
        """Bytes by which elements of a cache are counted: 4 where the domain has no dtype but float32, and the cache has that."""
        is_wide = cache_dtype == "same" and not any(self.domain.allows("dtype", name) for name in NARROW_DTYPES)
        return _WIDE if is_wide else NARROW

    # Shapes, and what comes after them

    def _has_shape(self, is_mla: bool, element_bytes: int) -> bool:  # noqa: FBT001 - a value
        return any(self.fits(shape, element_bytes) for shape in self._candidates(is_mla=is_mla))

    def _candidates(self, *, is_mla: bool) -> Iterator[Mapping[str, Any]]:
        if self._shapes is not None:
            yield from (shape for shape in self._shapes if shape["is_mla"] == is_mla)
            return
        counts, groups = heads.pools(self.domain, is_mla=is_mla)
        for pair in self.pairs(is_mla=is_mla):
            yield from (_shape(is_mla, count, group, *pair) for count in counts for group in groups)

    def pairs(self, *, is_mla: bool) -> Iterator[tuple[int, int]]:
        """Widths of keys and values that the domain allows."""
        return dims.latent_pairs(self.domain) if is_mla else dims.pairs(self.domain)

    def _heads_fit(self, num_kv_heads: int, group_size: int, *, is_mla: bool, element_bytes: int) -> bool:
        """Whether some widths fit as many heads."""
        pairs = self.pairs(is_mla=is_mla)
        return any(self.fits(_shape(is_mla, num_kv_heads, group_size, *pair), element_bytes) for pair in pairs)

    def fits(self, shape: Mapping[str, Any], element_bytes: int) -> bool:
        """Whether a shape is allowed, and leaves splits, a page size, layouts and lengths."""
        return self._fits_as(element_bytes, *(shape[name] for name in _SHAPE))

    def _fits(self, element_bytes: int, *values: Any) -> bool:
        shape = _shape(*values)
        return bool(
            (self._shapes is not None or _num_heads(shape) * _widths(shape) <= self.budget.row_width)
            and all(self.domain.allows(name, shape[name]) for name in _SHAPE)
            and self.domain.allows("widths", dims.widths(shape["head_dim"], shape["head_dim_v"]))
            and self._layouts_of(shape)
            and min(self.splits) <= self.most_splits(shape)
            and max(1, self._least) <= self.most_tokens(shape)
            and any(self.takes_pages(shape, size, element_bytes) for size in self.page_sizes)
        )

    def most_splits(self, shape: Mapping[str, Any]) -> int:
        """KV splits for which there is scratch."""
        columns: int = max(shape["head_dim_v"] + 1, 64)
        return max(_FEW_SPLITS, self.budget.split_elements // (_num_heads(shape) * columns))

    def most_tokens(self, shape: Mapping[str, Any]) -> int:
        """Keys of all rows together."""
        return self.budget.multiply_adds // (_num_heads(shape) * _widths(shape))

    def takes_pages(self, shape: Mapping[str, Any], page_size: int, element_bytes: int) -> bool:
        """Whether there is room for the pages of a row at least."""
        return self.most_pages(shape, page_size, element_bytes) >= max(1, lengths.cdiv(self._least, page_size))

    def most_pages(self, shape: Mapping[str, Any], page_size: int, element_bytes: int) -> int:
        """Pages for which there is memory: half of it for packed ones, the gaps of the layouts get the other half."""
        token: int = shape["head_dim"] if shape["is_mla"] else shape["num_kv_heads"] * _widths(shape)
        packed = self.budget.cache_bytes // (2 * element_bytes * token) // page_size
        shapes = cache_shapes({**shape, "page_size": page_size}, num_pages=1)
        page = layouts.page_elements(self.domain, self._layouts_of(shape), shapes["key"], shapes.get("value"))
        laid_out = 0 if page is None else self.elements(element_bytes) // page
        return min(packed, laid_out) - paging.SPARE_PAGES

    def _layouts_of(self, shape: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        return self._layouts(shape["is_mla"], shape["num_kv_heads"], shape["head_dim"] == shape["head_dim_v"])

    def _allowed_layouts(self, is_mla: bool, num_heads: int, equal_widths: bool) -> tuple[tuple[str, str], ...]:  # noqa: FBT001
        if not _OF_LAYOUTS & self.domain.limits.keys():
            return (("packed", "packed"),)  # what needs least
        return layouts.allowed_pairs(self.domain, num_heads=num_heads, equal_widths=equal_widths, is_mla=is_mla)

    def elements(self, element_bytes: int) -> int:
        """Elements of both caches together."""
        return self.budget.cache_bytes // element_bytes


_SHAPE = ("is_mla", "num_kv_heads", "group_size", "head_dim", "head_dim_v")


def _shape(*values: Any) -> dict[str, Any]:
    return dict(zip(_SHAPE, values, strict=True))


def _num_heads(shape: Mapping[str, Any]) -> int:
    return int(shape["num_kv_heads"] * shape["group_size"])


def _widths(shape: Mapping[str, Any]) -> int:
    return int(shape["head_dim"] + shape["head_dim_v"])


def _has_values(cache_dtype: str, scale: float) -> bool:
    """Whether some standard deviation of every pool suits a scale."""
    pools = (profiles.SIGMAS, profiles.QUIET_SIGMAS, profiles.VALUE_SIGMAS)
    return all(any(fp8.suits(cache_dtype, scale, sigma) for sigma in pool) for pool in pools)
