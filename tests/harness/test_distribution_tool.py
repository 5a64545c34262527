"""`tools/distribution.py`: the README's table of what cases were."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "distribution.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("distribution", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def document(path: Path, cases: int, **properties: dict[str, int]) -> str:
    """A run of one kernel."""
    path.write_text(json.dumps({"kernels": [{"op": "paged_decode", "cases": cases, "properties": properties}]}), encoding="utf-8")
    return str(path)


def test_runs_of_one_op_are_added_up(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shares in the order of the heading; a group of 3 is neither 1 nor a power of two; 1 in 250 is not none."""
    same = {"layout_class": {"packed": 100}, "dtype": {"bfloat16": 100}, "cache_dtype": {"same": 100}}
    first = document(tmp_path / "0", 100, block_class={"16 or 32": 100}, group={"1": 50, "3": 50}, window={"none": 100}, **same)
    other = {"layout_class": {"padded": 150}, "dtype": {"float8_e5m2": 149, "float16": 1}, "cache_dtype": {"float8_e5m2": 150}}
    second = document(tmp_path / "1", 150, block_class={"straddled": 150}, group={"4": 150}, window={"shorter": 150}, **other)

    assert tool.main([first, second]) == 0

    row = capsys.readouterr().out.splitlines()[-1]
    assert row == ("| `paged_decode` | 250 | 40 / 0 / 0 / 60 | 60 | 40 / <1 / 0 / 60 | 0 / 0 / 60 / 0 | 20 / 60 / 20 | 60 | - |")


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"kernels": 3}'])
def test_no_run(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """One line that names the file, and exit status 2."""
    path = tmp_path / "given"
    path.write_text(text, encoding="utf-8")

    assert tool.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"distribution: {path}: not what")
