"""Adapters: other people's kernels are found, imported without what is heavy around them, and called."""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import upstream_package
from plugging import left_as_found, refused, saved
from toy.family import registry as toy_registry
from toy.strategies.scale import ScaleCase

from tridiff.adapters import packages
from tridiff.adapters.importing import Launcher, Upstream
from tridiff.adapters.stubs import Answers, Stub, architecture, is_hip, vllm
from tridiff.harness import cli
from tridiff.harness import registry as registries
from tridiff.harness.api import Clean, Found
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import COMPILER, EngineSpec, UsageError
from tridiff.harness.mutation.mutants import mutants
from tridiff.harness.plugins import load
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

PLACE = Path(".upstream/miniature")
REF = KernelRef(kernel="miniature_scale")
SCALE = "kernels/scale.py"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current folder, the toy family as the only one that is built in, and no folder named by the environment."""
    monkeypatch.delenv("TRIDIFF_UPSTREAM", raising=False)
    monkeypatch.setattr(registries, "builtin", toy_registry)
    with left_as_found(tmp_path):
        yield


def adapted(target: str = "gfx942") -> Registry:
    """The registry with the miniature package's kernel."""
    return load([saved("adapter.py", upstream_package.ADAPTER)], target=target)


def adapter() -> Any:
    """The adapter's module, which is not loaded yet."""
    saved("adapter.py", upstream_package.ADAPTER)
    sys.path.append(str(Path.cwd()))
    return importlib.import_module("adapter")


def refusal(action: Callable[[], object]) -> str:
    """The one line of the `UsageError` that `action` raises."""
    with pytest.raises(UsageError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def installed(name: str, source: str) -> ModuleType:
    """What `import name` gave a user's tests: another module of that name."""
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module)["source"] = source
    return module


# Importing and calling


def test_kernel_of_a_package_runs() -> None:
    """Its unmodified launcher runs and compiles, though nothing of the package around its file can be imported."""
    upstream_package.write(PLACE)
    known = adapted()

    clean = examine(REF, EngineSpec(max_steps=100), ScaleCase(rows=2, columns=5, gap=3, factor=2.0), known)
    compiled = examine(REF, EngineSpec(name=COMPILER), ScaleCase(columns=3), known)

    assert isinstance(clean, Clean)
    assert isinstance(compiled, Clean)
    assert [kernel.function for kernel in compiled.compiled] == ["_scale"]


def test_kernel_of_a_package_is_mutated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jit functions are found where no `import` would, also where the user's tests have a package of that name."""
    upstream_package.write(PLACE)
    known = adapted()
    monkeypatch.setitem(sys.modules, "miniature", installed("miniature", "the user's"))
    case = ScaleCase(rows=2, columns=5, factor=2.0)

    found, hidden = mutants(["miniature.kernels.scale:_scale"], ["drop_factor"], known.module)
    product = next(
        mutant for mutant in found if "values * factor" in mutant.before[0] and "values * factor" not in mutant.after[0]
    )
    outcome = examine(replace(REF, rewrite=product.rewrite), EngineSpec(max_steps=100), case, known)

    assert hidden == []
    assert isinstance(outcome, Found)
    assert outcome.finding.check == "mismatch"
    assert isinstance(examine(REF, EngineSpec(max_steps=100), case, known), Clean)
    assert mutants(["miniature.kernels.lost:_scale"], (), known.module) == ([], ["miniature.kernels.lost:_scale"])


def test_platform_is_the_target_s() -> None:
    """The package's modules see the platform that the process pretends to be on when they are imported."""
    upstream_package.write(PLACE)
    seen = {}

    for target in ("gfx942", "sm_90"):
        sys.modules.pop("adapter", None)
        module = adapter()
        with targeting(target):
            seen[target] = module.LAUNCHER.module.is_hip

    assert seen == {"gfx942": True, "sm_90": False}


def test_modules_are_as_they_were() -> None:
    """Neither an import nor a call leaves a module of the package, a stand-in or a finder behind, nor does one that fails."""
    upstream_package.write(PLACE, changed={"kernels/broken.py": "import miniature.kernels.tiles\nraise KeyError('x')\n"})
    module = adapter()
    before, finders = dict(sys.modules), list(sys.meta_path)

    refusal(lambda: module.MINIATURE.module("miniature.kernels.broken"))
    with targeting("gfx942"):
        module.LAUNCHER.check()
        with pytest.raises(AttributeError):
            module.LAUNCHER(x=None, out=None, total=None, factor=1.0)

    assert sys.modules == before
    assert sys.meta_path == finders


def test_real_package_in_the_same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has imported the package itself keeps it, before and after, and the adapter does not see it."""
    upstream_package.write(PLACE)
    own = {name: installed(name, "the user's") for name in ("miniature", "miniature.platforms")}
    for name, real in own.items():
        monkeypatch.setitem(sys.modules, name, real)

    module = adapter()
    with targeting("gfx942"):
        function = module.LAUNCHER.function

    assert function.__module__ == "miniature.kernels.scale"
    assert {name: sys.modules.get(name) for name in own} == own
    assert "miniature.kernels" not in sys.modules


def test_module_is_imported_once() -> None:
    """What one launcher's file imports is the same module for another's."""
    upstream_package.write(PLACE)
    module = adapter()

    with targeting("gfx942"):
        first = module.MINIATURE.module("miniature.kernels.tiles")
        module.LAUNCHER.check()

    assert module.MINIATURE.module("miniature.kernels.tiles") is first


def test_init_that_is_to_run() -> None:
    """The `__init__` of a package runs where the adapter says so, and only there."""
    upstream_package.write(PLACE, changed={"kernels/__init__.py": "answer = 42\n"})
    upstream = Upstream("miniature", tried=("1.4",), stubs=lambda _package: {}, runs=("miniature.kernels",))

    assert upstream.module("miniature.kernels").answer == 42


# What a release may lack


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {SCALE: None},
            "has no module miniature.kernels.scale, which 1.4.* has; use a release that the adapter knows, or update tridiff",
        ),
        (
            {SCALE: "import miniature.kernels.gone\n"},
            "scale imports miniature.kernels.gone, for which the adapter has no stand-in and this release no file; use ",
        ),
        (
            {SCALE: "from miniature.platforms import device_count\n"},
            "asks miniature.platforms for device_count, which the adapter has no stand-in for: update tridiff",
        ),
        (
            {SCALE: "from miniature.platforms import current_platform as p\nhasattr(p, 'is_xpu')\n"},
            "asks miniature.platforms.current_platform for is_xpu, which the adapter has no stand-in for: update tridiff",
        ),
        (
            {SCALE: "from miniature.kernels import TILE\n"},
            "asks miniature.kernels for TILE, which the adapter has no stand-in for: update tridiff",
        ),
        ({SCALE: "import nowhere_at_all\n"}, "imports nowhere_at_all, which is not installed: pip install nowhere_at_all"),
        ({SCALE: "1 / 0\n"}, "importing miniature.kernels.scale raised ZeroDivisionError: division by zero"),
        (
            {SCALE: "def scale_matrix(x): ...\n"},
            "scale_rows of miniature.kernels.scale: there is no such function; the adapter was written for 1.4.*: use such a ",
        ),
        (
            {SCALE: "def scale_rows(x, output, total, factor=1.0): ...\n"},
            "scale_rows of miniature.kernels.scale: it takes no out, which the adapter passes; ",
        ),
        (
            {SCALE: "def scale_rows(x, out, total, factor, stride, *rest, **more): ...\n"},
            "scale_rows of miniature.kernels.scale: it requires stride, which the adapter does not pass; ",
        ),
    ],
)
def test_release_that_has_changed(changed: dict[str, str | None], line: str) -> None:
    """A module that moved, a question without an answer, other parameters: one line with the release and what was asked."""
    upstream_package.write(PLACE, "1.5.0", changed)

    said = refused(saved("adapter.py", upstream_package.ADAPTER))

    assert said.startswith("plug-in adapter.py: miniature 1.5.0")
    assert line in said


def test_launcher_that_takes_anything() -> None:
    """A function with **keywords takes whatever is passed."""
    upstream_package.write(PLACE, changed={SCALE: "def scale_rows(x, **rest): return sorted(rest)\n"})

    assert adapter().LAUNCHER(x=1, out=2, total=3, factor=4) == ["factor", "out", "total"]


def test_question_while_a_launcher_runs() -> None:
    """A stand-in without an answer is the adapter's matter, not a finding of the kernel's: it stops the run."""
    asking = (
        "from miniature.platforms import current_platform\ndef scale_rows(x, out, total, factor): current_platform.is_tpu()\n"
    )
    upstream_package.write(PLACE, changed={SCALE: asking})
    known = adapted()

    for spec in (EngineSpec(max_steps=100), EngineSpec(name=COMPILER)):
        said = refusal(partial(examine, REF, spec, ScaleCase(), known))

        assert said.startswith("miniature 1.4.2 asks miniature.platforms.current_platform for is_tpu, ")


def test_package_without_a_folder_of_its_own() -> None:
    """A stand-in may replace a module of another package; what lies below it is not there."""
    files = {SCALE: "import fused_ops\nfrom fused_ops import gelu\n", "kernels/deep.py": "import fused_ops.more\n"}
    upstream_package.write(PLACE, changed=files)

    def stubs(package: packages.Package) -> dict[str, Stub]:
        return {"fused_ops": Stub("fused_ops", package, {"gelu": max})}

    upstream = Upstream("miniature", tried=("1.4",), stubs=stubs)

    assert upstream.module("miniature.kernels.scale").gelu is max
    assert "imports fused_ops.more, for which" in refusal(lambda: upstream.module("miniature.kernels.deep"))
    assert "fused_ops" not in sys.modules


# Which release


@pytest.mark.parametrize(("version", "known"), [("1.4.0", True), ("1.4", True), ("1.40.1", False), ("2.0.0", False)])
def test_release_that_is_untried(version: str, known: bool) -> None:
    """Any release is used; the run says of which it is, and that nobody tried it."""
    upstream_package.write(PLACE, version)
    place = f"miniature {version}, from .upstream/miniature"

    notes = list(adapted().notes)

    assert notes == [place if known else f"{place}; untried: the adapter was written for 1.4.*"]


def test_note_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """`fuzz` says which release it runs, on the terminal, in the document and in the records."""
    upstream_package.write(PLACE)
    options = [
        "fuzz",
        "--plugin",
        saved("adapter.py", upstream_package.ADAPTER),
        "--kernel",
        "miniature_*",
        "--max-examples",
        "2",
    ]

    said = []
    for form in ([], ["--json"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main([*options, "--no-isolation", *form])
        said.append(capsys.readouterr().out)

    note = "miniature 1.4.2, from .upstream/miniature"
    assert said[0].splitlines()[1] == note
    assert json.loads(said[1])["plugin_notes"] == [note]
    assert [kernel["kernel"] for kernel in json.loads(said[1])["kernels"]] == ["miniature_scale"]
    assert json.loads(Path("tridiff-out/events.jsonl").read_text(encoding="utf-8").splitlines()[0])["plugin_notes"] == [note]


def test_package_that_is_nowhere() -> None:
    """It is neither installed nor fetched: one line that says where it was looked for, and what to do."""
    said = refused(saved("adapter.py", upstream_package.ADAPTER))

    assert said == (
        "plug-in adapter.py: miniature is neither installed nor in .upstream/miniature: "
        "pip install miniature, or tools/fetch_upstream.py miniature"
    )


def test_installed_before_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed is used, without being imported, unless the environment names the folder of what was fetched."""
    upstream_package.write(PLACE, "1.4.1")
    monkeypatch.syspath_prepend(upstream_package.write(Path.cwd() / "site", "1.4.9"))

    first = packages.find("miniature", "miniature", "")
    monkeypatch.setenv("TRIDIFF_UPSTREAM", ".upstream")
    named = packages.find("miniature", "miniature", "")

    assert (first.version, first.place, first.folder) == ("1.4.9", "installed", Path.cwd() / "site" / "miniature")
    assert (named.version, named.place, named.folder) == ("1.4.1", "from .upstream/miniature", PLACE.absolute() / "miniature")


def test_installed_where_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the environment names and that lacks the package leaves the installed one."""
    monkeypatch.syspath_prepend(upstream_package.write(Path.cwd() / "site", "1.4.9"))
    monkeypatch.setenv("TRIDIFF_UPSTREAM", "elsewhere")

    assert packages.find("miniature", "miniature", "").version == "1.4.9"


def test_another_distribution_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is called the same and belongs to another distribution is not the one."""
    upstream_package.write(PLACE)
    (PLACE / "miniature-1.4.2.dist-info").rename(Path.cwd() / "moved")
    upstream_package.describe(PLACE, "9.1", name="painting")
    monkeypatch.syspath_prepend(PLACE.absolute())

    said = refusal(lambda: packages.find("miniature", "amd_miniature", "fetch it"))

    assert said == "amd_miniature is neither installed nor in .upstream/amd_miniature: fetch it"


def test_two_releases_in_one_folder() -> None:
    """Nobody could say of which release a kernel is."""
    upstream_package.write(PLACE, "1.4.2")
    upstream_package.write(PLACE, "1.5.0")

    said = refusal(lambda: packages.find("miniature", "miniature", ""))

    assert said == ".upstream/miniature holds miniature 1.4.2 and 1.5.0: remove it, and fetch one again"


def test_names_of_distributions_are_compared_as_pip_does() -> None:
    """amd-aiter and amd_aiter are one distribution."""
    upstream_package.write(PLACE.with_name("amd_miniature"), "1.4.2")
    upstream_package.describe(PLACE.with_name("amd_miniature"), "0.1.7", name="amd-miniature")

    assert packages.find("miniature", "amd_miniature", "").version == "0.1.7"


# Stand-ins


@pytest.mark.parametrize(
    ("target", "answers"),
    [
        ("gfx942", (True, False, "float8_e4m3fnuz")),
        ("gfx950", (True, False, "float8_e4m3fn")),
        ("gfx1100", (True, False, "float8_e4m3fn")),
        ("sm_90", (False, True, "float8_e4m3fn")),
    ],
)
def test_platform_of_vllm(target: str, answers: tuple[bool, bool, str]) -> None:
    """Kernels of vLLM are told what its own platform module says on such a machine."""
    package = packages.Package(name="vllm", distribution="vllm", version="0.33.0", folder=Path(), place="")

    with targeting(target):
        platform = vllm(package)["vllm.platforms"].current_platform
        given = (platform.is_rocm(), platform.is_cuda(), str(platform.fp8_dtype()).removeprefix("torch."))

    assert given == answers


def test_native_kernels_of_vllm() -> None:
    """There are none, as docs/guides/adapters.md says: a launcher that asks for one stops the run."""
    package = packages.Package(name="vllm", distribution="vllm", version="0.33.0", folder=Path(), place="")

    with targeting("gfx942"):
        modules = vllm(package)

    assert not modules["vllm.platforms.rocm"].use_rocm_custom_paged_attention(torch.bfloat16, 128, 16, 8, 1024, 0, "auto", None)
    for name in ("paged_attention_rocm", "reshape_and_cache"):
        assert f"asks vllm._custom_ops for {name}" in refusal(partial(getattr, modules["vllm._custom_ops"], name))


def test_architecture() -> None:
    """It comes without the features that HIP puts behind a colon."""
    with targeting("gfx942"):
        assert (architecture(), is_hip()) == ("gfx942", True)


def test_stand_ins_have_no_dunder_names() -> None:
    """What Python itself looks for is absent, and nothing that a kernel asks for is."""
    package = packages.Package(name="p", distribution="p", version="1", folder=Path(), place="")

    for stand_in in (Stub("p.q", package, {}), Answers("p.q", package, {})):
        assert not hasattr(stand_in, "__wrapped__")
        with pytest.raises(UsageError, match=r"p 1 asks p\.q for other, which the adapter has no stand-in for"):
            stand_in.other  # noqa: B018 - asking is what raises


def test_launcher_is_looked_for_when_it_is_needed() -> None:
    """An adapter can be imported where there is no such package."""
    upstream = Upstream("nowhere_at_all", tried=("1",), stubs=lambda _package: {})

    launcher = Launcher(upstream, "nowhere_at_all.kernels", "f", passes=())

    assert "nowhere_at_all is neither installed nor in" in refusal(launcher.check)
