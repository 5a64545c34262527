"""Fetch the Python files of a released package: `fetch_upstream.py NAME[==VERSION] [--into FOLDER]`.

The adapters need a package's kernel files, not its compiled extensions, nor what it requires. pip downloads the wheel, whatever
its size, into a temporary folder; its *.py and its description are unpacked into FOLDER/NAME (`.upstream/NAME` by default), and
the wheel goes. Nothing is fetched where that version is there already, or any version where none is named.

Exit status: 0 when the files are there, 2 when they cannot be had, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from tritons import reason

PIP = ("-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:")
PATIENCE = ("--retries", "2", "--timeout", "20")
KEPT = re.compile(r"[^/]+\.dist-info/.+|.+\.py")
"""Members of a wheel that are unpacked: modules, and what it says of itself, the licence included."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"\d+[A-Za-z0-9.+!]*")
_UNREACHABLE = ("Retrying (", "ConnectionError", "NewConnectionError", "ReadTimeoutError")


class Unavailable(Exception):
    """The package cannot be had; the message says which and why."""


def parsed(requirement: str) -> tuple[str, str]:
    """Name and version ("" for the newest) of `NAME` or `NAME==VERSION`. Raises `Unavailable`."""
    name, equal, version = requirement.partition("==")
    if not _NAME.fullmatch(name) or (equal and not _VERSION.fullmatch(version)):
        raise Unavailable(f"{requirement!r}: write NAME or NAME==VERSION, such as vllm==0.33.0")
    return name, version


def folder_of(name: str) -> str:
    """The folder of a distribution, as its wheel writes its name: lower case, with underscores."""
    return re.sub(r"[-_.]+", "_", name).lower()


def present(folder: Path, name: str) -> str | None:
    """The version of `name` that lies in `folder`."""
    found = [each.version for each in metadata.distributions(path=[str(folder)]) if folder_of(each.name) == folder_of(name)]
    return found[0] if found else None


def fetch(requirement: str, into: Path) -> str:
    """Have the files of `requirement` in a folder below `into`; one line that says of which version. Raises `Unavailable`."""
    name, version = parsed(requirement)
    folder = into / folder_of(name)
    there = present(folder, name)
    if there is not None and version in {"", there}:
        return f"{name} {there} is in {folder} already"
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=into) as temporary:
        wheel = download(requirement, Path(temporary))
        size = wheel.stat().st_size
        count = unpack(wheel, Path(temporary) / "files")
        if folder.exists():
            shutil.rmtree(folder)
        (Path(temporary) / "files").rename(folder)
    return f"{name} {present(folder, name)}: {count} files of a wheel of {size / 1e6:.0f} MB are in {folder}"


def download(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement`, in `folder`; pip shows its progress on standard output. Raises `Unavailable`."""
    command = [sys.executable, *PIP, *PATIENCE, "--dest", str(folder), requirement]
    result = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if any(sign in result.stderr for sign in _UNREACHABLE):
        raise Unavailable(f"{requirement} cannot be fetched: the package index does not answer; is there a network?")
    raise Unavailable(f"{requirement} cannot be fetched: {reason(result.stderr)}")


def unpack(wheel: Path, folder: Path) -> int:
    """Unpack what is kept of `wheel` into `folder`; how many files. Raises `Unavailable` where it has no module."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if KEPT.fullmatch(name) and not name.endswith("/")]
        if not any(name.endswith(".py") for name in members):
            raise Unavailable(f"{wheel.name} holds no Python files")
        archive.extractall(folder, members)
    return len(members)


def main(arguments: list[str] | None = None) -> int:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(prog="fetch_upstream.py", description="Fetch the Python files of a released package.")
    parser.add_argument("requirement", metavar="NAME[==VERSION]")
    parser.add_argument("--into", type=Path, default=Path(".upstream"), metavar="FOLDER", help="default: .upstream")
    given = parser.parse_args(arguments)
    try:
        print(fetch(given.requirement, given.into), flush=True)
    except (Unavailable, OSError, zipfile.BadZipFile) as error:
        print(f"tridiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tridiff: interrupted; what was there before stays", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
