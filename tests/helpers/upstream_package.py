"""A package laid out as vLLM or SGLang is, as far as an adapter can see, with a kernel of the toy Op, and an adapter for it.

Whatever lies on the way to the kernel's file raises when it is executed: the `__init__` of both packages, the module that asks
for the platform, the one with Triton in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HEAVY = "raise OSError('libminiature.so: cannot open shared object file')\n"

SCALE = """\
import torch
from miniature.platforms import current_platform
from miniature.triton_utils import tl, triton

is_hip = current_platform.is_hip()


@triton.jit
def _scale(x, out, total, factor, columns, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + at, mask=at < columns, other=0.0)
    tl.store(out + row * stride + at, values * factor, mask=at < columns)
    tl.store(total + row, tl.sum(values, axis=0))


def scale_rows(x, out, total, factor, num_warps=4):
    from miniature.kernels.tiles import block_for

    _scale[(x.shape[0],)](x, out, total, factor, x.shape[1], x.stride(0), BLOCK=block_for(x.shape[1]), num_warps=num_warps)
"""

TILES = """\
from miniature.triton_utils import triton


def block_for(columns):
    return triton.next_power_of_2(columns)
"""

FILES = {
    "__init__.py": HEAVY,
    "platforms.py": HEAVY,
    "triton_utils/__init__.py": HEAVY,
    "kernels/__init__.py": HEAVY,
    "kernels/scale.py": SCALE,
    "kernels/tiles.py": TILES,
}

ADAPTER = """\
import triton
import triton.language as tl

from tridiff.adapters.importing import Launcher, Upstream
from tridiff.adapters.stubs import Answers, Stub, is_hip
from tridiff.harness.api import Kernel


def stubs(package):
    platform = Answers("miniature.platforms.current_platform", package, {"is_hip": is_hip})
    return {
        "miniature.platforms": Stub("miniature.platforms", package, {"current_platform": platform}),
        "miniature.triton_utils": Stub("miniature.triton_utils", package, {"triton": triton, "tl": tl}),
    }


MINIATURE = Upstream("miniature", tried=("1.4",), stubs=stubs)
LAUNCHER = Launcher(MINIATURE, "miniature.kernels.scale", "scale_rows", passes=("x", "out", "total", "factor"))


def scale(*, x, out, total, factor):
    LAUNCHER(x=x, out=out, total=total, factor=factor)


def rounding(*, x, **_):
    return {"additions": x.shape[1]}


def register(registry):
    LAUNCHER.check()
    registry.register_kernel(
        Kernel(name="miniature_scale", op="scale", module=__name__, launcher="scale", rounding="rounding")
    )
    registry.register_finder(MINIATURE.find)
    registry.note(MINIATURE.description)
"""


def write(folder: Path, version: str = "1.4.2", changed: Mapping[str, str | None] | None = None) -> Path:
    """Put the package into `folder` as `tools/fetch_upstream.py` would; `changed`: other files by path, or None for none."""
    files: Mapping[str, str | None] = {**FILES, **(changed or {})}
    for name, source in files.items():
        if source is not None:
            file = folder / "miniature" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source, encoding="utf-8")
    describe(folder, version)
    return folder


def describe(folder: Path, version: str, name: str = "miniature") -> None:
    """Put what says of which release the files are into `folder`."""
    description = folder / f"{name}-{version}.dist-info"
    description.mkdir(parents=True, exist_ok=True)
    (description / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
