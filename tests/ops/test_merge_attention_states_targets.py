"""merge_attention_states compiles for every kind of part, and fits: the widest heads, and those that share a program.

`tridiff targets` does so for all targets, and for cases that are drawn.
"""

from __future__ import annotations

from typing import Any

import pytest

from tridiff.harness.api import Clean
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.targets.parts import part
from tridiff.strategies.merge_attention_states import OP, MergeAttentionStatesCase

REF = KernelRef(kernel="merge_attention_states")
CASES: dict[str, dict[str, Any]] = {
    "float32 of 512": {"head_dim": 512, "num_heads": 16},
    "bfloat16 of 128": {"head_dim": 128, "num_heads": 16, "dtype": "bfloat16"},
    "float16 of 17, no lse": {"head_dim": 17, "num_heads": 5, "dtype": "float16", "has_output_lse": False},
}


def case_for(target: str, **fields: Any) -> MergeAttentionStatesCase:
    """A case of the target's platform."""
    return MergeAttentionStatesCase(**fields, platform="cuda" if target.startswith("sm_") else "hip")


@pytest.mark.parametrize("target", ["gfx942", "gfx1201", "sm_86", "sm_100"])
@pytest.mark.parametrize("name", CASES)
def test_compiles_and_fits(target: str, name: str) -> None:
    """No check of the compiler fires, as tensors lie in production and otherwise."""
    outcome = examine(REF, EngineSpec(name=COMPILER, target=target), case_for(target, **CASES[name]))

    assert isinstance(outcome, Clean)
    assert [(entry.function, entry.placement) for entry in outcome.compiled] == [
        ("_merge_states", each) for each in OP.placements
    ]
    assert max(entry.shared for entry in outcome.compiled) <= part(target).shared_bytes
