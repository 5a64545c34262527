"""Parts: the GPUs to compile for, each with its limits. Nothing here imports torch or Triton."""

from __future__ import annotations

from dataclasses import dataclass

from tridiff.harness.engines.spec import backend_of, check_target


@dataclass(frozen=True, kw_only=True)
class Part:
    """A GPU architecture.

    `name`: as in `--target`. `backend`, `arch`, `warp_size`: as Triton's GPUTarget takes them. `shared_bytes`: shared memory
    (LDS) that one program may have. `threads`: of one program, at most. `tensor_memory`: columns of tensor memory, 0 where the
    part has none.
    """

    name: str
    backend: str
    arch: str | int
    warp_size: int
    shared_bytes: int
    threads: int = 1024
    tensor_memory: int = 0


_SHARED_BYTES = {
    **dict.fromkeys(("gfx90a", "gfx942", "gfx1100", "gfx1200", "gfx1201"), 65536),
    **{"gfx950": 163840, "sm_80": 166912, "sm_90": 232448, "sm_100": 232448},
    **dict.fromkeys(("sm_86", "sm_89", "sm_120"), 101376),
}
_TENSOR_MEMORY = {"sm_100": 512}


def part(name: str) -> Part:
    """The part called `name`. Raises `UsageError` for an unknown one."""
    backend, arch, warp_size = backend_of(check_target(name))
    return Part(
        name=name,
        backend=backend,
        arch=arch,
        warp_size=warp_size,
        shared_bytes=_SHARED_BYTES[name],
        tensor_memory=_TENSOR_MEMORY.get(name, 0),
    )
