"""Shared memory of a captured launch, in bytes, as Triton 3.7 allocates it; without generating code for the GPU."""

from __future__ import annotations

from typing import Any

from triton._C.libtriton import amd, ir, nvidia, passes
from triton.compiler import ASTSource

from tridiff.harness.capture import Specialisation, backend_for

PTX_VERSION = 83
"""Any that knows the GPU: what is allocated does not depend on it."""


def shared_bytes(specialisation: Specialisation) -> int:
    """What Triton's passes to TTGIR, and the first ones behind it, allocate for a program."""
    backend, options = backend_for(specialisation.target), specialisation.options
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source = ASTSource(specialisation.function, specialisation.signature, specialisation.constants, specialisation.attributes)
    functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
    module: Any = source.make_ir(specialisation.target, options, functions, modules, context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    for stage in ("ttir", "ttgir"):
        module = stages[stage](module, {})
    manager = ir.pass_manager(context)
    passes.convert.add_scf_to_cf(manager)
    passes.gluon.add_inliner(manager)
    if specialisation.target.backend == "hip":
        amd.passes.ttgpuir.add_allocate_shared_memory(manager)
    else:
        nvidia.passes.ttgpuir.add_allocate_shared_memory_nv(manager, specialisation.target.arch, PTX_VERSION)
    manager.run(module, "allocate")
    return int(module.get_int_attr("ttg.shared"))
