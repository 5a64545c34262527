"""Find out what Triton makes of FP8 for each target: `fp8_table.py [--triton VERSION...] [--page]`.

Compiles every probe of `fp8_probes.py` for every target with each release (those of `triton-versions.txt` and `constraints.txt`
by default), reads the assembly (`fp8_reading.py`), runs emulated conversions here (`fp8_execution.py`; needs gcc), and writes
`harness/targets/fp8_casts.json` and `docs/reference/fp8.md` (`fp8_page.py`). `--page`: only the page, from the data. Some ten
minutes of two cores; Ctrl-C stops at once and writes nothing.

Exit status: 0 when the files were written, 1 when assembly could not be judged, 2 when a release could not be had, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from typing import Any

import tritons
from fp8_page import page
from fp8_probes import ABORTS, FAILS, probes
from fp8_reading import OWN, Undecided, Verdict, executable, executed, verdicts
from triton_survey import pinned

from tridiff.harness.engines.spec import TARGETS

DATA = tritons.ROOT / "harness" / "targets" / "fp8_casts.json"
PAGE = tritons.ROOT / "docs" / "reference" / "fp8.md"
PROBER, RUNNER = (Path(__file__).resolve().with_name(name) for name in ("fp8_probes.py", "fp8_execution.py"))
WORKERS = 2
RUNNING: set[subprocess.Popen[str]] = set()
STOPPED = threading.Event()

Answers = dict[str, dict[str, Any]]
Table = dict[tuple[str, str, str], Verdict]
"""By probe, target and release."""


class Stopped(Exception):
    """The run was ended from outside: what a process that was killed did not answer is no finding."""


def gathered(script: Path, environment: Mapping[str, str], wanted: Sequence[str], target: str) -> Answers:
    """The answers of processes that are started anew behind each probe that ends one."""
    found: Answers = {}
    while left := [probe for probe in wanted if probe not in found]:
        status, output, errors = _finished([sys.executable, str(script), target, *left], environment)
        said = spoken(errors)
        answers = {answer["probe"]: answer for answer in map(json.loads, output.splitlines())}
        for answer in answers.values():
            if answer.get("stage") == FAILS:
                answer["error"] = f"{answer['error']}\n{said.get(answer['probe'], '')}"
        found |= answers
        dead = [probe for probe in left if probe not in answers]
        if dead and status == 0:
            raise RuntimeError(f"{target}: no answer to {dead[0]!r}, though its process ended well")
        if dead:
            found[dead[0]] = {"probe": dead[0], "stage": ABORTS, "error": said.get(dead[0], "")}
    return found


def _finished(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """The exit status of a process, its output and its standard error. Raises `Stopped` where Ctrl-C ended it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(  # noqa: S603 - the command is ours
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        RUNNING.add(process)
        output, _ = process.communicate()
        RUNNING.discard(process)
        if STOPPED.is_set():
            raise Stopped
        errors.seek(0)
        return process.returncode, output, errors.read()


def spoken(errors: str) -> dict[str, str]:
    """What stands behind each line `<PROBE>` of a process's standard error."""
    parts = re.split(r"^<((?:cast|dot|full) .*)>\n", errors, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def probed(release: str, target: str) -> dict[str, Verdict]:
    """What `release` makes of every probe for `target`. Raises `Undecided`."""
    folder = tritons.place(tritons.ROOT, release)
    with tempfile.TemporaryDirectory() as cache:
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        # 3.9 warns where the variable is unset.
        fusion = {"TRITON_DEFAULT_FP_FUSION": "1"}
        environment = {**os.environ, **fusion, "PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": cache}
        found = verdicts(target, gathered(PROBER, environment, probes(), target))
        return executed(target, found, gathered(RUNNER, environment, executable(target, found), target))


def table(releases: Sequence[str]) -> Table:
    """The verdicts of all `releases` on all targets. Raises `Undecided`."""
    found: Table = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = {pool.submit(probed, release, target): (release, target) for release in releases for target in TARGETS}
        try:
            for count, job in enumerate(as_completed(jobs), 1):
                release, target = jobs[job]
                found |= {(probe, target, release): verdict for probe, verdict in job.result().items()}
                tritons.say(f"{count}/{len(jobs)}: triton {release}, {target}")
        except BaseException:
            STOPPED.set()
            for process in list(RUNNING):
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise
    return found


def folded(found: Table) -> Iterator[dict[str, Any]]:
    """A row for each probe and verdict, with the targets and the releases that share it; several where those are no rectangle."""
    order = {probe: place for place, probe in enumerate(probes())}
    at = sorted(found, key=lambda key: (order[key[0]], found[key], TARGETS.index(key[1]), numbers(key[2])))
    for (probe, verdict), keys in groupby(at, lambda key: (key[0], found[key])):
        releases: dict[str, list[str]] = {}
        for _, target, release in keys:
            releases.setdefault(target, []).append(release)
        shared: dict[tuple[str, ...], list[str]] = {}
        for target, having in releases.items():
            shared.setdefault(tuple(having), []).append(target)
        for together, targets in shared.items():
            yield row(probe, verdict, targets, together)


def row(probe: str, verdict: Verdict, targets: Sequence[str], releases: Sequence[str]) -> dict[str, Any]:
    """One line of the data."""
    found: dict[str, Any] = {"probe": probe, "kind": verdict.kind}
    if verdict.stage:
        found["stage"] = verdict.stage
    if verdict.factor != 1:
        found["factor"] = verdict.factor
    return {**found, "evidence": verdict.evidence, "targets": " ".join(targets), "releases": " ".join(releases)}


def numbers(version: str) -> list[int]:
    """`3.9.0` as numbers, to sort by."""
    return [int(part) for part in re.findall(r"\d+", version)]


def written(rows: Iterable[Mapping[str, Any]], releases: Sequence[str]) -> str:
    """The data file's text: one row a line."""
    native = {target: " ".join(formats) for target, formats in OWN.items()}
    head = {"releases": " ".join(releases), "targets": " ".join(TARGETS), "formats": native}
    start = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items())
    lines = ",\n".join(f"  {json.dumps(each)}" for each in rows)
    return f'{{{start},\n"rows": [\n{lines}\n]}}\n'


def main() -> int:
    """Probe and write."""
    parser = argparse.ArgumentParser(description="What Triton makes of FP8 for each target: data and page.")
    parser.add_argument("--triton", nargs="+", metavar="VERSION", help="releases to probe; the pinned ones by default")
    parser.add_argument("--page", action="store_true", help="write only the page, from the data")
    options = parser.parse_args()
    try:
        if not options.page:
            releases = sorted(map(tritons.checked, options.triton or pinned(tritons.ROOT)), key=numbers)
            tritons.install(tritons.ROOT, releases)
            DATA.write_text(written(folded(table(releases)), releases), encoding="utf-8")
        PAGE.write_text(page(json.loads(DATA.read_text(encoding="utf-8"))), encoding="utf-8")
    except tritons.Unavailable as error:
        print(f"tridiff: {error}", file=sys.stderr)
        return 2
    except Undecided as error:
        print(f"tridiff: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tridiff: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
