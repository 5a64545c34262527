"""How the examples of a fuzz test are spread: over tests, over workers of pytest-xdist, and over CI jobs."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hosting import PLUGIN, Host, lines_of

from tridiff.harness import profiles
from tridiff.harness.api import Clean, Outcome
from tridiff.harness.pytest_plugin import spreading
from tridiff.harness.runner import campaign

pytest_plugins = ["pytester", "hosting"]

FUZZ = "def test_kernel(tridiff):\n    tridiff.fuzz('scale', examples={examples})\n"
OTHER = "def test_other():\n    pass\n"
ONE_FAILS = """
def test_kernel(tridiff, request):
    kernel = "scale_wrong" if "shard1/" in request.node.name else "scale"
    assert tridiff.fuzz(kernel, examples={examples}).tally.examples
"""
RECORDED = """
import os
from dataclasses import astuple

from tridiff.harness.api import Clean
from tridiff.harness.runner import campaign

def examine(ref, spec, case, registry):
    with open(f"cases-{os.environ['PYTEST_XDIST_WORKER']}.txt", "a") as file:
        print(astuple(case), file=file)
    return Clean(ratio=0.5)

def pytest_configure(config):
    if hasattr(config, "workerinput"):  # the controller is the process of the test that starts it
        campaign.examine = examine
"""
WORKER = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    config.workerinput = {told}
    config.workeroutput = {{}}

def pytest_unconfigure(config):
    print("workeroutput", config.workeroutput)
"""
"""A `conftest.py` in which a run takes itself for that of a worker."""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The cases that are drawn, all of them clean."""
    cases: list[Any] = []

    def examine(_ref: object, _spec: object, case: Any, _known: object) -> Outcome:
        cases.append(case)
        return Clean(ratio=0.5)

    monkeypatch.setattr(campaign, "examine", examine)
    return cases


def counts(file: str = "junit.xml") -> list[dict[str, Any]]:
    """What each call of `fuzz` has recorded."""
    properties = ET.parse(file).getroot().iterfind(".//property[@name='tridiff']")  # noqa: S314 - written a moment ago
    return [json.loads(found.attrib["value"]) for found in properties]


def names(result: pytest.RunResult) -> list[str]:
    """Names of the tests that ran, with -v."""
    return re.findall(r"^test_host.py::(\S+) ", result.stdout.str(), re.MULTILINE)


# Shards


def test_one_shard(host: Host, drawn: list[Any]) -> None:
    """Where nothing is divided, tests have their names, seed and budget as ever."""
    for arguments in ((), ("--tridiff-shards=1",), ("--tridiff-shard=0/1",)):
        result = host(FUZZ.format(examples=20), *arguments, "-v", "--junit-xml=junit.xml")

        assert names(result) == ["test_kernel"]
        assert [(run["seed"], run["shard"], run["cases"]) for run in counts()] == [(0, "", 20)]


def test_shards(host: Host, drawn: list[Any]) -> None:
    """There is a test for each shard; together they draw what was asked for, each from a seed of its own."""
    result = host(FUZZ.format(examples=21), "--tridiff-shards=4", "-v", "--junit-xml=junit.xml")

    result.assert_outcomes(passed=4)
    assert names(result) == [f"test_kernel[shard{index}/4]" for index in range(4)]
    assert [(run["shard"], run["cases"]) for run in counts()] == [("0/4", 6), ("1/4", 5), ("2/4", 5), ("3/4", 5)]
    assert len({run["seed"] for run in counts()}) == 4
    assert len(drawn) == 21
    (line,) = lines_of(result, "scale ")
    assert line.split()[1] == "21"


def test_shards_of_a_job(host: Host, drawn: list[Any]) -> None:
    """`--tridiff-shard` takes a part of everything, which is divided again; jobs may divide theirs as they like."""
    for index, shards in enumerate((3, 1)):
        host(FUZZ.format(examples=21), f"--tridiff-shard={index}/2", f"--tridiff-shards={shards}", f"--junit-xml={index}.xml")

    runs = [*counts("0.xml"), *counts("1.xml")]
    assert [(run["shard"], run["cases"]) for run in runs] == [("0/2 0/3", 4), ("0/2 1/3", 4), ("0/2 2/3", 3), ("1/2", 10)]
    assert len({run["seed"] for run in runs}) == 4
    assert len(drawn) == 21


def test_options_count_for_all_shards(host: Host, drawn: list[Any]) -> None:
    """`--tridiff-examples` is divided; the seed of the run decides the seeds of all shards."""
    arguments = ("--tridiff-shards=3", "--tridiff-examples=10")
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        host(FUZZ.format(examples=99), *arguments, f"--tridiff-seed={seed}", f"--junit-xml={name}.xml")

    assert [run["cases"] for run in counts("a.xml")] == [4, 3, 3]
    assert counts("a.xml") == counts("b.xml")
    assert not {run["seed"] for run in counts("a.xml")} & {run["seed"] for run in counts("c.xml")}
    assert drawn[:10] == drawn[10:20] != drawn[20:]


def test_each_shard_takes_the_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """`seconds` is the time of every shard, since they run side by side."""
    code = """
def test_kernel(tridiff):
    run = tridiff.fuzz("scale", examples=9, seconds=50)
    assert (run.budget.examples, run.budget.seconds) == (3, 50)
    assert run.shard in {"0/3", "1/3", "2/3"}
"""
    host(code, "--tridiff-shards=3").assert_outcomes(passed=3)


def test_more_shards_than_examples(host: Host, drawn: list[Any]) -> None:
    """A shard without examples passes, also where a test goes on to a second kernel."""
    code = FUZZ.format(examples=2) + "    tridiff.fuzz('scale', examples=5)\n"

    result = host(code, "--tridiff-shards=4")

    result.assert_outcomes(passed=4)
    assert len(drawn) == 7


def test_other_parameters(host: Host, drawn: list[Any]) -> None:
    """Shards go with targets, kernels and parameters of the host; tests that do not fuzz are not multiplied."""
    code = """
import pytest

@pytest.mark.parametrize("seed", [1, 2])
def test_kernel(tridiff, tridiff_kernel, seed):
    tridiff.fuzz(tridiff_kernel, examples=2, seed=seed)

def test_other():
    pass
"""
    result = host(code, "--tridiff-shards=2", "--tridiff-target=gfx90a", "--tridiff-target=sm_90", "-v")

    result.assert_outcomes(passed=2 * 2 * 2 * 2 + 1)
    assert len({name for name in names(result) if name.startswith("test_kernel[shard")}) == 16
    assert "test_other" in names(result)
    assert len(drawn) == 2 * 2 * 2 * 2


def test_failure_in_one_shard(host: Host) -> None:
    """The others go on."""
    result = host(ONE_FAILS.format(examples=20), "--tridiff-shards=4")

    result.assert_outcomes(failed=1, passed=3)
    assert lines_of(result, "FAILED test_host.py::test_kernel[shard1/4] - mismatch: scale_wrong: out[0, ")


def test_wrong_shard(host: Host) -> None:
    """One line that names the option."""
    for argument, message in (
        ("--tridiff-shard=2/2", "--tridiff-shard: 2/2: the first number must be 0 to 1: shards are counted from 0"),
        ("--tridiff-shard=half", "--tridiff-shard: 'half': must be I/N, shard I (0 to N - 1) of N, such as 0/4"),
        ("--tridiff-shards=0", "--tridiff-shards=0: must be at least 1"),
    ):
        result = host(FUZZ.format(examples=2), argument)

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert [line for line in result.errlines if line] == [f"ERROR: {message}"]


# Workers of pytest-xdist


def test_workers(host: Host, pytester: pytest.Pytester) -> None:
    """With -n 4, of 800 examples 800 are run, at least 740 of them distinct; what fails in one worker stops no other."""
    pytester.makeconftest(RECORDED)
    code = FUZZ.format(examples=800).replace("scale", "concat_and_cache_mla") + "    assert 'shard2/' not in str(tridiff._item)\n"

    result = host(code, "-p", "xdist", "-n", "4", "--junit-xml=junit.xml")

    result.assert_outcomes(passed=3, failed=1)
    cases = Counter(line for file in Path().glob("cases-*.txt") for line in file.read_text(encoding="utf-8").splitlines())
    assert [run["cases"] for run in counts()] == [200] * 4
    assert sorted(run["shard"] for run in counts()) == ["0/4", "1/4", "2/4", "3/4"]
    assert cases.total() == 800
    assert len(cases) >= 740


def test_mode_that_does_not_survive(host: Host) -> None:
    """Refused with one line where a fuzz test is collected, before anything runs."""
    result = host(FUZZ.format(examples=2) + OTHER, "-p", "xdist", "-n", "2", "--dist=loadscope")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: --dist=loadscope: fuzz tests of tridiff need --dist=load or --dist=worksteal, ")
    assert "1 passed" not in result.stdout.str()


@pytest.mark.parametrize("mode", ["load", "worksteal"])
def test_worker(host: Host, pytester: pytest.Pytester, drawn: list[Any], mode: str) -> None:
    """A worker divides by the number of workers, unless an option says otherwise, and takes the controller's word."""
    pytester.makeconftest(WORKER.format(told={"workercount": 3, "tridiff": {"dist": mode, "seed": 77}}))

    divided = host(FUZZ.format(examples=6), "-v")
    told = host(FUZZ.format(examples=6), "--tridiff-shards=2", "-v")

    assert names(divided) == [f"test_kernel[shard{index}/3]" for index in range(3)]
    assert names(told) == [f"test_kernel[shard{index}/2]" for index in range(2)]
    assert lines_of(divided, "workeroutput {}")


@pytest.mark.parametrize("mode", ["loadgroup", "some_new_one"])
def test_worker_refuses(host: Host, pytester: pytest.Pytester, mode: str) -> None:
    """A worker sees what it has collected, refuses, and tells the controller; tests that do not fuzz may use any mode."""
    pytester.makeconftest(WORKER.format(told={"workercount": 1, "tridiff": {"dist": mode, "seed": 77}}))

    result = host(FUZZ.format(examples=6) + OTHER)
    host(FUZZ.format(examples=6) + OTHER, "-k", "other").assert_outcomes(passed=1, deselected=1)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert lines_of(result, f"workeroutput {{'tridiff': '{mode}'}}")
    with pytest.raises(pytest.UsageError, match=f"--dist={mode}: fuzz tests of tridiff need "):
        spreading.pass_on_refusal(SimpleNamespace(workeroutput={"tridiff": mode}))


@pytest.mark.parametrize("node", [SimpleNamespace(), SimpleNamespace(workeroutput={"exitstatus": 0})], ids=["died", "done"])
def test_other_workers(node: SimpleNamespace) -> None:
    """A worker that died, or had nothing to refuse, ends no run."""
    spreading.pass_on_refusal(node)


# The seed


@pytest.fixture
def nightly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The nightly profile is loaded."""
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "is_nightly", lambda: True)
        yield


def test_random_seed(host: Host, nightly: None, drawn: list[Any]) -> None:
    """Under the nightly profile every run has a seed of its own, which header and section name; given again, it repeats it."""
    first = host(FUZZ.format(examples=20))
    host(FUZZ.format(examples=20))

    (header,) = lines_of(first, "tridiff: random seed ")
    (closing,) = lines_of(first, "random seed ")
    assert header == f"tridiff: {closing}"
    option = closing.split()[-1]
    again = host(FUZZ.format(examples=20), option)
    assert re.fullmatch(r"--tridiff-seed=\d+", option)
    assert drawn[:20] == drawn[40:] != drawn[20:40]
    assert "random seed" not in again.stdout.str()


def test_seed_of_other_profiles(host: Host, drawn: list[Any]) -> None:
    """Under other profiles the seed is 0, and there is nothing to say of it."""
    result = host(FUZZ.format(examples=2), "--junit-xml=junit.xml")

    assert [(run["seed"], run["random_seed"]) for run in counts()] == [(0, None)]
    assert "random seed" not in result.stdout.str()


def test_random_seed_of_all_workers(host: Host, pytester: pytest.Pytester, nightly: None, drawn: list[Any]) -> None:
    """The controller chooses it; all workers, those started later too, are told the same, and draw from it."""
    config = pytester.parseconfig(*PLUGIN, "-p", "xdist", "-n", "2", "--dist=worksteal")
    spreading.configure(config)
    first, second = SimpleNamespace(workerinput={}), SimpleNamespace(workerinput={})
    for node in (first, second):
        spreading.tell(config, node)
    pytester.makeconftest(WORKER.format(told={"workercount": 1, **first.workerinput}))

    result = host(FUZZ.format(examples=2))

    seed = spreading.random_seed(config)
    assert first.workerinput == second.workerinput == {"tridiff": {"seed": seed, "dist": "worksteal"}}
    assert lines_of(result, f"random seed {seed}; ")
