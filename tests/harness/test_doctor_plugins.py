"""What the doctor says of installed plug-ins: which there are, what they bring, and which one stops every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugging import announced, left_as_found, saved

from tridiff.harness import cli
from tridiff.harness.announced import Announced
from tridiff.harness.announced import announced as installed
from tridiff.harness.doctor import host, probe
from tridiff.harness.doctor.diagnosis import diagnose, document
from tridiff.harness.report.doctor import facts_text

FAMILY = """\
from tridiff.harness.api import Kernel
def register(registry):
    registry.register_kernel(Kernel(name={name!r}, op="decode_attention", module="tridiff.kernels.decode_attention",
                                    launcher="decode_attention", rounding="rounding"))
"""
"""A plug-in that registers the built-in kernel under another name."""
MINE = Announced(name="mine", value="mine", distribution="mine-kernels 1.2")
ADVICE = "; repair or uninstall it, or leave it out with --plugin no:mine"


@pytest.fixture(autouse=True)
def current_folder(tmp_path: Path) -> Iterator[None]:
    """A current folder in which distributions can be installed."""
    probe._registries.cache_clear()
    with left_as_found(tmp_path):
        yield
    probe._registries.cache_clear()


def install(name: str, code: str) -> None:
    """A distribution `NAME-kernels` that announces the plug-in `NAME`."""
    saved(f"{name}.py", code)
    announced(f"{name}-kernels", **{name: name})


def test_each_installed_plugin_is_tried_with_those_before_it() -> None:
    """What each brings; one that is broken leaves nothing behind, and a name taken twice is blamed on the second."""
    install("first", FAMILY.format(name="mine"))
    install("second", FAMILY.format(name="mine"))
    install("third", FAMILY.format(name="half") + "    raise OSError('gone')")
    install("whole", FAMILY.format(name="half"))

    answers = {plugin.name: probe.answer(f"plugin:{index}") for index, plugin in enumerate(installed())}

    assert answers["first"] == {"ops": [], "kernels": ["mine"]}
    assert answers["second"]["problem"].startswith(
        "plug-in second of second-kernels 1.2: a kernel named 'mine' is registered already, by first of first-kernels 1.2: "
    )
    assert answers["third"]["problem"].startswith("plug-in third of third-kernels 1.2: register raised OSError: gone (third.py:")
    assert answers["third"]["problem"].endswith("; repair or uninstall it, or leave it out with --plugin no:third")
    assert answers["whole"] == {"ops": [], "kernels": ["half"]}


@pytest.mark.parametrize(
    "problem",
    [f"plug-in mine of mine-kernels 1.2: raised on import{ADVICE}", "the process died of SIGSEGV", "no answer within 30 s"],
)
def test_a_broken_plugin_is_an_obstacle(problem: str) -> None:
    """As it is for every other command; the line names the plug-in and what to do once, whatever became of it."""
    known = host.Host(
        tridiff=host.Installation(version="1", form="wheel", folder="/", source="0"),
        machine=host.machine(),
        packages=(),
        device_files=host.DeviceFiles(kfd="absent", nvidia=False),
        visible={},
        plugins=(MINE,),
    )

    found = diagnose(known, {"plugin:0": {"problem": problem}})

    assert found.obstacle is not None
    assert found.obstacle.startswith("plug-in mine of mine-kernels 1.2: ")
    assert found.obstacle.count(ADVICE) == 1
    assert found.obstacle.count("plug-in mine") == 1
    assert "plug-in    mine of mine-kernels 1.2 (mine), broken\n" in facts_text(found).plain
    assert document(found)["plugins"] == [
        {"name": "mine", "value": "mine", "distribution": "mine-kernels 1.2", "problem": problem}
    ]


def test_doctor_with_a_plugin_that_aborts() -> None:
    """It has a line of its own, the other plug-in another, and all that has nothing to do with either is told."""
    install("fine", FAMILY.format(name="mine"))
    install("mad", "import os\nos.abort()")
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])

    done = subprocess.run(
        [sys.executable, "-m", "tridiff.harness", "doctor", "--json"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=200,
    )

    found = json.loads(done.stdout)
    assert done.returncode == cli.Exit.USAGE
    assert done.stderr == (
        "tridiff: nothing can be fuzzed on this machine: plug-in mad of mad-kernels 1.2: the process died of SIGABRT; "
        "repair or uninstall it, or leave it out with --plugin no:mad\n"
    )
    assert [plugin.get("kernels") for plugin in found["plugins"]] == [["mine"], None]
    assert found["devices"] is not None
