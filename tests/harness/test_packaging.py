"""What the distribution holds and how it installs: built, installed and imported for real, without network."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("adapters", "harness", "kernels", "reference", "strategies")
ENTRY = "_tridiff_pytest.py"
"""The one module of ours outside the four folders; it says why itself."""
ADDED = ("kernels/added.py", "harness/added/deeper/module.py", "reference/added/data.json")
"""Files that are not in the checkout, and that nothing lists."""
GENERATED = shutil.ignore_patterns(".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()))
"""The releases of Triton that other tests unpacked are among it: gigabytes."""
BYTECODE = shutil.ignore_patterns("__pycache__")


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of `command`; its whole output is in the failure when it fails."""
    result = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, check=False, capture_output=True, text=True)
    assert result.returncode == 0, f"{command} failed:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def copy_checkout(destination: Path) -> Path:
    """A copy of the checkout without what is generated, so that nothing stale or half-built takes part."""
    shutil.copytree(ROOT, destination, ignore=left_behind)
    return destination


def left_behind(folder: str, names: list[str]) -> set[str]:
    """Those of the `names` in `folder` that are generated."""
    generated = GENERATED(folder, names) if Path(folder) == ROOT else set()
    return {*generated, *BYTECODE(folder, names)}


def files_of(root: Path) -> set[str]:
    """Every file of the four folders below `root`, relative to it."""
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with a copy of the checkout and `ADDED`, in its `dist` the sdist and the wheel built from that; once for all."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "packaging"
    with FileLock(f"{shared}.lock"):
        if not (shared / "done").exists():
            shutil.rmtree(shared, ignore_errors=True)
            copy_checkout(shared)
            for name in ADDED:
                (shared / name).parent.mkdir(parents=True, exist_ok=True)
                (shared / name).touch()
            # Without --wheel or --sdist the wheel is built from the sdist, which proves that the sdist is complete.
            run(sys.executable, "-m", "build", "--no-isolation", shared, cwd=shared)
            (shared / "done").touch()
    return shared


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    """The wheel."""
    (path,) = (built / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(built: Path) -> Path:
    """The source distribution."""
    (path,) = (built / "dist").glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> email.message.Message:
    """The wheel's core metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


def contents(wheel: Path) -> set[str]:
    """The paths in the wheel, without its own records."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_every_file_of_the_four_folders_and_nothing_else(built: Path, wheel: Path) -> None:
    """No module or data file is dropped, none but the entry of pytest's has a bare name, `tridiff` stays a namespace package."""
    expected = {ENTRY, *(f"tridiff/{name}" for name in files_of(built))}

    data = {"tridiff/harness/settings/schema.json", "tridiff/harness/targets/fp8_casts.json"}
    assert {"tridiff/harness/engines/cpu/__init__.py", *data} <= expected
    assert contents(wheel) == expected


def test_sdist_can_be_built_and_tested(built: Path, sdist: Path) -> None:
    """The sdist holds the four folders, the tests, and what building and the Makefile need."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {str(path.relative_to(built)) for path in (built / "tests").rglob("*.py")}
    needed = {
        "pyproject.toml",
        "setup.py",
        ENTRY,
        "LICENSE",
        "README.md",
        "Makefile",
        "constraints.txt",
        "tools/bootstrap.py",
        ".ci/run",
    }

    assert files_of(built) | tests | needed <= names
    assert not [name for name in names if name.endswith((".pyc", "__pycache__"))]


def test_new_module_and_sub_package_reach_the_wheel(wheel: Path) -> None:
    """A module or folder added anywhere is packaged without being listed, with or without `__init__.py`."""
    assert {f"tridiff/{name}" for name in ADDED} <= contents(wheel)


def test_requirements_leave_torch_and_triton_alone(metadata: email.message.Message) -> None:
    """Only the extra `cpu` brings torch and triton; a plain install needs neither."""
    requirements = metadata.get_all("Requires-Dist") or []
    plain = {line for line in requirements if "extra ==" not in line}
    heavy = {line for line in requirements if line.startswith(("torch", "triton", "pytorch"))}

    assert plain == {
        "numpy>=1.26",
        "hypothesis>=6.142",
        "jsonschema>=4.18",
        "junitparser>=3.2",
        "rich>=13",
        "threadpoolctl>=3.1",
        'tomli>=2.0; python_version < "3.11"',
        "typer>=0.12",
    }
    assert heavy == {'torch>=2.9; extra == "cpu"', 'triton>=3.6; extra == "cpu"'}


def test_metadata_of_the_wheel(metadata: email.message.Message, wheel: Path) -> None:
    """Licence, Python version and extras are what the repository says they are."""
    assert wheel.name == f"tridiff-{metadata['Version']}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra") or []) == {"cpu", "test", "lint"}


def test_entry_points_point_into_the_wheel(wheel: Path) -> None:
    """The `tridiff` command and the plug-in of pytest name modules that the wheel holds."""
    entry_points = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        entry_points.read_string(archive.read(name).decode())
    module, _, function = entry_points["console_scripts"]["tridiff"].partition(":")

    assert f"{module.replace('.', '/')}.py" in contents(wheel)
    assert function == "main"
    assert f"{entry_points['pytest11']['tridiff']}.py" == ENTRY


IMPORT_EVERYTHING = """
    import importlib, importlib.util, pkgutil, sys
    import tridiff
    for folder in ("adapters", "harness", "kernels", "reference", "strategies"):
        package = importlib.import_module(f"tridiff.{folder}")
        names = [module.name for module in pkgutil.walk_packages(package.__path__, f"tridiff.{folder}.")]
        for name in [f"tridiff.{folder}", *(name for name in names if not name.endswith("__main__"))]:
            module = importlib.import_module(name)
            print(name, module.__file__)
        assert importlib.util.find_spec(folder) is None, f"{folder} is installed under its bare name"
    assert not hasattr(tridiff, "__file__") or tridiff.__file__ is None, "tridiff must stay a namespace package"
"""


def imported(python: str | Path, cwd: Path, env: dict[str, str] | None = None) -> dict[str, Path]:
    """Name and file of every module of the four packages, imported in a fresh process."""
    output = run(python, "-c", textwrap.dedent(IMPORT_EVERYTHING), cwd=cwd, env=env)
    pairs = (line.split(" ", 1) for line in output.splitlines())
    return {name: Path(file).resolve() for name, file in pairs}


def modules_of(root: Path) -> set[str]:
    """Dotted names of the modules of the four folders."""
    paths = (Path("tridiff", name) for name in files_of(root) if name.endswith(".py") and not name.endswith("__main__.py"))
    return {".".join((path.parent if path.stem == "__init__" else path.with_suffix("")).parts) for path in paths}


def test_wheel_installs_and_every_module_imports(built: Path, installed: Path, tmp_path: Path) -> None:
    """From the installed wheel, every module of the four packages can be imported, and nothing comes from the checkout."""
    found = imported(sys.executable, tmp_path, {"PYTHONPATH": str(installed)})

    # Nothing that lies below a folder without `__init__.py` is listed by `walk_packages`.
    assert set(found) == modules_of(built) - {"tridiff.harness.added.deeper.module"}
    assert all(file.is_relative_to(installed.resolve()) for file in found.values())


@pytest.fixture(scope="session")
def installed(built: Path, wheel: Path) -> Path:
    """A folder that holds what the wheel installs; once for all workers."""
    target = built.with_name("packaging-installed")
    with FileLock(f"{target}.lock"):
        if not target.exists():
            command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
            run(*command, "--target", target, wheel, cwd=built)
    return target


HOST = """
    import kernels

    def test_host(pytestconfig):
        assert pytestconfig.getoption("--tridiff-seed") == "7"
        assert type(kernels.__loader__).__name__ == "SourceFileLoader"
"""


def test_host_project_may_have_modules_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    """The wheel's plug-in is there in every pytest run, and a host's own `kernels` is not taken for a module of the plug-in."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "kernels.py").touch()
    (host / "test_host.py").write_text(textwrap.dedent(HOST), encoding="utf-8")

    output = run(sys.executable, "-m", "pytest", "--tridiff-seed=7", cwd=host, env={"PYTHONPATH": str(installed)})

    assert "1 passed" in output


def virtual_environment(path: Path) -> Path:
    """The Python of a fresh environment at `path` that sees this one's packages, but nothing installed editable into it."""
    run(sys.executable, "-m", "venv", "--without-pip", path, cwd=path.parent)
    python = path / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=path.parent).strip()
    # Folders named in a .pth file are searched, but their own .pth files, such as an editable install's, are not read.
    outer = [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]
    Path(site, "outer.pth").write_text("\n".join([*outer, sysconfig.get_path("purelib")]), encoding="utf-8")
    return python


def test_editable_install_follows_the_checkout(tmp_path: Path) -> None:
    """An editable install imports the checkout's own files from anywhere, and sees a module added later."""
    checkout = copy_checkout(tmp_path / "checkout")
    python = virtual_environment(tmp_path / "venv")
    pip = (python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    run(*pip, "--editable", checkout, cwd=tmp_path)
    (checkout / "kernels" / "added.py").write_text("", encoding="utf-8")

    found = imported(python, tmp_path)

    assert set(found) == modules_of(checkout)
    assert "tridiff.kernels.added" in found
    assert all(file.is_relative_to(checkout.resolve()) for file in found.values())
