"""Plug-ins: Ops, Kernels and Faults of other people.

A plug-in is a module with a function `register(registry)`. It is given by the path of a Python file or by its dotted name, or
an installed distribution announces it under the entry-point group `tridiff.plugins`; "no:NAME" leaves an announced one out.
All are registered as the built-in families are. One that cannot be loaded stops the run: without the kernels that it was to
judge, the run would pass.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType

from tridiff.harness import registry as registries
from tridiff.harness.announced import LEFT_OUT, Announced, announced
from tridiff.harness.blame import described
from tridiff.harness.capture import targeting
from tridiff.harness.declarations import is_absent
from tridiff.harness.engines.spec import DEFAULT_TARGET, UsageError, nearest
from tridiff.harness.loading import executed
from tridiff.harness.registry import Registry

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def load(plugins: Sequence[str] = (), *, target: str = DEFAULT_TARGET) -> Registry:
    """The built-in families, then the installed plug-ins, then those named in `plugins`, in order; each module once.

    `plugins`: paths of files, dotted names of modules, and "no:NAME" for what is installed and to be left out. Modules that
    ask Triton for the current device while they are imported are told `target`; they are imported once a process. The
    folder of a file, for a dotted name the current one, is added to the end of `sys.path`.

    Raises `UsageError` with one line for a plug-in that cannot be found, imported or registered.
    """
    registry = registries.builtin().copy(plugins=plugins, target=target)
    registered: set[str] = set()
    with targeting(target):
        for plugin in [*_announced(plugins), *_named(plugins)]:
            _add(registry, plugin, registered)
    return registry


def with_installed(registry: Registry, plugin: Announced) -> Registry:
    """`registry` and what an installed plug-in brings, for who wants to know of each whether it is broken.

    Raises `UsageError` as `load` does.
    """
    extended = registry.copy(plugins=registry.plugins, target=registry.target)
    with targeting(registry.target):
        _add(extended, _installed(plugin), set())
    return extended


@lru_cache(maxsize=8)
def loaded(plugins: tuple[str, ...], target: str) -> Registry:
    """What `load` gives, once a process; not to be changed."""
    return load(plugins, target=target)


@dataclass(frozen=True)
class _Plugin:
    """`source`: what its user calls it. `module`: imports it. `advice`: what to do where it is broken."""

    source: str
    module: Callable[[], ModuleType]
    advice: str = ""


def _add(registry: Registry, plugin: _Plugin, registered: set[str]) -> None:
    try:
        module = plugin.module()
        if module.__name__ not in registered:
            _register(registry, plugin.source, module)
        registered.add(module.__name__)
    except UsageError as error:
        raise UsageError(f"plug-in {plugin.source}: {error}{plugin.advice}") from error


def _named(plugins: Sequence[str]) -> Iterator[_Plugin]:
    for name in plugins:
        if not name.startswith(LEFT_OUT):
            is_file = name.endswith(".py") or os.sep in name or Path(name).is_file()
            yield _Plugin(name or repr(name), partial(_file if is_file else _dotted, name))


def _announced(plugins: Sequence[str]) -> Iterator[_Plugin]:
    """Those of installed distributions, in the order of the distributions' names, without those left out."""
    found = announced()
    names = [plugin.name for plugin in found]
    left_out = [name.removeprefix(LEFT_OUT) for name in plugins if name.startswith(LEFT_OUT)]
    for name in left_out:
        if name not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"plug-in {LEFT_OUT}{name}: no such plug-in is installed{nearest(name, names)}; installed: {known}")
    for plugin in found:
        if plugin.name not in left_out:
            yield _installed(plugin)


def _installed(plugin: Announced) -> _Plugin:
    return _Plugin(plugin.source, partial(_entry, plugin.value), plugin.advice)


def _entry(value: str) -> ModuleType:
    if not _DOTTED.fullmatch(value):
        raise UsageError(f"the entry point is {value!r}: must be the dotted name of a module")
    return _imported(value)


def _dotted(name: str) -> ModuleType:
    if not _DOTTED.fullmatch(name):
        raise UsageError("neither the path of a Python file nor the dotted name of a module")
    _search_last(Path.cwd())
    return _imported(name)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and is_absent(error, name):
            raise UsageError(f"there is no module {error.name!r}; install what holds it, or give the path of a file") from error
        raise UsageError(f"raised on import: {described(error)}") from error


def _file(name: str) -> ModuleType:
    """The module of a file, imported under a name of its own: a file may be called as an installed module is."""
    path = Path(name).absolute()
    if not path.exists():
        raise UsageError("no such file; give the path of a Python file or the dotted name of a module")
    if not path.is_file() or path.suffix != ".py":
        raise UsageError("not a Python file: its name must end in .py")
    _search_last(path.parent)
    try:
        return _executed(path)
    except (Exception, SystemExit) as error:
        raise UsageError(f"raised on import: {described(error)}") from error


def _executed(path: Path) -> ModuleType:
    stem = re.sub(r"\W", "_", path.stem)
    name, count = f"tridiff_plugin_{stem}", 1
    while name in sys.modules:  # this file's, or another one's of that name
        if Path(str(sys.modules[name].__file__)).resolve() == path.resolve():
            return sys.modules[name]
        count += 1
        name = f"tridiff_plugin_{stem}_{count}"
    return executed(name, path)


def _search_last(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _register(registry: Registry, source: str, module: ModuleType) -> None:
    register = getattr(module, "register", None)
    if not callable(register):
        raise UsageError("has no function register(registry), which registers its ops and kernels")
    before = registry.size
    try:
        with registry.source(source):
            register(registry)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"register raised {described(error)}") from error
    if registry.size == before:
        raise UsageError("register(registry) registered nothing")
