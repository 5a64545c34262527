"""What needs torch and Triton, section by section: run by `inquiry` in a process of its own.

Each section's facts are a line of JSON on the file descriptor that `main` is given, written as soon as they are known. The
sections that may hang or abort come last.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tridiff.harness import config
from tridiff.harness.announced import announced
from tridiff.harness.engines.spec import TARGETS, EngineSpec, UsageError, backend_of

Facts = dict[str, Any]
"""Plain data; the key "problem" says what is wrong, and is missing where nothing is."""

ENGINE_TARGETS = {"hip": "gfx942", "cuda": "sm_90"}
"""A target of each back end: the engine's self-test is one per back end."""

SECTIONS = (
    "torch",
    "triton",
    "cache",
    *(f"engine:{backend}" for backend in ENGINE_TARGETS),
    "families",
    *(f"target:{target}" for target in TARGETS),
    "devices",
)


def with_plugins(count: int) -> tuple[str, ...]:
    """`SECTIONS` and, for each of `count` installed plug-ins, `plugin:INDEX`."""
    return (*SECTIONS[:-1], *(f"plugin:{index}" for index in range(count)), SECTIONS[-1])


def needs(section: str) -> tuple[str, ...]:
    """The sections without which `section` cannot be answered."""
    kind = section.partition(":")[0]
    known = {"torch": (), "triton": (), "cache": ("triton",), "devices": ("torch",), "plugin": ("torch", "triton", "families")}
    return known.get(kind, ("torch", "triton"))


def torch_facts() -> Facts:
    """`version` and `build`, as far as torch can be imported."""
    return _package_facts("torch", lambda torch: {"build": build_of(torch)})


def build_of(torch: Any) -> str:
    """For what `torch` is built: "ROCm 6.4", "CUDA 12.8" or "CPU"."""
    hip, cuda = getattr(torch.version, "hip", None), getattr(torch.version, "cuda", None)
    return f"ROCm {hip}" if hip else f"CUDA {cuda}" if cuda else "CPU"


def triton_facts() -> Facts:
    """`version`, `distributions` that bring it (pytorch-triton-rocm, say) and `backends`, as far as it can be imported."""

    def more(_: Any) -> Facts:
        from triton.backends import backends  # noqa: PLC0415 - the package is known to be there

        return {"backends": sorted(backends)}

    distributions = sorted(set(importlib.metadata.packages_distributions().get("triton", [])))
    return {"distributions": distributions, **_package_facts("triton", more)}


def _package_facts(name: str, more: Callable[[Any], Facts]) -> Facts:
    problem = config.package_problem(name)
    module = config.imported(name)
    facts: Facts = {} if module is None else {"version": str(module.__version__), **more(module)}
    return facts if problem is None else {**facts, "problem": problem}


def cache_facts() -> Facts:
    """`folder` of compiled kernels, whether it is `used`, and its `free` bytes; a problem where it cannot be written."""
    from triton import knobs  # noqa: PLC0415 - likewise

    folder = Path(str(knobs.cache.dir))
    used = config.caches_ir() and not knobs.compilation.always_compile
    facts: Facts = {"folder": str(folder), "used": used}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return {**facts, "free": shutil.disk_usage(folder).free}
    except OSError as error:
        advice = "set TRITON_CACHE_DIR to a folder that can be; until then every process compiles all kernels again"
        return {**facts, "problem": f"{folder} cannot be written ({error.strerror}): {advice}"}


def engine_facts(backend: str) -> Facts:
    """Whether the engine `cpu` passes its self-test for a back end."""
    from tridiff.harness.engines.cpu.engine import CpuEngine  # noqa: PLC0415 - likewise

    CpuEngine(EngineSpec(target=ENGINE_TARGETS[backend]))
    return {}


def family_facts() -> Facts:
    """The names of all `ops` and `kernels`: that they can be imported is the last thing that fuzzing needs."""
    from tridiff.harness.registry import builtin  # noqa: PLC0415 - likewise

    registry = builtin()
    return {"ops": list(registry.ops), "kernels": list(registry.kernels)}


def plugin_facts(index: str) -> Facts:
    """The names of all `ops` and `kernels` that an installed plug-in brings besides the built-in ones and those before it."""
    from tridiff.harness.plugins import with_installed  # noqa: PLC0415 - likewise

    before = _registries()[-1]
    after = with_installed(before, announced()[int(index)])
    _registries().append(after)
    return {
        "ops": [name for name in after.ops if name not in before.ops],
        "kernels": [name for name in after.kernels if name not in before.kernels],
    }


@lru_cache(maxsize=1)
def _registries() -> list[Any]:
    """The built-in registry, and behind it one more for each plug-in that this process has added."""
    from tridiff.harness.registry import builtin  # noqa: PLC0415 - likewise

    return [builtin()]


def target_facts(target: str) -> Facts:
    """`code`: what Triton compiles a small kernel to (hsaco, cubin); `fp8`: by format, see `fp8.MEANING`."""
    import triton  # noqa: PLC0415 - likewise
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    from tridiff.harness.capture import backend_for  # noqa: PLC0415
    from tridiff.harness.doctor.fp8 import FORMATS, flavour  # noqa: PLC0415
    from tridiff.harness.engines.cpu.selftest_kernels import masked  # noqa: PLC0415
    from tridiff.harness.engines.cpu.target import RELEASE  # noqa: PLC0415

    gpu = GPUTarget(*backend_of(target))
    supported = backend_for(gpu).parse_options({}).supported_fp8_dtypes
    facts: Facts = {"fp8": {name: flavour(target, name, supported, RELEASE) for name in FORMATS}}
    signature = {"x": "*fp32", "out": "*fp32", "size": "i32", "block": "constexpr"}
    try:
        compiled = triton.compile(ASTSource(masked, signature, constexprs={"block": 8}), target=gpu)
    except Exception as error:  # noqa: BLE001 - a back end may raise anything
        return {**facts, "problem": summary(error)}
    return {**facts, "code": list(compiled.asm)[-1]}


def device_facts() -> Facts:
    """`devices` that torch sees: name, arch and memory in bytes of each."""
    import torch  # noqa: PLC0415 - likewise

    return {"devices": devices_of(torch)}


def devices_of(torch: Any) -> list[Facts]:
    """Torch's GPUs, by torch.cuda, which stands for HIP as well (PyTorch, "HIP (ROCm) semantics")."""
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [{"name": str(known.name), "arch": arch_of(known), "memory": int(known.total_memory)} for known in found]


def arch_of(properties: Any) -> str:
    """The architecture by the names of our targets: "gfx942" of gfx942:sramecc+:xnack- on ROCm, "sm_90" on CUDA."""
    name = str(getattr(properties, "gcnArchName", ""))  # CUDA builds have the field, and put the device's name there
    if name.startswith("gfx"):
        return name.partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def summary(error: BaseException) -> str:
    """The kind of `error` and its first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


_ANSWERS: dict[str, Callable[..., Facts]] = {
    "torch": torch_facts,
    "triton": triton_facts,
    "cache": cache_facts,
    "engine": engine_facts,
    "families": family_facts,
    "plugin": plugin_facts,
    "target": target_facts,
    "devices": device_facts,
}


def answer(section: str) -> Facts:
    """The facts of `section`; whatever is raised becomes its problem."""
    kind, _, argument = section.partition(":")
    try:
        return _ANSWERS[kind](*([argument] if argument else []))
    except UsageError as error:
        return {"problem": str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the doctor outlives every patient
        return {"problem": summary(error)}


def answers(sections: Iterable[str]) -> Iterable[tuple[str, Facts]]:
    """Each section with its facts; those that need one with a problem get none."""
    broken: set[str] = set()
    for section in sections:
        facts = {} if broken.intersection(needs(section)) else answer(section)
        if "problem" in facts:
            broken.add(section)
        yield section, facts


def main(descriptor: str, *sections: str) -> None:
    """Write the facts of `sections`, a line each, to the file descriptor."""
    config.one_blas_thread()
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as channel:
        for section, facts in answers(sections):
            print(json.dumps({"section": section, "facts": facts}), file=channel, flush=True)
