"""Faults that show when a kernel is compiled: what the findings say; that each is caught is in `test_pinned_faults`."""

from __future__ import annotations

from typing import Any

import pytest

from tridiff.harness.api import Clean, Found, Outcome, Unsupported
from tridiff.harness.engines.spec import COMPILER as ENGINE
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.strategies.decode_attention import DecodeAttentionCase

KERNEL = "decode_attention"
GROUPED: dict[str, Any] = {"group_size": 2}

CASES: dict[str, dict[str, Any]] = {
    "tile_from_page": {**GROUPED, "page_size": 2048, "head_dim": 64, "head_dim_v": 64, "dtype": "bfloat16"},
    "dot_of_8_keys": {**GROUPED, "dtype": "bfloat16"},  # in float32 Triton 3.8 and later have products of 8
    "fnuz_not_refused": {"cache_dtype": "float8_e4m3fnuz", "dtype": "bfloat16"},
    "e4m3fn_not_refused": {"cache_dtype": "float8_e4m3fn"},
}


def compiled(fault: str, target: str, *, planted: bool = True) -> Outcome:
    """What the compiler says of the fault's case, placed as in production."""
    case = DecodeAttentionCase(**CASES[fault], platform="cuda" if target.startswith("sm_") else "hip")
    spec = EngineSpec(name=ENGINE, target=target, placement="production")
    return examine(KernelRef(kernel=KERNEL, fault=fault if planted else None), spec, case)


@pytest.mark.parametrize(("fault", "target"), [("fnuz_not_refused", "sm_90"), ("e4m3fn_not_refused", "sm_86")])
def test_what_a_part_lacks_is_refused(fault: str, target: str) -> None:
    """By the launcher; without its refusal the compiler has the word."""
    assert isinstance(compiled(fault, target), Found)
    assert isinstance(compiled(fault, target, planted=False), Unsupported)


def test_a_page_of_2048_tokens() -> None:
    """A tile of 2048 keys of 64 columns in bfloat16 needs 262144 bytes, of the 65536 that gfx942 has."""
    caught = compiled("tile_from_page", "gfx942")

    assert isinstance(caught, Found)
    assert "_attend_split needs 262144 bytes of shared memory (LDS), gfx942 has 65536" in caught.finding.message


def test_a_dot_of_8_keys_is_legal_on_amd() -> None:
    """What NVIDIA's matrix instructions cannot add up, AMD's can."""
    assert isinstance(compiled("dot_of_8_keys", "gfx942"), Clean)
