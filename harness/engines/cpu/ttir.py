"""From a captured specialisation to a compiled function: Triton's front end, its TTIR passes, our parser and compiler."""

from __future__ import annotations

import re
import tempfile
from pathlib import PurePath
from typing import Any

import triton
from triton._C.libtriton import ir
from triton.compiler import ASTSource, CompilationError

from tridiff.harness.capture import Specialisation, backend_for, is_rewritten
from tridiff.harness.engines.cpu import (
    control,
    front,
    ops_arith,
    ops_atomic,
    ops_convert,
    ops_descriptor,
    ops_dot,
    ops_effects,
    ops_math,
    ops_memory,
    ops_reduce,
    ops_tensor,
)
from tridiff.harness.engines.cpu.cache import cached
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.fingerprint import key_of
from tridiff.harness.engines.cpu.mlir import ParseError, parse
from tridiff.harness.engines.cpu.program import Compiler, Function
from tridiff.harness.engines.cpu.target import Target

BUILDERS = {
    **ops_arith.BUILDERS,
    **ops_convert.BUILDERS,
    **ops_dot.BUILDERS,
    **ops_tensor.BUILDERS,
    **ops_memory.BUILDERS,
    **ops_reduce.BUILDERS,
    **ops_atomic.BUILDERS,
    **ops_descriptor.BUILDERS,
    **ops_effects.BUILDERS,
    **ops_math.BUILDERS,
    **control.BUILDERS,
}
_PLACE = re.compile(r" loc\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|^#loc\d* = .*$", re.MULTILINE)
_MARK = re.compile(r"\{tridiff(?:, )?(.*\} : \(\) -> \(\))")
SUPPORTED = "3.6 to 3.9"
"""The versions of Triton that the tests run with."""


class FrontEndDrift(RuntimeError):
    """The installed Triton does not print its IR in the form that we parse."""


def compiled(specialisation: Specialisation) -> Function:
    """The function of `specialisation`, compiled once per process.

    Raises `KernelError` (check `launch`) when Triton refuses the kernel, `UnsupportedOperation` for what the executor does
    not implement, `FrontEndDrift` when the IR cannot be read.
    """
    memo = specialisation.memo
    if "function" not in memo:
        text = memo.pop("text", None) or generic_text(specialisation)
        memo["function"] = _function(text, Target.of(specialisation.target, text))
    function: Function = memo["function"]
    return function


def _function(text: str, target: Target | None = None) -> Function:
    try:
        return Compiler(BUILDERS, target or Target()).function(parse(text))
    except (ParseError, LookupError, TypeError, ValueError) as error:  # not our syntax, or a property missing or changed
        reason = f"{type(error).__name__}: {error}"
        message = f"triton {triton.__version__} prints IR that tridiff cannot read ({reason}); supported: {SUPPORTED}"
        raise FrontEndDrift(message) from error


def generic_text(specialisation: Specialisation, *, shared: bool = False) -> str:
    """TTIR in MLIR's generic form, after Triton's own TTIR passes for the target; from the cache on disk, if it is there.

    A kernel that Triton refuses is not remembered: it is asked again each time. `shared`: what the front end makes is looked
    for among that of other targets, and kept for them; it takes a third longer where none of it is there.
    """
    if is_rewritten():  # a mutant, seldom met again: of those there are thousands
        return built_text(specialisation, shared=shared)
    return cached(lambda: key_of(specialisation), lambda: built_text(specialisation, shared=shared))


def without_places(text: str) -> str:
    """IR without its locations: two texts that are equal then are the same program."""
    return _PLACE.sub("", text)


def built_text(specialisation: Specialisation, *, shared: bool = False) -> str:
    """`generic_text`, made by Triton's front end."""
    backend = backend_for(specialisation.target)
    source = ASTSource(specialisation.function, specialisation.signature, specialisation.constants, specialisation.attributes)
    context = loaded_context(backend)

    def front_end(options: Any) -> Any:
        return _front_end(source, specialisation, backend, context, options)

    if shared:
        module = parsed_module(front.text(specialisation, backend, lambda options: printed(front_end(options))), context)
    else:
        module = front_end(specialisation.options)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, specialisation.options, source.language)
    try:
        module = stages["ttir"](module, {})
    except RuntimeError as error:
        message = f"Triton's TTIR passes failed: {_first_line(error)}"
        raise KernelError("launch", message, subject=message) from error
    return printed(module)


def loaded_context(backend: Any) -> Any:
    """MLIR's context with Triton's dialects and the back end's."""
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    return context


def printed(module: Any) -> str:
    """A module of Triton's in MLIR's generic form."""
    # An attribute outside any dialect fails verification, on which the printer falls back to the generic form.
    module.set_attr("tridiff", ir.builder(module.context).get_unit_attr())
    text: str = module.str()
    return text


def parsed_module(text: str, context: Any) -> Any:
    """The module of a text that `printed` returned, without the attribute."""
    start = text.rindex("\n})")
    plain = text[:start] + _MARK.sub(lambda match: f"{{{match[1]}", text[start:], count=1)
    with tempfile.NamedTemporaryFile("w", suffix=".ttir", encoding="utf-8") as file:  # Triton parses files alone
        file.write(plain)
        file.flush()
        module = ir.parse_mlir_module(file.name, context)
    module.context = context  # as Triton does: the module must not outlive it
    return module


def _front_end(source: Any, specialisation: Specialisation, backend: Any, context: Any, options: Any) -> Any:
    """Triton's front end. `options`: the specialisation's, or what stands for them."""
    functions, modules = backend.get_codegen_implementation(specialisation.options), backend.get_module_map()
    try:
        return source.make_ir(specialisation.target, options, functions, modules, context)
    except CompilationError as error:
        reason = _reason(error)
        raise KernelError("launch", f"Triton refuses the kernel: {reason}", _line(error, specialisation), reason) from error


def _reason(error: BaseException) -> str:
    """The innermost explanation of a chain of compilation errors."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    message = getattr(error, "error_message", None) or str(error)
    return f"{type(error).__name__}: {_first_line(message)}"


def _first_line(message: object) -> str:
    lines = [line for line in str(message).splitlines() if line.strip()]
    return lines[0].strip() if lines else "no message"


def _line(error: Any, specialisation: Specialisation) -> str | None:
    node = getattr(error, "node", None)
    function = specialisation.function
    if node is None or not hasattr(node, "lineno"):
        return None
    # Triton numbers lines from the `def`, below the decorators.
    decorators = next((at for at, text in enumerate(function.raw_src) if text.strip().startswith("def ")), 0)
    name = PurePath(function.fn.__code__.co_filename).name
    return f"{name}:{function.starting_line_number + decorators + node.lineno - 1}"
