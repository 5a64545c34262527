"""What the IR of a specialisation depends on, as one digest: the key under which its text is kept on disk.

Triton's own `JITFunction.cache_key` does not suffice (3.6 to 3.9): of the globals that a kernel reads it holds `constexpr`
values only, not dtypes, named tuples or plain numbers, and none that are reached through a module (`config.BLOCK`); it
holds no default values of helpers' parameters, no file names and no columns, which the locations print. So we look
ourselves at every name in the source of a function and of all that it calls. A name that only happens to equal a global's
costs a needless rebuild when that changes; a value of a kind that we do not know makes the specialisation `Unkeyable`.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton._C import libtriton
from triton.runtime.jit import JITFunction

from tridiff.harness.capture import Specialisation

_TRITON = ("triton.", "_frozen_importlib")
_COMPILER_PARTS = ("__init__.py", "_utils.py", "knobs.py", "runtime", "compiler", "language", "backends")
_END = 1 << 16


class Unkeyable(TypeError):
    """The IR depends on a value that we cannot tell from its like in another process."""


def key_of(specialisation: Specialisation) -> str:
    """A digest of all that the IR text of `specialisation` depends on, apart from `build`. Raises `Unkeyable`."""
    parts = [*_parts(specialisation), _value(specialisation.target.__dict__), _value(vars(specialisation.options))]
    return digest("\n".join(parts))


def key_of_front(specialisation: Specialisation, functions: Mapping[str, Any]) -> str:
    """Likewise of what the front end makes of it, but for the target and the options. Raises `Unkeyable`.

    `functions`: those of the back end that the front end may call. One with variables of its own may know the target.
    """
    for name, function in functions.items():
        closed = getattr(function, "__closure__", None) is not None
        if closed and getattr(inspect.getmodule(function), getattr(function, "__name__", ""), None) is not function:
            raise Unkeyable(f"the back end's function {name}, which may know the target")
    named = [f"{name}={function.__module__}.{function.__qualname__}" for name, function in functions.items()]
    return digest("\n".join([*_parts(specialisation), "front end", specialisation.target.backend, *named]))


def value_of(value: Any) -> str:
    """A text that tells an option from any other. Raises `Unkeyable`."""
    return _value(value)


def _parts(specialisation: Specialisation) -> list[str]:
    function = specialisation.function
    if knobs.runtime.add_stages_inspection_hook is not None:
        raise Unkeyable("a hook that changes Triton's passes")
    return [
        _functions(function),
        _value(specialisation.signature),
        _value(specialisation.constants),
        _value(specialisation.attributes),
        _value(_symbol(function, specialisation)),
        _value(_knobs()),
    ]


def digest(text: str | bytes) -> str:
    """32 hexadecimal digits."""
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=16).hexdigest()


@lru_cache(maxsize=1)
def build() -> str:
    """A digest of the installed Triton: two builds of one version may print other IR.

    Cheap (about 3 ms): names, sizes and times of its Python files; size, time and both ends of the library, where the linker
    puts its build id and its section table.
    """
    root = Path(str(triton.__file__)).parent
    library = Path(str(libtriton.__file__))
    files = sorted(_python_files(str(root), _COMPILER_PARTS))
    return digest(f"{triton.__version__}{platform.python_version()}{files}{_stat(library)}{_ends(library)}")


def _python_files(folder: str, parts: tuple[str, ...] = ()) -> Iterator[tuple[str, int, int]]:
    """(path, size, time) of the Python files below `folder`, at its top those named by `parts` alone."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if parts and entry.name not in parts:
                continue
            if entry.name.endswith(".py"):
                known = entry.stat()
                yield entry.path, known.st_size, known.st_mtime_ns
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _python_files(entry.path)


def _stat(file: Path) -> tuple[int, int]:
    known = file.stat()
    return known.st_size, known.st_mtime_ns


def _ends(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(_END)
        stream.seek(-min(_END, file.stat().st_size), 2)
        return digest(head + stream.read())


def _symbol(function: Any, specialisation: Specialisation) -> str:
    """The kernel's name in the IR, which `triton.jit(repr=...)` may compute from its constants."""
    if function._repr is None:
        return str(function._fn_name)
    leaves = {function.arg_names[path[0]]: value for path, value in specialisation.constants.items() if len(path) == 1}
    return str(function.repr(_Proxy(leaves, specialisation.signature)))


class _Proxy:
    """What Triton hands to a kernel's `repr`."""

    def __init__(self, constants: Mapping[str, Any], signature: Mapping[str, str]) -> None:
        self.constants = constants
        self.signature = signature


def _knobs() -> dict[str, Any]:
    """Triton's settings, set by environment or by program, of the groups that the front end and the TTIR passes read."""
    groups = (knobs.compilation, knobs.language, knobs.amd)
    settings = {name: getattr(group, name) for group in groups for name in group.knob_descriptors}
    plain = ("instrumentation_mode",)  # read once, so no descriptor
    settings.update({name: getattr(knobs.compilation, name, None) for name in plain})
    settings["override_arch"] = knobs.runtime.override_arch
    settings.update(libtriton.get_cache_invalidating_env_vars())
    return settings


# Functions ------------------------------------------------------------------------------------------------------------


def called(specialisation: Specialisation) -> list[JITFunction]:
    """The kernel and, in the order met, the jit functions that it may call, by name or as a constant; none of Triton's own."""
    constants = [value for value in specialisation.constants.values() if isinstance(value, JITFunction)]
    pending: list[Any] = [specialisation.function, *constants]
    known: dict[int, Any] = {}
    while pending:
        function = pending.pop(0)
        if id(function) not in known and isinstance(function, JITFunction) and not _within_triton(function):
            known[id(function)] = function
            _, names = _source(function)
            pending += [value for _, value in _named(function, names)]
    return list(known.values())


def _functions(kernel: JITFunction) -> str:
    """The kernel and, in the order met, all that it calls, with the values of all globals named in their sources."""
    pending, seen, parts = [kernel], {id(kernel)}, []
    while pending:
        function = pending.pop(0)
        own, names = _source(function)
        parts.append(own)
        for label, value in _named(function, names):
            if isinstance(value, FunctionType) and type(function) is not JITFunction and not _within_triton(value):
                raise Unkeyable(f"{label}, a Python function that {function._fn_name} may run")
            if _is_callable_of_triton(value):
                parts.append(f"{label} calls {value._fn_name}")
                if id(value) not in seen and not _within_triton(value):
                    seen.add(id(value))
                    pending.append(value)
            else:
                parts.append(f"{label}={_value(value)}")
    return "\n".join(parts)


_sources: dict[int, tuple[Any, str, str, frozenset[str]]] = {}


def _source(function: Any) -> tuple[str, frozenset[str]]:
    """A description of the function itself, and every identifier in its source; worked out once, as source does not change."""
    known = _sources.get(id(function))
    if known is None or known[0] is not function or known[1] != function.src:
        own = _own(function)
        names = frozenset(_identifiers(function.src))
        known = _sources[id(function)] = (function, function.src, own, names)
    return known[2], known[3]


def _own(function: Any) -> str:
    place = (function.fn.__code__.co_filename, function.starting_line_number)
    flags = (getattr(function, "noinline", None), getattr(function, "debug", None), getattr(function, "do_not_specialize", None))
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function.fn).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return repr(
        (function._fn_name, place, type(function).__name__, function.raw_src, function.src, _value(flags), _value(defaults))
    )


def _identifiers(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _named(function: Any, names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """(label, value) of the globals and enclosing variables that `names` may mean, and of such members of modules among them."""
    scope = function.get_capture_scope()
    pending = [(name, scope[name]) for name in sorted(names) if name in scope]
    modules: set[int] = set()
    while pending:
        label, value = pending.pop(0)
        if not isinstance(value, ModuleType):
            yield label, value
        elif id(value) not in modules and not f"{value.__name__}.".startswith(_TRITON):
            modules.add(id(value))
            members = vars(value)
            pending += [(f"{label}.{name}", members[name]) for name in sorted(names) if name in members]


def _is_callable_of_triton(value: Any) -> bool:
    """A jit function or a constexpr function."""
    return hasattr(value, "cache_key") and hasattr(value, "_fn_name")


def _within_triton(value: Any) -> bool:
    """Whether `value` is a part of Triton, for which `build` answers."""
    return f"{getattr(value, '__module__', None) or ''}.".startswith(_TRITON)


# Values ---------------------------------------------------------------------------------------------------------------

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)


def _value(value: Any) -> str:
    """A text equal for equal values and, across processes, for no others. Raises `Unkeyable`."""
    if isinstance(value, _PLAIN) and not isinstance(value, Enum):
        return f"{type(value).__name__}:{value!r}"
    if _is_callable_of_triton(value):
        return f"jit {_functions(value)}"
    for kinds, describe in _DESCRIBED:
        if isinstance(value, kinds):
            return describe(value)
    if _within_triton(value) and getattr(value, "__triton_builtin__", False):
        return f"builtin {value.__name__}"
    raise Unkeyable(f"a value of {type(value).__module__}.{type(value).__qualname__}")


def _mapping(value: Mapping[Any, Any]) -> str:
    return "{" + ",".join(sorted(f"{_value(name)}:{_value(item)}" for name, item in value.items())) + "}"


def _sequence(value: Any) -> str:
    kind = type(value)
    fields = getattr(kind, "_fields", ())
    return f"{kind.__qualname__}{fields}({','.join(_value(item) for item in value)})"


def _set(value: Any) -> str:
    return f"{type(value).__name__}({','.join(sorted(_value(item) for item in value))})"


def _type(value: type) -> str:
    """Types of Python and of Triton, and named tuples; others may carry code that runs when a kernel is compiled."""
    fields = getattr(value, "_fields", None)
    if fields is None and value.__module__ != "builtins" and not _within_triton(value):
        raise Unkeyable(f"the class {value.__module__}.{value.__qualname__}")
    return f"type {value.__module__}.{value.__qualname__} {fields} {_value(getattr(value, '_field_defaults', None))}"


def _python(value: FunctionType) -> str:
    """A plain function: Triton refuses to call it, unless it is its own, so its code says enough."""
    if _within_triton(value):
        return f"function {value.__module__}.{value.__qualname__}"
    return f"function {value.__module__}.{value.__qualname__} {_code(value.__code__)}"


def _code(code: CodeType) -> str:
    constants = [_code(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return repr((code.co_filename, code.co_firstlineno, code.co_code, code.co_names, constants))


_DESCRIBED: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (tl.constexpr, lambda value: f"constexpr({_value(value.value)})"),
    (tl.dtype, lambda value: f"dtype {value!r}"),
    (Enum, lambda value: f"{type(value).__qualname__}.{value.name}={_value(value.value)}"),
    (Mapping, _mapping),
    ((tuple, list), _sequence),
    ((set, frozenset), _set),
    (type, _type),
    (ModuleType, lambda value: f"module {value.__name__}"),
    (BuiltinFunctionType, lambda value: f"function {value.__module__}.{value.__qualname__}"),
    (FunctionType, _python),
)
