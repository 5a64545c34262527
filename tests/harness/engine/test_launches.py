"""Launches: options, hooks, grids as production's launcher takes them, and modules that ask for the device."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from launching import captured, run
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import blame
from tridiff.harness.api import Fault, Found, Kernel, Patch
from tridiff.harness.capture import targeting
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.faults import load
from tridiff.harness.runner.examine import KernelRef, examine

# Options and hooks


@triton.jit
def value_of(value, out):
    tl.store(out, value)


def test_options() -> None:
    """What a launch says of warps and stages reaches the back end; a name that is neither option nor parameter is refused."""
    x = torch.zeros(4)

    (launch,) = captured(lambda: value_of[(1,)](2, x, num_warps=8, num_stages=1))

    assert (launch.specialisation.options.num_warps, launch.specialisation.options.num_stages) == (8, 1)
    with pytest.raises(KeyError, match="num_wraps was specified but unrecognised"):
        run(lambda: value_of[(1,)](2, x, num_wraps=8))


def test_arguments_missing_and_unknown() -> None:
    """Python's own errors come through, and are not ours."""
    with pytest.raises(TypeError, match="missing 1 required positional argument") as caught:
        run(lambda: value_of[(1,)](2))

    assert not blame.is_ours(caught.value)


def test_pre_run_hooks_see_the_arguments() -> None:
    """As the launcher gave them, before anything is bound; what they change is seen by the kernel."""
    x = torch.zeros(1)
    value_of.add_pre_run_hook(lambda value, out, **_: out.fill_(value))
    try:
        run(lambda: (add[(1,)](x), value_of[(0,)](3, x), add[(1,)](x)))
    finally:
        value_of.pre_run_hooks.clear()

    assert x.item() == 4.0


@triton.jit
def add(x):
    tl.store(x, tl.load(x) + 1)


# Grids


@triton.jit
def count(x):
    tl.store(x + tl.program_id(0) + 4 * tl.program_id(1) + 8 * tl.program_id(2), 1)


@pytest.mark.parametrize(("grid", "programs"), [((3,), 3), ((3, 2), 6), ((4, 2, 2), 16), ([2, 2], 4), ((2, 1, 2, 9), 4)])
def test_grids(grid: Any, programs: int) -> None:
    """One to three axes; what follows is ignored, as in production."""
    x = torch.zeros(16)

    run(lambda: count[grid](x))
    x_of_function = torch.zeros(16)
    run(lambda: count[lambda _: grid](x_of_function))

    assert x.sum() == programs
    assert x_of_function.tolist() == x.tolist()


@pytest.mark.parametrize("grid", [(0,), (1, 0), (3, 2, 0), (0, 65536), (1, 65536, 0)])
@pytest.mark.parametrize("target", ["gfx942", "sm_90"])
def test_empty_grids(grid: tuple[int, ...], target: str) -> None:
    """Run nothing, whatever the other axes are; the kernel is compiled all the same."""
    x = torch.zeros(16)

    engine = run(lambda: count[grid](x), target=target)

    assert x.sum() == 0
    assert len(engine.specialisations) == 1
    with pytest.raises(KernelError, match="Triton refuses"):
        run(lambda: refused[grid](x), target=target)


@triton.jit
def refused(x):
    tl.store(x, tl.arange(0, 3))


# (grid, target): what production raises. On NVIDIA as seen on an H200, on AMD from the sources that grids.py names.
REFUSED: dict[str, tuple[tuple[Any, ...], str, type[Exception], str]] = {
    "y on NVIDIA": (
        (1, 65536),
        "sm_90",
        RuntimeError,
        r"Triton Error \[CUDA\]: invalid argument: .*\(2147483647, 65535, 65535\)",
    ),
    "z on NVIDIA": ((1, 1, 65536), "sm_90", RuntimeError, "invalid argument"),
    "two negative": ((-1, -1), "sm_90", RuntimeError, "invalid argument"),
    "two negative behind x": ((1, -1, -1), "sm_90", RuntimeError, "invalid argument"),
    "2^31": ((2**31,), "sm_90", OverflowError, "signed integer is greater than maximum"),
    "-2^31 - 1": ((-(2**31) - 1,), "sm_90", OverflowError, "signed integer is less than minimum"),
    "float": ((2.0,), "sm_90", TypeError, "'float' object cannot be interpreted as an integer"),
    "none": ((None,), "sm_90", TypeError, "'NoneType' object cannot be interpreted as an integer"),
    "no axis": ((), "sm_90", IndexError, "out of range"),
    "silently dropped": (
        (65536, 32768),
        "sm_90",
        RuntimeError,
        "2147483648 programs: .* gets -2147483648 and silently starts none",
    ),
    "silently dropped, too": (
        (65536, 32768, 2),
        "sm_90",
        RuntimeError,
        "4294967296 programs: .* gets 0 and silently starts none",
    ),
    "dropped on AMD": ((65536, 32768, 2), "gfx942", RuntimeError, "silently starts none"),
    "y on AMD": ((1, 65536), "gfx942", RuntimeError, r"Triton Error \[HIP\]: invalid argument: .*\(16777215, 65535, 65535\)"),
    "2^32 work-items on AMD": ((2**24,), "gfx942", RuntimeError, "takes of programs of 256 threads"),
    "2^32 work-items on RDNA": ((2**25,), "gfx1201", RuntimeError, r"\(33554431, 65535, 65535\).* programs of 128 threads"),
    "negative on AMD": ((-1,), "gfx942", RuntimeError, "invalid argument"),
    "negative y on AMD": ((1, -1), "gfx942", RuntimeError, "invalid argument"),
}


@pytest.mark.parametrize(("grid", "target", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_grids(grid: tuple[Any, ...], target: str, error: type[Exception], message: str) -> None:
    """Raise what production's launcher raises, and are the launcher's doing and not ours."""
    x = torch.zeros(16)

    with pytest.raises(error, match=message) as caught:
        run(lambda: count[grid](x), target=target)

    assert not blame.is_ours(caught.value)
    assert (blame.line(caught.value) or "").startswith("test_launches.py:")
    assert x.sum() == 0


def test_refused_grid_is_a_finding() -> None:
    """Of the check `launch`, on the launcher's line."""
    known = registry()
    patch = Patch(old="_scale[(rows,)]", new="_scale[(rows, 65536)]")
    known.register_fault(Fault(name="tall", kernel="scale", description="-", patches=(patch,), checks=frozenset({"launch"})))

    outcome = examine(KernelRef(kernel="scale", fault="tall"), EngineSpec(), ScaleCase(), known)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == "launch"
    assert outcome.finding.message.startswith("RuntimeError: Triton Error [HIP]: invalid argument: the grid (1, 65536, 1)")
    assert (outcome.finding.line or "").startswith("scale.py:")


@pytest.mark.parametrize(
    ("grid", "target"),
    [
        ((2**31 - 1,), "sm_90"),
        ((1, 65535), "sm_90"),
        ((1, 1, 65535), "gfx942"),
        ((2**24 - 1,), "gfx942"),
        ((2**25 - 1,), "gfx1201"),
        ((65536, 32768), "gfx942"),
        ((True, torch.tensor(2)), "sm_90"),
    ],
)
def test_largest_grids(grid: tuple[Any, ...], target: str) -> None:
    """Are launched."""
    (launch,) = captured(lambda: count[grid](torch.zeros(16)), target)

    assert launch.grid == (*(int(size) for size in grid), *(1,) * (3 - len(grid)))


def test_negative_grid_runs_nothing_on_nvidia() -> None:
    """As on an H200: the number of programs is not positive."""
    x = torch.zeros(16)

    run(lambda: count[(-1,)](x), target="sm_90")

    assert x.sum() == 0


# Modules that ask for the device when they are imported


def test_module_that_needs_a_device_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told the target; without, Triton finds no driver on a machine without a GPU."""
    source = (
        "import triton\n"
        "TARGET = triton.runtime.driver.active.get_current_target()\n"
        "CONFIGS = [triton.Config({}, num_warps=4 if TARGET.backend == 'hip' else 8), triton.Config({}, num_warps=2)]\n"
        "@triton.autotune(configs=CONFIGS, key=[])\n"
        "@triton.jit\n"
        "def kernel(x):\n"
        "    pass\n"
    )
    (tmp_path / "asks_for_the_device.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    kernel = Kernel(name="k", op="o", module="asks_for_the_device", launcher="kernel")

    module = load(kernel, None, "gfx950")

    assert module.TARGET.arch == "gfx950"
    assert [config.num_warps for config in module.kernel.configs] == [4, 2]


def fail_on(arch: object) -> None:
    """Raise KeyError, naming what Triton believes to run on."""
    raise KeyError(arch)


def test_targeting_is_undone() -> None:
    """Whatever happens inside."""
    before = triton.runtime.driver._active

    with pytest.raises(KeyError, match="80"), targeting("sm_80"):
        fail_on(triton.runtime.driver.active.get_current_target().arch)

    assert triton.runtime.driver._active is before
