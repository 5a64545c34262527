"""The guide to plug-ins cannot rot: its code is that of the files, and what it shows is what tridiff prints."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tridiff.harness import cli
from tridiff.harness.api import Found
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.plugins import load
from tridiff.harness.runner.examine import KernelRef, examine

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
GUIDE = (GUIDES / "your-kernel.md").read_text(encoding="utf-8")
EXAMPLE = (GUIDES / "examples" / "my_kernels.py").read_text(encoding="utf-8")
ADAPTER = (GUIDES / "examples" / "attention_adapter.py").read_text(encoding="utf-8")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Writes `source` to `file` in an empty folder, and runs a command there: exit code and standard output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def command(source: str, file: str, *arguments: object) -> tuple[int, str]:
        Path(file).write_text(source, encoding="utf-8")
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments), "--no-isolation"])  # a worker takes seconds to start
        assert isinstance(left.value.code, int)
        captured = capsys.readouterr()
        assert "tridiff:" not in captured.err
        return left.value.code, captured.out

    yield command
    for name in [name for name in set(sys.modules) - before if name.startswith("tridiff_plugin_")]:
        del sys.modules[name]


def blocks(language: str) -> list[str]:
    """The contents of the guide's code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def lines(text: str) -> list[str]:
    """Its lines, without blank ones and blanks at their ends."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def scrubbed(output: str) -> list[str]:
    """Its lines without times, and without what another release of Hypothesis may draw."""
    output = re.sub(r"in \d+ s:", "in # s:", output)
    output = re.sub(r"hits: \d+", "hits: #", output)
    output = re.sub(r"[─━]+", "─", output)
    output = re.sub(r"(│ rms_norm │.*?│ +\d+ │) +[\d.]+ │ +\d+ │ +[\d.]+ │", r"\1 # │ # │ # │", output)
    return lines(re.sub(r"(│ mismatch +│ mismatch +│) +\d+ │", r"\1 # │", output))


def fixed(source: str) -> str:
    """`source` after the guide's patch."""
    (patch,) = blocks("diff")
    for hunk in patch.split("@@\n")[1:]:
        marked = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in marked if line[0] in {" ", sign}) for sign in "-+")
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


def test_code_is_that_of_the_files() -> None:
    """The guide shows the example from its first line to its last, and all of the adapter."""
    *example, adapter = blocks("python")

    assert lines("".join(example)) == lines(EXAMPLE)
    assert lines(adapter) == lines(ADAPTER)


def test_finding_and_its_command(run: Run) -> None:
    """The wrong kernel gives exactly the finding that is shown, and the printed command runs it again, until it is repaired."""
    finding, *_ = blocks("text")

    code, output = run(EXAMPLE, "my_kernels.py", "fuzz", "--plugin", "my_kernels.py", "--op", "rms_norm", "--max-examples", 100)

    assert code == cli.Exit.FINDINGS
    assert scrubbed(output) == scrubbed(finding)
    (command,) = re.findall(r"reproduce: tridiff (.*)\n", output)
    again, text = run(EXAMPLE, "my_kernels.py", *command.split())
    assert again == cli.Exit.FINDINGS
    assert f"reproduce: tridiff {command}\n" in text
    repaired, text = run(fixed(EXAMPLE), "fixed.py", *command.replace("my_kernels.py", "fixed.py").split())
    assert repaired == cli.Exit.CLEAN
    assert "does not fail any more" in text


def test_fix(run: Run) -> None:
    """The patched example is clean, and its fault is caught, as shown."""
    _, clean, proof = blocks("text")
    options = ("--plugin", "my_kernels.py", "--kernel", "my_rms_norm", "--max-examples", 100)

    fuzzed = run(fixed(EXAMPLE), "my_kernels.py", "fuzz", *options)
    proven = run(fixed(EXAMPLE), "my_kernels.py", "prove", *options)

    assert (fuzzed[0], scrubbed(fuzzed[1])) == (cli.Exit.CLEAN, scrubbed(clean))
    assert (proven[0], scrubbed(proven[1])) == (cli.Exit.CLEAN, scrubbed(proof))


def test_adapter() -> None:
    """A wrong implementation of a built-in op is found wrong by the check that the guide names."""
    plugins = (str(GUIDES / "examples" / "attention_adapter.py"),)
    case = load(plugins).op("decode_attention").case(seq_lens=(1, 1), lse_layout="padded_rows")

    outcome = examine(KernelRef(kernel="adapted", plugins=plugins), EngineSpec(), case)

    assert isinstance(outcome, Found)
    assert outcome.finding.check == "unwritten"
    assert "reports `unwritten`" in GUIDE
