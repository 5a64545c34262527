"""Every family of kernels is complete: what the harness relies on is there, and its four modules agree.

The rules are in `tests/helpers/completeness.py`; CONTRIBUTING.md tells them to those who add a family. Each is proven on a
copy of the toy family that breaks it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy
import toy.family
from completeness import contract, facets, layout, members, properties, sample
from sources import sources

from tridiff.harness.api import Facet, Property
from tridiff.harness.registry import builtin, families

ROOT = Path(__file__).resolve().parents[2]
_numbers = itertools.count()


def test_every_family_has_its_modules_and_every_module_its_family() -> None:
    """The four modules of each family are there, and no folder holds a module that nobody uses."""
    assert list(layout(ROOT)) == []


def test_families_are_those_that_the_registry_loads() -> None:
    """What looks like a family is one, and the other way round."""
    assert sorted(members(sources(ROOT), "tridiff")) == families()
    assert families()


@pytest.mark.parametrize("family", families())
def test_family_keeps_its_contract(family: str) -> None:
    """Case, strategies, inputs, kernels, roundings and reference fit together."""
    assert list(contract(family)) == []


@pytest.mark.parametrize("family", families())
def test_family_draws_what_it_says(family: str) -> None:
    """Whatever facet a kernel restricts, strategies narrow by it; each word of a property, which reports count, is drawn soon."""
    op = builtin().op(family)
    cases = sample(op)

    assert [*facets(op, cases), *properties(op, cases)] == []


def test_word_that_no_case_has() -> None:
    """Is named; an op without properties is complained of as well."""
    op = toy.family.registry().op("scale")
    told = {"size": Property(lambda case: "small" if case.rows < 9 else "large", ("small", "large"))}

    assert list(properties(op, sample(op))) == []
    assert list(properties(dataclasses.replace(op, properties={}), [])) == [
        "scale has no properties: reports cannot say what its cases were"
    ]
    assert list(properties(dataclasses.replace(op, properties=told), sample(op))) == [
        "property size of scale: no case of 500 is large"
    ]


def test_facet_that_a_strategy_ignores() -> None:
    """Is named, with what was drawn all the same."""
    op = toy.family.registry().op("scale")
    ignored = {"rows": Facet(description="rows", of=lambda case: case.rows)}

    complaints = list(facets(dataclasses.replace(op, facets=ignored), sample(op)))

    assert len(complaints) == 1
    assert "the strategy of scale drew rows=" in complaints[0]


@pytest.mark.parametrize("family", families())
def test_family_is_in_the_readme(family: str) -> None:
    """Users learn of it."""
    assert f"`{family}`" in (ROOT / "README.md").read_text(encoding="utf-8")


# The rules themselves


class Copy:
    """A copy of the toy family in a package of its own, without the kernel that is wrong from the start."""

    def __init__(self, folder: Path, package: str) -> None:
        self.package = package
        self.root = folder / package
        shutil.copytree(Path(str(toy.__file__)).parent, self.root, ignore=shutil.ignore_patterns("__pycache__", "family.py"))
        self.replace("kernels/scale.py", '    {"name": "scale_wrong", "op": "scale", "launcher": "scale_wrong"},\n', "")

    def replace(self, path: str, old: str, new: str) -> None:
        """Change the only `old` in a file."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, (path, old)
        file.write_text(text.replace(old, new), encoding="utf-8")

    def add(self, path: str, code: str) -> None:
        """Add a file."""
        (self.root / path).write_text(code, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copy]:
    """A complete family that can be broken and imported."""
    made = Copy(tmp_path, f"toy_copy_{next(_numbers)}")
    monkeypatch.syspath_prepend(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.partition(".")[0] == made.package]:
        del sys.modules[name]


def test_copy_is_complete(copy: Copy) -> None:
    """Without a break there is nothing to complain of, helpers that a family imports included."""
    copy.add("strategies/helper.py", "LIMIT = 7\n")
    copy.add("strategies/helper_of_helper.py", "")
    copy.add("strategies/helper.py", f"from {copy.package}.strategies import helper_of_helper\n")
    copy.replace("strategies/scale.py", "import torch\n", f"import torch\n\nfrom {copy.package}.strategies.helper import *\n")

    assert list(layout(copy.root, copy.package)) == []
    assert list(contract("scale", copy.package)) == []


@pytest.mark.parametrize("path", ["strategies/scale.py", "reference/scale.py", "kernels/scale.py", "kernels/faults/scale.py"])
def test_missing_module_is_named(copy: Copy, path: str) -> None:
    """Whichever of the four is missing, or does not define what it must."""
    (copy.root / path).unlink()
    without = list(layout(copy.root, copy.package))
    copy.add(path, "NOTHING = 0\n")
    empty = list(layout(copy.root, copy.package))

    assert [complaint.partition(" with ")[0] for complaint in without] == [f"scale has no {path}"]
    assert f"scale has no {path}" in [complaint.partition(" with ")[0] for complaint in empty]


@pytest.mark.parametrize("folder", ["strategies", "reference", "kernels", "kernels/faults"])
def test_orphan_is_named(copy: Copy, folder: str) -> None:
    """A module that no family imports; one that only another orphan imports is one as well."""
    copy.add(f"{folder}/forgotten.py", "")
    copy.add(f"{folder}/friend.py", "from . import forgotten\n")

    found = list(layout(copy.root, copy.package))

    where = f"{copy.package}.{folder.replace('/', '.')}"
    assert found == [f"{where}.{name} belongs to no family, and none imports it" for name in ("forgotten", "friend")]


def test_sub_package_of_a_family(copy: Copy) -> None:
    """A member may be a package, whose modules are reached through it."""
    (copy.root / "reference/scale").mkdir()
    (copy.root / "reference/scale.py").rename(copy.root / "reference/scale/formula.py")
    copy.add("reference/scale/__init__.py", "from .formula import reference\n")

    assert list(layout(copy.root, copy.package)) == []
    assert list(contract("scale", copy.package)) == []


Break = tuple[str, str, str]
STRATEGY, REFERENCE, KERNEL, FAULTS = "strategies/scale.py", "reference/scale.py", "kernels/scale.py", "kernels/faults/scale.py"


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ((STRATEGY, '    name="scale"', '    name="scales"'), r"OP\.name is 'scales', and its modules are called scale"),
        (
            (KERNEL, '{"name": "scale", "op": "scale", "launcher": "scale", "rounding": "rounding"},', ""),
            "unknown kernel 'scale'",
        ),
        ((KERNEL, '"op": "scale"', '"op": "other"'), "kernel 'scale' implements the unknown op 'other'"),
        ((FAULTS, "FAULTS = (", "FAULTS = ()\nOTHERS = ("), "kernel scale has no fault: nothing shows "),
        ((FAULTS, '"checks": ("hang",)', '"checks": ()'), "fault 'never_ends' names no check that must catch it"),
        ((STRATEGY, "@dataclass(frozen=True, kw_only=True)\n", ""), "ScaleCase is no dataclass"),
        ((STRATEGY, "@dataclass(frozen=True, kw_only=True)", "@dataclass(kw_only=True)"), "ScaleCase is not frozen"),
        (
            (
                STRATEGY,
                '        require_range("rows"',
                '        object.__setattr__(self, "gap", self.gap + 1)\n        require_range("rows"',
            ),
            r"ScaleCase\(\) comes back from JSON as ScaleCase\(rows=1, columns=1, gap=2",
        ),
        ((STRATEGY, "    rows: int = 1\n", "    rows: int\n"), "ScaleCase has no default for rows"),
        (
            (STRATEGY, "    rows: int = 1\n", "    rows: int = 0\n"),
            r"ScaleCase\(\) does not survive JSON, or is not legal: rows=0",
        ),
        ((STRATEGY, "    gap: int = 0\n", "    gap: int = 0.5\n"), r"ScaleCase\(\) does not survive JSON, .*: gap=0\.5: must be"),
        ((STRATEGY, "    gap: int = 0\n", "    gap: int = 1j\n"), r"ScaleCase\(\) does not survive JSON, .* complex"),
        (
            (STRATEGY, "    gap: int = 0\n", "    gap: float = field(default=0, compare=False, init=False)\n"),
            "ScaleCase.. does not survive JSON",
        ),
        ((STRATEGY, "rows=st.integers(1, 4)", "rows=st.integers(2, 4)"), r"strategy shrinks to ScaleCase\(rows=2, .*, not to Sc"),
        (
            (STRATEGY, "    factors = st", '    assert _domain.target != "sm_90"\n    factors = st'),
            "strategy draws nothing for sm_90: AssertionError",
        ),
        (
            (STRATEGY, "    columns = st", "    _domain.warp\n    columns = st"),
            "presets draws nothing for gfx90a: AttributeError",
        ),
        (
            (STRATEGY, "        ScaleCase,\n        rows", "        dict,\n        rows"),
            "strategy draws dict for gfx90a, not ScaleCase",
        ),
        (
            (STRATEGY, 'arena.output("total", s', 'arena.tensor("total", s'),
            "the reference answers for out, total, and build declares out$",
        ),
        ((REFERENCE, '"total": (x.sum(dim=1), slack)', ""), "the reference answers for out, and build declares out, total"),
        (
            (REFERENCE, "(x.sum(dim=1), slack)", "(x.sum(), slack)"),
            "kernel scale: the reference fails .*gives total and its bound",
        ),
        ((REFERENCE, 'rounding.get("additions", x.shape[1])', 'rounding["steps"]'), "the reference fails .*KeyError: 'steps'"),
        ((KERNEL, "def rounding(", "def roundings("), "rounding.* has no (attribute 'rounding'|such function)"),
        ((KERNEL, "def scale(", "def scaled("), "launcher.* has no (attribute 'scale'|such function)"),
        ((KERNEL, "def scale(*, x: torch.Tensor,", "def scale(*,"), "its launcher does not take what build makes: .*'x'"),
        ((KERNEL, "def scale(*, x", "def scale(*, gap: int, x"), "its launcher does not take what build makes: .*'gap'"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[0].removesuffix("/scale.py"),
)
def test_broken_contract_is_named(copy: Copy, broken: Break, complaint: str) -> None:
    """Each break is complained of, in words that say what is wrong."""
    copy.replace(*broken)
    copy.replace(STRATEGY, "import dataclass\n", "import dataclass, field\n")

    found = list(contract("scale", copy.package))

    assert found
    assert re.search(complaint, found[0]), found


def test_family_without_kernels(copy: Copy) -> None:
    """Faults gone with it, an empty table of kernels is still noticed."""
    copy.replace(KERNEL, '    {"name": "scale", "op": "scale", "launcher": "scale", "rounding": "rounding"},\n', "")
    copy.replace(FAULTS, "FAULTS = (", "FAULTS = ()\nOTHERS = (")

    assert list(contract("scale", copy.package)) == ["scale has no kernel"]


def test_family_without_outputs(copy: Copy) -> None:
    """Where nothing is declared as written nothing is compared."""
    copy.replace(STRATEGY, 'arena.output("out"', 'arena.tensor("out"')
    copy.replace(STRATEGY, 'arena.output("total"', 'arena.tensor("total"')

    assert "scale declares no output: nothing would be compared" in list(contract("scale", copy.package))
