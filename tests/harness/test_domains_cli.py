"""Domains on the command line: what is left out is said, and so is what a run covers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import strategies as st
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Domain, Facet, Finding, Kernel, Restriction
from tridiff.harness.repro import as_json

WHY = "The docstring of the launcher says so."


def rows(domain: Domain) -> st.SearchStrategy[ScaleCase]:
    """Cases of the rows that are allowed, up to eight."""
    return st.builds(
        ScaleCase, rows=st.sampled_from([n for n in range(1, 9) if domain.allows("rows", n)]), columns=st.integers(1, 9)
    )


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside the toy kernels `part`, which supports some of the Op, and `hip`, which no engine here can run."""
    made = registry()
    facets = {"rows": Facet(description="rows", of=lambda case: case.rows)}
    made.ops["scale"] = dataclasses.replace(made.op("scale"), facets=facets, strategy=rows, presets=rows)
    domain = (Restriction(facet="rows", allowed=(2, 3), reason=WHY),)
    made.register_kernel(dataclasses.replace(made.kernel("scale"), name="part", domain=domain))
    made.register_kernel(Kernel(name="hip", op="scale", module="nowhere", launcher="hip", engines=("gpu",)))
    del made.kernels["scale_wrong"]
    monkeypatch.setattr(registries, "builtin", lambda: made)
    monkeypatch.chdir(tmp_path)


def called(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return int(str(left.value.code))


def test_fuzz_says_what_it_covers(capsys: pytest.CaptureFixture[str]) -> None:
    """In the terminal, in the document, and what was left out; no Case outside is drawn."""
    arguments = ("fuzz", "--no-isolation", "--max-examples", "6", "--markdown", "out.md")

    assert called(*arguments) == cli.Exit.CLEAN
    text = capsys.readouterr().out
    assert called(*arguments, "--json") == cli.Exit.CLEAN
    document = json.loads(capsys.readouterr().out)

    share = document["kernels"][1]["domain"]["share"]
    line = f"part: covers {round(100 * share)} % of scale, by its declared domain"
    assert [kernel["kernel"] for kernel in document["kernels"]] == ["scale", "part"]
    assert document["kernels"][0]["domain"] is None
    assert line in text
    assert line in Path("out.md").read_text(encoding="utf-8")
    assert "needs a GPU, left out: hip" in text
    assert document["unrunnable"] == ["hip"]


def test_list_has_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a kernel that is named, and of all in the document; the table has the share of each."""
    assert called("list") == cli.Exit.CLEAN
    table = capsys.readouterr().out
    assert called("list", "--kernel", "part") == cli.Exit.CLEAN
    named = capsys.readouterr().out
    assert called("list", "--json") == cli.Exit.CLEAN
    document = json.loads(capsys.readouterr().out)

    (restriction,) = document["kernels"][1]["domain"]["restrictions"]
    assert "covers" in table
    assert "hip" in table
    assert WHY not in table
    assert f"% of scale\n  rows: 2, 3 (leaves out {round(100 * restriction['left_out'])} %): {WHY}\n" in named
    assert {**restriction, "left_out": 0} == {"facet": "rows", "allowed": "2, 3", "reason": WHY, "left_out": 0}
    assert document["facets"] == {"scale": {"rows": "rows"}}


def test_repro_outside_the_domain(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs, and says in one line that the kernel does not support it; within the domain nothing is said."""
    for count, said in ((5, True), (2, False)):
        finding = Finding(
            check="mismatch",
            message="",
            line=None,
            op="scale",
            kernel="part",
            engine="cpu",
            target="gfx942",
            case=ScaleCase(rows=count),
        )
        Path("case.json").write_text(json.dumps(as_json(finding)), encoding="utf-8")

        assert called("repro", "case.json", "--no-isolation") == cli.Exit.CLEAN

        line = "case.json: outside the domain of part, which does not support rows=5; run all the same\n"
        assert (line in capsys.readouterr().out) is said


@pytest.mark.parametrize("command", ["fuzz", "targets", "prove"])
def test_naming_what_needs_a_gpu(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is an error of one line."""
    assert called(command, "--kernel", "hip") == cli.Exit.USAGE

    assert capsys.readouterr().err == (
        "tridiff: kernel 'hip' needs engine gpu, a real GPU, and that engine is not available yet: choose others\n"
    )


def test_repro_of_what_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Likewise, with the name of the file."""
    finding = Finding(
        check="nan", message="", line=None, op="scale", kernel="hip", engine="cpu", target="gfx942", case=ScaleCase()
    )
    Path("case.json").write_text(json.dumps(as_json(finding)), encoding="utf-8")

    assert called("repro", "case.json", "--no-isolation") == cli.Exit.USAGE
    assert capsys.readouterr().err.startswith("tridiff: case.json: kernel 'hip' needs engine gpu")
