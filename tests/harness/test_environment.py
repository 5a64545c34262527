"""The environment block of a run: what drivers and packages say of themselves, and nothing that names the machine."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

from tridiff.harness.doctor import environment as block
from tridiff.harness.doctor.environment import commit, commit_of, devices, drivers, environment, gfx, rocm


def below(root: Path, **files: str) -> Path:
    """`root`, with files whose paths have __ for /."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def test_block_of_this_machine() -> None:
    """It has the versions that matter, and can be written as JSON."""
    known = environment()

    assert known["torch"]["version"] == torch.__version__
    assert known["torch"]["commit"] == torch.version.git_version
    assert known["triton"]["version"] == triton.__version__
    assert known["packages"]["hypothesis"] == importlib.metadata.version("hypothesis")
    assert len(known["tridiff"]["source"]) == 8
    assert known["cores"] >= 1
    assert json.loads(json.dumps(known)) == known


def test_block_names_neither_machine_nor_people() -> None:
    """No host name, user or path: people attach it to public issues."""
    text = json.dumps({name: value for name, value in environment().items() if name != "platform"})

    for secret in (socket.gethostname(), str(Path.home()), str(Path.cwd()), getpass.getuser() + "/"):
        assert secret not in text
    assert socket.gethostname() not in environment()["platform"].split("-")


def test_drivers(tmp_path: Path) -> None:
    """The version that a loaded driver publishes; one of the kernel's own tree has none."""
    root = below(tmp_path, sys__module__nvidia__version="550.90.07\n", sys__module__amdgpu__refcnt="4\n")

    assert drivers(root) == {"amdgpu": "the kernel's own", "nvidia": "550.90.07"}
    assert drivers(tmp_path / "none") == {}


def test_rocm(tmp_path: Path) -> None:
    """The installed release, where there is one."""
    assert rocm(below(tmp_path, opt__rocm__dot="")) is None

    (tmp_path / "opt/rocm/.info").mkdir()
    (tmp_path / "opt/rocm/.info/version").write_text("6.4.1-83\n", encoding="utf-8")

    assert rocm(tmp_path) == "6.4.1-83"


NODES = "sys__class__kfd__kfd__topology__nodes__"
CPU = "cpu_cores_count 96\ngfx_target_version 0\n"
GPU = "cpu_cores_count 0\ngfx_target_version {}\n"


def test_amd_devices(tmp_path: Path) -> None:
    """GPUs in the order of their nodes, with the memory that lies on the device; CPUs are none."""
    root = below(
        tmp_path,
        **{
            f"{NODES}0__properties": CPU,
            f"{NODES}10__properties": GPU.format(110000),
            f"{NODES}2__properties": GPU.format(90402),
            f"{NODES}2__name": "aqua\n",
            f"{NODES}2__mem_banks__0__properties": "heap_type 1\nsize_in_bytes 206141652992\n",
            f"{NODES}2__mem_banks__1__properties": "heap_type 0\nsize_in_bytes 7\n",
        },
    )

    assert devices(root) == [
        {"name": "aqua", "arch": "gfx942", "memory": 206141652992},
        {"name": "AMD GPU", "arch": "gfx1100", "memory": None},
    ]


def test_nvidia_devices(tmp_path: Path) -> None:
    """Their driver publishes the model alone."""
    path = "proc__driver__nvidia__gpus__0000:3b:00.0__information"
    root = below(tmp_path, **{path: "Model: \t\t NVIDIA H200\nIRQ:   \t\t 18\n"})

    assert devices(root) == [{"name": "NVIDIA H200", "arch": None, "memory": None}]


@pytest.mark.parametrize(("version", "name"), [(90402, "gfx942"), (90010, "gfx90a"), (120001, "gfx1201"), (90500, "gfx950")])
def test_gfx(version: int, name: str) -> None:
    """Minor number and stepping are hexadecimal digits in the name."""
    assert gfx(version) == name


class Package:
    """Stands in for an installed distribution."""

    def __init__(self, version: str, origin: str | None = None) -> None:
        self.version = version
        self._origin = origin

    def read_text(self, _name: str) -> str | None:
        """What the installer noted of where it came from."""
        return self._origin


GIT = '{"url": "https://example.org/t.git", "vcs_info": {"vcs": "git", "commit_id": "0123abc"}}'


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        (Package("3.7.1"), None),
        (Package("3.5.0+gitbbb06c03"), "bbb06c03"),
        (Package("3.4.0+rocm6.4.git1d2e3f4a"), "1d2e3f4a"),
        (Package("3.7.1", GIT), "0123abc"),
        (Package("3.7.1", '{"url": "file:///x"}'), None),
        (Package("3.7.1", "{"), None),
    ],
)
def test_commit_of_a_distribution(package: Any, expected: str | None) -> None:
    """Source builds name their commit in the version, pip notes that of a repository; releases have neither."""
    assert commit_of(package) == expected


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "code.py").touch()
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "code.py"), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_commit_of_a_checkout(repository: Path) -> None:
    """The whole commit; marked where a file differs; none for an installation that lies inside somebody's repository."""
    head = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout

    clean = commit(repository)
    (repository / "code.py").write_text("1", encoding="utf-8")
    (repository / "site-packages").mkdir()

    assert clean == head.strip()
    assert commit(repository) == f"{clean}-dirty"
    assert commit(repository / "site-packages") is None


@pytest.mark.parametrize("failing", [FileNotFoundError, lambda: subprocess.TimeoutExpired("git", 5)])
def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: Callable[[], Exception]) -> None:
    """A machine without git, or with a slow one, has no commit to show; nothing fails."""

    def run(*_: object, **__: object) -> None:
        raise failing()

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(subprocess, "run", run)

    assert commit(tmp_path) is None


def test_devices_that_torch_knows_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch is asked for GPUs only where it has started their driver anyway: to start one may hang or abort."""
    monkeypatch.setattr(block, "devices_of", lambda known: [{"name": known.__name__}])

    without = block._devices()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    assert without == devices(Path("/"))
    assert block._devices() == [{"name": "torch"}]
