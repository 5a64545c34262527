"""Find out which operations each Triton release has, and write `tools/triton_operations.json`.

Names come from the release's library, where there is much that only looks like one. Triton's own parser decides: a text with
that operation alone is refused either as an unregistered operation, or for the operands and results that it lacks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import tritons

DATA = Path(__file__).resolve().with_name("triton_operations.json")
DIALECTS = ("arith", "cf", "math", "scf", "tt", "ub")
OTHERS = ("gpu.barrier", "llvm.intr.assume", "ttg.barrier")
"""Operations of other dialects that Triton's front end emits."""
_NAME = re.compile(rb"\b(?:" + "|".join(DIALECTS).encode() + rb")(?:\.[a-z][a-z0-9_]*)+")
BATCH = 200


def pinned(root: Path) -> list[str]:
    """The versions that the tests run on: the one of `constraints.txt`, and those of `triton-versions.txt`."""
    installed = re.findall(r"^triton==(\S+)", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return sorted([*installed, *tritons.pinned(root)], key=lambda version: [int(part) for part in version.split(".")])


def candidates(folder: Path) -> set[str]:
    """Whatever looks like an operation in the library of the release in `folder`."""
    library = (folder / "triton" / "_C" / "libtriton.so").read_bytes()
    return {name.decode() for name in _NAME.findall(library)}


def probe(names: Iterable[str]) -> None:
    """Parse each name as an operation; what Triton thinks of it goes to standard error. Runs in a process of its own."""
    from triton._C.libtriton import ir  # noqa: PLC0415 - of the release that this process was started for

    context = ir.context()
    ir.load_dialects(context)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "operation.mlir")
        for name in names:
            path.write_text(f'"{name}"() : () -> ()\n', encoding="utf-8")
            print(f"\n<{name}>", file=sys.stderr, flush=True)
            try:
                ir.parse_mlir_module(str(path), context)
            except RuntimeError:
                continue


def registered(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of `names` that are operations of the release in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = []
    for start in range(0, len(names), BATCH):
        command = [sys.executable, __file__, "--probe", *names[start : start + BATCH]]
        result = subprocess.run(  # noqa: S603 - the command is ours
            command, env=environment, check=True, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        answers = re.findall(r"^<(.*)>\n([^<]*)", result.stderr, re.MULTILINE)
        found += [name for name, answer in answers if "unregistered operation" not in answer and "not found" not in answer]
    return found


def main() -> int:
    """Survey all pinned versions."""
    if sys.argv[1:2] == ["--probe"]:
        probe(sys.argv[2:])
        return 0
    versions = pinned(tritons.ROOT)
    tritons.install(tritons.ROOT, versions)
    folders = {version: tritons.place(tritons.ROOT, version) for version in versions}
    names = sorted({*OTHERS}.union(*map(candidates, folders.values())))
    survey = {version: set(registered(folder, names)) for version, folder in folders.items()}
    write({name: [version for version in versions if name in survey[version]] for name in names})
    return 0


def write(found: dict[str, list[str]]) -> None:
    """Write the data file: the versions that have each operation, one operation a line."""
    lines = (f'"{name}": {json.dumps(versions)}' for name, versions in sorted(found.items()) if versions)
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
