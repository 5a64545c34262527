"""The kernel of decode_attention on the cpu engine against attention written out in float64: MLA, and caches of FP8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import EngineSpec
from tridiff.kernels.decode_attention import decode_attention, rounding

TARGETS = {"hip": "gfx942", "cuda": "sm_90"}
LENGTHS = (21, 0, 1, 37)
PAGE_SIZE = 5
SPLITS = 3
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What varies between the cases: `group` query heads on each of `kv_heads`, columns, dtypes, scales (None: 1) and cap."""

    lk: int
    lv: int
    group: int = 4
    kv_heads: int = 1
    is_mla: bool = False
    dtype: torch.dtype = torch.bfloat16
    cache: torch.dtype | None = None
    k_scale: float | None = None
    v_scale: float | None = None
    logit_cap: float = 0.0

    def __str__(self) -> str:
        """A short name for a test."""
        kind = "mla" if self.is_mla else f"{self.kv_heads}kv"
        parts = (kind, f"group{self.group}", f"{self.lk}-{self.lv}", self.dtype, self.cache or "same", self.k_scale, self.v_scale)
        return "-".join(map(str, parts)).replace("torch.", "")


def inputs(shape: Shape, platform: str) -> dict[str, Any]:
    """The launcher's arguments: rows of `LENGTHS` on shuffled pages, NaN in every slot that holds no key and in the outputs."""
    generator = torch.Generator().manual_seed(7)
    pages = [-(-length // PAGE_SIZE) for length in LENGTHS]
    ids = torch.randperm(sum(pages) + 2, generator=generator).to(torch.int32)
    table = torch.full((len(LENGTHS), max(pages)), 2**30, dtype=torch.int32)
    dtype = shape.cache or shape.dtype
    caches = [torch.full((ids.numel(), PAGE_SIZE, shape.kv_heads, width), NAN).to(dtype) for width in (shape.lk, shape.lv)]
    for row, length in enumerate(LENGTHS):
        mine = ids[sum(pages[:row]) : sum(pages[: row + 1])]
        table[row, : len(mine)] = mine
        for cache in caches:
            content = torch.randn((length, *cache.shape[2:]), generator=generator).to(dtype)
            for token in range(length):
                cache[mine[token // PAGE_SIZE], token % PAGE_SIZE] = content[token]
    scales = [None if scale is None else torch.tensor([scale]) for scale in (shape.k_scale, shape.v_scale)]
    if shape.is_mla:
        caches[1], scales[1] = caches[0][..., : shape.lv], scales[0]
    heads = shape.group * shape.kv_heads
    return {
        "query": torch.randn(len(LENGTHS), heads, shape.lk, generator=generator).to(shape.dtype),
        "key_cache": caches[0],
        "value_cache": caches[1],
        "block_table": table,
        "seq_lens": torch.tensor(LENGTHS, dtype=torch.int32),
        "output": torch.full((len(LENGTHS), heads, shape.lv), NAN),
        "lse": torch.full((len(LENGTHS), heads), NAN),
        "sm_scale": 1 / math.sqrt(shape.lk),
        "logit_cap": shape.logit_cap,
        "page_size": PAGE_SIZE,
        "num_kv_splits": SPLITS,
        "platform": platform,
        "k_scale": scales[0],
        "v_scale": scales[1],
        "is_mla": shape.is_mla,
    }


def gathered(given: dict[str, Any], name: str, row: int, head: int, scale: torch.Tensor | None) -> torch.Tensor:
    """The keys or values of a row that the query head `head` sees, dequantised: float64 [length, columns]."""
    cache, dtype = given[f"{name}_cache"], given["query"].dtype
    group = given["query"].shape[1] // cache.shape[2]
    rows = [
        cache[given["block_table"][row, token // PAGE_SIZE], token % PAGE_SIZE, head // group] for token in range(LENGTHS[row])
    ]
    content = torch.stack(rows).to(torch.float32)
    if cache.dtype.itemsize == 1:
        content = (content if scale is None else content * scale).to(dtype)
    return content.to(torch.float64)


def expected(given: dict[str, Any], row: int, head: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output [Lv] and log-sum-exp [] of one head, and the output that the absolute values would have."""
    keys = gathered(given, "key", row, head, given["k_scale"])
    values = gathered(given, "value", row, head, given["v_scale"])
    logits = given["sm_scale"] * (keys @ given["query"][row, head].to(torch.float64))
    if given["logit_cap"]:
        logits = given["logit_cap"] * torch.tanh(logits / given["logit_cap"])
    weights = torch.softmax(logits, dim=0)
    return weights @ values, torch.logsumexp(logits, dim=0), weights @ values.abs()


def run(given: dict[str, Any]) -> None:
    """Launch the kernel on the cpu engine."""
    CpuEngine(EngineSpec(target=TARGETS[given["platform"]])).run(decode_attention, given, Arena())


E4M3FN, E4M3FNUZ, E5M2 = torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2

SHAPES = [
    Shape(lk=320, lv=256, is_mla=True),
    Shape(lk=576, lv=512, group=20, is_mla=True),
    Shape(lk=576, lv=512, group=1, is_mla=True, dtype=torch.float16),
    Shape(lk=576, lv=512, is_mla=True, dtype=torch.float32),
    Shape(lk=18, lv=16, is_mla=True, dtype=torch.float32, logit_cap=1.0),
    Shape(lk=25, lv=24, group=1, is_mla=True, dtype=torch.float16),
    Shape(lk=2, lv=1, is_mla=True, cache=E5M2),
    Shape(lk=192, lv=128, group=20, is_mla=True, cache=E5M2, k_scale=0.37),
    Shape(lk=40, lv=40, is_mla=True),
    Shape(lk=40, lv=40, group=1, is_mla=True, cache=E4M3FN),
    Shape(lk=64, lv=48, group=20, kv_heads=2, cache=E4M3FN, k_scale=1.7, v_scale=0.3),
    Shape(lk=48, lv=64, group=1, kv_heads=2, cache=E4M3FN, k_scale=0.3, v_scale=1.7, dtype=torch.float16),
    Shape(lk=64, lv=48, kv_heads=2, cache=E5M2, k_scale=1.7, v_scale=None, dtype=torch.float32),
    Shape(lk=64, lv=48, group=1, kv_heads=2, cache=E5M2, k_scale=None, v_scale=1.7),
]
FNUZ_SHAPES = [
    Shape(lk=576, lv=512, group=16, is_mla=True, cache=E4M3FNUZ, k_scale=0.7),
    Shape(lk=80, lv=64, group=4, kv_heads=2, cache=E4M3FNUZ, k_scale=0.7, v_scale=1.3, dtype=torch.float16),
    Shape(lk=20, lv=12, group=1, is_mla=True, cache=E4M3FNUZ, k_scale=1.3),
]
CASES = [(platform, shape) for platform in TARGETS for shape in SHAPES] + [("hip", shape) for shape in FNUZ_SHAPES]


@pytest.mark.parametrize(("platform", "shape"), CASES, ids=map(str, [f"{platform}-{shape}" for platform, shape in CASES]))
def test_is_attention(platform: str, shape: Shape) -> None:
    """Output and log-sum-exp are those of softmax attention over the dequantised keys, but for rounding weights and sums."""
    given = inputs(shape, platform)

    run(given)

    p_unit = torch.finfo(shape.dtype).eps / 2 if rounding(**given)["p_dtype"] != "float32" else 0.0
    for row, length in enumerate(LENGTHS):
        for head in range(given["query"].shape[1] if length else 0):
            output, lse, magnitude = expected(given, row, head)
            assert torch.all((given["output"][row, head] - output).abs() <= (p_unit + 2e-5) * magnitude)
            assert abs(given["lse"][row, head] - lse) <= 2e-5
    assert torch.all(given["output"][LENGTHS.index(0)] == 0)
    assert torch.all(given["lse"][LENGTHS.index(0)] == -math.inf)
