"""The page of what was found in released kernels: every case file is one that its command can run, and is named there."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tridiff import adapters
from tridiff.harness import registry as registries
from tridiff.harness.api import CHECKS, Domain, Kernel, from_json
from tridiff.harness.domains import contains

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "trophies.md").read_text(encoding="utf-8")
FILES = sorted((ROOT / "docs" / "trophies").glob("*.json"))


def kernels() -> Iterator[tuple[str, Kernel]]:
    """The kernels of all adapters, with the name of the plug-in; none of the packages is needed."""
    for found in pkgutil.iter_modules(adapters.__path__):
        if found.ispkg:
            name = f"{adapters.__name__}.{found.name}"
            for family in importlib.import_module(name).FAMILIES:
                yield from ((name, kernel) for kernel in getattr(family, "KERNELS", None) or (family.KERNEL,))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_case_file(file: Path) -> None:
    """It is a legal Case inside the domain of its kernel, and the page has the command that runs it."""
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    plugin, kernel = next((plugin, kernel) for plugin, kernel in kernels() if kernel.name == data["kernel"])
    op = registries.builtin().op(data["op"])
    case = from_json(op.case, data["case"])

    assert kernel.op == op.name
    assert data["check"] in CHECKS
    assert contains(op, case, Domain(target=data["target"], limits=kernel.limits))
    assert f"tridiff repro --plugin {plugin} docs/trophies/{file.name}" in PAGE


def test_page_names_what_is_there() -> None:
    """No command on the page lacks its file."""
    named = {word.rpartition("/")[2] for word in PAGE.replace("`", " ").split() if word.startswith("docs/trophies/")}

    assert named == {file.name for file in FILES}
    assert FILES
