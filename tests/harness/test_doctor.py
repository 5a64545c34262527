"""The doctor: what it finds on machines that we do not have, by stand-ins, and that nothing on one can stop it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import triton

from tridiff.harness import cli, config
from tridiff.harness.api import CHECKS
from tridiff.harness.capture import backend_for
from tridiff.harness.doctor import diagnosis, fp8, host, inquiry, probe
from tridiff.harness.doctor.diagnosis import Diagnosis, diagnose
from tridiff.harness.doctor.host import DeviceFiles, Host, Installation, Machine, Package
from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation
from tridiff.harness.engines.cpu.fp8_lowering import decoder
from tridiff.harness.engines.cpu.target import Target
from tridiff.harness.engines.spec import TARGETS, UsageError, backend_of

GIB = 1 << 30


def healthy_host(**changed: Any) -> Host:
    """A machine with everything that tridiff needs and no GPU."""
    machine = Machine(python="3.12.1", executable="python", platform="Linux", cores=2, memory=8 * GIB, container=None)
    known = Host(
        tridiff=Installation(version="1.2.3", form="wheel", folder="/site/tridiff", source="0123abcd"),
        machine=machine,
        packages=(Package(name="numpy", version="2.0", minimum="1.26"), Package(name="pytest", version="9.0", minimum="8.4")),
        device_files=DeviceFiles(kfd="absent", nvidia=False),
        visible={},
    )
    return dataclasses.replace(known, **changed)


def in_container(known: Host) -> Host:
    """The same machine, seen from a container."""
    return dataclasses.replace(known, machine=dataclasses.replace(known.machine, container="docker"))


def healthy_facts(**changed: probe.Facts) -> dict[str, probe.Facts]:
    """What the probe answers there; `changed` by section, with __ for the colon."""
    facts: dict[str, probe.Facts] = {section: {} for section in probe.SECTIONS}
    facts["torch"] = {"version": "2.13.0", "build": "CPU"}
    facts["devices"] = {"devices": []}
    facts |= {f"target:{target}": {"code": "hsaco", "fp8": {}} for target in TARGETS}
    return facts | {name.replace("__", ":"): answer for name, answer in changed.items()}


def messages(found: Diagnosis) -> list[str]:
    """The problems, in order."""
    return [problem.message for problem in found.problems]


# The machine itself


def test_memory_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    """The machine's memory, or the group's limit where that is less; `max` is no limit, and no file at all is 0."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    limit = tmp_path / "sys/fs/cgroup/memory.max"

    assert host.memory(tmp_path) == 0
    (tmp_path / "proc/meminfo").write_text("MemFree: 1 kB\nMemTotal:       4096 kB\n", encoding="utf-8")
    assert host.memory(tmp_path) == 4096 * 1024
    limit.write_text("max\n", encoding="utf-8")
    assert host.memory(tmp_path) == 4096 * 1024
    limit.write_text("1048576\n", encoding="utf-8")
    assert host.memory(tmp_path) == 1 << 20


def test_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker and podman leave files, others a variable."""
    monkeypatch.delenv("container", raising=False)
    assert host.container(tmp_path) is None
    monkeypatch.setenv("container", "systemd-nspawn")
    assert host.container(tmp_path) == "systemd-nspawn"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert host.container(tmp_path) == "podman"
    (tmp_path / ".dockerenv").touch()
    assert host.container(tmp_path) == "docker"


def test_device_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD's compute interface can be absent, usable or forbidden; NVIDIA's control device alone is no GPU."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert host.device_files(tmp_path) == DeviceFiles(kfd="absent", nvidia=False)
    (tmp_path / "dev/kfd").touch()
    (tmp_path / "dev/nvidia0").touch()
    assert host.device_files(tmp_path) == DeviceFiles(kfd="usable", nvidia=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert host.device_files(tmp_path).kfd == "forbidden"


def test_minimum_versions_come_from_our_own_requirements() -> None:
    """The requirement of just that package, of an extra or not."""
    asked = ["numpy>=1.26", "pytest-xdist>=3.6; extra == 'test'", "pytest>=8.4; extra == 'test'", "rich"]

    found = {name: host.minimum(name, asked) for name in ("numpy", "pytest", "pytest-xdist", "rich", "typer")}

    assert found == {"numpy": "1.26", "pytest": "8.4", "pytest-xdist": "3.6", "rich": "", "typer": ""}


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("6.142.0", None),
        ("6.1420", None),
        ("7.0rc1", None),
        ("git", None),
        ("6.99", "hypothesis 6.99 is installed, tridiff needs 6.142 or newer: pip install 'hypothesis>=6.142'"),
        (None, "hypothesis is not installed: pip install 'hypothesis>=6.142'"),
    ],
)
def test_package(monkeypatch: pytest.MonkeyPatch, version: str | None, problem: str | None) -> None:
    """A package that is missing or too old comes with what to install."""

    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)

    assert host.package("hypothesis", "6.142") == Package(name="hypothesis", version=version, minimum="6.142", problem=problem)


@pytest.mark.parametrize(
    ("place", "origin", "form"),
    [
        ("site", None, "wheel"),
        ("checkout", {"dir_info": {"editable": True}, "url": "file://{root}/checkout"}, "editable"),
        ("checkout", {"dir_info": {"editable": True}, "url": "file://{root}/other"}, "path"),
        ("checkout", {"dir_info": {}, "url": "file://{root}/checkout"}, "path"),
        ("checkout", None, "path"),
    ],
)
def test_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, origin: dict[str, Any] | None, form: str
) -> None:
    """Which tridiff runs: the installed one, an editable one, or one that happens to come first on the path."""
    home = tmp_path / "site/tridiff" if place == "site" else tmp_path / place
    text = None if origin is None else json.dumps(origin).replace("{root}", str(tmp_path))
    distribution = SimpleNamespace(version="1.0", locate_file=lambda name: tmp_path / "site" / name, read_text=lambda _: text)
    (home / "harness").mkdir(parents=True)
    monkeypatch.setattr(host, "_folders", lambda part: [str(home / "harness")] if part == "harness" else [])
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: distribution)

    before = host.installation()
    (home / "harness/new.py").touch()
    after = host.installation()
    (home / "harness/new.py").write_text("changed = True\n", encoding="utf-8")
    later = host.installation()

    assert (before.form, before.folder, before.version) == (form, str(home), "1.0")
    assert len({before.source, after.source, later.source}) == 3


def test_this_machine() -> None:
    """Everything that tridiff requires is found here, with the versions that it asks for."""
    known = host.host()

    assert {package.name: package.problem for package in known.packages if package.name in host.REQUIRED} == dict.fromkeys(
        host.REQUIRED
    )
    assert known.machine.cores >= 1
    assert known.machine.memory > 0


def test_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that hide GPUs are shown as they are set, empty ones too."""
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    assert config.visible_devices() == {"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "0,1"}


# The probe


@pytest.mark.parametrize(
    ("version", "build"),
    [({"hip": "6.4.1", "cuda": None}, "ROCm 6.4.1"), ({"hip": None, "cuda": "12.8"}, "CUDA 12.8"), ({"cuda": None}, "CPU")],
)
def test_build_of_torch(version: dict[str, str | None], build: str) -> None:
    """ROCm builds have no CUDA version, and old CPU builds have no field `hip`."""
    assert probe.build_of(SimpleNamespace(version=SimpleNamespace(**version))) == build


def devices(*properties: SimpleNamespace) -> Any:
    """A torch that sees these GPUs."""
    cuda = SimpleNamespace(device_count=lambda: len(properties), get_device_properties=lambda index: properties[index])
    return SimpleNamespace(cuda=cuda)


def test_devices() -> None:
    """Arch by the names of our targets: ROCm's features are cut off; CUDA's capability is joined, whatever gcnArchName says."""
    amd = SimpleNamespace(
        name="AMD Instinct MI300X", gcnArchName="gfx942:sramecc+:xnack-", total_memory=192 * GIB, major=9, minor=4
    )
    nvidia = SimpleNamespace(name="NVIDIA H200", gcnArchName="NVIDIA H200", total_memory=141 * GIB, major=9, minor=0)
    blackwell = SimpleNamespace(name="NVIDIA B200", total_memory=180 * GIB, major=10, minor=0)

    found = probe.devices_of(devices(amd, nvidia, blackwell))

    assert [device["arch"] for device in found] == ["gfx942", "sm_90", "sm_100"]
    assert found[0] == {"name": "AMD Instinct MI300X", "arch": "gfx942", "memory": 192 * GIB}
    assert probe.devices_of(devices()) == []


def test_whatever_is_raised_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A section that raises has a problem; those that need it have no answer, the others have theirs."""

    def fail(error: BaseException) -> Any:
        raise error

    monkeypatch.setitem(probe._ANSWERS, "torch", lambda: fail(RuntimeError("HIP error: 100\nand more")))
    monkeypatch.setitem(probe._ANSWERS, "triton", lambda: {"version": "3.7"})
    monkeypatch.setitem(probe._ANSWERS, "cache", lambda: fail(SystemExit(3)))
    monkeypatch.setitem(probe._ANSWERS, "target", lambda _: {"code": "hsaco"})

    found = dict(probe.answers(["torch", "triton", "cache", "engine:hip", "target:gfx942", "devices"]))

    assert found["torch"] == {"problem": "RuntimeError: HIP error: 100"}
    assert found["triton"] == {"version": "3.7"}
    assert found["cache"] == {"problem": "SystemExit: 3"}
    assert found["engine:hip"] == found["target:gfx942"] == found["devices"] == {}


def test_our_own_advice_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A UsageError says what to do, so its kind is left out."""

    def fail(_: str) -> Any:
        raise UsageError("triton 9.9 does not pass the self-test")

    monkeypatch.setitem(probe._ANSWERS, "engine", fail)

    assert probe.answer("engine:hip") == {"problem": "triton 9.9 does not pass the self-test"}


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_too_old(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A version that is too old is shown beside what to install."""
    monkeypatch.setattr(sys.modules[name], "__version__", "1.0.0")

    facts = probe.answer(name)

    assert facts["version"] == "1.0.0"
    assert facts["problem"].startswith(f"{name} 1.0.0 is installed, tridiff works with ")


def test_interpreter_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TRITON_INTERPRET Triton is there, and of no use; what needs it is not asked."""
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)

    found = dict(probe.answers(["torch", "triton", "engine:hip"]))

    assert found["triton"]["version"] == triton.__version__
    assert found["triton"]["problem"].startswith("TRITON_INTERPRET is set, so launches cannot be captured: unset it")
    assert found["engine:hip"] == {}


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and what to set; one that can be written has its free space, and is left as it was."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file/cache"))
    broken = probe.answer("cache")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIDIFF_CACHE", "0")
    fine = probe.answer("cache")

    assert broken["problem"].startswith(f"{tmp_path}/file/cache cannot be written (Not a directory): set TRITON_CACHE_DIR ")
    assert fine["free"] > 0
    assert (fine["folder"], fine["used"]) == (str(tmp_path / "cache"), False)
    assert list((tmp_path / "cache").iterdir()) == []


def test_back_end_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target for which no machine code comes out has its problem, and its FP8 formats all the same."""

    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("ptxas: not found")

    monkeypatch.setattr(triton, "compile", fail)

    facts = probe.answer("target:sm_90")

    assert facts["problem"] == "RuntimeError: ptxas: not found"
    assert facts["fp8"]["e4m3fn"] == fp8.NATIVE


# FP8


def refuses(name: str, result: str, target: Target) -> bool:
    """Whether engine `cpu` holds that a conversion from FP8 does not compile, or that it gives wrong numbers."""
    elements = {"e4m3fn": "f8E4M3FN", "e4m3fnuz": "f8E4M3FNUZ", "e5m2": "f8E5M2", "e5m2fnuz": "f8E5M2FNUZ"}
    try:
        decoder(elements[name], result, target)
    except (KernelError, UnsupportedOperation):
        return True
    return False


@pytest.mark.parametrize("release", [(3, 6), (3, 7), (3, 8), (3, 9)])
@pytest.mark.parametrize("target", TARGETS)
def test_flavours_are_what_the_engine_models(target: str, release: tuple[int, int]) -> None:
    """Refused is what the engine refuses for every type, "not bf16" what it refuses for bf16 alone; the rest converts."""
    backend, arch, _ = backend_of(target)
    model = Target(backend, f"sm_{arch}" if backend == "cuda" else str(arch), release=release)
    formats = set(fp8.FORMATS.values())
    supported = formats if backend == "hip" else {"fp8e5", "fp8e4nv"} if model.capability >= 89 else {"fp8e5"}

    found = {name: fp8.flavour(target, name, supported, release) for name in fp8.FORMATS}

    for name, flavour in found.items():
        refused = {result for result in ("f32", "f16", "bf16") if refuses(name, result, model)}
        if backend == "cuda" and name == "e4m3fn" and model.capability < 89:
            assert flavour == fp8.REFUSED  # by the front end, before there is anything to convert
        else:
            wanted = {fp8.REFUSED: {"f32", "f16", "bf16"}, fp8.NOT_BF16: {"bf16"}}
            assert refused == wanted.get(flavour, set()), name


@pytest.mark.parametrize(
    ("target", "native"),
    [
        ("gfx90a", set()),
        ("gfx942", {"e4m3fnuz", "e5m2fnuz"}),
        ("gfx950", {"e4m3fn", "e5m2"}),
        ("gfx1201", set()),
        ("sm_86", set()),
        ("sm_89", {"e4m3fn", "e5m2"}),
    ],
)
def test_native_formats(target: str, native: set[str]) -> None:
    """What has instructions of its own, as docs/reference/number_formats.md says."""
    everything = set(fp8.FORMATS.values())

    assert {name for name in fp8.FORMATS if fp8.flavour(target, name, everything, (3, 9)) == fp8.NATIVE} == native


def test_supported_formats_are_asked_of_triton() -> None:
    """What Triton's front end refuses is not claimed, and what it takes is not denied."""
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415 - beside its only use

    for target in TARGETS:
        supported = backend_for(GPUTarget(*backend_of(target))).parse_options({}).supported_fp8_dtypes
        facts = probe.answer(f"target:{target}")
        assert facts["code"] == ("cubin" if target.startswith("sm_") else "hsaco")
        assert {name for name in fp8.FORMATS if facts["fp8"][name] != fp8.REFUSED} == {
            name for name, spelt in fp8.FORMATS.items() if spelt in supported
        }


# The process that is asked

PATIENT = """
    import json, os, signal, sys, time
    channel = os.fdopen(int(sys.argv[1]), "w")
    for section in sys.argv[2:]:
        {symptom}
        print(json.dumps({{"section": section, "facts": {{"from": os.getpid()}}}}), file=channel, flush=True)
"""


def asked(symptom: str, *sections: str, seconds: float = 30.0) -> dict[str, probe.Facts]:
    """What is learnt from a process that does `symptom` before each of its answers."""
    code = textwrap.dedent(PATIENT.format(symptom=symptom))
    limits = dict.fromkeys(("torch", "triton", "engine", "target", "devices"), seconds)
    return inquiry.inquire(sections, seconds=limits, command=(sys.executable, "-c", code))


def test_healthy_process_is_asked_once() -> None:
    """All sections are answered by one process, whatever it prints besides."""
    found = asked("print('noise'); sys.stderr.write('noise')", "torch", "triton", "devices")

    assert list(found) == ["torch", "triton", "devices"]
    assert len({facts["from"] for facts in found.values()}) == 1


@pytest.mark.parametrize(
    ("symptom", "problem"),
    [
        ("os.abort()", "the process died of SIGABRT"),
        ("sys.stderr.write('LLVM ERROR: no\\n'); sys.stderr.flush(); os.abort()", "the process died of SIGABRT: LLVM ERROR: no"),
        ("os._exit(7)", "the process exited with 7"),
        ("channel.write('what?\\n'); channel.flush()", "the answer makes no sense: b'what?'"),
        ("channel.write('[]\\n'); channel.flush()", "the answer makes no sense: b'[]'"),
    ],
)
def test_section_that_ends_its_process(symptom: str, problem: str) -> None:
    """It gets the blame; another process answers the rest."""
    found = asked(f"if section == 'engine:hip': {symptom}", "torch", "engine:hip", "engine:cuda", "devices")

    assert found["engine:hip"] == {"problem": problem}
    assert found["torch"]["from"] != found["engine:cuda"]["from"] == found["devices"]["from"]


def test_what_needs_a_dead_section_is_not_asked() -> None:
    """Without torch nothing but Triton's own sections can be answered."""
    found = asked("if section == 'torch': os.abort()", *probe.SECTIONS)

    assert list(found) == list(probe.SECTIONS)
    assert [section for section, facts in found.items() if "from" in facts] == ["triton", "cache"]


def test_section_that_never_answers() -> None:
    """It is given up after its time, and its process killed."""
    started = time.monotonic()
    found = asked("if section == 'devices': time.sleep(300)", "torch", "devices", seconds=1.0)

    assert found["devices"] == {"problem": "no answer within 1 s"}
    assert time.monotonic() - started < 100
    with pytest.raises(ProcessLookupError):
        os.kill(found["torch"]["from"], 0)


# The diagnosis


def test_healthy_machine() -> None:
    """No GPU is no problem."""
    found = diagnose(healthy_host(), healthy_facts())

    assert found.problems == ()
    assert found.obstacle is None
    assert diagnosis.engine_cpu(found) == {"available": True, "passed": ["hip", "cuda"]}


def test_required_and_optional_packages() -> None:
    """Without what tridiff requires nothing can be fuzzed; without pytest it can. Obstacles come first."""
    packages = (
        Package(name="pytest", version=None, minimum="8.4", problem="pytest is not installed: pip install 'pytest>=8.4'"),
        Package(name="hypothesis", version=None, minimum="", problem="hypothesis is not installed: pip install 'hypothesis'"),
    )

    found = diagnose(healthy_host(packages=packages), healthy_facts())

    assert messages(found) == [packages[1].problem, packages[0].problem]
    assert found.obstacle == packages[1].problem
    assert diagnose(healthy_host(packages=packages[:1]), healthy_facts()).obstacle is None


@pytest.mark.parametrize(
    ("section", "problem", "obstacle"),
    [
        ("torch", "torch is not installed: do this", "torch is not installed: do this"),
        ("torch", "the process died of SIGSEGV", "torch: the process died of SIGSEGV"),
        ("triton", "TRITON_INTERPRET is set: unset it", "TRITON_INTERPRET is set: unset it"),
        ("families", "ImportError: no", "the built-in kernels: ImportError: no"),
    ],
)
def test_obstacles(section: str, problem: str, obstacle: str) -> None:
    """Without torch, Triton or kernels nothing can be fuzzed, and the reason names its subject once."""
    found = diagnose(healthy_host(), healthy_facts(**{section: {"problem": problem}}))

    assert found.obstacle == obstacle
    assert diagnosis.engine_cpu(found)["available"] is (section == "families")


def test_engine_of_one_back_end() -> None:
    """One back end that fails leaves the other's targets; both that fail leave nothing."""
    one = diagnose(healthy_host(), healthy_facts(engine__cuda={"problem": "drift"}))
    both = diagnose(healthy_host(), healthy_facts(engine__cuda={"problem": "drift"}, engine__hip={"problem": "drift"}))

    assert one.obstacle is None
    assert messages(one) == ["engine cpu cannot run kernels for sm_80, sm_86, sm_89, sm_90, sm_100, sm_120: drift"]
    assert diagnosis.engine_cpu(one) == {"available": True, "passed": ["hip"]}
    assert both.obstacle is not None
    assert both.obstacle.startswith("engine cpu cannot run kernels for gfx90a, gfx942, ")
    assert diagnosis.engine_cpu(both) == {"available": False, "passed": []}


def test_what_only_deserves_a_note() -> None:
    """A cache that cannot be written, a target without machine code, a device that cannot be asked."""
    found = diagnose(
        healthy_host(),
        healthy_facts(cache={"problem": "read-only"}, target__gfx950={"problem": "no lld"}, devices={"problem": "no answer"}),
    )

    assert found.obstacle is None
    assert messages(found) == [
        "read-only",
        "Triton cannot compile a small kernel for gfx950: no lld",
        "torch's question for GPUs failed: no answer; engine cpu does not need them",
    ]


ROCM, CUDA = {"version": "2.9", "build": "ROCm 6.4"}, {"version": "2.9", "build": "CUDA 12.8"}
KFD, FORBIDDEN = DeviceFiles(kfd="usable", nvidia=False), DeviceFiles(kfd="forbidden", nvidia=False)


@pytest.mark.parametrize(
    ("known", "torch", "words"),
    [
        (healthy_host(), ROCM, "torch is built for ROCm, and /dev/kfd is missing: the driver amdgpu is not loaded"),
        (in_container(healthy_host()), ROCM, "not in this container: start it with --device /dev/kfd --device /dev/dri"),
        (healthy_host(device_files=FORBIDDEN), ROCM, "/dev/kfd may not be opened: add this user to the groups render and video"),
        (healthy_host(device_files=KFD), ROCM, "sees no GPU although /dev/kfd is there: compare rocminfo"),
        (healthy_host(visible={"HIP_VISIBLE_DEVICES": ""}), ROCM, "HIP_VISIBLE_DEVICES= hides all GPUs from torch"),
        (healthy_host(visible={"CUDA_VISIBLE_DEVICES": "-1"}), CUDA, "CUDA_VISIBLE_DEVICES=-1 hides all GPUs from torch"),
        (
            healthy_host(device_files=KFD),
            {"build": "CPU"},
            "there is an AMD GPU here, but torch is built for CPUs: install a ROCm build",
        ),
        (
            healthy_host(device_files=DeviceFiles(kfd="absent", nvidia=True)),
            {"build": "CPU"},
            "there is an NVIDIA GPU here, but torch is built for CPUs: install a CUDA build of torch to use it",
        ),
    ],
)
def test_gpu_that_torch_does_not_see(known: Host, torch: probe.Facts, words: str) -> None:
    """Each cause has its advice, and none stops fuzzing."""
    found = diagnose(known, healthy_facts(torch=torch))

    (message,) = messages(found)
    assert words in message
    assert found.obstacle is None


@pytest.mark.parametrize(
    ("torch", "answer"),
    [
        (ROCM, {"devices": [{"name": "MI300X", "arch": "gfx942", "memory": 1}]}),
        (CUDA, {"devices": []}),
        ({"build": "CPU"}, {"devices": []}),
    ],
)
def test_nothing_to_say_about_gpus(torch: probe.Facts, answer: probe.Facts) -> None:
    """GPUs that torch sees, and none where there is none, need no advice."""
    assert diagnose(healthy_host(), healthy_facts(torch=torch, devices=answer)).problems == ()


# The command


def test_document_is_plain_data() -> None:
    """It survives JSON, and names every target, engine and problem."""
    facts = healthy_facts(engine__cuda={"problem": "drift"}, families={"ops": ["x"], "kernels": ["y"]})

    found = json.loads(json.dumps(diagnosis.document(diagnose(healthy_host(), facts))))

    assert found["can_fuzz"] is True
    assert found["engines"] == {"cpu": {"available": True, "passed": ["hip"]}, "gpu": {"available": False}}
    assert list(found["targets"]) == list(TARGETS)
    assert [problem["subject"] for problem in found["problems"]] == ["engine cpu"]
    assert found["families"] == {"ops": ["x"], "kernels": ["y"]}
    assert found["machine"]["memory"] == 8 * GIB
    assert found["devices"] == []
    assert CHECKS.keys().isdisjoint(found)


def doctor(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `tridiff doctor` for real."""
    command = [sys.executable, "-m", "tridiff.harness", "doctor", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=200)


def broken_path(folder: Path, **files: str) -> dict[str, str]:
    """An environment in whose Python these files come first."""
    for name, code in files.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_doctor_here() -> None:
    """This machine can fuzz: exit 0, the document alone on standard output, a self-test passed on both back ends."""
    done = doctor("--json")

    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (cli.Exit.CLEAN, "")
    assert found["can_fuzz"] is True
    assert found["engines"]["cpu"]["passed"] == ["hip", "cuda"]
    assert found["triton"]["version"] == triton.__version__
    assert "decode_attention" in found["families"]["ops"]
    assert {facts["code"] for facts in found["targets"].values()} == {"hsaco", "cubin"}


def test_doctor_where_torch_aborts(tmp_path: Path) -> None:
    """A torch that takes its process with it: exit 2, one line on standard error, and all else is still told."""
    done = doctor("--json", env=broken_path(tmp_path, torch="import os\nos.abort()"))

    found = json.loads(done.stdout)
    assert done.returncode == cli.Exit.USAGE
    assert done.stderr == "tridiff: nothing can be fuzzed on this machine: torch: the process died of SIGABRT\n"
    assert found["can_fuzz"] is False
    assert found["triton"]["version"] == triton.__version__
    assert found["cache"]["folder"]


def test_doctor_where_triton_is_broken(tmp_path: Path) -> None:
    """A Triton that cannot be imported is named with its own message."""
    broken = doctor(env=broken_path(tmp_path, triton="raise ImportError('libtriton.so: no such file')"))

    assert broken.returncode == cli.Exit.USAGE
    assert broken.stderr == (
        "tridiff: nothing can be fuzzed on this machine: triton is installed but cannot be imported: "
        "libtriton.so: no such file; repair or reinstall it\n"
    )
    assert "ERROR triton is installed but cannot be imported" in broken.stdout
    assert "Traceback" not in broken.stdout


def test_doctor_without_torch(tmp_path: Path) -> None:
    """Where torch is missing the line says what to install."""
    blocker = """
        import sys
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition('.')[0] == 'torch':
                    raise ModuleNotFoundError(f'No module named {name!r}')
        sys.meta_path.insert(0, Blocker())
    """
    done = doctor(env=broken_path(tmp_path, sitecustomize=textwrap.dedent(blocker)))

    assert done.returncode == cli.Exit.USAGE
    assert done.stderr.startswith("tridiff: nothing can be fuzzed on this machine: torch is not installed: pip install ")
