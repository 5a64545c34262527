"""What the tests of the cpu engine share: running kernels, and knowing which operations ran."""

# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tridiff.harness.api import Arena
from tridiff.harness.engines.cpu import engine
from tridiff.harness.engines.cpu.ir import Operation
from tridiff.harness.engines.cpu.mlir import parse
from tridiff.harness.engines.cpu.program import Function
from tridiff.harness.engines.cpu.ttir import compiled, generic_text
from tridiff.harness.engines.spec import EngineSpec

BLOCK = 1024
EXPECTED = os.environ.get("TRIDIFF_EXPECTED_TRITON")
"""The other release that is being tested, set by tools/tritons.py; None where it is the installed Triton."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker by which a test says what it exercises, and see that the wanted Triton is the one imported."""
    config.addinivalue_line(
        "markers",
        "operations(*names, versions='', reason=''): operations that kernels of this test must contain, and the Triton versions"
        " on which the test makes sense (such as '>=3.8'; all of them by default) with the reason",
    )
    config.addinivalue_line(
        "markers",
        "installed_triton(reason): a test that says the same on every release, so the installed one is enough, with the reason",
    )
    if EXPECTED and triton.__version__ != EXPECTED:
        raise pytest.UsageError(f"triton {EXPECTED} is to be tested, but {triton.__version__} was imported: {triton.__file__}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test on the versions of Triton that its markers leave out."""
    for mark in item.iter_markers("installed_triton"):
        if EXPECTED:
            pytest.skip(f"with the installed triton alone: {mark.args[0]}")
    for mark in item.iter_markers("operations"):
        versions = mark.kwargs.get("versions", "")
        if Version(Version(triton.__version__).base_version) not in SpecifierSet(versions):
            reason = mark.kwargs.get("reason") or f"no other prints {', '.join(mark.args)}"
            pytest.skip(f"for triton {versions}, not {triton.__version__}: {reason}")


def _names(operation: Operation) -> Iterator[str]:
    yield operation.name
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _names(inner)


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all operations in the kernels that the test has launched so far."""
    seen: set[str] = set()

    def recording(specialisation: Any) -> Function:
        if "operations" not in specialisation.memo:
            module = parse(generic_text(specialisation))
            specialisation.memo["operations"] = set(_names(module))
        seen.update(specialisation.memo["operations"])
        return compiled(specialisation)

    monkeypatch.setattr(engine, "compiled", recording)
    return seen


@pytest.fixture(autouse=True)
def _marked_operations_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that claims to exercise an operation must launch a kernel that contains it."""
    claimed = {name for mark in request.node.iter_markers("operations") for name in mark.args}
    seen = request.getfixturevalue("operations") if claimed else set()
    yield
    assert claimed <= seen, f"no kernel of this test contains {sorted(claimed - seen)}"


def _run(
    kernel: Any, grid: Any, *arguments: Any, arena: Arena | None = None, spec: EngineSpec | None = None, **options: Any
) -> None:
    def launcher() -> None:
        kernel[grid](*arguments, **options)

    engine.CpuEngine(spec or EngineSpec()).run(launcher, {}, arena or Arena())


@pytest.fixture
def run() -> Callable[..., None]:
    """`run(kernel, grid, *arguments, **options)`: one launch on the cpu engine; `arena=` and `spec=` where they matter."""
    return _run


@triton.jit
def _unary(x, out, size, function: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, function(tl.load(x + i, mask=i < size)), mask=i < size)


@triton.jit
def _binary(x, y, out, size, function: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + i, function(tl.load(x + i, mask=i < size), tl.load(y + i, mask=i < size)), mask=i < size)


@triton.jit
def _ternary(x, y, z, out, size, function: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    mask = i < size
    tl.store(out + i, function(tl.load(x + i, mask=mask), tl.load(y + i, mask=mask), tl.load(z + i, mask=mask)), mask=mask)


@pytest.fixture
def elementwise() -> Callable[..., torch.Tensor]:
    """`elementwise(function, *inputs, dtype=None)`: a jit function of one to three 1-D tensors, and its results."""

    def apply(function: Any, *inputs: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        size = inputs[0].numel()
        result = torch.zeros(size, dtype=dtype or inputs[0].dtype)
        kernel = (_unary, _binary, _ternary)[len(inputs) - 1]
        _run(kernel, (triton.cdiv(size, BLOCK),), *inputs, result, size, function, BLOCK)
        return result

    return apply
