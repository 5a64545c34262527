"""Every operation that the engine claims to implement is exercised by a test that proves it ran (see conftest)."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tridiff.harness.engines.cpu.program import TERMINATORS
from tridiff.harness.engines.cpu.ttir import BUILDERS

FOLDER = Path(__file__).parent
# What Triton 3.7's front end cannot be made to emit, and why it stays in the table.
EXEMPT = {"arith.negf": "Triton 3.8 negates with it; test_mlir executes it from text"}


def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The test modules beside this one."""
    for path in sorted(FOLDER.glob("test_*.py")):
        if path.name != Path(__file__).name:
            spec = importlib.util.spec_from_file_location(f"coverage_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
            spec.loader.exec_module(module)
            yield module


def claimed(function: Any) -> Iterator[str]:
    """Operations that a test, or one of its parameters, is marked with."""
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "operations":
            yield from mark.args
        elif mark.name == "parametrize":
            for value in mark.args[1]:
                yield from (name for inner in getattr(value, "marks", ()) if inner.name == "operations" for name in inner.args)


def test_every_operation_is_exercised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of operations, the tests' marks and the list of exemptions fit together exactly."""
    exercised = {name for module in modules(monkeypatch) for value in vars(module).values() for name in claimed(value)}

    assert exercised.isdisjoint(EXEMPT)
    assert exercised | set(EXEMPT) == set(BUILDERS) | TERMINATORS


def test_exempt_operations_are_executed_from_text() -> None:
    """What no kernel shows is at least executed from text."""
    text = (FOLDER / "test_mlir.py").read_text(encoding="utf-8")

    assert set(EXEMPT) <= set(re.findall(r'%r = "([\w.]+)"', text))
