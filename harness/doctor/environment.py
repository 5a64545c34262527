"""The environment block of a run: everything that may explain why another machine comes to another result.

Taken in the running process, which has imported torch and Triton already, from files and metadata alone: a GPU driver is not
called, for it may hang, abort, or take memory. No host name, user name or path of the machine is in it.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from tridiff.harness import config
from tridiff.harness.doctor import host
from tridiff.harness.doctor.probe import build_of, devices_of

_TRITONS = ("triton", "pytorch-triton-rocm", "pytorch-triton", "triton-rocm", "pytorch-triton-xpu")
"""Distributions under which Triton comes."""
_GIT_SECONDS = 5.0


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """The block; taken once a process."""
    return {
        "tridiff": _tridiff(),
        "python": host.machine().python,
        "torch": _torch(),
        "triton": _triton(),
        "packages": {package.name: package.version for package in host.packages() if package.version is not None},
        **_machine(host.machine()),
        "rocm": rocm(Path("/")),
        "drivers": drivers(Path("/")),
        "devices": _devices(),
        "visible": config.visible_devices(),
    }


def _tridiff() -> dict[str, Any]:
    known = host.installation()
    return {"version": known.version, "form": known.form, "source": known.source, "commit": commit(Path(known.folder))}


def commit(folder: Path) -> str | None:
    """The commit of the checkout at `folder`, with "-dirty" where files differ from it; None where it is none."""
    if not (folder / ".git").exists():  # else git would answer for a project around an installation
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_GIT_SECONDS)  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _torch() -> dict[str, Any]:
    torch = config.imported("torch")
    if torch is None:
        return {"version": None, "commit": None, "build": None}
    known = getattr(torch.version, "git_version", None)
    return {"version": str(torch.__version__), "commit": known if known != "Unknown" else None, "build": build_of(torch)}


def _triton() -> dict[str, Any]:
    triton = config.imported("triton")
    version = None if triton is None else str(triton.__version__)
    found = [(name, _distribution(name)) for name in _TRITONS]
    known = [commit_of(distribution) for _, distribution in found if distribution is not None]
    return {
        "version": version,
        "distributions": [f"{name} {distribution.version}" for name, distribution in found if distribution is not None],
        "commit": next(filter(None, [*known, _in_version(version or "")]), None),
    }


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit_of(distribution: importlib.metadata.Distribution) -> str | None:
    """The commit that a distribution was built from, as far as it says so; Triton's releases on PyPI do not.

    By its version, 3.5.0+gitbbb06c03 say, or by what the installer noted of a repository (PEP 610).
    """
    if (known := _in_version(distribution.version)) is not None:
        return known
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return None
    found = origin.get("vcs_info", {}).get("commit_id")
    return str(found) if found else None


def _in_version(version: str) -> str | None:
    match = re.search(r"\+(?:.*\.)?git([0-9a-f]{7,40})\b", version)
    return match[1] if match else None


def _machine(known: host.Machine) -> dict[str, Any]:
    return {"platform": known.platform, "cores": known.cores, "memory": known.memory, "container": known.container}


def rocm(root: Path) -> str | None:
    """The installed ROCm, from the file that its packages keep below /opt/rocm; torch's own is in its `build`."""
    return _line(root / "opt/rocm/.info/version")


def drivers(root: Path) -> dict[str, str]:
    """The kernel drivers of GPUs that are loaded, with their versions.

    `/sys/module/NAME/version`, which a driver of the kernel's own tree lacks: it has the kernel's version.
    """
    found = {}
    for name in ("amdgpu", "nvidia"):
        if (root / "sys/module" / name).is_dir():
            found[name] = _line(root / "sys/module" / name / "version") or "the kernel's own"
    return found


def _devices() -> list[dict[str, Any]]:
    torch = config.imported("torch")
    if torch is not None and torch.cuda.is_initialized():  # then to ask costs nothing more
        return devices_of(torch)
    return devices(Path("/"))


def devices(root: Path) -> list[dict[str, Any]]:
    """GPUs by what their drivers publish in files: `name`, `arch` and `memory` in bytes, None where they do not say.

    AMD: /sys/class/kfd/kfd/topology/nodes, where CPUs have gfx_target_version 0. NVIDIA: /proc/driver/nvidia/gpus.
    """
    nodes = sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*"), key=lambda path: (len(path.name), path.name))
    amd = (_amd(node) for node in nodes)
    nvidia = (_nvidia(path) for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")))
    return [device for device in (*amd, *nvidia) if device is not None]


def _amd(node: Path) -> dict[str, Any] | None:
    match = re.search(r"^gfx_target_version (\d+)$", _text(node / "properties"), re.MULTILINE)
    if match is None or not int(match[1]):
        return None
    sizes = [int(size) for bank in _banks(node) for size in re.findall(r"^size_in_bytes (\d+)$", bank, re.MULTILINE)]
    return {"name": _line(node / "name") or "AMD GPU", "arch": gfx(int(match[1])), "memory": sum(sizes) or None}


def _banks(node: Path) -> list[str]:
    """The descriptions of memory that lies on the device: heap types 1 and 2 of the interface (kfd_topology.h)."""
    texts = map(_text, sorted((node / "mem_banks").glob("*/properties")))
    return [text for text in texts if re.search(r"^heap_type [12]$", text, re.MULTILINE)]


def gfx(version: int) -> str:
    """The architecture of a gfx_target_version, decimal major * 10000 + minor * 100 + stepping: 90402 is gfx942."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _nvidia(path: Path) -> dict[str, Any] | None:
    match = re.search(r"^Model:\s*(.+?)\s*$", _text(path), re.MULTILINE)
    return {"name": match[1], "arch": None, "memory": None} if match else None


def _line(path: Path) -> str | None:
    return _text(path).strip().partition("\n")[0] or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
