"""decode_attention compiles for every kind of part, and fits: the cases that need most, and those that parts differ in.

`tridiff targets` does so for all targets, and for cases that are drawn.
"""

from __future__ import annotations

from typing import Any

import pytest

from tridiff.harness.api import Clean
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.targets.parts import part
from tridiff.strategies.decode_attention import OP, DecodeAttentionCase

REF = KernelRef(kernel="decode_attention")
CASES: dict[str, dict[str, Any]] = {
    "float32 576/512": {"group_size": 4, "head_dim": 576, "head_dim_v": 512},
    "MLA 576/512": {"group_size": 16, "head_dim": 576, "head_dim_v": 512, "is_mla": True, "dtype": "bfloat16"},
    "MLA in FP8": {"group_size": 4, "head_dim": 640, "head_dim_v": 512, "is_mla": True, "cache_dtype": "float8_e5m2"},
    "one column of rope": {"group_size": 4, "head_dim": 17, "is_mla": True, "dtype": "float16"},
}


def case_for(target: str, **fields: Any) -> DecodeAttentionCase:
    """A case with the tile rules of the target's platform."""
    return DecodeAttentionCase(**fields, platform="cuda" if target.startswith("sm_") else "hip")


@pytest.mark.parametrize("target", ["gfx942", "gfx1201", "sm_86", "sm_100"])
@pytest.mark.parametrize("name", CASES)
def test_compiles_and_fits(target: str, name: str) -> None:
    """No check of the compiler fires, as caches lie in production."""
    outcome = examine(REF, EngineSpec(name=COMPILER, target=target, placement="production"), case_for(target, **CASES[name]))

    assert isinstance(outcome, Clean)
    assert [entry.function for entry in outcome.compiled] == ["_attend_split", "_merge_splits"]
    assert 0 < max(entry.shared for entry in outcome.compiled) <= part(target).shared_bytes


def test_placements_are_compiled_apart() -> None:
    """On AMD where the caches lie makes three kernels of one: aligned beyond 2 GiB, within, and misaligned."""
    outcome = examine(REF, EngineSpec(name=COMPILER, target="gfx942"), case_for("gfx942"))

    assert isinstance(outcome, Clean)
    attending = [entry for entry in outcome.compiled if entry.function == "_attend_split"]
    assert [entry.placement for entry in attending] == list(OP.placements)
    assert len({entry.name for entry in attending}) == 3
