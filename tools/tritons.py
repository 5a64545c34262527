"""Run the engines' tests on other Triton releases: `tritons.py [VERSION]...`; all of `triton-versions.txt` by default.

Each release is unpacked into a folder of its own, `.tritons/VERSION-PYTHON`, and stands in front on PYTHONPATH while its tests
run: the Triton that is installed is neither replaced nor touched. The releases are tested one after the other, each in
processes of its own; the `conftest.py` of the tests refuses to run when another version than the expected one is imported.

Exit status: 0 when all passed, 1 when a test failed, 2 when a release could not be had, 130 after Ctrl-C.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED = "triton-versions.txt"
FOLDER = ".tritons"
TESTS = ("tests/harness/engine", "tests/harness/targets")
"""Those of the engine that executes, and of the one that compiles: what reads Triton's IR, or drives its passes."""
EXPECTED = "TRIDIFF_EXPECTED_TRITON"
"""The environment variable that tells the tests which version they must find."""

PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:")


class Unavailable(Exception):
    """A release cannot be installed; the message says which and why."""


@dataclass(frozen=True)
class Result:
    """What pytest said of one version: its exit status, and tests that passed, failed (or had an error) and were skipped.

    `counts`: None when it did not get as far as a report.
    """

    version: str
    status: int
    counts: tuple[int, int, int] | None
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether tests passed, and none failed."""
        return self.status == 0 and self.counts is not None and self.counts[0] > 0 and self.counts[1] == 0

    def __str__(self) -> str:
        """One line for the summary."""
        if self.counts is None:
            return f"triton {self.version}: did not finish (pytest's exit status {self.status}), {self.seconds:.0f} s"
        passed, failed, skipped = self.counts
        return f"triton {self.version}: {passed} passed, {failed} failed, {skipped} skipped, {self.seconds:.0f} s"


def pinned(root: Path) -> list[str]:
    """The versions of `triton-versions.txt`. Raises `Unavailable` for a line that is none."""
    lines = (line.partition("#")[0].strip() for line in (root / PINNED).read_text(encoding="utf-8").splitlines())
    return [checked(line) for line in lines if line]


def checked(version: str) -> str:
    """`version` itself, if it is one. Raises `Unavailable`: it becomes the name of a folder and part of a command."""
    if not re.fullmatch(r"\d+(\.\d+)+[\w.+]*", version):
        raise Unavailable(f"{version!r} is no version of triton: write it as 3.6.0")
    return version


def place(root: Path, version: str) -> Path:
    """The folder of `version` for this Python: a wheel's library loads into one Python version only."""
    return root / FOLDER / f"{version}-{sys.implementation.cache_tag}"


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep others from installing meanwhile, and remove what an interrupted installation left."""
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob("unfinished-*"):
            shutil.rmtree(left)
        yield


def install(root: Path, versions: Sequence[str]) -> None:
    """Install what is missing of `versions`, at the same time. Raises `Unavailable`; those that worked stay."""
    with alone(root):
        missing = [version for version in versions if not place(root, version).exists()]
        if not missing:
            return
        started = time.monotonic()
        say(f"installing triton {', '.join(missing)} into {FOLDER} (about half a minute) ...")
        _install_all(root, missing)
        say(f"installed, after {time.monotonic() - started:.0f} s")


def _install_all(root: Path, missing: Sequence[str]) -> None:
    running: dict[str, subprocess.Popen[str]] = {}
    problems = []
    try:
        for version in missing:
            running[version] = _pip(root, version)
        for version, process in running.items():
            output, _ = process.communicate()
            if process.returncode == 0:
                _unfinished(root, version).rename(place(root, version))
            else:
                problems.append(f"triton {version} cannot be installed for {sys.implementation.cache_tag}: {reason(output)}")
    finally:
        for version, process in running.items():
            process.kill()
            process.wait()
            shutil.rmtree(_unfinished(root, version), ignore_errors=True)
    if problems:
        raise Unavailable("\n".join(problems))


def _unfinished(root: Path, version: str) -> Path:
    return root / FOLDER / f"unfinished-{version}"


def _pip(root: Path, version: str) -> subprocess.Popen[str]:
    command = [sys.executable, *PIP, "--target", str(_unfinished(root, version)), f"triton=={version}"]
    return subprocess.Popen(  # noqa: S603 - the command is ours
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def reason(output: str) -> str:
    """The last line that pip calls an error, which names the cause."""
    errors = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    lines = errors or output.strip().splitlines() or ["pip said nothing"]
    return lines[-1]


def test(root: Path, version: str) -> Result:
    """Run the engines' tests on `version`; what pytest says is shown only when it is not good."""
    folder = place(root, version)
    report, log = (folder.with_name(folder.name + suffix) for suffix in (".xml", ".log"))
    report.unlink(missing_ok=True)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), EXPECTED: version}
    started = time.monotonic()
    status = _pytest(root, environment, report, log)
    result = Result(version, status, counted(report), time.monotonic() - started)
    if not result.is_good:
        say(log.read_text(encoding="utf-8"))
    return result


def _pytest(root: Path, environment: dict[str, str], report: Path, log: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-n", "auto", "-q", f"--junitxml={report}", *TESTS]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has told pytest too, which ends its workers if we let it
            _give_time(process)
            raise
        finally:
            process.kill()
            process.wait()


def _give_time(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


def counted(report: Path) -> tuple[int, int, int] | None:
    """Tests that passed, failed and were skipped, by a JUnit report; None without a readable one."""
    try:
        suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - our own pytest wrote it
        totals = [[int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")] for suite in suites]
    except (OSError, ET.ParseError):
        return None
    tests, failures, errors, skipped = (sum(column) for column in zip(*totals, strict=True))
    return tests - failures - errors - skipped, failures + errors, skipped


def say(line: str) -> None:
    """Tell the user at once."""
    print(line, flush=True)


def run(root: Path, versions: Sequence[str]) -> int:
    """Install and test `versions`; the exit status. Raises `Unavailable`."""
    install(root, versions)
    results = []
    for version in versions:
        say(f"triton {version}: testing {' and '.join(TESTS)} ...")
        results.append(test(root, version))
        say(str(results[-1]))
    say("summary\n" + "\n".join(f"  {result}" for result in results))
    return 0 if all(result.is_good for result in results) else 1


def main() -> int:
    """Test the versions of the command line, or else the pinned ones."""
    try:
        return run(ROOT, [checked(version) for version in sys.argv[1:]] or pinned(ROOT))
    except Unavailable as error:
        print(f"tridiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tridiff: interrupted; releases that were installed completely stay", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
