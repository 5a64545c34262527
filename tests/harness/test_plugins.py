"""Plug-ins: other people's kernels go the way of the built-in ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plugging import KERNEL, LOAD, TOY, announced, left_as_found, refused, saved
from toy.family import registry as toy_registry
from toy.strategies.scale import ScaleCase

from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Clean, Found, Outcome
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.plugins import load, loaded
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

SPEC = EngineSpec(max_steps=100)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> Iterator[None]:
    """An empty current folder."""
    with left_as_found(tmp_path):
        yield


@pytest.fixture
def toy_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy family stands in for the built-in ones."""
    monkeypatch.setattr(registries, "builtin", toy_registry)


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, arguments), *(["--no-isolation"] if arguments[0] != "list" else [])])
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, captured.out, captured.err

    return run


# What is loaded


def test_without_plugins_the_built_in_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from tridiff, and what is added to the result reaches nobody else."""
    known = load()
    added = toy_registry()
    known.register_op(added.op("scale"), added.references["scale"])

    assert {known.source_of("kernel", name) for name in known.kernels} == {"tridiff"}
    assert "scale" not in load().ops
    assert "scale" not in registries.builtin().ops


@pytest.mark.usefixtures("toy_built_in")
def test_file() -> None:
    """A file brings a kernel of a built-in op, and its fault; both run, and a finding names the file's line."""
    known = load([saved("my_kernels.py", KERNEL)])

    right = examine(KernelRef(kernel="scaled"), SPEC, ScaleCase(columns=3), known)
    wrong = examine(KernelRef(kernel="scaled", fault="one_before"), SPEC, ScaleCase(columns=3), known)

    assert isinstance(right, Clean)
    assert isinstance(wrong, Found)
    assert (wrong.finding.check, wrong.finding.line) == ("bounds", f"my_kernels.py:{LOAD}")
    assert known.source_of("kernel", "scaled") == known.source_of("fault", "scaled", "one_before") == "my_kernels.py"
    assert known.source_of("kernel", "scale") is None


@pytest.mark.usefixtures("toy_built_in")
def test_plain_data_is_enough() -> None:
    """An examination that is given names alone finds the kernel of a plug-in, and loads it once."""
    ref = KernelRef(kernel="scaled", fault="one_before", plugins=(saved("my_kernels.py", KERNEL),))

    outcomes: list[Outcome] = [examine(ref, SPEC, ScaleCase(columns=columns)) for columns in (1, 2)]

    assert [type(outcome) for outcome in outcomes] == [Found, Found]
    assert loaded.cache_info().misses == 1


@pytest.mark.usefixtures("toy_built_in")
def test_order() -> None:
    """Built-in families first, then installed plug-ins, then those named, in their order; a module counts once."""
    empty = "from tridiff.harness.api import Kernel\ndef scale(**inputs): ...\ndef register(registry):\n    "
    for name in ("first", "second", "third"):
        kernel = f"Kernel(name='{name}', op='scale', module=__name__, launcher='scale')"
        saved(f"{name}.py", f"{empty}registry.register_kernel({kernel})\n")
    announced("some-package", mine="third")

    known = load(["./second.py", "first", "third", "second.py"])

    assert list(known.kernels) == ["scale", "scale_wrong", "third", "second", "first"]
    assert [known.source_of("kernel", name) for name in ("third", "second", "first")] == [
        "mine of some-package 1.2",
        "./second.py",
        "first",
    ]


@pytest.mark.usefixtures("toy_built_in")
def test_two_files_of_one_name() -> None:
    """Files of two folders are two modules."""
    other = KERNEL.replace('"scaled"', '"other"').replace("def scaled", "def other")

    known = load([saved("a/kernels.py", KERNEL), saved("b/kernels.py", other)])

    assert known.kernel("scaled").module != known.kernel("other").module
    assert isinstance(examine(KernelRef(kernel="other"), SPEC, ScaleCase(), known), Clean)


def test_file_shadows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, and what lies beside it, may be called as an installed module; a helper beside it is found."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    saved("folder/colorsys.py", "raise RuntimeError('the wrong one')")
    saved("folder/beside.py", "NAME = 'beside'")
    source = f"import torch, colorsys, beside\nassert torch.zeros(1) == 0 and colorsys.rgb_to_hsv and beside.NAME\n{TOY}"

    known = load([saved("folder/torch.py", source)])

    assert "scale" in known.kernels
    assert sys.modules["tridiff_plugin_torch"].torch is sys.modules["torch"]


def test_modules_that_ask_for_the_device() -> None:
    """While a plug-in is imported, Triton's current device is the run's target."""
    source = "import triton\nTARGET = triton.runtime.driver.active.get_current_target().arch\n"
    source += (
        TOY.replace(": register", ":\n    register")
        + "    assert triton.runtime.driver.active.get_current_target().arch == TARGET\n"
    )

    known = load([saved("asks.py", source)], target="sm_90")

    assert sys.modules["tridiff_plugin_asks"].TARGET == 90
    assert known.target == "sm_90"


@pytest.mark.usefixtures("toy_built_in")
def test_package_with_relative_imports() -> None:
    """A package in the current folder is found; a kernel's module may import its neighbours, and so may its faulty twin."""
    kernel = KERNEL.replace("from toy.kernels import scale as toy", "from .neighbour import toy")
    saved("package/neighbour.py", "from toy.kernels import scale as toy\n")
    saved("package/__init__.py", "")
    saved("package/kernels.py", kernel)

    known = load(["package.kernels"])

    outcome = examine(KernelRef(kernel="scaled", fault="one_before"), SPEC, ScaleCase(), known)
    assert isinstance(outcome, Found)
    assert outcome.finding.line == f"kernels.py:{LOAD}"


# Installed plug-ins


@pytest.mark.usefixtures("toy_built_in")
def test_installed(invoke: Invoke) -> None:
    """An announced plug-in needs no option; its kernels say which distribution they come from."""
    saved("theirs.py", KERNEL)
    announced("some-package", mine="theirs")

    code, out, err = invoke("list", "--json")

    kernels = {kernel["name"]: kernel for kernel in json.loads(out)["kernels"]}
    assert (code, err) == (cli.Exit.CLEAN, "")
    assert kernels["scaled"]["from"] == "mine of some-package 1.2"
    assert kernels["scaled"]["module"] == "theirs"
    assert kernels["scaled"]["faults"] == ["one_before"]


@pytest.mark.parametrize(
    ("value", "source", "message"),
    [
        ("theirs", "1 / 0", "raised on import: ZeroDivisionError: division by zero (theirs.py:1)"),
        ("absent.kernels", "", "there is no module 'absent'; install what holds it, or give the path of a file"),
        ("theirs:register", TOY, "the entry point is 'theirs:register': must be the dotted name of a module"),
        ("theirs", "", "has no function register(registry), which registers its ops and kernels"),
    ],
)
def test_broken_installed_plugin(value: str, source: str, message: str) -> None:
    """It stops every command, names its distribution, and can be left out."""
    saved("theirs.py", source)
    announced("some-package", mine=value)

    advice = "repair or uninstall it, or leave it out with --plugin no:mine"
    assert refused() == f"plug-in mine of some-package 1.2: {message}; {advice}"
    assert load(["no:mine"]).plugins == ("no:mine",)


def test_left_out_must_be_installed() -> None:
    """What is left out must be there."""
    announced("some-package", mine="theirs")

    assert refused("no:mime") == "plug-in no:mime: no such plug-in is installed: did you mean 'mine'?; installed: mine"


# The command line


@pytest.mark.usefixtures("toy_built_in")
def test_from_finding_to_repro(invoke: Invoke) -> None:
    """The printed command names the plug-ins that the kernel needs, and no other; without them the file says what is missing."""
    wrong = KERNEL.replace("tl.load(x + 0)", "tl.load(x - 1)")
    plugins = [
        saved("one.py", KERNEL.replace("scaled", "one")),
        saved("my kernels.py", wrong),
        saved("two.py", KERNEL.replace("scaled", "two")),
    ]
    options = [word for name in plugins for word in ("--plugin", name)]

    code, out, _ = invoke("fuzz", *options, "--kernel", "scaled", "--max-examples", 5, "--json")

    (finding,) = json.loads(out)["findings"]
    assert code == cli.Exit.FINDINGS
    assert json.loads(out)["plugins"] == plugins
    assert finding["reproduce"] == f"tridiff repro --plugin one.py --plugin 'my kernels.py' {finding['file']}"
    again, text, _ = invoke("repro", "--plugin", "one.py", "--plugin", "my kernels.py", finding["file"])
    assert again == cli.Exit.FINDINGS
    assert f"reproduce: {finding['reproduce']}\n" in text
    without = invoke("repro", finding["file"])
    assert (without[0], without[1]) == (cli.Exit.USAGE, "")
    assert without[2].endswith("known: scale, scale_wrong; if it comes from a plug-in, name that: --plugin FILE\n")


@pytest.mark.usefixtures("toy_built_in")
def test_command_of_a_built_in_kernel() -> None:
    """It needs no plug-in, but what was left out stays so."""
    saved("theirs.py", TOY)
    announced("some-package", mine="theirs")

    known = load([saved("one.py", KERNEL), "no:mine"])

    assert known.plugins_for("scale") == ("no:mine",)
    assert known.plugins_for("scaled") == ("one.py", "no:mine")


@pytest.mark.usefixtures("toy_built_in")
def test_what_a_plugin_prints(invoke: Invoke) -> None:
    """It does not spoil a document."""
    code, out, err = invoke("list", "--json", "--plugin", saved("chatty.py", f"print('hello')\n{KERNEL}"))

    assert (code, err) == (cli.Exit.CLEAN, "hello\n")
    assert json.loads(out)["plugins"] == ["chatty.py"]


@pytest.mark.usefixtures("toy_built_in")
def test_prove(invoke: Invoke) -> None:
    """The faults of a plug-in are proven."""
    options = ("--plugin", saved("my_kernels.py", KERNEL), "--kernel", "scaled", "--max-examples", 5)

    code, out, _ = invoke("prove", *options, "--json")

    (proof,) = json.loads(out)["faults"]
    assert code == cli.Exit.CLEAN
    assert (proof["fault"], proof["caught_by"]) == ("one_before", "bounds")
    assert json.loads(out)["plugins"] == ["my_kernels.py"]


@pytest.mark.usefixtures("toy_built_in")
def test_registry_knows_what_it_was_made_from() -> None:
    """So another process can make it again."""
    known: Registry = load([saved("my_kernels.py", KERNEL)], target="gfx950")

    again = load(known.plugins, target=known.target)

    assert (again.plugins, again.target) == (("my_kernels.py",), "gfx950")
    assert (again.kernels, again.faults) == (known.kernels, known.faults)
