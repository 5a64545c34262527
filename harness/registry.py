"""Registry: joins Ops, references, Kernels and Faults by name.

The built-in families are registered by `register`, as a plug-in's are by its own, through the same calls. A family is a module
of one name in `strategies`, `reference`, `kernels` and `kernels.faults`; the three last are plain data and functions, so they
know no harness.
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import ModuleType
from typing import Any

from tridiff.harness.announced import LEFT_OUT
from tridiff.harness.api import Fault, Kernel, Op, Patch, Reference, Verdict
from tridiff.harness.blame import BUILT_IN, described
from tridiff.harness.capture import targeting
from tridiff.harness.declarations import check_fault, check_kernel, check_op, kernel_module, verdict_of
from tridiff.harness.engines.spec import DEFAULT_TARGET, ENGINES, UsageError, nearest
from tridiff.harness.restrictions import check_domain, check_written


@dataclass
class Registry:
    """All Ops with their references, and all Kernels with their Faults, by name.

    `plugins`: what `tridiff.harness.plugins.load` was given to make it, so that another process can make it again.
    `target`: what modules of kernels are told that ask Triton for the current device while they are imported.
    `notes`: what plug-ins say of themselves, one line each, with the source of each. `finders`: see `register_finder`.
    """

    ops: dict[str, Op] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    target: str = DEFAULT_TARGET
    notes: dict[str, str | None] = field(default_factory=dict)
    finders: list[Callable[[str], ModuleType | None]] = field(default_factory=list)
    _sources: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    _source: str | None = None

    def register_op(self, op: Op, reference: Reference) -> None:
        """Add an Op and its reference. Raises `UsageError` when the name is taken or what they declare is malformed."""
        check_op(op, reference)
        if op.name in self.ops:
            raise UsageError(f"an op named {op.name!r} is registered already{self._by('op', op.name)}: choose another name")
        self.ops[op.name] = op
        self.references[op.name] = reference
        self._sources["op", op.name] = self._source

    def register_kernel(self, kernel: Kernel) -> None:
        """Add an implementation of a registered Op, and import its module, unless it runs on engines alone that are not here.

        Raises `UsageError` when the name is taken, the Op unknown, or the module or a function in it does not exist.
        """
        check_kernel(kernel)
        if kernel.name in self.kernels:
            by = self._by("kernel", kernel.name)
            raise UsageError(f"a kernel named {kernel.name!r} is registered already{by}: choose another name")
        if kernel.op not in self.ops:
            raise UsageError(f"kernel {kernel.name!r} implements the unknown op {kernel.op!r}{nearest(kernel.op, self.ops)}")
        check_domain(kernel, self.ops[kernel.op])
        check_written(kernel, self.ops[kernel.op])
        if runs_here(kernel):  # what needs a GPU may need one to be imported, too
            self._import(kernel)
        self.kernels[kernel.name] = kernel
        self._sources["kernel", kernel.name] = self._source

    def _import(self, kernel: Kernel) -> None:
        try:
            with targeting(self.target):
                kernel_module(kernel)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raised = f"module {kernel.module!r} raised on import: {described(error)}"
            raise UsageError(f"kernel {kernel.name!r}: {raised}") from error

    def register_fault(self, fault: Fault) -> None:
        """Add a Fault of a registered Kernel. Raises `UsageError` for an unknown kernel, check or target, or a name taken."""
        if isinstance(fault, Fault):
            self.kernel(fault.kernel)
        check_fault(fault)
        known = self.faults.setdefault(fault.kernel, [])
        if any(other.name == fault.name for other in known):
            by = self._by("fault", fault.kernel, fault.name)
            raise UsageError(f"kernel {fault.kernel!r} has a fault named {fault.name!r} already{by}: choose another name")
        known.append(fault)
        self._sources["fault", fault.kernel, fault.name] = self._source

    def note(self, line: str) -> None:
        """Have every run that loads the plug-in say `line` once: which release of a package it found, say."""
        self.notes[line] = self._source

    def register_finder(self, finder: Callable[[str], ModuleType | None]) -> None:
        """Have `finder` say which module a name means where `import` would not find it, or another; None: not its matter."""
        self.finders.append(finder)

    def module(self, name: str) -> ModuleType:
        """The module of that name, in which a kernel's jit functions are. Raises ImportError where there is none."""
        with targeting(self.target):
            found = next((module for finder in self.finders if (module := finder(name)) is not None), None)
            return found or importlib.import_module(name)

    @contextmanager
    def source(self, name: str) -> Iterator[None]:
        """Within this context, whatever is registered comes from `name`: a plug-in as its user calls it, or `BUILT_IN`."""
        before, self._source = self._source, name
        try:
            yield
        finally:
            self._source = before

    def source_of(self, *what: str) -> str | None:
        """Where `("op", NAME)`, `("kernel", NAME)` or `("fault", KERNEL, NAME)` comes from; None if nobody said."""
        return self._sources.get(what)

    def _by(self, *what: str) -> str:
        source = self.source_of(*what)
        return f", by {source}" if source else ""

    def plugins_for(self, kernel: str) -> tuple[str, ...]:
        """Those of `plugins` that must be given to find `kernel`: up to the one that brought it; what is left out stays so."""
        source = self.source_of("kernel", kernel)
        count = self.plugins.index(source) + 1 if source in self.plugins else 0
        return tuple(name for at, name in enumerate(self.plugins) if at < count or name.startswith(LEFT_OUT))

    def copy(self, *, plugins: Iterable[str] = (), target: str = DEFAULT_TARGET) -> Registry:
        """The same content, to which more can be added."""
        return replace(
            self,
            ops=dict(self.ops),
            references=dict(self.references),
            kernels=dict(self.kernels),
            faults={name: list(faults) for name, faults in self.faults.items()},
            plugins=tuple(plugins),
            target=target,
            notes=dict(self.notes),
            finders=list(self.finders),
            _sources=dict(self._sources),
        )

    @property
    def size(self) -> int:
        """Number of Ops, Kernels and Faults."""
        return len(self.ops) + len(self.kernels) + sum(map(len, self.faults.values()))

    def op(self, name: str) -> Op:
        """The Op of that name. Raises `UsageError` with the nearest known name."""
        found: Op = _known(self.ops, "op", name)
        return found

    def kernel(self, name: str) -> Kernel:
        """The Kernel of that name. Raises `UsageError` with the nearest known name."""
        found: Kernel = _known(self.kernels, "kernel", name)
        return found

    def fault(self, kernel: str, name: str) -> Fault:
        """The Fault of that kernel and name. Raises `UsageError` with the nearest known name."""
        found: Fault = _known({fault.name: fault for fault in self.faults.get(kernel, [])}, f"fault of {kernel}", name)
        return found

    def select(self, ops: Iterable[str], kernels: Iterable[str]) -> list[Kernel]:
        """The Kernels named, or those of the Ops named, or all; in order of registration. A name may be a pattern, 'vllm_*'.

        Only those that an engine here can run. Raises `UsageError` where one that needs another was named, or none is left.
        """
        kernels = tuple(kernels)
        chosen = self.chosen(ops, kernels)
        for kernel in chosen:
            if kernel.name in kernels and not runs_here(kernel):
                raise UsageError(f"kernel {kernel.name!r} {needs(kernel)}: choose others")
        left = [kernel for kernel in chosen if runs_here(kernel)]
        if not left:
            raise UsageError(f"no kernel is left: {', '.join(kernel.name for kernel in chosen)} {needs(chosen[0])}")
        return left

    def chosen(self, ops: Iterable[str], kernels: Iterable[str]) -> list[Kernel]:
        """As `select`, with those as well that no engine here can run."""
        wanted_ops = {name for given in ops for name in _matching(self.ops, "op", given)}
        wanted = {name for given in kernels for name in _matching(self.kernels, "kernel", given)}
        chosen = [
            kernel
            for kernel in self.kernels.values()
            if (not wanted or kernel.name in wanted) and (not wanted_ops or kernel.op in wanted_ops)
        ]
        if not chosen:
            among = f" among {', '.join(sorted(wanted))}" if wanted else ""
            raise UsageError(f"no kernel{among} implements {' or '.join(sorted(wanted_ops)) or 'any op'}: choose others")
        return chosen

    def knowing(self, kernels: Iterable[Kernel], models: Sequence[str]) -> list[Kernel]:
        """Those of `kernels` whose Op has presets of one of `models`. Raises `UsageError` for a model that none knows."""
        ops = {kernel.op: self.op(kernel.op) for kernel in kernels}
        for model in models:
            if not any(op.knows(model) for op in ops.values()):
                known = [name for op in ops.values() for name, variants in op.models.items() for name in (name, *variants)]
                raise UsageError(f"no op has presets of the model {model!r}{nearest(model, known)}; `tridiff list` has the names")
        return [kernel for kernel in kernels if not models or any(ops[kernel.op].knows(model) for model in models)]

    def judge(self, op: str, inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> Verdict:
        """What the Op's reference says of these inputs. Raises `Malformed` for an answer of the wrong form or shape.

        A shape that would only match by broadcasting is wrong, too: elements would be compared with others.
        """
        return verdict_of(op, self.references[op](inputs, rounding), inputs)


def runs_here(kernel: Kernel) -> bool:
    """Whether an engine that this tridiff has can run `kernel`."""
    return not set(kernel.engines).isdisjoint(ENGINES)


def needs(kernel: Kernel) -> str:
    """What a kernel needs that no engine here can run, as the end of a sentence."""
    return f"needs engine {' or '.join(kernel.engines)}, a real GPU, and that engine is not available yet"


def _known(table: Mapping[str, Any], what: str, name: str) -> Any:
    if name not in table:
        raise UsageError(f"unknown {what} {name!r}{nearest(name, table)}; known: {', '.join(table) or 'none'}")
    return table[name]


def _matching(table: Mapping[str, Any], what: str, given: str) -> list[str]:
    """The names in `table` that `given` means: itself, or those that it matches as a shell would."""
    if not set(given) & set("*?["):
        return [_known(table, what, given).name]
    found = fnmatch.filter(table, given)
    if not found:
        raise UsageError(f"no {what} matches {given!r}; known: {', '.join(table) or 'none'}")
    return found


def register_family(registry: Registry, name: str, package: str = "tridiff") -> None:
    """Register the family `name`: strategies/NAME, reference/NAME, kernels/NAME and kernels/faults/NAME of `package`."""
    with targeting(registry.target):  # kernel modules may ask Triton for the current device when they are imported
        strategies, reference, kernels, faults = (
            importlib.import_module(f"{package}.{folder}.{name}")
            for folder in ("strategies", "reference", "kernels", "kernels.faults")
        )
    registry.register_op(strategies.OP, reference.reference)
    for entry in kernels.KERNELS:
        registry.register_kernel(Kernel(module=kernels.__name__, **entry))
    for entry in faults.FAULTS:
        patches = tuple(Patch(old=old, new=new) for old, new in entry["patches"])
        registry.register_fault(Fault(**{**entry, "patches": patches, "checks": frozenset(entry["checks"])}))


def families() -> list[str]:
    """Names of the built-in families: the modules, or packages, that `kernels.faults` holds."""
    package = importlib.import_module("tridiff.kernels.faults")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def register(registry: Registry) -> None:
    """Register all built-in families."""
    for name in families():
        register_family(registry, name)


@lru_cache(maxsize=1)
def builtin() -> Registry:
    """The registry of all built-in families."""
    registry = Registry()
    with registry.source(BUILT_IN):
        register(registry)
    return registry
