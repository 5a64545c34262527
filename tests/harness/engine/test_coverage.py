"""Every operation that the engine claims to execute is exercised by a test that proves it ran (see conftest)."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import operation_table
import pytest
from operation_notes import ELSEWHERE, FROM_TEXT
from operation_table import Claim, Inconsistent

from tridiff.harness.engines.cpu.program import TERMINATORS
from tridiff.harness.engines.cpu.ttir import BUILDERS

pytestmark = pytest.mark.installed_triton("marks, notes and the page that follows from them are ours")


def test_page_is_current() -> None:
    """Tables, marks and notes fit together exactly, and docs/reference/operations.md says what follows from them."""
    assert operation_table.PAGE.read_text(encoding="utf-8") == operation_table.page()


def test_tests_that_the_notes_name_exist() -> None:
    """A test that the page takes from the notes, and not from a mark, exists."""
    tests = {
        f"{module.__name__.removeprefix('operation_table_')}.py::{name}"
        for module in operation_table.test_modules()
        for name in vars(module)
    }

    assert {*ELSEWHERE.values(), *FROM_TEXT.values()} <= tests


@pytest.mark.parametrize(
    ("known", "claimed", "message"),
    [
        ({}, {}, "tt.load has no test that is marked with it"),
        ({}, {"tt.nonsense": []}, "tt.nonsense is marked in a test, but in no table of the engine"),
        ({}, {}, "tt.load is in no Triton release"),
        ({"tt.new": ["9.9.0"]}, {}, "tt.new needs a line in NOTES"),
    ],
)
def test_misfits_are_named(known: dict[str, list[str]], claimed: dict[str, list[Claim]], message: str) -> None:
    """An operation without test, without entry in the tables, without release or without note is named."""
    with pytest.raises(Inconsistent, match=message):
        operation_table.check(known, claimed)


def test_what_fits_is_accepted() -> None:
    """No misfit is found where there is none."""
    operation_table.check(operation_table.survey(), {name: [] for name in {*BUILDERS, *TERMINATORS} - set(FROM_TEXT)})


def test_marks_of_functions_parameters_and_modules_count() -> None:
    """A test claims what its module, itself and its parameters are marked with; versions add up."""
    module = ModuleType("module")
    module.pytestmark = pytest.mark.operations("tt.a", versions=">=3.7")  # type: ignore[attr-defined]
    parameters = [pytest.param(1, marks=pytest.mark.operations("tt.c", versions="<3.9")), 2]
    marks = [pytest.mark.operations("tt.b").mark, pytest.mark.parametrize("x", parameters).mark]

    found = list(operation_table._of_test("test_x.py", "test_y", module, SimpleNamespace(pytestmark=marks)))

    assert found == [
        ("tt.a", Claim(2, "test_x.py", "test_y", ">=3.7")),
        ("tt.b", Claim(2, "test_x.py", "test_y", ">=3.7")),
        ("tt.c", Claim(1, "test_x.py", "test_y", ">=3.7,<3.9")),
    ]
    assert [found[2][1].applies(version) for version in ("3.6.0", "3.7.1", "3.8.0", "3.9.0")] == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "having", "versions", "expected"),
    [
        ("tt.load", ["3.6.0", "3.9.0"], "", ["yes", "-", "yes"]),
        ("tt.load", ["3.6.0", "3.9.0"], ">=3.8", ["untested", "-", "yes"]),
        ("tt.nonsense", ["3.9.0"], None, ["-", "-", "no"]),
    ],
)
def test_cells(name: str, having: list[str], versions: str | None, expected: list[str]) -> None:
    """An operation is absent from a version, not executed, executed, or executed without a test of that version."""
    claims = [] if versions is None else [Claim(1, "f", "t", versions)]

    assert [operation_table._cell(name, version, having, claims) for version in ("3.6.0", "3.7.1", "3.9.0")] == expected
