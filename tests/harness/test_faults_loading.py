"""A Fault becomes a module of its own, loaded from a real file, beside the kernel's untouched one."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy.family import registry
from toy.kernels import scale as original

from tridiff.harness.api import Fault, Patch
from tridiff.harness.faults import PatchError, load, patched

KERNEL = registry().kernel("scale")


def fault(*patches: tuple[str, str], name: str = "planted") -> Fault:
    """A fault of the toy kernel with these patches."""
    made = tuple(Patch(old=old, new=new) for old, new in patches)
    return Fault(name=name, kernel="scale", description="A defect.", patches=made, checks=frozenset({"nan"}))


def test_patches_apply_in_order() -> None:
    """A later patch sees what the earlier ones left."""
    assert patched("a b c", fault(("a", "x"), ("x b", "y"))) == "y c"


@pytest.mark.parametrize(("source", "count"), [("b", 0), ("a a", 2), ("a a a", 3)])
def test_patch_must_match_once(source: str, count: int) -> None:
    """A snippet that does not occur, or is ambiguous, is refused with fault, snippet, count and kernel."""
    message = f"fault 'planted': the snippet 'a' occurs {count} times in 'scale', not once"

    with pytest.raises(PatchError, match=f"^{re.escape(message)}$"):
        patched(source, fault(("a", "x")))


def test_patch_must_match_once_what_earlier_ones_left() -> None:
    """A snippet that an earlier patch doubled is ambiguous."""
    with pytest.raises(PatchError, match="occurs 2 times"):
        patched("a b", fault(("a", "b"), ("b", "c")))


def test_without_fault_the_module_is_the_kernels_own() -> None:
    """Production code is not copied."""
    assert load(KERNEL, None) is original


def test_twin_is_a_module_of_its_own() -> None:
    """Another name, another file of the same base name, in `sys.modules`; the original stays as it is."""
    twin = load(KERNEL, registry().fault("scale", "factor_off"))

    assert twin is not original
    assert twin.__name__ != original.__name__
    assert sys.modules[twin.__name__] is twin
    assert Path(str(twin.__file__)).name == "scale.py"
    assert Path(str(twin.__file__)).read_text(encoding="utf-8") == inspect.getsource(twin)
    assert "factor + 0.001" in inspect.getsource(twin)
    assert "factor + 0.001" not in inspect.getsource(original)


def test_twin_is_loaded_once() -> None:
    """The same fault gives the same module, so its jit functions are compiled once; another fault gives another."""
    faults = registry()

    twins = [load(KERNEL, faults.fault("scale", name)) for name in ("factor_off", "factor_off", "load_unmasked")]

    assert twins[0] is twins[1]
    assert twins[0] is not twins[2]


def test_twins_of_one_name_and_two_patches_differ() -> None:
    """A fault is told by its content, not by its name."""
    one, other = load(KERNEL, fault(("values * factor", "values"))), load(KERNEL, fault(("values * factor", "factor")))

    assert one is not other
    assert one.__name__ != other.__name__


def test_lines_of_a_twin_are_those_of_its_file() -> None:
    """What raises in the twin points to the line where the patched text stands, for Python and for Triton alike."""
    twin = load(KERNEL, fault(("rows, columns = x.shape", "rows, columns = x.shape\n    raise RuntimeError('here')")))
    x = torch.zeros(1, 1)

    with pytest.raises(RuntimeError, match="here") as caught:
        twin.scale(x=x, out=x, total=x[0], factor=1.0)

    source = Path(str(twin.__file__)).read_text(encoding="utf-8").splitlines()
    _, first = inspect.getsourcelines(twin._scale.fn)
    assert "raise RuntimeError('here')" in source[caught.traceback[-1].lineno]
    assert source[first - 1] == "@triton.jit"


def test_unfit_fault_is_not_loaded() -> None:
    """A patch that no longer fits the source is an error, not a kernel without fault."""
    with pytest.raises(PatchError, match="occurs 0 times"):
        load(KERNEL, fault(("no such text", "x")))


def test_twin_that_cannot_be_imported() -> None:
    """It raises what it raises, every time, and leaves no half-made module behind."""
    broken = fault(("KERNELS = (", "raise LookupError('at import')\nKERNELS = ("))
    before = set(sys.modules)

    for _ in range(2):
        with pytest.raises(LookupError, match="at import"):
            load(KERNEL, broken)

    assert set(sys.modules) == before


def test_files_are_removed_when_the_process_ends() -> None:
    """Nothing stays behind in the folder for temporary files."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from toy.family import registry\nfrom tridiff.harness.faults import load\n"
        "known = registry()\nprint(load(known.kernel('scale'), known.fault('scale', 'factor_off')).__file__)"
    )

    result = subprocess.run([sys.executable, "-c", code, *sys.path], check=True, capture_output=True, text=True)

    path = Path(result.stdout.strip())
    assert path.name == "scale.py"
    assert "tridiff-faults-" in str(path)
    assert not path.parents[1].exists()
