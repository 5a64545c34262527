"""Faults that show when a kernel is compiled: each is caught on its target, for a case that `tridiff prove` found minimal.

The code generator is not run here: `merge_unrolled`, whose compilation takes half a minute, is for `tridiff prove` alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from tridiff.harness.api import COMPILER, Clean, Found, Outcome, Unsupported
from tridiff.harness.engines.spec import COMPILER as ENGINE
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import builtin
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.strategies.decode_attention import DecodeAttentionCase

KERNEL = "decode_attention"
GROUPED: dict[str, Any] = {"group_size": 2}
LATENT: dict[str, Any] = {"is_mla": True, "group_size": 2, "dtype": "bfloat16"}
FNUZ: dict[str, Any] = {"cache_dtype": "float8_e4m3fnuz", "dtype": "bfloat16"}

CASES: dict[str, dict[str, Any]] = {
    "tile_from_page": {**GROUPED, "page_size": 2048, "head_dim": 64, "head_dim_v": 64, "dtype": "bfloat16"},
    "tile_from_page_unpadded": {"page_size": 544},
    "stage_too_many": {**GROUPED, "head_dim": 64, "head_dim_v": 64},
    "stages_not_capped": {**LATENT, "head_dim": 576, "head_dim_v": 512},
    "dot_of_8_keys": {**GROUPED, "dtype": "bfloat16"},  # in float32 Triton 3.8 and later have products of 8
    "mla_tile_from_key_width": {**LATENT, "head_dim": 32},
    "fnuz_not_refused": FNUZ,
    "e4m3fn_not_refused": {"cache_dtype": "float8_e4m3fn"},
    "fnuz_straight_to_bfloat16": FNUZ,
    "fnuz_converted_as_ocp": FNUZ,
}
WITHOUT = {"merge_unrolled"}
"""Those that the code generator must see."""
FAULTS = [fault for fault in builtin().faults[KERNEL] if fault.checks <= COMPILER and fault.name not in WITHOUT]
REFUSED = {"fnuz_not_refused", "e4m3fn_not_refused"}
"""Without these, the launcher refuses the case."""


def compiled(fault: str, target: str, *, planted: bool = True) -> Outcome:
    """What the compiler says of the fault's case, placed as in production."""
    case = DecodeAttentionCase(**CASES[fault], platform="cuda" if target.startswith("sm_") else "hip")
    spec = EngineSpec(name=ENGINE, target=target, placement="production")
    return examine(KernelRef(kernel=KERNEL, fault=fault if planted else None), spec, case)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_caught(fault: Any) -> None:
    """By a check that it names, on its target; without the fault the case is clean, or refused."""
    caught = compiled(fault.name, fault.target)
    clean = compiled(fault.name, fault.target, planted=False)

    assert isinstance(caught, Found)
    assert {caught.finding.check} == fault.checks
    assert isinstance(clean, Unsupported if fault.name in REFUSED else Clean)


def test_a_page_of_2048_tokens() -> None:
    """A tile of 2048 keys of 64 columns in bfloat16 needs 262144 bytes, of the 65536 that gfx942 has."""
    caught = compiled("tile_from_page", "gfx942")

    assert isinstance(caught, Found)
    assert "_attend_split needs 262144 bytes of shared memory (LDS), gfx942 has 65536" in caught.finding.message


def test_a_dot_of_8_keys_is_legal_on_amd() -> None:
    """What NVIDIA's matrix instructions cannot add up, AMD's can."""
    assert isinstance(compiled("dot_of_8_keys", "gfx942"), Clean)
