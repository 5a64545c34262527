"""Faults are well-formed: every patch fits the kernel's source as it is today."""

import ast
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import tridiff.kernels.faults
from tridiff.harness.api import CHECKS, COMPILER

FAMILIES = sorted(module.name for module in pkgutil.iter_modules(tridiff.kernels.faults.__path__))


def faults_of(family: str) -> tuple[dict[str, Any], ...]:
    """Return the faults of a family as they are declared."""
    module = importlib.import_module(f"tridiff.kernels.faults.{family}")
    faults: tuple[dict[str, Any], ...] = module.FAULTS
    return faults


def source_of(family: str) -> str:
    """Read the source of a kernel module without importing it, which would need Triton."""
    spec = importlib.util.find_spec(f"tridiff.kernels.{family}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def kernel_names(source: str) -> set[str]:
    """Return the names that the module's KERNELS table exports."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["KERNELS"]:
            return {str(kernel["name"]) for kernel in ast.literal_eval(node.value)}
    raise AssertionError("the module exports no KERNELS")


CASES = [pytest.param(family, fault, id=f"{family}-{fault['name']}") for family in FAMILIES for fault in faults_of(family)]


def test_there_are_families() -> None:
    """The folder of faults is found, so that the tests below are not vacuous."""
    assert "decode_attention" in FAMILIES
    assert all(faults_of(family) for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_unique(family: str) -> None:
    """No two faults of a family share a name."""
    names = [fault["name"] for fault in faults_of(family)]

    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)


def test_every_check_is_needed() -> None:
    """For every check there is a fault that this check and no other is to catch."""
    checks = [fault["checks"] for family in FAMILIES for fault in faults_of(family)]

    assert {names[0] for names in checks if len(names) == 1} == set(CHECKS)


@pytest.mark.parametrize(("family", "fault"), CASES)
def test_form(family: str, fault: dict[str, Any]) -> None:
    """A fault has exactly the documented keys, an exported kernel, known checks and a sentence for a description.

    One of the compiler's has a target as well.
    """
    compiles = set(fault["checks"]) <= COMPILER
    assert set(fault) == {"name", "kernel", "description", "patches", "checks", *(("target",) if compiles else ())}
    assert fault["kernel"] in kernel_names(source_of(family))
    assert fault["checks"]
    assert set(fault["checks"]) <= set(CHECKS)
    assert fault["description"].endswith(".")
    assert ". " not in fault["description"]


@pytest.mark.parametrize(("family", "fault"), CASES)
def test_patches_fit(family: str, fault: dict[str, Any]) -> None:
    """Every patch matches once, in the source as patched so far and in the original, changes it, and leaves valid Python."""
    original = patched = source_of(family)

    for old, new in fault["patches"]:
        assert original.count(old) == 1
        assert patched.count(old) == 1
        assert new != old
        patched = patched.replace(old, new)

    assert ast.dump(ast.parse(patched)) != ast.dump(ast.parse(original))
