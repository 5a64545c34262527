"""The Op `decode_attention`: softmax attention of one query token per row over a paged cache, with the log-sum-exp.

Multi-head and grouped-query attention, where keys and values lie in caches of their own, and latent attention (MLA), where
the values are the first columns of the keys; caches of the query's dtype or in FP8. The case, its strategy and the presets of
real models, and the inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from tridiff.harness.api import Arena, Domain, Inputs, Op, require, require_one_of, require_range
from tridiff.strategies import fp8, layouts, paging, profiles
from tridiff.strategies.budget import LARGE_PAGES, TYPICAL, Budget
from tridiff.strategies.caches import Pool
from tridiff.strategies.dims import head_dims, latent_dims, rope_fits_platform
from tridiff.strategies.draws import Weights, choose, evenly, fields
from tridiff.strategies.heads import heads, latent_heads
from tridiff.strategies.layouts import CacheShape
from tridiff.strategies.lengths import seq_lens
from tridiff.strategies.models import GQA_MODELS, MLA_MODELS, model_shapes, names

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SEQ_LENS_DTYPES = {"int32": torch.int32, "int64": torch.int64}
CACHE_DTYPES = ("same", *fp8.DTYPES)
SEEDS = evenly(range(256))
PLATFORMS = ("hip", "cuda")
NUM_KV_SPLITS = evenly((1, 2, 3, 4, 5, 8, 16, 64, 264))

DTYPE_WEIGHTS = {"float32": 3, "bfloat16": 5, "float16": 2}
NARROW_DTYPES = {"bfloat16": 5, "float16": 2}
OUTPUT_DTYPES = {"same": 3, "float32": 1}
MLA = {False: 13, True: 8}
SEQ_LENS_DTYPE_WEIGHTS = {"int32": 3, "int64": 1}

_MAX_ROWS = 256
_MAX_LENGTH = 2**20


@dataclass(frozen=True, kw_only=True)
class DecodeAttentionCase:
    """Parameters of one call; the defaults are the simplest case.

    What the call computes: `num_kv_heads` KV heads, each shared by `group_size` query heads; `head_dim` (Lk) and
    `head_dim_v` (Lv); `seq_lens`, the keys of each row; `num_kv_splits`; `logit_cap`, 0 for none; `scale_factor`, by which
    sm_scale exceeds 1 / sqrt(Lk); `dtype` of queries and caches, `output_dtype` ("same" or "float32"), `seq_lens_dtype`;
    `cache_dtype`, "same" or an FP8 format, and with the latter `k_scale` and `v_scale`, by which codes are multiplied;
    `scale_form`, how these reach the launcher, see `fp8.SCALE_FORMS`; `is_mla`, whether values are the first `head_dim_v`
    columns of the keys; `platform`, whose tile rules apply.

    Where it all lies: `page_size` tokens per page; `page_order` and `page_sharing`, see `paging.assign_pages`; `table_tail`
    unused columns of the block table; `key_layout` and `value_layout`, see `layouts.CacheShape.strides`; `query_layout`,
    `output_layout`, `lse_layout` and `table_layout`, see `layouts.row_strides`; `gap`, elements of each gap or padding in
    those; `lead`, elements by which queries and caches begin past a 16-byte boundary; `storage` of the caches, "large" beyond
    2 GiB; `far`, "pages" or "heads" where the last ones lie beyond 2^31 elements.

    What it holds: `pattern`, `sigma`, `value_sigma`, `peak_at` and `peak_height`, see `profiles`; `seed`.

    `model`: name and rank count of the preset, "" without one.
    """

    model: str = ""
    platform: str = "hip"
    num_kv_heads: int = 1
    group_size: int = 1
    head_dim: int = 16
    head_dim_v: int = 16
    seq_lens: tuple[int, ...] = (1,)
    num_kv_splits: int = 1
    page_size: int = 16
    page_order: str = "identity"
    page_sharing: str = "none"
    table_tail: int = 0
    key_layout: str = "packed"
    value_layout: str = "packed"
    far: str = "none"
    query_layout: str = "packed"
    output_layout: str = "packed"
    lse_layout: str = "packed"
    table_layout: str = "packed"
    gap: int = 16
    lead: int = 0
    storage: str = "small"
    is_mla: bool = False
    dtype: str = "float32"
    cache_dtype: str = "same"
    k_scale: float = 1.0
    v_scale: float = 1.0
    scale_form: str = "scalar"
    output_dtype: str = "same"
    seq_lens_dtype: str = "int32"
    logit_cap: float = 0.0
    scale_factor: float = 1.0
    pattern: str = "gaussian"
    sigma: float = 1.0
    value_sigma: float = 1.0
    peak_at: str = "last"
    peak_height: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `CaseError` for the first field that is out of its range."""
        require(len(self.model) <= 80, f"model={self.model!r}: must have at most 80 characters")
        for field, (low, high) in _RANGES.items():
            require_range(field, getattr(self, field), low, high)
        for field, allowed in _CHOICES.items():
            require_one_of(field, getattr(self, field), allowed)
        require(1 <= len(self.seq_lens) <= _MAX_ROWS, f"seq_lens={self.seq_lens!r}: must have 1 to {_MAX_ROWS} rows")
        for row, length in enumerate(self.seq_lens):
            require_range(f"seq_lens[{row}]", length, 0, _MAX_LENGTH)
        fits = layouts.far_fits(self.far, self.key_layout, self.value_layout, self.num_kv_heads)
        require(fits, f"far={self.far!r}: must be combined with {_FAR_NEEDS.get(self.far)}")
        self._check_scales()
        if self.is_mla:
            self._check_mla()

    def _check_scales(self) -> None:
        require(
            fp8.form_fits(self.scale_form, self.cache_dtype, self.k_scale, self.v_scale),
            f"scale_form={self.scale_form!r}: must be combined with {_FORM_NEEDS.get(self.scale_form)}",
        )
        if self.cache_dtype == "same":
            for field in ("k_scale", "v_scale"):
                scale = getattr(self, field)
                require(scale == 1.0, f"{field}={scale}: must be 1.0 unless cache_dtype is an FP8 format")
            return
        require(
            fp8.stays_finite(self.cache_dtype, max(self.k_scale, self.v_scale), DTYPES[self.dtype]),
            f"k_scale={self.k_scale}, v_scale={self.v_scale}: {self.cache_dtype} times that overflows {self.dtype}",
        )

    def _check_mla(self) -> None:
        for field, other in (("v_scale", "k_scale"), ("value_layout", "key_layout")):
            value, needed = getattr(self, field), getattr(self, other)
            require(
                value == needed, f"{field}={value!r}: must be {other}={needed!r} with is_mla, where values are part of the keys"
            )
        require(self.num_kv_heads == 1, f"num_kv_heads={self.num_kv_heads}: must be 1 with is_mla")
        require(
            self.head_dim_v <= self.head_dim,
            f"head_dim_v={self.head_dim_v}: must be at most head_dim={self.head_dim} with is_mla",
        )

    @property
    def num_heads(self) -> int:
        """Query heads, Hq."""
        return self.num_kv_heads * self.group_size

    @property
    def sm_scale(self) -> float:
        """What multiplies the products of queries and keys."""
        return self.scale_factor / math.sqrt(self.head_dim)


_RANGES: Mapping[str, tuple[float, float]] = {
    "num_kv_heads": (1, 1024),
    "group_size": (1, 1024),
    "head_dim": (1, 4096),
    "head_dim_v": (1, 4096),
    "num_kv_splits": (1, 4096),
    "page_size": (1, 65536),
    "table_tail": (0, 1024),
    "gap": (1, 65536),
    "lead": (0, 64),
    "logit_cap": (0.0, 1e6),
    "scale_factor": (profiles.MIN_SCALE_FACTOR, 10.0),
    "k_scale": (2.0**-30, 2.0**10),
    "v_scale": (2.0**-30, 2.0**10),
    "sigma": (0.0, profiles.MAX_SIGMA),
    "value_sigma": (0.0, profiles.MAX_SIGMA),
    "peak_height": (0.0, profiles.MAX_HEIGHT),
    "seed": (0, 2**63 - 1),
}
"""With these, every value is finite in float16 and every logit in float32."""

_CHOICES: Mapping[str, Iterable[object]] = {
    "platform": PLATFORMS,
    "page_order": paging.PAGE_ORDERS,
    "page_sharing": paging.PAGE_SHARINGS,
    "key_layout": layouts.CACHE_LAYOUTS,
    "value_layout": layouts.CACHE_LAYOUTS,
    "storage": layouts.STORAGES,
    "far": layouts.FAR,
    "query_layout": layouts.QUERY_LAYOUTS,
    "output_layout": layouts.ROW_LAYOUTS,
    "lse_layout": layouts.LSE_LAYOUTS,
    "table_layout": layouts.TABLE_LAYOUTS,
    "dtype": DTYPES,
    "scale_form": fp8.SCALE_FORMS,
    "cache_dtype": CACHE_DTYPES,
    "output_dtype": OUTPUT_DTYPES,
    "seq_lens_dtype": SEQ_LENS_DTYPES,
    "pattern": profiles.PATTERNS,
    "peak_at": profiles.PEAKS,
}

_FAR_NEEDS = {
    "pages": "layouts other than 'heads_outermost'",
    "heads": "a layout 'heads_outermost' and num_kv_heads of at least 3",
}

_FORM_NEEDS = {
    "vector": "an FP8 format as cache_dtype",
    "absent": "an FP8 format as cache_dtype and a k_scale or v_scale of 1.0",
    "unread": "cache_dtype='same'",
}


def cases(domain: Domain) -> st.SearchStrategy[DecodeAttentionCase]:
    """Cases over the whole of `domain`, within `TYPICAL`; shrinks towards `DecodeAttentionCase()`."""
    return _cases(domain, _shapes(domain.platform, TYPICAL), paging.PAGE_SIZES, TYPICAL)


def preset_cases(domain: Domain) -> st.SearchStrategy[DecodeAttentionCase]:
    """Cases with the dimensions of real models and the page sizes that serve them, within `LARGE_PAGES`."""
    return _cases(domain, model_shapes(PRESETS, domain.models), paging.MODEL_PAGE_SIZES, LARGE_PAGES)


PRESETS = dict.fromkeys(GQA_MODELS, 2) | dict.fromkeys(MLA_MODELS, 3)


@st.composite
def _shapes(draw: st.DrawFn, platform: str, budget: Budget) -> dict[str, Any]:
    """`is_mla`, head counts and widths; many heads leave room for small widths only."""
    is_mla = draw(choose(MLA))
    counts = draw(latent_heads() if is_mla else heads())
    max_sum = budget.row_width // (counts["num_kv_heads"] * counts["group_size"])
    dims = latent_dims(max_sum=max_sum, platform=platform) if is_mla else head_dims(max_sum=max_sum)
    return {"is_mla": is_mla} | counts | draw(dims)


@st.composite
def _cases(
    draw: st.DrawFn, domain: Domain, shapes: st.SearchStrategy[dict[str, Any]], page_sizes: Weights[int], budget: Budget
) -> DecodeAttentionCase:
    """Draws in the order in which fields should become simple: FP8, values, shape, lengths and pages, layouts, dtypes.

    Page size and splits come before the lengths, because those lie around their multiples.
    """
    types = draw(fp8.cache_types(domain.target))
    drawn = types | draw(_profile(**types)) | draw(shapes)
    if drawn["is_mla"] and "k_scale" in drawn:
        drawn["v_scale"] = drawn["k_scale"]
    drawn |= draw(_extents(drawn, page_sizes, budget))
    drawn |= draw(paging.paging_fields())
    caches = _cache_shapes(drawn, paging.pool_size(drawn["seq_lens"], drawn["page_size"]))
    elements = budget.cache_bytes // _NARROW
    drawn |= draw(
        layouts.latent_fields(caches["key"], elements=elements)
        if drawn["is_mla"]
        else layouts.cache_fields(caches["key"], caches["value"], elements=elements)
    )
    drawn |= draw(layouts.row_fields())
    total = sum(shape.elements(drawn[f"{name}_layout"], drawn["gap"]) for name, shape in caches.items())
    drawn |= draw(_types(**types, narrow=total * 4 > budget.cache_bytes))
    seed = draw(choose(SEEDS))
    drawn |= layouts.placement_fields(seed)
    scales = {name: drawn[name] for name in ("k_scale", "v_scale") if name in drawn}
    form = fp8.scale_form(seed, drawn["cache_dtype"], **scales)
    return DecodeAttentionCase(**drawn, platform=domain.platform, scale_form=form, seed=seed)


_NARROW = 2
"""Bytes of a 16-bit element: pages are counted in these, and float32 is offered where it fits as well."""


_FEW_SPLITS = 4
"""As many splits are always on offer. With 128 heads of 512 columns the scratch of five rows then takes 5 MiB."""


@st.composite
def _extents(draw: st.DrawFn, shape: Mapping[str, Any], page_sizes: Weights[int], budget: Budget) -> dict[str, Any]:
    """`num_kv_splits`, `page_size` and `seq_lens`, as the heads and widths of `shape` leave room for."""
    num_heads = shape["num_kv_heads"] * shape["group_size"]
    widths = shape["head_dim"] + shape["head_dim_v"]
    most_splits = max(_FEW_SPLITS, budget.split_elements // (num_heads * max(shape["head_dim_v"] + 1, 64)))
    splits = draw(choose(NUM_KV_SPLITS, lambda splits: splits <= most_splits))
    # Half of the memory for packed pages: the gaps of the layouts get the other half.
    token = shape["head_dim"] if shape["is_mla"] else shape["num_kv_heads"] * widths
    tokens_in_memory = budget.cache_bytes // (2 * _NARROW * token)
    page_size = draw(choose(page_sizes, lambda size: tokens_in_memory // size > paging.SPARE_PAGES))
    pages = tokens_in_memory // page_size - paging.SPARE_PAGES
    tokens = budget.multiply_adds // (num_heads * widths)
    lengths = draw(seq_lens(page_size, splits, tokens=tokens, pages=pages))
    return {"num_kv_splits": splits, "page_size": page_size, "seq_lens": lengths}


def _profile(cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0) -> st.SearchStrategy[dict[str, Any]]:
    """Values that suit the scales of FP8 caches."""
    return profiles.profile_fields(
        suits_keys=functools.partial(fp8.suits, cache_dtype, k_scale),
        suits_values=functools.partial(fp8.suits, cache_dtype, v_scale),
    )


@functools.cache
def _types(cache_dtype: str, k_scale: float = 1.0, v_scale: float = 1.0, *, narrow: bool) -> st.SearchStrategy[dict[str, Any]]:
    """`dtype`, `output_dtype` and `seq_lens_dtype`; with `narrow` bfloat16 stands in for float32, unless caches are in FP8."""
    scale = max(k_scale, v_scale)
    return fields(
        dtype=choose(
            NARROW_DTYPES if narrow and cache_dtype == "same" else DTYPE_WEIGHTS,
            lambda name: fp8.stays_finite(cache_dtype, scale, DTYPES[name]),
        ),
        output_dtype=choose(OUTPUT_DTYPES),
        seq_lens_dtype=choose(SEQ_LENS_DTYPE_WEIGHTS),
    )


def _cache_shapes(fields: Mapping[str, Any], num_pages: int) -> dict[str, CacheShape]:
    """Shape of each cache by name; latent attention has none for the values."""
    common = {"num_pages": num_pages, "page_size": fields["page_size"], "num_heads": fields["num_kv_heads"]}
    lk, lv = fields["head_dim"], fields["head_dim_v"]
    key = CacheShape(**common, width=lk, neighbour=lv)
    return {"key": key} if fields["is_mla"] else {"key": key, "value": CacheShape(**common, width=lv, neighbour=lk)}


def build(case: DecodeAttentionCase, arena: Arena) -> Inputs:
    """Arguments of `decode_attention` for `case`; deterministic bit for bit.

    Only slots that some row reads hold values, and only table entries that some row needs; everything else keeps its
    poison. Raises `StagingError` when the machine has no address space for far pages.
    """
    pages = paging.assign_pages(case.seq_lens, case.page_size, order=case.page_order, sharing=case.page_sharing, seed=case.seed)
    pool = _pool(case, pages)
    return {
        "query": _query(case, arena),
        **_caches(case, arena, pool),
        "block_table": _block_table(case, arena, pool),
        "seq_lens": _seq_lens(case, arena),
        **_outputs(case, arena),
        "sm_scale": case.sm_scale,
        "logit_cap": case.logit_cap,
        **_scale_tensors(case, arena),
        "page_size": case.page_size,
        "num_kv_splits": case.num_kv_splits,
        "is_mla": case.is_mla,
        "platform": case.platform,
    }


def _pool(case: DecodeAttentionCase, pages: paging.Paging) -> Pool:
    shapes = _cache_shapes(vars(case), pages.pool_size)
    return Pool(
        pages=pages,
        shapes=shapes,
        layouts={name: getattr(case, f"{name}_layout") for name in shapes},
        gap=case.gap,
        far=case.far,
        lead=case.lead,
        storage=case.storage,
    )


def _caches(case: DecodeAttentionCase, arena: Arena, pool: Pool) -> dict[str, torch.Tensor]:
    """Both caches; with latent attention the values are a view of the keys."""
    dtype = DTYPES[case.dtype] if case.cache_dtype == "same" else fp8.DTYPES[case.cache_dtype]
    keys = pool.filled(arena, "key", _keys(case, pool.pages), dtype, case.k_scale)
    if case.is_mla:
        return {"key_cache": keys, "value_cache": keys[..., : case.head_dim_v]}
    return {"key_cache": keys, "value_cache": pool.filled(arena, "value", _values(case, pool.pages), dtype, case.v_scale)}


def _peaks(case: DecodeAttentionCase, pages: paging.Paging) -> list[int]:
    """Slots of the peak of every row that has keys; none where the pattern has no peak."""
    if not profiles.has_peak(case.pattern):
        return []
    picks = profiles.picks(case.seed, len(case.seq_lens))
    rows = [(row, length, pick) for row, (length, pick) in enumerate(zip(case.seq_lens, picks, strict=True)) if length]
    return [
        pages.slot(
            row,
            profiles.peak_position(case.peak_at, length, page_size=case.page_size, num_kv_splits=case.num_kv_splits, pick=pick),
        )
        for row, length, pick in rows
    ]


def _keys(case: DecodeAttentionCase, pages: paging.Paging) -> torch.Tensor:
    shape = (pages.slot_page.size, case.num_kv_heads, case.head_dim)
    peak_dot = case.peak_height / case.sm_scale
    # Keys that are values too are at the limit with them, but not so far that logits leave the hundreds.
    limit = min(_limit(case, case.k_scale), _MOST_KEY) if case.is_mla else 0.0
    return profiles.key_values(case.pattern, case.sigma, case.seed, shape, _peaks(case, pages), peak_dot, limit=limit)


def _values(case: DecodeAttentionCase, pages: paging.Paging) -> torch.Tensor:
    shape = (pages.slot_page.size, case.num_kv_heads, case.head_dim_v)
    limit = _limit(case, case.v_scale)
    return profiles.value_values(case.pattern, case.value_sigma, case.seed, shape, _peaks(case, pages), limit)


_MOST_KEY = 448.0
_MOST_VALUE = 57344.0


def _limit(case: DecodeAttentionCase, scale: float) -> float:
    """The largest number of an FP8 cache; of any other, one whose sums are still finite in float16."""
    return fp8.LARGEST[case.cache_dtype] * scale if case.cache_dtype in fp8.LARGEST else _MOST_VALUE


def _query(case: DecodeAttentionCase, arena: Arena) -> torch.Tensor:
    sizes = (len(case.seq_lens), case.num_heads, case.head_dim)
    fused = case.num_kv_heads * (case.head_dim + case.head_dim_v)
    strides = layouts.row_strides(case.query_layout, sizes, gap=case.gap, fused=fused)
    query = arena.tensor("query", sizes, DTYPES[case.dtype], strides=strides, lead=case.lead)
    return query.copy_(profiles.query_values(case.pattern, case.seed, sizes, case.num_kv_heads))


def _block_table(case: DecodeAttentionCase, arena: Arena, pool: Pool) -> torch.Tensor:
    """int32 [rows, widest row + tail]; entries that no row needs keep their poison."""
    used = torch.from_numpy(pool.pages.logical >= 0)
    sizes = (used.shape[0], max(1, used.shape[1]) + case.table_tail)
    strides = layouts.row_strides(case.table_layout, sizes, gap=case.gap)
    table = arena.tensor("block_table", sizes, torch.int32, strides=strides)
    ids = torch.from_numpy(pool.placement.ids(pool.pages.table)).to(torch.int32)
    table[:, : used.shape[1]][used] = ids[used]
    return table


def _seq_lens(case: DecodeAttentionCase, arena: Arena) -> torch.Tensor:
    lengths = arena.tensor("seq_lens", (len(case.seq_lens),), SEQ_LENS_DTYPES[case.seq_lens_dtype])
    return lengths.copy_(torch.tensor(case.seq_lens, dtype=torch.int64))


def _scale_tensors(case: DecodeAttentionCase, arena: Arena) -> dict[str, torch.Tensor | None]:
    """`k_scale` and `v_scale`, float32 of one element or None; one tensor for latent attention."""
    k_scale = _scale_tensor(case, arena, "k_scale")
    return {"k_scale": k_scale, "v_scale": k_scale if case.is_mla else _scale_tensor(case, arena, "v_scale")}


def _scale_tensor(case: DecodeAttentionCase, arena: Arena, name: str) -> torch.Tensor | None:
    """The scale `name` in the case's form, see `fp8.SCALE_FORMS`."""
    scale: float = getattr(case, name)
    if case.scale_form == "unread":
        return arena.tensor(name, (), torch.float32)
    if case.cache_dtype == "same" or (case.scale_form == "absent" and scale == 1.0):
        return None
    return arena.tensor(name, (1,) if case.scale_form == "vector" else (), torch.float32).fill_(scale)


def _outputs(case: DecodeAttentionCase, arena: Arena) -> dict[str, torch.Tensor]:
    """`output` [B, Hq, Lv] and `lse` float32 [B, Hq], both written in full."""
    sizes = (len(case.seq_lens), case.num_heads, case.head_dim_v)
    dtype = DTYPES[case.dtype if case.output_dtype == "same" else case.output_dtype]
    strides = layouts.row_strides(case.output_layout, sizes, gap=case.gap)
    lse_strides = layouts.row_strides(case.lse_layout, sizes[:2], gap=case.gap)
    return {
        "output": arena.output("output", sizes, dtype, strides=strides),
        "lse": arena.output("lse", sizes[:2], torch.float32, strides=lse_strides),
    }


def within(case: DecodeAttentionCase, domain: Domain) -> bool:
    """Whether the target has the case's FP8 format and takes its Lk - Lv, and the platform is the target's."""
    has_format = case.cache_dtype == "same" or case.cache_dtype in fp8.formats(domain.target)
    rope_fits = not case.is_mla or rope_fits_platform(case.head_dim - case.head_dim_v, domain.platform)
    return case.platform == domain.platform and has_format and rope_fits


def score(case: DecodeAttentionCase, _ratio: float) -> dict[str, float]:
    """`late_peak`: how far the maximum of a long row rises, and how late; 0 without a peak.

    docs/explanation/targeting.md says why this alone, and neither the ratio nor the number of keys.
    """
    if not profiles.has_peak(case.pattern):
        return {"late_peak": 0.0}
    height = min(case.peak_height, case.logit_cap or case.peak_height)
    return {"late_peak": height * _LATENESS.get(case.peak_at, 0.5) * math.log2(1 + max(case.seq_lens))}


_LATENESS = {"first": 0.0, "last": 1.0}
"""Part of a row that lies before its peak; about half, where the peak is at some boundary or anywhere."""


OP = Op(
    name="decode_attention",
    case=DecodeAttentionCase,
    strategy=cases,
    presets=preset_cases,
    build=build,
    models=names(PRESETS),
    within=within,
    # Measured on 23 drawn cases, by resetting each field: what changes the specialisation in most of them.
    compile_time=frozenset(
        {
            "platform",
            "group_size",
            "head_dim",
            "head_dim_v",
            "dtype",
            "cache_dtype",
            "output_dtype",
            "seq_lens_dtype",
            "is_mla",
            "logit_cap",
            "storage",
            "lead",
        }
    ),
    score=score,
)
