"""The command `targets` in a process of its own, with real workers and the real compiler; and `repro` of what it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tridiff.harness import cli
from tridiff.harness.isolation.process import START_SECONDS

PLUGIN = """
import triton
import triton.language as tl
from tridiff.harness.api import Kernel
from tridiff.harness.registry import register_family


def ranged(*, x, out, total, factor):
    _ranged[(x.shape[0],)](x, out, block=x.shape[1])


@triton.jit
def _ranged(x, out, block: tl.constexpr):
    at = tl.arange(0, block)
    tl.store(out + at, tl.load(x + at))


def register(registry):
    register_family(registry, "scale", "toy")
    registry.register_kernel(Kernel(name="ranged", op="scale", module=__name__, launcher="ranged"))
"""
"""A tile as wide as the rows, of which Triton wants powers of two."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command ran, with its document in `said.json`. Takes some seconds: two workers load torch."""
    where = tmp_path_factory.mktemp("run")
    (where / "ranged.py").write_text(PLUGIN, encoding="utf-8")
    code = "import sys; from tridiff.harness.cli import main; main(sys.argv[1:])"
    arguments = "targets --plugin ranged.py --kernel ranged --target gfx942 --target sm_90 --max-specialisations 3 --json"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        check=False,
        capture_output=True,
        text=True,
        cwd=where,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        timeout=2 * START_SECONDS,
    )
    assert done.returncode == cli.Exit.FINDINGS, done.stderr
    (where / "said.json").write_text(done.stdout, encoding="utf-8")
    return where


def test_command(folder: Path) -> None:
    """The defect is found for each family of targets, with its minimal case and the line of the kernel."""
    document = json.loads((folder / "said.json").read_text(encoding="utf-8"))

    assert [row["target"] for row in document["rows"]] == ["gfx942", "sm_90"]
    assert [(each["check"], each["targets"], each["shrunk"]) for each in document["findings"]] == [
        ("compile", ["gfx942"], True),
        ("compile", ["sm_90"], True),
    ]
    for each in document["findings"]:
        assert {name: value for name, value in each["case"].items() if value not in {0, 1}} == {"columns": 3}
        assert each["line"].startswith("ranged.py:")
        assert "power of 2" in each["message"]


def test_repro(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The case file is compiled again, and says so where it does not fail any more, without an error ratio."""
    monkeypatch.chdir(folder)
    found = json.loads((folder / "said.json").read_text(encoding="utf-8"))["findings"][0]
    repaired = Path("repaired.json")
    repaired.write_text(Path(found["file"]).read_text(encoding="utf-8").replace('"columns": 3', '"columns": 4'), encoding="utf-8")

    codes = []
    for path in (found["file"], str(repaired)):
        with pytest.raises(SystemExit) as left:
            cli.main(["repro", "--plugin", "ranged.py", "--no-isolation", path])
        codes.append(left.value.code)

    assert found["reproduce"] == f"tridiff repro --plugin ranged.py {found['file']}"
    assert codes == [cli.Exit.FINDINGS, cli.Exit.CLEAN]
    out = capsys.readouterr().out
    assert f"FINDING {found['signature']}\n" in out
    assert out.endswith("\nrepaired.json: check compile does not fail any more\n")
