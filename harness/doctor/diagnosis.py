"""From facts to what is wrong: which of it stops fuzzing, and what to do. Plain data in, plain data out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tridiff.harness.doctor.host import REQUIRED, Host, host
from tridiff.harness.doctor.inquiry import inquire
from tridiff.harness.doctor.probe import ENGINE_TARGETS, Facts, with_plugins
from tridiff.harness.engines.spec import TARGETS, backend_of

SCHEMA = 1
"""Version of the document's form."""
_CONTAINER_OPTIONS = "--device /dev/kfd --device /dev/dri"  # ROCm documentation, "Running ROCm Docker containers"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`subject`: the part concerned. `message`: what is wrong and what to do. `blocks`: nothing can be fuzzed because of it."""

    subject: str
    message: str
    blocks: bool = False


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that `tridiff doctor` knows; `facts`: by section of `probe`."""

    host: Host
    facts: Mapping[str, Facts]
    problems: tuple[Problem, ...]

    @property
    def obstacle(self) -> str | None:
        """The first thing that makes fuzzing impossible here; None where it is possible."""
        return next((problem.message for problem in self.problems if problem.blocks), None)

    def of(self, kind: str, *names: str) -> dict[str, Facts]:
        """The facts of sections `kind:name`, by name."""
        return {name: self.facts.get(f"{kind}:{name}", {}) for name in names}


def examine_machine() -> Diagnosis:
    """Look at this machine, and say what is wrong with it. Takes about 4 s, most of it to import torch and Triton."""
    known = host()
    return diagnose(known, inquire(with_plugins(len(known.plugins))))


def diagnose(known: Host, facts: Mapping[str, Facts]) -> Diagnosis:
    """What is wrong, obstacles first."""
    problems = sorted(_problems(known, facts), key=lambda problem: not problem.blocks)
    return Diagnosis(host=known, facts=dict(facts), problems=tuple(problems))


def _problems(known: Host, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    for package in known.packages:
        if package.problem is not None:
            yield Problem(subject=package.name, message=package.problem, blocks=package.name in REQUIRED)
    for name in ("torch", "triton"):
        if "problem" in facts.get(name, {}):
            yield Problem(subject=name, message=_of(name, facts[name]), blocks=True)
    yield from _engine_problems(facts)
    if "problem" in facts.get("families", {}):
        yield Problem(subject="families", message=_of("the built-in kernels", facts["families"]), blocks=True)
    yield from _plugin_problems(known, facts)
    if "problem" in facts.get("cache", {}):
        yield Problem(subject="cache", message=str(facts["cache"]["problem"]))
    for target in TARGETS:
        if reason := facts.get(f"target:{target}", {}).get("problem"):
            yield Problem(subject=target, message=f"Triton cannot compile a small kernel for {target}: {reason}")
    if (message := device_problem(known, facts)) is not None:
        yield Problem(subject="devices", message=message)


def _of(subject: str, facts: Facts) -> str:
    problem = str(facts["problem"])
    return problem if subject in problem or "TRITON_" in problem else f"{subject}: {problem}"


def _engine_problems(facts: Mapping[str, Facts]) -> Iterator[Problem]:
    failed = {name: facts[f"engine:{name}"] for name in ENGINE_TARGETS if "problem" in facts.get(f"engine:{name}", {})}
    for name, answer in failed.items():
        targets = ", ".join(target for target in TARGETS if backend_of(target)[0] == name)
        message = f"engine cpu cannot run kernels for {targets}: {answer['problem']}"
        yield Problem(subject="engine cpu", message=message, blocks=len(failed) == len(ENGINE_TARGETS))


def _plugin_problems(known: Host, facts: Mapping[str, Facts]) -> Iterator[Problem]:
    """An installed plug-in that is broken stops every command that is not told to leave it out."""
    for index, plugin in enumerate(known.plugins):
        if "problem" in (answer := facts.get(f"plugin:{index}", {})):
            message = _of(f"plug-in {plugin.source}", answer)
            advice = "" if message.endswith(plugin.advice) else plugin.advice
            yield Problem(subject=f"plug-in {plugin.name}", message=message + advice, blocks=True)


def device_problem(known: Host, facts: Mapping[str, Facts]) -> str | None:
    """Why torch sees no GPU, where there is reason to think that it should. No GPU at all is no problem."""
    if reason := facts.get("devices", {}).get("problem"):
        return f"torch's question for GPUs failed: {reason}; engine cpu does not need them"
    build = str(facts.get("torch", {}).get("build", ""))
    if not build or facts.get("devices", {}).get("devices"):
        return None
    if build == "CPU":
        return _unused(known)
    hidden = [f"{name}={value}" for name, value in known.visible.items() if value.strip() in {"", "-1"}]
    if hidden:
        return f"{' and '.join(hidden)} hides all GPUs from torch"
    return _no_amd_device(known) if build.startswith("ROCm") else None


def _unused(known: Host) -> str | None:
    vendors = [
        name for name, here in (("AMD", known.device_files.kfd != "absent"), ("NVIDIA", known.device_files.nvidia)) if here
    ]
    if not vendors:
        return None
    build = {"AMD": "ROCm", "NVIDIA": "CUDA"}[vendors[0]]
    return f"there is an {vendors[0]} GPU here, but torch is built for CPUs: install a {build} build of torch to use it"


def _no_amd_device(known: Host) -> str | None:
    if known.device_files.kfd == "forbidden":
        return "/dev/kfd may not be opened: add this user to the groups render and video, or start the container with --group-add"
    if known.device_files.kfd == "absent" and known.machine.container:
        return f"torch is built for ROCm, and /dev/kfd is not in this container: start it with {_CONTAINER_OPTIONS}"
    if known.device_files.kfd == "absent":
        return "torch is built for ROCm, and /dev/kfd is missing: the driver amdgpu is not loaded, or there is no GPU"
    return "torch is built for ROCm, and sees no GPU although /dev/kfd is there: compare rocminfo"


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain data."""
    return {
        "schema": SCHEMA,
        "can_fuzz": diagnosis.obstacle is None,
        "problems": [dataclasses.asdict(problem) for problem in diagnosis.problems],
        **dataclasses.asdict(diagnosis.host),
        "torch": dict(diagnosis.facts.get("torch", {})),
        "triton": dict(diagnosis.facts.get("triton", {})),
        "cache": dict(diagnosis.facts.get("cache", {})),
        "families": dict(diagnosis.facts.get("families", {})),
        "plugins": [
            {**dataclasses.asdict(plugin), **diagnosis.facts.get(f"plugin:{index}", {})}
            for index, plugin in enumerate(diagnosis.host.plugins)
        ],
        "devices": diagnosis.facts.get("devices", {}).get("devices"),
        "engines": {"cpu": engine_cpu(diagnosis), "gpu": {"available": False}},
        "targets": diagnosis.of("target", *TARGETS),
    }


def engine_cpu(diagnosis: Diagnosis) -> dict[str, Any]:
    """`available`, and for which back ends the self-test `passed`."""
    asked = diagnosis.of("engine", *ENGINE_TARGETS)
    ready = "problem" not in diagnosis.facts.get("torch", {}) and "problem" not in diagnosis.facts.get("triton", {})
    passed = [name for name, facts in asked.items() if ready and "problem" not in facts]
    return {"available": bool(passed), "passed": passed}
