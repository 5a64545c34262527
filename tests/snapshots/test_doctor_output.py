"""What `tridiff doctor` says, word for word, of machines that we make up.

After a change on purpose: `pytest tests/snapshots --snapshot-update`, and read the diff.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from syrupy.assertion import SnapshotAssertion

from tridiff.harness import cli
from tridiff.harness.doctor import diagnosis, fp8
from tridiff.harness.doctor.diagnosis import Diagnosis, diagnose
from tridiff.harness.doctor.host import DeviceFiles, Host, Installation, Machine, Package
from tridiff.harness.doctor.probe import SECTIONS, Facts
from tridiff.harness.engines.spec import TARGETS

GIB = 1 << 30
NUMPY = Package(name="numpy", version="2.4.6", minimum="1.26")
PYTEST = Package(name="pytest", version=None, minimum="8.4", problem="pytest is not installed: pip install 'pytest>=8.4'")


def host_of(form: str, visible: Mapping[str, str], *packages: Package, container: str | None = None) -> Host:
    """A machine of 16 cores with these packages."""
    return Host(
        tridiff=Installation(version="0.1.0", form=form, folder="/src/tridiff", source="0123abcd"),
        machine=Machine(
            python="3.12.3", executable="/usr/bin/python3", platform="Linux-6.8", cores=16, memory=128 * GIB, container=container
        ),
        packages=packages,
        device_files=DeviceFiles(kfd="usable", nvidia=False),
        visible=dict(visible),
    )


def target_of(name: str) -> Facts:
    """What the probe says of a target on Triton 3.7."""
    formats = fp8.FORMATS if name.startswith("gfx") else {"e5m2"} if name in {"sm_80", "sm_86"} else {"e5m2", "e4m3fn"}
    supported = {fp8.FORMATS[form] for form in formats}
    flavours = {form: fp8.flavour(name, form, supported, (3, 7)) for form in fp8.FORMATS}
    return {"code": "hsaco" if name.startswith("gfx") else "cubin", "fp8": flavours}


def rocm_machine() -> Diagnosis:
    """Everything is there, with a ROCm build and two GPUs, of which one back end of Triton has a flaw."""
    gpu = {"name": "AMD Instinct MI300X", "arch": "gfx942", "memory": 192 * GIB}
    facts: dict[str, Facts] = {section: {} for section in SECTIONS}
    facts["torch"] = {"version": "2.9.0+rocm6.4", "build": "ROCm 6.4.43484"}
    facts["triton"] = {"version": "3.5.1", "distributions": ["pytorch-triton-rocm"], "backends": ["amd", "nvidia"]}
    facts["cache"] = {"folder": "/home/user/.triton/cache", "used": True, "free": 10 * GIB}
    facts["families"] = {"ops": ["scale"], "kernels": ["scale", "scale_wrong"]}
    facts["devices"] = {"devices": [gpu, gpu]}
    facts |= {f"target:{name}": target_of(name) for name in TARGETS}
    facts["target:sm_120"] = {"problem": "RuntimeError: ptxas was not found", "fp8": facts["target:sm_120"]["fp8"]}
    facts["engine:cuda"] = {"problem": "triton 3.5.1 does not pass the self-test of the cpu engine (casts: computes [1])"}
    known = host_of("editable", {"HIP_VISIBLE_DEVICES": "0,1"}, NUMPY, PYTEST, container="docker")
    return diagnose(known, facts)


def bare_machine() -> Diagnosis:
    """Neither torch nor Triton."""
    facts: dict[str, Facts] = {section: {} for section in SECTIONS}
    facts["torch"] = {"problem": "torch is not installed: pip install 'tridiff[cpu]'"}
    facts["triton"] = {"distributions": [], "problem": "triton is not installed: pip install 'tridiff[cpu]'"}
    return diagnose(host_of("wheel", {}, NUMPY), facts)


def said(found: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The exit code, standard output and standard error of `tridiff doctor` on this machine."""
    monkeypatch.setattr(diagnosis, "examine_machine", lambda: found)
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        cli.main(["doctor", *arguments])
    captured = capsys.readouterr()
    return f"exit {left.value.code}\n{captured.out}{captured.err}"


def test_machine_with_gpus(
    snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Facts, targets, notes, and that fuzzing is possible."""
    assert said(rocm_machine(), monkeypatch, capsys) == snapshot


def test_bare_machine(snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing, with what to install, and no table of question marks; the same as a document."""
    assert said(bare_machine(), monkeypatch, capsys) == snapshot
    document = said(bare_machine(), monkeypatch, capsys, "--json")
    body = document.partition("\n")[2].partition("\ntridiff: ")[0]
    assert json.dumps(json.loads(body)["problems"], indent=2) == snapshot(name="problems")
