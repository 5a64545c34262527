"""Findings of one defect share a signature, those of two defects do not."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from tridiff.harness.api import CHECKS, Finding, normalised, rank, target_family

FINDING = Finding(
    check="launch",
    message="x",
    line="scale.py:7",
    op="scale",
    kernel="scale",
    engine="cpu",
    target="gfx942",
    case=None,
    subject="ValueError: 3 columns: must be 2",
)


def signature(**changes: Any) -> str:
    """The signature of `FINDING` with some fields changed."""
    return dataclasses.replace(FINDING, **changes).signature()


def test_signature_is_readable() -> None:
    """It names op and check, ends in eight hex digits, can be a file name, and is the same in every process."""
    assert re.fullmatch(r"scale-launch-[0-9a-f]{8}", signature())
    assert signature() == "scale-launch-1f3c57d4"


@pytest.mark.parametrize(
    "changes",
    [
        {"message": "another element"},
        {"case": {"rows": 9}},
        {"others": ("nan", "poison")},
        {"engine": "gpu"},
        {"target": "gfx950"},
        {"target": "gfx90a"},
        {"subject": "ValueError: 17 columns: must be 2"},
    ],
)
def test_signature_ignores_what_varies_from_case_to_case(changes: dict[str, Any]) -> None:
    """Element, case, engine, member of a target family and numbers make no other defect."""
    assert signature(**changes) == signature()


@pytest.mark.parametrize(
    "changes",
    [
        {"check": "hang"},
        {"line": "scale.py:8"},
        {"line": None},
        {"op": "decode"},
        {"kernel": "scale_wrong"},
        {"target": "gfx1201"},
        {"target": "sm_90"},
        {"subject": "TypeError: 3 columns: must be 2"},
    ],
)
def test_signature_tells_defects_apart(changes: dict[str, Any]) -> None:
    """Another check, line, op, kernel, target family or subject is another defect."""
    assert signature(**changes) != signature()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("index 1: 16 and 32", "index 0: 128 and 64"),
        ("ratio 1.5e-3", "ratio 20"),
        ("at -7", "at +12_000"),
        ("is nan", "is -inf"),
        ("shape (1, 2)", "shape (1, 2, 3)"),
        ("shape [4]", "shape [1,2]"),
        ("shape ['16', '32']", "shape ['64']"),
        ("torch.Size([3, 4])", "torch.Size([5])"),
        ("tensor<16x32xbf16>", "tensor<8xf32>"),
        ("tensor<16x!tt.ptr<f32>>", "tensor<16x8x!tt.ptr<f16>>"),
        ("pointer<fp16>", "pointer<bf16>"),
        ("torch.bfloat16", "torch.float16"),
        ("uint8", "int64"),
        ("i1", "f64"),
        ("fp8e4nv", "fp8e4b8"),
        ("torch.float8_e4m3fn", "torch.float8_e5m2fnuz"),
        ("at 0x7fff12ab", "at 0x10FF"),
    ],
)
def test_numbers_shapes_and_dtypes_are_folded(one: str, other: str) -> None:
    """Messages that differ in nothing else are one message."""
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("key_cache", "value_cache"),
        ("load from x", "store to x"),
        ("out[0]", "out"),
        ("float", "finite"),
        ("information", "form"),
    ],
)
def test_words_are_kept(one: str, other: str) -> None:
    """What is no number, shape or dtype stays, `inf` and `nan` inside a word included."""
    assert normalised(one) != normalised(other)
    assert normalised(one).startswith(one[:3])


@pytest.mark.parametrize(
    ("target", "family"),
    [
        ("gfx90a", "gfx9"),
        ("gfx942", "gfx9"),
        ("gfx950", "gfx9"),
        ("gfx1100", "gfx11"),
        ("gfx1201", "gfx12"),
        ("sm_90", "sm"),
        ("sm_120", "sm"),
    ],
)
def test_target_families(target: str, family: str) -> None:
    """Stepping and minor version are cut off."""
    assert target_family(target) == family


def test_precedence() -> None:
    """What ends a run comes before what is seen afterwards, and a cause before its consequences."""
    assert sorted(CHECKS, key=rank) == [
        "launch",
        "crash",
        "hang",
        "memory",
        "assertion",
        "bounds",
        "corruption",
        "unwritten",
        "nan",
        "mismatch",
        "poison",
        "compile",
        "codegen",
        "resources",
        "fp8_semantics",
        "compile_time",
    ]


def test_every_check_has_a_sentence() -> None:
    """Checks explain themselves in the middle of a line: no capital, no full stop."""
    assert all(re.fullmatch(r"an? .*[^.]|(the|memory) .*[^.]", sentence) for sentence in CHECKS.values())
