"""Jit functions with another source for a while: no module is loaded again, and launchers stay as they are.

Triton reads a function's source when it compiles a call of it (`JITCallable.parse`, 3.6 to 3.9), so a source that is put in its
place (`_unsafe_update_src`) is what every caller compiles. What was compiled before is set aside meanwhile, kernel by kernel, as
each is launched: Triton's own caches do not ask for the source again.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from triton.runtime.jit import JITFunction


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Another `source` for the jit function NAME of MODULE, `function` being "MODULE:NAME".

    `replaces`: its source as it was read; where it is another one, nothing is rewritten. `affected`: the jit functions of the
    kernel, of which some call it: what Triton has derived from its source is forgotten for all of them.
    """

    function: str
    source: str
    replaces: str
    affected: tuple[str, ...] = ()


class Elsewhere(LookupError):
    """There is no jit function of that name, or its source is another one: the message says which."""


def name_of(function: Any) -> str:
    """MODULE:NAME of a jit function."""
    return f"{function.fn.__module__}:{function.fn.__qualname__}"


Finder = Callable[[str], ModuleType]
"""(name) -> the module of that name; raises ImportError. Not every module that holds kernels can be imported by its name."""


def located(name: str, find: Finder = importlib.import_module) -> list[Any]:
    """The jit functions MODULE:NAME that their module holds, autotuned or plain; none for what is made within a function."""
    module, _, qualified = name.partition(":")
    try:
        members = vars(find(module)).values()
    except ImportError:
        return []
    found = [function for function in map(_unwrapped, list(members)) if function is not None]
    return list({id(function): function for function in found if function.fn.__qualname__ == qualified}.values())


def _unwrapped(value: Any) -> Any:
    """The jit function behind an autotuner, or behind heuristics; None for anything else."""
    while not isinstance(value, JITFunction):
        value = vars(value).get("fn") if hasattr(value, "__dict__") and not isinstance(value, type) else None
        if value is None:
            return None
    return value


@dataclass(eq=False)
class _Rewriting:
    """`theirs`: the functions launched meanwhile, and what each had compiled before; `ours`: what it has compiled since."""

    rewrite: Rewrite
    theirs: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    ours: dict[int, Any] = field(default_factory=dict)

    def launched(self, function: Any) -> None:
        """Before `function` looks among what it has compiled."""
        key = id(function)
        if key not in self.theirs:
            self.theirs[key] = (function, function.device_caches)
            function.device_caches = self.ours.get(key) or defaultdict(function.create_binder)

    def leave(self) -> None:
        """Give back what was set aside, and keep ours for the next time."""
        for key, (function, caches) in self.theirs.items():
            self.ours[key] = function.device_caches
            function.device_caches = caches
        self.theirs.clear()


_current: list[_Rewriting] = []
_last: list[_Rewriting] = []


def is_rewritten() -> bool:
    """Whether some function has another source just now."""
    return bool(_current)


def before_launch(function: Any) -> None:
    """Called by the capture before `JITFunction.run`."""
    if _current:
        _current[-1].launched(function)


@contextmanager
def rewritten(rewrite: Rewrite | None, find: Finder = importlib.import_module) -> Iterator[None]:
    """Within this context the function has its other source; contexts do not nest. With None, nothing is rewritten.

    `find`: where its module is. What the last one compiled is kept, for the same rewrite to go on with. Raises `Elsewhere`.
    """
    if rewrite is None:
        yield
        return
    functions = located(rewrite.function, find)
    if not functions or any(function.src != rewrite.replaces for function in functions):
        raise Elsewhere(f"{rewrite.function} is not the jit function that was read: has its file changed?")
    if not _last or _last[-1].rewrite != rewrite:
        _last[:] = [_Rewriting(rewrite)]
    callers = [function for name in rewrite.affected for function in located(name, find)]
    _exchange(functions, rewrite.source, callers)
    _current.append(_last[-1])
    try:
        yield
    finally:
        _current.pop().leave()
        _exchange(functions, rewrite.replaces, callers)


def _exchange(functions: Iterable[Any], source: str, callers: Iterable[Any]) -> None:
    for function in functions:
        function._unsafe_update_src(source)
    for function in callers:
        function.hash = None
