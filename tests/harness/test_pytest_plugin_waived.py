"""Known failures in a host project's pytest run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hosting import EVERY_KERNEL, ONE_KERNEL, Host, lines_of
from ledgers import NOW, ROWS, WHO, WHOLE

from tridiff.harness.ledger import NAME, files

pytest_plugins = ["pytester", "hosting"]

FEW = ONE_KERNEL.replace("examples=20", "examples=5")

WRONG = f"""[[failure]]
kernel = "scale_wrong"
status = "tolerated"
check = "mismatch"
when = {{ columns = {{ min = 2 }} }}
case = {{ columns = 2 }}
{WHO}"""


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day of these tests."""
    monkeypatch.setattr(files, "today", lambda: NOW)


def test_tolerated(host: Host) -> None:
    """The test passes, the section and the property have the cases; without the ledger it fails."""
    Path(NAME).write_text(WRONG, encoding="utf-8")

    result = host(FEW.format(kernel="scale_wrong"), "--junit-xml=junit.xml")

    result.assert_outcomes(passed=1)
    (line,) = lines_of(result, "scale_wrong: ")[-1:]
    assert line.endswith(
        "cases tolerated, mismatch where columns=2..: the tail is summed twice, see the issue "
        "(known-failures.toml entry 1, @kernels, until 2027-01-31, 70 days left)"
    )
    assert "tolerated, mismatch where columns" in Path("junit.xml").read_text(encoding="utf-8")
    host(FEW.format(kernel="scale_wrong"), "--tridiff-no-known-failures").assert_outcomes(failed=1)


def test_quarantined(host: Host) -> None:
    """The test of a whole kernel is skipped with the reason; of cases, they are counted."""
    Path(NAME).write_text(WHOLE + ROWS, encoding="utf-8")

    result = host(EVERY_KERNEL.replace("examples=5", "examples=20"), "-rs")

    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*kernel scale_wrong is quarantined: the tail is summed twice, see the issue (known-*"])
    assert "cases quarantined, where rows=3|4: the tail" in result.stdout.str()


def test_unexpected_pass(host: Host) -> None:
    """The test fails, in the words of the command line."""
    Path(NAME).write_text(WRONG.replace("scale_wrong", "scale"), encoding="utf-8")

    result = host(FEW.format(kernel="scale"))

    result.assert_outcomes(failed=1)
    assert lines_of(result, "UNEXPECTED PASS scale")
    assert lines_of(result, "FAILED test_host.py::test_kernel - scale: unexpected pass: the case is clean")
    assert json.loads(Path("tridiff-out/events-master.jsonl").read_text(encoding="utf-8").splitlines()[-1])["exit"] == 1


def test_ledger_that_is_wrong(host: Host) -> None:
    """The test fails with the line, whose advice is an option of pytest; two options exclude each other."""
    Path(NAME).write_text(ROWS.replace("2027-01-31", "2026-11-20"), encoding="utf-8")

    expired, missing, both = (
        host(FEW.format(kernel="scale"), *options)
        for options in (
            (),
            ("--tridiff-known-failures=x.toml",),
            ("--tridiff-known-failures=x.toml", "--tridiff-no-known-failures"),
        )
    )

    assert lines_of(expired, "tridiff: known-failures.toml: entry 1 (scale): expired on 2026-11-20, 2 days ago")
    assert any("x.toml: no such file" in line and "--tridiff-no-known-failures" in line for line in missing.outlines)
    assert both.ret == pytest.ExitCode.USAGE_ERROR
