"""Run the engines' tests on other Triton releases: `tritons.py [VERSION]...`; all of `triton-versions.txt` by default.

Each release is unpacked into a folder of its own, `.tritons/VERSION-PYTHON`, and stands in front on PYTHONPATH while its tests
run: the Triton that is installed is neither replaced nor touched. Several releases are tested at the same time, each in a process
of its own if cores are few: that takes two thirds of the time of workers that all collect the tests and report them. The
`conftest.py` of the tests refuses to run when another version than the expected one is imported.

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


@dataclass
class Running:
    """The tests of one version while they run: their `process`, what it prints (`log`) and says in JUnit's form (`report`)."""

    version: str
    process: subprocess.Popen[bytes]
    report: Path
    log: Path
    started: float

    def result(self) -> Result:
        """What became of them; what pytest says is shown only when it is not good."""
        seconds = time.monotonic() - self.started
        result = Result(self.version, self.process.returncode, counted(self.report), seconds)
        if not result.is_good:
            say(self.log.read_text(encoding="utf-8"))
        return result


def test(root: Path, versions: Sequence[str], workers: int) -> list[Result]:
    """Run the engines' tests on all `versions` at the same time, on each with so many workers of pytest's; in their order."""
    running: list[Running] = []
    results: dict[str, Result] = {}
    try:
        for version in versions:
            say(f"triton {version}: testing {' and '.join(TESTS)} ...")
            running.append(_started(root, version, workers))
        while len(results) < len(running):
            for each in running:
                if each.version not in results and each.process.poll() is not None:
                    results[each.version] = each.result()
                    say(str(results[each.version]))
            time.sleep(0.05)
    except KeyboardInterrupt:  # the terminal has told pytest too, which ends its workers if we let it
        _give_time(running)
        raise
    finally:
        for each in running:
            each.process.kill()
            each.process.wait()
    return [results[version] for version in versions]


def _started(root: Path, version: str, workers: int) -> Running:
    folder = place(root, version)
    report, log = (folder.with_name(folder.name + suffix) for suffix in (".xml", ".log"))
    report.unlink(missing_ok=True)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), EXPECTED: version}
    # One worker is no worker: pytest itself, which then neither starts one nor sends it tests.
    spread = "0" if workers == 1 else str(workers)
    command = [sys.executable, "-m", "pytest", "-n", spread, "-q", f"--junitxml={report}", *TESTS]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    return Running(version, process, report, log, time.monotonic())


def _give_time(running: Sequence[Running]) -> None:
    until = time.monotonic() + 10
    for each in running:
        with suppress(subprocess.TimeoutExpired):
            each.process.wait(max(0.0, until - time.monotonic()))


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


def rounds(versions: Sequence[str], cores: int) -> Iterator[tuple[Sequence[str], int]]:
    """Which versions are tested at the same time, and with how many workers each.

    Up to two a core: of three on two cores none is left to the end, when the other core would be idle.
    """
    for first in range(0, len(versions), 2 * cores):
        together = versions[first : first + 2 * cores]
        yield together, max(1, cores // len(together))


def run(root: Path, versions: Sequence[str], cores: int | None = None) -> int:
    """Install and test `versions` on so many cores, all of the machine's by default; the exit status. Raises `Unavailable`."""
    versions = list(dict.fromkeys(versions))
    install(root, versions)
    results: list[Result] = []
    for together, workers in rounds(versions, cores or os.cpu_count() or 1):
        results += test(root, together, workers)
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
