"""What can be said of this machine without importing torch or Triton, which may be missing or broken."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tridiff.harness import config
from tridiff.harness.announced import Announced, announced

REQUIRED = ("numpy", "hypothesis", "rich", "threadpoolctl", "typer")
OPTIONAL = ("pytest", "pytest-xdist")
PARTS = ("adapters", "harness", "kernels", "reference", "strategies")
DISTRIBUTION = "tridiff"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """`form`: "wheel", "editable" or "path" (found on sys.path, not installed). `source`: digest of all Python files."""

    version: str
    form: str
    folder: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`memory`: bytes that this process may use: the machine's, or its control group's if that is less; 0 if unknown."""

    python: str
    executable: str
    platform: str
    cores: int
    memory: int
    container: str | None


@dataclass(frozen=True, kw_only=True)
class Package:
    """`minimum`: the least version that tridiff asks for, "" where it asks for none; `problem`: None if all is well."""

    name: str
    version: str | None
    minimum: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceFiles:
    """What the kernel drivers offer: `kfd`, AMD's compute interface, "absent", "usable" or "forbidden"; `nvidia`: any GPU."""

    kfd: str
    nvidia: bool


@dataclass(frozen=True, kw_only=True)
class Host:
    """Everything of this module. `visible`: the variables that hide GPUs, as far as they are set. `plugins`: those installed."""

    tridiff: Installation
    machine: Machine
    packages: tuple[Package, ...]
    device_files: DeviceFiles
    visible: dict[str, str]
    plugins: tuple[Announced, ...] = ()


def host() -> Host:
    """Look at this machine."""
    return Host(
        tridiff=installation(),
        machine=machine(),
        packages=packages(),
        device_files=device_files(),
        visible=config.visible_devices(),
        plugins=tuple(announced()),
    )


def installation() -> Installation:
    """Which tridiff is running."""
    folders = [Path(found) for part in PARTS for found in _folders(part)]
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return Installation(version="unknown", form="path", folder=str(folders[0].parent), source=_digest(folders))
    home = folders[0].resolve().parent
    form = _form(distribution, home)
    return Installation(version=distribution.version, form=form, folder=str(home), source=_digest(folders))


def _folders(part: str) -> list[str]:
    spec = importlib.util.find_spec(f"tridiff.{part}")
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _form(distribution: importlib.metadata.Distribution, home: Path) -> str:
    if home == Path(str(distribution.locate_file(DISTRIBUTION))).resolve():
        return "wheel"
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")  # PEP 610
    editable = origin.get("dir_info", {}).get("editable", False)
    return "editable" if editable and origin.get("url") == home.as_uri() else "path"


def _digest(folders: Iterable[Path]) -> str:
    """8 hexadecimal digits that change with any Python file: two reports of one version can be told apart."""
    seen = hashlib.blake2b(digest_size=4)
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            seen.update(f"{folder.name}/{path.relative_to(folder)}\0".encode())
            seen.update(path.read_bytes())
    return seen.hexdigest()


def machine() -> Machine:
    """The interpreter and what it runs on."""
    return Machine(
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        cores=_cores(),
        memory=memory(Path("/")),
        container=container(Path("/")),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(root: Path) -> int:
    """Bytes of memory, from the files of Linux below `root` (proc_meminfo(5), cgroup v2's memory.max)."""
    match = re.search(r"^MemTotal: +(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    total = int(match[1]) * 1024 if match else 0
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def container(root: Path) -> str | None:
    """Whose container this is, by files that docker and podman leave at `root`, or what the variable `container` says."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return config.container()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def device_files(root: Path = Path("/")) -> DeviceFiles:
    """Device files of GPU drivers; ROCm's documentation on containers says what they are for."""
    kfd = root / "dev/kfd"
    usable = os.access(kfd, os.R_OK | os.W_OK)
    state = "absent" if not kfd.exists() else "usable" if usable else "forbidden"
    return DeviceFiles(kfd=state, nvidia=any((root / "dev").glob("nvidia[0-9]*")))


def packages() -> tuple[Package, ...]:
    """The packages that tridiff needs or can use, apart from torch and Triton."""
    try:
        asked = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        asked = []
    return tuple(package(name, minimum(name, asked)) for name in (*REQUIRED, *OPTIONAL))


def minimum(name: str, requirements: Iterable[str]) -> str:
    """The version after `>=` in the requirement of `name`, whichever extra it belongs to, or ""."""
    pattern = re.compile(rf"{re.escape(name)}\s*>=\s*([\d.]+)", re.IGNORECASE)
    return next((match[1] for match in map(pattern.match, requirements) if match), "")


def package(name: str, least: str) -> Package:
    """The installed version of `name`, and what to do where it is missing or older than `least`."""
    wanted = f"{name}>={least}" if least else name
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name=name, version=None, minimum=least, problem=f"{name} is not installed: pip install '{wanted}'")
    if least and _numbers(version) < _numbers(least):
        problem = f"{name} {version} is installed, tridiff needs {least} or newer: pip install '{wanted}'"
        return Package(name=name, version=version, minimum=least, problem=problem)
    return Package(name=name, version=version, minimum=least)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 9) for 2.9rc1. One that begins otherwise gets the benefit of the doubt."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (sys.maxsize,)
