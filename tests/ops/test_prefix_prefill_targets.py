"""prefix_prefill compiles for every kind of part, and fits: the widest heads in the largest pages, and FP8 in and out.

`tridiff targets` does so for all targets, and for cases that are drawn.
"""

from __future__ import annotations

from typing import Any

import pytest

from tridiff.harness.api import Clean
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.targets.parts import part
from tridiff.strategies.prefix_prefill import PrefixPrefillCase

REF = KernelRef(kernel="prefix_prefill")
CHUNK: dict[str, Any] = {"query_lens": (65,), "seq_lens": (80,)}
CASES: dict[str, dict[str, Any]] = {
    "float32 of 256, pages of 2048": {**CHUNK, "head_dim": 256, "page_size": 2048, "sinks": "normal"},
    "FP8 in and out": {
        **{**CHUNK, "head_dim": 128, "dtype": "bfloat16", "cache_dtype": "float8_e5m2", "k_scale": 0.5},
        **{"output_dtype": "float8_e5m2", "output_scale": 0.5, "kind": "interleaved", "alibi": "standard", "window": 9},
    },
    "few queries of 80, all in the cache": {"head_dim": 80, "dtype": "float16", "chunk": "cache", "page_size": 48},
}


@pytest.mark.parametrize("target", ["gfx942", "gfx1201", "sm_86", "sm_100"])
@pytest.mark.parametrize("name", CASES)
def test_compiles_and_fits(target: str, name: str) -> None:
    """No check of the compiler fires, as caches lie in production."""
    case = PrefixPrefillCase(**CASES[name], platform="cuda" if target.startswith("sm_") else "hip")

    outcome = examine(REF, EngineSpec(name=COMPILER, target=target, placement="production"), case)

    assert isinstance(outcome, Clean)
    assert [entry.function for entry in outcome.compiled] == ["_attend_chunk"]
    assert 0 < max(entry.shared for entry in outcome.compiled) <= part(target).shared_bytes
