"""The table of parts: each GPU architecture with its limits, and a source beside each figure. Plain data.

Besides those of `BUILT_IN`, a process knows the parts that its user's settings add, for as long as they count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

NAME = r"(gfx[1-9][0-9]{1,2}[0-9a-f]|sm_[1-9][0-9]{1,2})"
"""What a part may be called: LLVM's name of an AMD processor, or `sm_` and a compute capability without letters."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A GPU architecture.

    `name`: as in `--target`; `backend`, `arch` and `warp_size` follow from it. `shared_bytes`: shared memory (LDS) that one
    program may have. `threads`: of one program, at most. `tensor_memory`: columns of tensor memory, 0 where the part has none.
    `device`: a typical GPU of this architecture. `processors`: its compute units or SMs, as its driver counts them in
    `multiProcessorCount`; 0 where nobody has said. `sources`: where each of these figures is from.
    """

    name: str
    shared_bytes: int
    threads: int = 1024
    tensor_memory: int = 0
    device: str = ""
    processors: int = 0
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def backend(self) -> str:
        """Triton's, 'hip' or 'cuda'."""
        return backend_of(self.name)[0]

    @property
    def arch(self) -> str | int:
        """As Triton's GPUTarget takes it: 'gfx942', or 90 for sm_90."""
        return backend_of(self.name)[1]

    @property
    def warp_size(self) -> int:
        """Threads of a warp, or lanes of a wavefront."""
        return backend_of(self.name)[2]

    @property
    def capability(self) -> tuple[int, int]:
        """(major, minor) as the driver says: (9, 0) for sm_90, (9, 4) for gfx942, (12, 0) for gfx1201.

        The last digit of an AMD name is the stepping, the one before it the minor version (LLVM, "User Guide for AMDGPU Backend",
        Processors).
        """
        digits = self.name.removeprefix("sm_") if self.backend == "cuda" else self.name.removeprefix("gfx")[:-1]
        return int(digits[:-1]), int(digits[-1])


def name_of(backend: str, arch: str | int) -> str:
    """The name of the part that Triton's GPUTarget calls by `backend` and `arch`."""
    return f"sm_{arch}" if backend == "cuda" else str(arch)


def backend_of(target: str) -> tuple[str, str | int, int]:
    """(backend, arch, warp size) as Triton's GPUTarget takes them.

    CDNA parts (gfx9) run wavefronts of 64 lanes, RDNA parts (gfx10 and later) of 32, NVIDIA warps of 32.
    """
    if target.startswith("sm_"):
        return "cuda", int(target.removeprefix("sm_")), 32
    return "hip", target, 64 if re.match(r"gfx9", target) else 32


_LDS = "LLVM, GCNProcessors.td and AMDGPU.td: FeatureAddressableLocalMemorySize65536, LDS of one workgroup"
_LDS_RDNA = f"{_LDS}; a WGP has 128 KiB, shared by its two CUs (AMD, RDNA3 and RDNA4 ISA, LDS)"
_LDS_950 = "LLVM, FeatureAddressableLocalMemorySize163840, test extra-lds-size-gfx950; AMD, CDNA4 white paper: 160 KB"
_WORKGROUP = "rocminfo on this architecture: Workgroup Max Size 1024"
_BLOCK = "CUDA C++ Programming Guide, Technical Specifications per Compute Capability: 1024"
_SPECIFICATIONS = "ROCm documentation, AMD GPU specifications"
_WGP = "the driver counts WGPs, half as many (ROCm/hip issue 3198)"
_TRACES = "a driver's answer in traces of torch's profiler"
_NO_COLUMNS = "tensor memory belongs to tcgen05 (PTX ISA), which only sm_10x and sm_11x parts have"


def _amd(name: str, shared_bytes: int, shared: str, device: str, processors: int, counted: str) -> Part:
    return Part(
        name=name,
        shared_bytes=shared_bytes,
        device=device,
        processors=processors,
        sources={
            "shared_bytes": shared,
            "threads": _WORKGROUP,
            "tensor_memory": "AMD parts have none",
            "processors": counted,
        },
    )


def _nvidia(
    name: str,
    shared_bytes: int,
    shared: str,
    device: str,
    processors: int,
    counted: str,
    *,
    tensor_memory: int = 0,
    columns: str = _NO_COLUMNS,
) -> Part:
    return Part(
        name=name,
        shared_bytes=shared_bytes,
        tensor_memory=tensor_memory,
        device=device,
        processors=processors,
        sources={
            "shared_bytes": shared,
            "threads": _BLOCK,
            "tensor_memory": columns,
            "processors": counted,
        },
    )


BUILT_IN: Mapping[str, Part] = {
    part.name: part
    for part in (
        _amd(
            "gfx90a",
            65536,
            _LDS,
            "AMD Instinct MI210",
            104,
            f"{_SPECIFICATIONS}: 104 CUs, as rocminfo says of a die of the MI250",
        ),
        _amd("gfx942", 65536, _LDS, "AMD Instinct MI300X", 304, f"{_SPECIFICATIONS}: 304 CUs"),
        _amd("gfx950", 163840, _LDS_950, "AMD Instinct MI355X", 256, f"{_SPECIFICATIONS}: 256 CUs"),
        _amd(
            "gfx1100",
            65536,
            _LDS_RDNA,
            "AMD Radeon RX 7900 XTX",
            48,
            f"{_SPECIFICATIONS}: 96 CUs; {_WGP}; torch says 48 (ROCm issue 5040)",
        ),
        _amd("gfx1200", 65536, _LDS_RDNA, "AMD Radeon RX 9060 XT", 16, f"{_SPECIFICATIONS}: 32 CUs; {_WGP}"),
        _amd("gfx1201", 65536, _LDS_RDNA, "AMD Radeon RX 9070 XT", 32, f"{_SPECIFICATIONS}: 64 CUs; {_WGP}"),
        _nvidia(
            "sm_80",
            166912,
            f"Ampere Tuning Guide, Occupancy: 163 KB per block; {_TRACES}",
            "NVIDIA A100-SXM4-80GB",
            108,
            f"A100 white paper: 108 SMs; {_TRACES}",
        ),
        _nvidia(
            "sm_86",
            101376,
            "Ampere Tuning Guide, Occupancy: 99 KB per block",
            "NVIDIA A10",
            72,
            "A10 data sheet: 9216 CUDA cores, 128 of them an SM",
        ),
        _nvidia(
            "sm_89",
            101376,
            f"Ada Tuning Guide, Occupancy: 99 KB per block; {_TRACES}",
            "NVIDIA L40S",
            142,
            "L40S data sheet: 18176 CUDA cores, 128 of them an SM",
        ),
        _nvidia(
            "sm_90",
            232448,
            f"Hopper Tuning Guide, Occupancy: 227 KB per block; {_TRACES}",
            "NVIDIA H100 80GB HBM3",
            132,
            f"H100 white paper: 132 SMs (SXM5); {_TRACES}",
        ),
        _nvidia(
            "sm_100",
            232448,
            "Blackwell Tuning Guide, Occupancy: 227 KB per block",
            "NVIDIA B200",
            148,
            "TileFoundry, pull request 76: 148 SMs; the same in a B300's trace of torch's profiler",
            tensor_memory=512,
            columns="PTX ISA, Tensor Memory: 512 columns of 128 lanes; Triton, compiler.py: max_tmem_size",
        ),
        _nvidia(
            "sm_120",
            101376,
            "Blackwell Tuning Guide, Occupancy: 99 KB per block",
            "NVIDIA GeForce RTX 5090",
            170,
            "deviceQuery on that GPU: 170 multiprocessors",
        ),
    )
}
"""By name: CDNA, RDNA, then NVIDIA, each from the oldest."""

_added: dict[str, Part] = {}


def known() -> Mapping[str, Part]:
    """All parts by name: the built-in ones, with those that were added, or put in their place."""
    return {**BUILT_IN, **_added}


def added() -> tuple[Part, ...]:
    """What this process knows besides, or in place of, the built-in parts."""
    return tuple(_added.values())


def add(parts: Iterable[Part]) -> None:
    """Know `parts` as well, each in place of one of its name, until the `scope` ends within which this is called, if any."""
    _added.update({part.name: part for part in parts})


@contextmanager
def scope() -> Iterator[None]:
    """Parts that are added within this context are known no longer than it lasts."""
    before = dict(_added)
    try:
        yield
    finally:
        _added.clear()
        _added.update(before)
