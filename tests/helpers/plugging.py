"""Plug-ins to load in tests: files in the current folder, and distributions that announce them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from tridiff.harness.engines.spec import UsageError
from tridiff.harness.plugins import load, loaded

TOY = "from tridiff.harness.registry import register_family\ndef register(registry): register_family(registry, 'scale', 'toy')\n"
"""A plug-in that registers the toy family."""

KERNEL = """\
import triton
import triton.language as tl
from tridiff.harness.api import Fault, Kernel, Patch
from toy.kernels import scale as toy

def scaled(*, x, out, total, factor):
    toy.scale(x=x, out=out, total=total, factor=factor)
    _touch[(1,)](x, total)

@triton.jit
def _touch(x, total):
    first = tl.load(x + 0)
    tl.store(total, tl.load(total) + first * 0.0)

def rounding(**inputs):
    return toy.rounding(**inputs)

KERNEL = Kernel(name="scaled", op="scale", module=__name__, launcher="scaled", rounding="rounding")
FAULT = Fault(
    name="one_before",
    kernel="scaled",
    description="The element before the first is read.",
    patches=(Patch(old="x + 0", new="x - 1"),),
    checks=frozenset({"bounds"}),
)

def register(registry):
    registry.register_kernel(KERNEL)
    registry.register_fault(FAULT)
"""
"""A plug-in with a kernel of the toy Op and a Fault of it, all in one file."""

LOAD = KERNEL.splitlines().index("    first = tl.load(x + 0)") + 1


@contextmanager
def left_as_found(folder: Path) -> Iterator[None]:
    """Within this context `folder` is the current one; afterwards, `sys.path` and modules are as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [entry for entry in sys.path if entry])  # without the current folder
        before = set(sys.modules)
        yield
    loaded.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
    importlib.invalidate_caches()


def saved(name: str, source: str) -> str:
    """Write `source` to the file `name` of the current folder, and return the name."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(dedent(source), encoding="utf-8")
    return name


def refused(*plugins: str) -> str:
    """What `load` says of plug-ins that it refuses: one line."""
    with pytest.raises(UsageError) as caught:
        load(plugins)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def announced(distribution: str, **plugins: str) -> None:
    """Install a distribution without content that announces `plugins`, as in site-packages, into the current folder."""
    folder = Path(f"{distribution.replace('-', '_')}-1.2.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8")
    entries = "".join(f"{name} = {value}\n" for name, value in plugins.items())
    (folder / "entry_points.txt").write_text(f"[tridiff.plugins]\n{entries}", encoding="utf-8")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
