"""The kernel of paged_decode on the cpu engine against attention written out in float64: pages of hybrid models, all extras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import EngineSpec
from tridiff.kernels.paged_decode import paged_decode
from tridiff.strategies.kv_caches import KVCache, put

TARGETS = {"hip": "gfx942", "cuda": "sm_90"}
LENGTHS = (70, 0, 1, 37, 129, 5)
QUERIES = (1, 1, 1, 2, 1, 0)
NAN = float("nan")
OUTPUT_SCALE = 2.0**-10
"""With it numbers above 0.23 saturate in e4m3fnuz, above 0.44 in e4m3fn."""
E4M3FN, E4M3FNUZ, E5M2 = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What varies: `group` query heads on each of two KV heads, columns, the page, dtypes, and which of the extras there are."""

    group: int = 3
    head_dim: int = 16
    page_size: int = 16
    pages: str = "block_interior"
    dtype: torch.dtype = torch.bfloat16
    cache: torch.dtype | None = None
    output: torch.dtype | None = None
    interleaved: bool = False
    alibi: bool = False
    window: int = 0
    sinks: bool = False

    @property
    def kind(self) -> str:
        """The caches' kind, see `kv_caches`."""
        return "interleaved" if self.interleaved else "head_major"

    def cache_of(self, role: str) -> KVCache:
        """Layout of K or V: pages that are apart, each by its own distance."""
        dtype = self.cache or self.dtype
        return KVCache(
            role=role,
            kind=self.kind,
            order="padded_heads",
            pages=self.pages,
            gap=16 if role == "key" else 48,
            page_size=self.page_size,
            num_heads=2,
            width=self.head_dim,
            neighbour=self.head_dim,
            itemsize=dtype.itemsize,
        )


SHAPES = {
    "page of 48": Shape(page_size=48),
    "page of 544": Shape(page_size=544, group=1, head_dim=80, window=33),
    "page of 2048": Shape(page_size=2048, dtype=torch.float16, pages="padded"),
    "packed pages": Shape(group=5, pages="packed", alibi=True, window=64, sinks=True),
    "interleaved": Shape(interleaved=True, window=65),
    "interleaved in FP8": Shape(interleaved=True, page_size=80, cache=E4M3FN),
    "float32": Shape(dtype=torch.float32, head_dim=4, page_size=144, alibi=True),
    "newest key": Shape(window=1, sinks=True, alibi=True),
    "FP8": Shape(cache=E4M3FNUZ, group=17, alibi=True),
    "FP8 output": Shape(cache=E5M2, output=E4M3FN, sinks=True),
    "FNUZ output": Shape(output=E4M3FNUZ, page_size=32),
}


def inputs(shape: Shape, platform: str) -> dict[str, Any]:
    """The launcher's arguments: sequences on shuffled pages, NaN in slots without a key, and outputs of 7."""
    generator = torch.Generator().manual_seed(7)
    cache_dtype = shape.cache or shape.dtype
    pages = [-(-length // shape.page_size) for length in LENGTHS]
    ids = torch.randperm(sum(pages) + 2, generator=generator).to(torch.int32)
    table = torch.full((len(LENGTHS), max(pages)), 2**30, dtype=torch.int32)
    tensors = {}
    for role in ("key", "value"):
        layout = shape.cache_of(role)
        storage = torch.full((ids.numel() * layout.page_stride,), NAN).to(cache_dtype)
        tensors[f"{role}_cache"] = storage.as_strided(layout.sizes(ids.numel()), layout.strides)
        for sequence, length in enumerate(LENGTHS):
            mine = ids[sum(pages[:sequence]) : sum(pages[: sequence + 1])].to(torch.int64)
            table[sequence, : len(mine)] = mine.to(torch.int32)
            tokens = torch.arange(length)
            index = layout.index(mine[tokens // shape.page_size], tokens % shape.page_size)
            put(tensors[f"{role}_cache"], index, torch.randn(length, 2, shape.head_dim, generator=generator).to(cache_dtype))
    heads = 2 * shape.group
    start = torch.tensor([0, *QUERIES]).cumsum(0).to(torch.int32)
    output = torch.full((sum(QUERIES), heads, shape.head_dim), 7.0).to(shape.output or shape.dtype)
    return tensors | {
        "query": torch.randn(sum(QUERIES), heads, shape.head_dim, generator=generator).to(shape.dtype),
        "block_table": table,
        "query_start_loc": start,
        "seq_lens": torch.tensor(LENGTHS, dtype=torch.int32),
        "output": output,
        "sm_scale": 1 / math.sqrt(shape.head_dim),
        "k_scale": torch.tensor([0.7]),
        "v_scale": torch.tensor(1.3),
        "alibi_slopes": torch.linspace(0.02, 0.5, heads) if shape.alibi else None,
        "sliding_window": shape.window,
        "sinks": torch.linspace(-2.0, 3.0, heads).index_fill(0, torch.tensor([1]), -math.inf) if shape.sinks else None,
        "output_scale": torch.tensor(OUTPUT_SCALE) if shape.output else None,
        "interleaved": shape.interleaved,
        "platform": platform,
    }


def gathered(given: dict[str, Any], shape: Shape, role: str, sequence: int) -> torch.Tensor:
    """Keys or values of a sequence, dequantised: float64 [length, KV heads, columns]."""
    tokens = torch.arange(LENGTHS[sequence])
    pages = given["block_table"][sequence, tokens // shape.page_size].to(torch.int64)
    content = given[f"{role}_cache"].to(torch.float32)[shape.cache_of(role).index(pages, tokens % shape.page_size)]
    if shape.cache is not None:
        content = (content * given[f"{role[0]}_scale"]).to(shape.dtype)
    widened: torch.Tensor = content.to(torch.float64)
    return widened


def expected(given: dict[str, Any], shape: Shape, sequence: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [columns] of one head, and the output that the absolute values would have."""
    length, row = LENGTHS[sequence], int(given["query_start_loc"][sequence])
    keys, values = (gathered(given, shape, role, sequence)[:, head // shape.group] for role in ("key", "value"))
    distance = length - 1 - torch.arange(length)
    logits = given["sm_scale"] * (keys @ given["query"][row, head].to(torch.float64))
    if shape.alibi:
        logits = logits - given["alibi_slopes"][head].to(torch.float64) * distance
    if shape.window:
        logits = logits.masked_fill(distance >= shape.window, -math.inf)
    sink = given["sinks"][head].to(torch.float64) if shape.sinks else torch.tensor(-math.inf, dtype=torch.float64)
    weights = torch.softmax(torch.cat([logits, sink[None]]), dim=0)[:length]
    return weights @ values, weights @ values.abs()


def run(given: dict[str, Any], target: str | None = None) -> None:
    """Launch the kernel on the cpu engine."""
    CpuEngine(EngineSpec(target=target or TARGETS[given["platform"]])).run(paged_decode, given, Arena())


FNUZ = {name for name, shape in SHAPES.items() if E4M3FNUZ in (shape.cache, shape.output)}
"""Those that NVIDIA's parts lack the format for."""
CASES = [(name, platform) for name in SHAPES for platform in TARGETS if platform == "hip" or name not in FNUZ]


@pytest.mark.parametrize(("name", "platform"), CASES)
def test_is_attention_of_the_newest_tokens(name: str, platform: str) -> None:
    """Rows of one query are softmax attention over their keys, but for rounding weights and result; no other row is written."""
    shape = SHAPES[name]
    given = inputs(shape, platform)

    run(given)

    unit = torch.finfo(shape.dtype).eps
    alone = [int(given["query_start_loc"][b]) for b, queries in enumerate(QUERIES) if queries == 1]
    output = given["output"].to(torch.float64)
    others = [row for row in range(len(output)) if row not in alone]
    assert torch.all(output[others] == torch.tensor(7.0).to(given["output"].dtype).to(torch.float64))
    for sequence, row in zip([b for b, queries in enumerate(QUERIES) if queries == 1], alone, strict=True):
        for head in range(output.shape[1]):
            value, magnitude = expected(given, shape, sequence, head) if LENGTHS[sequence] else (torch.zeros(1), torch.zeros(1))
            slack = (unit + 2e-5) * magnitude
            if shape.output:
                limits = torch.finfo(shape.output)
                value = (value / OUTPUT_SCALE).clamp(limits.min, limits.max)
                slack = slack / OUTPUT_SCALE + limits.eps * (value.abs() + limits.tiny)
            assert torch.all((output[row, head] - value).abs() <= slack)


def test_output_saturates_where_the_conversion_does_not() -> None:
    """On sm_86 e5m2 holds infinities, which Triton converts too large numbers to: the kernel stores the largest finite one."""
    given = inputs(Shape(output=E5M2), "cuda") | {"output_scale": torch.tensor(2.0**-20)}

    run(given, "sm_86")

    row = given["output"][2].to(torch.float64)
    assert row.abs().max() == torch.finfo(E5M2).max
    assert row.abs().min() > 0
