"""Prepare the Python that `make` runs tridiff with, and print its path; standard library only.

| base Python                   | tridiff runs in                      | torch and triton       |
|-------------------------------|--------------------------------------|------------------------|
| without torch                 | `.venv`                              | the pinned CPU builds  |
| with torch                    | `.venv` made to see the base's own   | the base's, untouched  |
| with torch, and itself a venv | that venv, for a venv made from it would not see its packages | its own, untouched |

A torch without triton stops the set-up: the right triton depends on how torch was built, and PyPI's would overwrite the one
that a ROCm torch brings under another distribution's name.

What was done is remembered in a marker beside the environment's `pyvenv.cfg`, so that the next run takes no time; it is done
again when the base Python, or a file that says what to install, changes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARKER = "tridiff-setup.json"
FOLDERS = ("adapters", "harness", "kernels", "reference", "strategies")
DECIDING = ("pyproject.toml", "setup.py", "constraints.txt", "tools/bootstrap.py")
"""The files that say what is installed, and how."""


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Base:
    """What is known of the Python that `make` was given.

    `executable`: its path. `version`: "3.12.1". `prefix`: its `sys.prefix`. `is_venv`: whether it is a virtual environment.
    `modules`: those of torch, triton, pip and ensurepip that it can import.
    """

    executable: str
    version: str
    prefix: str
    is_venv: bool
    modules: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """What is to be done: `create` the environment at `prefix` (None: it exists) with this command, then `install` there."""

    prefix: str
    python: str
    create: tuple[str, ...] | None
    install: tuple[str, ...]


def inspect_base() -> Base:
    """What this interpreter is and sees."""
    return Base(
        executable=sys.executable,
        version=platform.python_version(),
        prefix=sys.prefix,
        is_venv=sys.prefix != sys.base_prefix,
        modules=frozenset(name for name in ("torch", "triton", "pip", "ensurepip") if has_module(name)),
    )


def has_module(name: str) -> bool:
    """Whether top-level module `name` can be found; an empty folder that an uninstallation left behind does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def decide(base: Base, root: Path) -> Plan:
    """The plan for a checkout at `root`, by the table at the top. Raises `SetupError`."""
    venv = root / ".venv"
    if "torch" not in base.modules:
        return _with_torch_of_its_own(base, venv)
    if "triton" not in base.modules:
        raise SetupError(
            f"{base.executable} has torch but no triton: install the triton that belongs to this torch (a ROCm torch has its own,"
            " which PyPI's would break), then run make again"
        )
    if base.is_venv:
        return _into_itself(base, ("-e", ".[test,lint]"))
    return _new_venv(base, venv, ("--system-site-packages",), ("-e", ".[test,lint]"))


def _with_torch_of_its_own(base: Base, venv: Path) -> Plan:
    install = ("-c", "constraints.txt", "-e", ".[cpu,test,lint]")
    if Path(base.prefix).resolve() == venv.resolve():
        return _into_itself(base, install)
    return _new_venv(base, venv, (), install)


def _into_itself(base: Base, install: tuple[str, ...]) -> Plan:
    if "pip" not in base.modules:
        raise SetupError(f"{base.executable} has no pip: install it there (python -m ensurepip, or uv pip install pip)")
    return Plan(prefix=base.prefix, python=base.executable, create=None, install=install)


def _new_venv(base: Base, venv: Path, options: tuple[str, ...], install: tuple[str, ...]) -> Plan:
    if "ensurepip" not in base.modules:
        raise SetupError(
            f"{base.executable} cannot make virtual environments: install python3-venv (apt install python3-venv),"
            " or run make PYTHON=... with a Python that can"
        )
    create = (base.executable, "-m", "venv", "--clear", *options, str(venv))
    return Plan(prefix=str(venv), python=str(venv / "bin" / "python"), create=create, install=install)


def fingerprint(base: Base, plan: Plan, root: Path) -> str:
    """Changes whenever the set-up must be done again."""
    digest = hashlib.sha256(repr((base.executable, base.version, plan, str(root))).encode())
    for name in DECIDING:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def read_marker(prefix: str | Path) -> dict[str, str]:
    """What an earlier run left in the environment at `prefix`; empty where there is none."""
    try:
        content = json.loads((Path(prefix) / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def prepare(base: Base, root: Path) -> str:
    """Carry out the plan unless that has been done already; the path of the Python to run. Raises `SetupError`."""
    plan = decide(base, root)
    link_packages(root)
    wanted = fingerprint(base, plan, root)
    marker = read_marker(plan.prefix)
    if marker.get("done") == wanted and Path(plan.python).exists():
        return plan.python
    started = time.monotonic()
    say(f"setting up {shown(plan.prefix, root)} (about a minute) ...")
    create(base, plan, marker)
    install(plan, root)
    write_marker(base, plan, done=wanted)
    say(f"{shown(plan.prefix, root)} is ready, after {time.monotonic() - started:.0f} s")
    return plan.python


def create(base: Base, plan: Plan, marker: dict[str, str]) -> None:
    """Make the environment, unless it is there and was made with this very command. Raises `SetupError`."""
    if plan.create is None:
        return
    if Path(plan.prefix).exists() and not marker:
        raise SetupError(
            f"{plan.prefix} was not made by this Makefile: to use it as it is, run make PYTHON={plan.python}; or else remove it"
        )
    if marker.get("create") == repr((plan.create, base.version)) and Path(plan.python).exists():
        return
    execute("making the virtual environment", plan.create, Path(plan.prefix).parent)
    write_marker(base, plan, done="")


def install(plan: Plan, root: Path) -> None:
    """Install tridiff and what it needs, and see that torch and triton can be imported. Raises `SetupError`."""
    pip = (plan.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
    # Python compiles what it imports; to compile all that torch brings takes as long as to install it.
    lazily = ("--no-compile",) if plan.create is not None and not sys.dont_write_bytecode else ()
    execute(f"installing {plan.install[-1]}", (*pip, *lazily, *plan.install), root)
    execute("importing torch and triton", (plan.python, "-c", "import torch, triton"), root)


def write_marker(base: Base, plan: Plan, *, done: str) -> None:
    """Remember how the environment was made, and with which fingerprint it is complete (empty: not yet)."""
    content = {"base": base.executable, "create": repr((plan.create, base.version)), "done": done}
    (Path(plan.prefix) / MARKER).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def execute(purpose: str, command: tuple[str, ...], folder: Path) -> None:
    """Run `command` in `folder`, silently unless it fails. Raises `SetupError`."""
    result = subprocess.run(  # noqa: S603 - the command is ours
        command, cwd=folder, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode != 0:
        raise SetupError(f"{purpose} failed with exit status {result.returncode}: {' '.join(command)}\n{result.stdout.strip()}")


def link_packages(root: Path) -> None:
    """A folder in which the type checker finds `tridiff.*`: it cannot see through setuptools' editable finder."""
    namespace = root / ".mypy_path" / "tridiff"
    namespace.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        if not (namespace / folder).is_symlink():
            (namespace / folder).symlink_to(Path("..", "..", folder), target_is_directory=True)


def shown(prefix: str, root: Path) -> str:
    """`prefix`, relative to the checkout where it lies inside."""
    path = Path(prefix)
    return str(path.relative_to(root)) if path.is_relative_to(root) else prefix


def say(line: str) -> None:
    """Tell the user; standard output holds nothing but the path."""
    print(line, file=sys.stderr, flush=True)


def leave_own_venv(root: Path) -> None:
    """Start again with the base Python when `make` was given the one in our own `.venv`, as in an activated shell."""
    base = read_marker(root / ".venv").get("base", "")
    inside = Path(sys.prefix).resolve() == (root / ".venv").resolve()
    if inside and base and Path(base).exists() and Path(base) != Path(sys.executable):
        os.execv(base, [base, *sys.argv])  # noqa: S606 - no shell is wanted


def main() -> int:
    """Prepare, print the path of the Python to run; exit status 0, or 2 when the set-up failed."""
    leave_own_venv(ROOT)
    try:
        print(prepare(inspect_base(), ROOT))
    except SetupError as error:
        say(f"tridiff: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
