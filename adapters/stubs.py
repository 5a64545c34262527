"""Stubs: stand-ins for the modules that kernel files of other projects ask for their platform, a logger, Triton.

All of them are here. One answers just what the kernels of the adapters ask, from what the process pretends to be, and raises for
anything else: an invented answer would test a kernel that nobody has.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from tridiff.harness.engines.spec import UsageError

if TYPE_CHECKING:
    from tridiff.adapters.packages import Package


class Stub(ModuleType):
    """A stand-in for the module `name` of `package`, with `answers` by name."""

    def __init__(self, name: str, package: Package, answers: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(answers, _package=package)

    def __getattr__(self, name: str) -> Any:
        raise _unknown(self.__dict__["_package"], self.__name__, name)


class Answers:
    """A stand-in for the object `what` of `package`, with `answers` by name."""

    def __init__(self, what: str, package: Package, answers: Mapping[str, Any]) -> None:
        self.__dict__.update(answers, _what=what, _package=package)

    def __getattr__(self, name: str) -> Any:
        raise _unknown(self.__dict__["_package"], self.__dict__["_what"], name)


def _unknown(package: Package, what: str, name: str) -> Exception:
    """What is raised for a question without an answer. The import system, `inspect` and `copy` ask for dunder names."""
    if name.startswith("__"):
        return AttributeError(name)
    return UsageError(f"{package} asks {what} for {name}, which the adapter has no stand-in for: update tridiff")


def is_hip() -> bool:
    """Whether the process is, or pretends to be, one with a GPU of AMD."""
    return torch.version.hip is not None


def architecture() -> str:
    """The GPU's architecture on HIP, "gfx942" say, without the features behind the colon."""
    name: str = torch.cuda.get_device_properties(torch.cuda.current_device()).gcnArchName
    return name.partition(":")[0]


def vllm(package: Package) -> dict[str, Stub]:
    """For vLLM: its platform, what it makes of names of cache dtypes, its logger, Triton.

    Of its compiled operators there are none, and so no native kernel: `use_rocm_custom_paged_attention` says no, and its driver
    then launches the Triton kernel, as on GPUs for which there is no native one.
    """
    platform = {
        "is_rocm": is_hip,
        "is_cuda": lambda: not is_hip(),
        "is_cuda_alike": lambda: True,
        "is_xpu": lambda: False,
        "fp8_dtype": vllm_fp8_dtype,
        "is_fp8_fnuz": lambda: vllm_fp8_dtype() == torch.float8_e4m3fnuz,
        "get_device_capability": torch.cuda.get_device_capability,
        "has_device_capability": _vllm_has_capability,
    }
    logger = Answers("a logger of vllm.logger", package, {"warning_once": lambda *_: None})
    stubs: dict[str, dict[str, Any]] = {
        "vllm._custom_ops": {},
        "vllm.logger": {"init_logger": lambda _name: logger},
        "vllm.model_executor.layers.quantization.utils.quant_utils": {
            "FP8_DTYPE": vllm_fp8_dtype(),  # asked once, when it is imported, as upstream does
            "get_fp8_min_max": _vllm_fp8_range,
        },
        "vllm.platforms": {"current_platform": Answers("vllm.platforms.current_platform", package, platform)},
        "vllm.platforms.rocm": {"use_rocm_custom_paged_attention": lambda *_: False},
        "vllm.triton_utils": {"triton": triton, "tl": tl, "HAS_TRITON": True},
        "vllm.v1.kv_cache_interface": {
            "KVQuantMode": VllmQuantMode,
            "is_quantized_kv_cache": lambda name: name.startswith("fp8"),
        },
    }
    return {name: Stub(name, package, answers) for name, answers in stubs.items()}


class VllmQuantMode(IntEnum):
    """Of vLLM's `KVQuantMode` what a writer with a scale per token and head tells apart."""

    INT8_PER_TOKEN_HEAD = 2
    FP8_PER_TOKEN_HEAD = 3
    INT4_PER_TOKEN_HEAD = 4


def vllm_fp8_dtype() -> torch.dtype:
    """What vLLM calls the platform's preferred FP8 type: fnuz on gfx94x alone (vllm/platforms/rocm.py)."""
    return torch.float8_e4m3fnuz if is_hip() and architecture().startswith("gfx94") else torch.float8_e4m3fn


def _vllm_fp8_range() -> tuple[float, float]:
    """The range that vLLM quantises to: 224 of fnuz, whose largest number is 240; else all of it (quant_utils.py)."""
    largest = 224.0 if vllm_fp8_dtype() == torch.float8_e4m3fnuz else torch.finfo(vllm_fp8_dtype()).max
    return -largest, largest


def _vllm_has_capability(least: int) -> bool:
    """Whether the GPU has compute capability `least`, 89 for 8.9; gfx942 counts as 9.4."""
    return torch.cuda.get_device_capability() >= divmod(least, 10)


def sglang(package: Package) -> dict[str, Stub]:
    """For SGLang: `sglang.srt.utils`, `sglang.srt.environ` with the release's default switches, and more for cache writers.

    These ask whether the GPU launches kernels in dependence on each other, as none does here, and whether there is Triton.
    """
    switches = {"SGLANG_MLA_DECODE_TUNE": False, "SGLANG_FORCE_LEAN_GRID_CU_MULT": 1.0}
    utils = {
        "is_hip": is_hip,
        "is_gfx95_supported": lambda: is_hip() and architecture().startswith("gfx95"),
        "is_gfx1250_supported": lambda: is_hip() and architecture() == "gfx1250",
        "get_device_core_count": lambda device=0: torch.cuda.get_device_properties(device).multi_processor_count,
    }
    envs = Answers("sglang.srt.environ.envs", package, {name: _Default(value) for name, value in switches.items()})
    capabilities = Answers("sglang.srt.platforms.current_platform.capabilities", package, {"supports_triton": True})
    platform = Answers("sglang.srt.platforms.current_platform", package, {"capabilities": capabilities})
    stubs: dict[str, dict[str, Any]] = {
        "sglang.srt.environ": {"envs": envs},
        "sglang.srt.utils": utils,
        "sglang.srt.platforms": {"current_platform": platform},
        "sglang.srt.runtime_context": {"get_parallel": lambda: Answers("sglang's parallel state", package, {})},
        "sglang.kernels.jit.utils": {"is_arch_support_pdl": lambda: False},
        "sglang.kernels.ops.kvcache.set_mla_kv_buffer": {
            "can_use_set_mla_kv_buffer": lambda *_: False,
            "set_mla_kv_buffer": None,
        },
    }
    return {name: Stub(name, package, answers) for name, answers in stubs.items()}


class _Default:
    """A switch that nobody set: `get()` is its default."""

    def __init__(self, value: object) -> None:
        self._value = value

    def get(self) -> object:
        """The default."""
        return self._value


def amd_aiter(_package: Package) -> dict[str, Stub]:
    """For AITER: nothing. What its Triton kernels ask, they ask Triton and torch."""
    return {}
