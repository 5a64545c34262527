"""Which Python the Makefile ends up with, and what it installs there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import bootstrap
import pytest
from bootstrap import Base, Plan, SetupError, decide

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = Path("/checkout")
PLAIN = Base(
    executable="/usr/bin/python3", version="3.12.1", prefix="/usr", is_venv=False, modules=frozenset({"pip", "ensurepip"})
)
WITH_TORCH = replace(PLAIN, modules=PLAIN.modules | {"torch", "triton"})
VENV_WITH_TORCH = replace(WITH_TORCH, executable="/opt/venv/bin/python", prefix="/opt/venv", is_venv=True)
OWN_PYTHON = "/checkout/.venv/bin/python"


def test_plain_python_gets_a_venv_with_the_pinned_cpu_builds() -> None:
    """Without torch, `.venv` is made and the constraints say which torch comes."""
    plan = decide(PLAIN, CHECKOUT)

    assert plan.python == OWN_PYTHON
    assert plan.create == ("/usr/bin/python3", "-m", "venv", "--clear", "/checkout/.venv")
    assert plan.install == ("-c", "constraints.txt", "-e", ".[cpu,test,lint]")


def test_torch_of_a_real_python_is_seen_and_not_replaced() -> None:
    """A container's torch is used through `--system-site-packages`; nothing that is installed names torch or triton."""
    plan = decide(WITH_TORCH, CHECKOUT)

    assert plan.python == OWN_PYTHON
    assert plan.create == ("/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", "/checkout/.venv")
    assert plan.install == ("-e", ".[test,lint]")


def test_venv_with_torch_is_installed_into() -> None:
    """A venv made from a venv would not see its torch, so the base itself is used."""
    plan = decide(VENV_WITH_TORCH, CHECKOUT)

    assert plan == Plan(prefix="/opt/venv", python="/opt/venv/bin/python", create=None, install=("-e", ".[test,lint]"))


def test_venv_without_torch_is_left_alone() -> None:
    """A venv that has nothing to offer gets a `.venv` beside it, like any Python without torch."""
    base = replace(VENV_WITH_TORCH, modules=PLAIN.modules)

    plan = decide(base, CHECKOUT)

    assert plan.python == OWN_PYTHON
    assert plan.create is not None


def test_hand_made_venv_of_the_checkout_is_used_when_it_is_named() -> None:
    """`make PYTHON=.venv/bin/python` installs into a `.venv` that the user made."""
    base = replace(PLAIN, executable=OWN_PYTHON, prefix="/checkout/.venv", is_venv=True)

    plan = decide(base, CHECKOUT)

    assert plan.create is None
    assert plan.python == OWN_PYTHON


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (replace(WITH_TORCH, modules=WITH_TORCH.modules - {"triton"}), r"/usr/bin/python3 has torch but no triton: install the"),
        (replace(VENV_WITH_TORCH, modules=VENV_WITH_TORCH.modules - {"triton"}), r"has torch but no triton"),
        (replace(PLAIN, modules=frozenset({"pip"})), r"/usr/bin/python3 cannot make virtual environments: install python3-venv"),
        (replace(WITH_TORCH, modules=frozenset({"torch", "triton"})), r"cannot make virtual environments"),
        (replace(VENV_WITH_TORCH, modules=frozenset({"torch", "triton"})), r"/opt/venv/bin/python has no pip: install it there"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(base: Base, message: str) -> None:
    """The message says which Python, what is missing and what to do."""
    with pytest.raises(SetupError, match=message) as caught:
        decide(base, CHECKOUT)

    assert "\n" not in str(caught.value)


def test_this_python_is_inspected() -> None:
    """The tests run in an environment with torch and triton, and that is what the inspection finds."""
    base = bootstrap.inspect_base()

    assert {"torch", "triton"} <= base.modules
    assert base.is_venv == (sys.prefix != sys.base_prefix)


def test_empty_folder_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an uninstallation left behind is not taken for the package."""
    (tmp_path / "left_over_torch").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    assert not bootstrap.has_module("left_over_torch")
    assert not bootstrap.has_module("no_such_module_at_all")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the files that decide what is installed."""
    for name in bootstrap.DECIDING:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that would be run; making an environment leaves an executable behind, as venv does."""
    run: list[tuple[str, ...]] = []

    def execute(_purpose: str, command: tuple[str, ...], _folder: Path) -> None:
        run.append(command)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(command[-1]) / "bin" / "python").touch()

    monkeypatch.setattr(bootstrap, "execute", execute)
    return run


def kinds(commands: list[tuple[str, ...]]) -> list[str]:
    """Which of the steps were taken."""
    return ["venv" if "venv" in command else "pip" if "pip" in command else "import" for command in commands]


def test_second_run_does_nothing(checkout: Path, commands: list[tuple[str, ...]]) -> None:
    """The marker of the first run makes the second one immediate, with the same answer."""
    first = bootstrap.prepare(PLAIN, checkout)
    taken = kinds(commands)
    commands.clear()

    second = bootstrap.prepare(PLAIN, checkout)

    assert taken == ["venv", "pip", "import"]
    assert commands == []
    assert first == second == str(checkout / ".venv" / "bin" / "python")


@pytest.mark.parametrize("name", bootstrap.DECIDING)
def test_changed_requirements_are_installed_into_the_same_venv(
    checkout: Path, commands: list[tuple[str, ...]], name: str
) -> None:
    """A change of any file that decides what is installed repeats the installation, not the making of the environment."""
    bootstrap.prepare(PLAIN, checkout)
    commands.clear()
    (checkout / name).write_text("changed", encoding="utf-8")

    bootstrap.prepare(PLAIN, checkout)

    assert kinds(commands) == ["pip", "import"]


@pytest.mark.parametrize(
    "base", [WITH_TORCH, replace(PLAIN, version="3.12.2"), replace(PLAIN, executable="/usr/local/bin/python3.13")]
)
def test_another_base_makes_another_venv(checkout: Path, commands: list[tuple[str, ...]], base: Base) -> None:
    """A torch that appeared, an upgraded or another Python: the environment is made anew."""
    bootstrap.prepare(PLAIN, checkout)
    commands.clear()

    bootstrap.prepare(base, checkout)

    assert kinds(commands) == ["venv", "pip", "import"]


def test_failed_installation_is_repeated(
    checkout: Path, commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment whose installation failed is not taken for complete, nor for the user's."""
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", lambda *_: (_ for _ in ()).throw(SetupError("no network")))
        with pytest.raises(SetupError, match="no network"):
            bootstrap.prepare(PLAIN, checkout)
    commands.clear()

    bootstrap.prepare(PLAIN, checkout)

    assert kinds(commands) == ["pip", "import"]


def test_venv_of_the_user_is_not_touched(checkout: Path, commands: list[tuple[str, ...]]) -> None:
    """A `.venv` without our marker may hold somebody's ROCm torch: it is neither cleared nor installed into."""
    (checkout / ".venv").mkdir()

    with pytest.raises(SetupError, match=r"\.venv was not made by this Makefile: to use it as it is, run make PYTHON="):
        bootstrap.prepare(PLAIN, checkout)

    assert commands == []


def test_unreadable_marker_counts_as_none(tmp_path: Path) -> None:
    """A marker that is cut off or of another form is no reason to fail, and no proof of anything."""
    (tmp_path / bootstrap.MARKER).write_text('{"done": ', encoding="utf-8")
    cut_off = bootstrap.read_marker(tmp_path)
    (tmp_path / bootstrap.MARKER).write_text("[]", encoding="utf-8")

    assert cut_off == {}
    assert bootstrap.read_marker(tmp_path) == {}


def test_failing_step_says_what_failed(tmp_path: Path) -> None:
    """The step, its exit status, the command and its output are in the message."""
    command = (sys.executable, "-c", "import sys; print('no space left'); sys.exit(28)")

    with pytest.raises(SetupError, match=r"(?s)^installing failed with exit status 28: .*\nno space left$"):
        bootstrap.execute("installing", command, tmp_path)


@pytest.mark.parametrize(
    ("base", "writes", "lazily"), [(PLAIN, True, True), (PLAIN, False, False), (VENV_WITH_TORCH, True, False)]
)
def test_what_is_compiled(base: Base, writes: bool, lazily: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a venv of ours, what is imported is compiled then, unless Python must not write; others are installed into as usual."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "execute", lambda _purpose, command, _folder: commands.append(command))
    monkeypatch.setattr(sys, "dont_write_bytecode", not writes)

    bootstrap.install(decide(base, CHECKOUT), CHECKOUT)

    assert [("--no-compile" in command) for command in commands] == [lazily, False]


def test_type_checker_sees_all_packages(tmp_path: Path) -> None:
    """The links lead to the four folders that setup.py packages, and making them twice is harmless."""
    for folder in bootstrap.FOLDERS:
        (tmp_path / folder).mkdir()

    bootstrap.link_packages(tmp_path)
    bootstrap.link_packages(tmp_path)

    links = {path.name: path.resolve() for path in (tmp_path / ".mypy_path" / "tridiff").iterdir()}
    assert links == {folder: tmp_path.resolve() / folder for folder in bootstrap.FOLDERS}
    assert f"FOLDERS = {json.dumps(bootstrap.FOLDERS).replace('[', '(').replace(']', ')')}" in (ROOT / "setup.py").read_text()


def test_real_venv_with_torch_is_found_from_the_command_line(checkout: Path, tmp_path: Path) -> None:
    """A venv with (stand-ins for) torch and triton, and a marker that matches, is the Python that the script prints."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*/site-packages"))
    for name in ("torch", "triton", "pip"):
        (site / name).mkdir()
        (site / name / "__init__.py").touch()
    (site / "pip" / "__main__.py").write_text(
        "import sys, pathlib\npathlib.Path('pip-was-asked').write_text(' '.join(sys.argv[1:]))"
    )

    first, second = (
        subprocess.run([python, checkout / "tools" / "bootstrap.py"], check=True, capture_output=True, text=True)
        for _ in range(2)
    )

    assert first.stdout == second.stdout == f"{python}\n"
    assert (checkout / "pip-was-asked").read_text() == "install --quiet --disable-pip-version-check --no-input -e .[test,lint]"
    assert "setting up" in first.stderr
    assert second.stderr == ""
    assert not (checkout / ".venv").exists()


def test_activated_venv_of_ours_starts_from_its_base(checkout: Path) -> None:
    """In a shell where `.venv` is activated, `make` goes back to the Python that it was made from: no second set-up."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    base = checkout / "base-python"
    base.write_text('#!/bin/sh\necho "base: $1"\n', encoding="utf-8")
    base.chmod(0o755)
    (checkout / ".venv" / bootstrap.MARKER).write_text(json.dumps({"base": str(base)}), encoding="utf-8")
    script = checkout / "tools" / "bootstrap.py"

    result = subprocess.run([checkout / ".venv/bin/python", script], check=True, capture_output=True, text=True)

    assert result.stdout == f"base: {script}\n"


def make(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the Makefile of the repository; where it fails is before anything is set up."""
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    # These tests may be running under `make test`, whose variables are not meant for this one.
    outer = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS", "PYTHON", "PYTEST_ARGS", "FUZZ_ARGS"}
    clean = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(command, env={**clean, **(env or {})}, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("target", ["fetch-vllm", "fuzz-vllm", "targets-vllm"])
def test_release_is_one_word_of_the_shell(target: str) -> None:
    """Whatever is asked for, `>` included, is told to the tool and not to the shell."""
    result = make("-n", target, "VLLM=vllm>=1")

    assert 'tools/fetch_upstream.py "vllm>=1"' in result.stdout


def test_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    """An old Python is told apart before it reads a file of ours."""
    old = tmp_path / "python3.9"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 18); exec(sys.argv[2])' \"$@\"\n", "utf-8"
    )
    old.chmod(0o755)

    result = make("setup", f"PYTHON={old}")

    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == (
        f"tridiff: Python 3.10 or newer is needed, and {old} is 3.9: run make PYTHON=python3.12, say"
    )


def test_missing_python_is_said() -> None:
    """A PYTHON that does not exist is named."""
    result = make("test", "PYTHON=no-such-python")

    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "tridiff: no-such-python was not found: run make PYTHON=/path/to/python3"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (["fuzz"], "fuzz --seconds 120"),
        (["fuzz", "FUZZ_ARGS=--seconds 5 --op x"], "fuzz --seconds 5 --op x"),
        (["test"], "-m pytest -n auto"),
        (["test", "PYTEST_ARGS=-k heads"], "-m pytest -n auto -k heads"),
    ],
)
def test_targets_run_with_their_arguments(tmp_path: Path, variables: list[str], expected: str) -> None:
    """`make fuzz` and `make test` start the right command, with one BLAS thread per process."""
    ready = tmp_path / "python"
    ready.write_text('#!/bin/sh\necho "$@" threads=$OMP_NUM_THREADS$OPENBLAS_NUM_THREADS$MKL_NUM_THREADS\n', encoding="utf-8")
    ready.chmod(0o755)
    shutil.copy(ready, tmp_path / "tridiff")
    # The base Python: passes the version check and answers the bootstrap with the path of the Python that is ready.
    base = tmp_path / "base"
    base.write_text(f'#!/bin/sh\n[ "$1" = -c ] || echo "{ready}"\n', encoding="utf-8")
    base.chmod(0o755)

    result = make(*variables, f"PYTHON={base}", env={"OMP_NUM_THREADS": "64"})

    assert result.returncode == 0
    assert result.stdout.strip() == f"{expected} threads=111"


@pytest.mark.parametrize(
    ("failing", "status", "closing"),
    [
        ("nothing", 0, "all parts passed: format-check ruff mypy test-versions test"),
        ("mypy", 1, "failed: mypy"),
        ("format-check|test", 1, "failed: format-check test"),
        ("ruff|test-versions", 1, "failed: test-versions ruff"),
        ("setup", 2, "ran setup"),
    ],
)
def test_gate_runs_every_part_and_names_what_failed(tmp_path: Path, failing: str, status: int, closing: str) -> None:
    """`.ci/run` works from any folder and without standard input, and goes on after a part that failed."""
    fake = tmp_path / "make"
    fake.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            [ -f .ci/run ] || exit 99
            echo "ran $2"
            case "$2" in {failing}) exit 2 ;; esac
        """),
        encoding="utf-8",
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    result = subprocess.run(
        ["bash", "-c", f"exec '{ROOT}/.ci/run' 0<&-"], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )

    assert result.returncode == status
    assert result.stdout.splitlines()[-1] == closing
    if failing != "setup":
        assert [line for line in result.stdout.splitlines() if line.startswith("ran ")] == [
            f"ran {part}" for part in ("setup", "test-versions", "format-check", "ruff", "mypy", "test")
        ]
