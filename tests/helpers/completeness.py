"""What every family of kernels must have: its four modules, and a contract that all of them agree on.

Each function yields complaints, a sentence each; a complete family gives none. `layout` reads files, `contract` imports the
family and asks it for its simplest case.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import hypothesis
from hypothesis import Phase
from sources import Source, below, imports, sources

from tridiff.harness.api import Arena, Domain, Kernel, Op, Property, from_json, to_json
from tridiff.harness.capture import targeting
from tridiff.harness.declarations import Malformed, words_of
from tridiff.harness.domains import values
from tridiff.harness.engines.spec import DEFAULT_TARGET, TARGETS, UsageError
from tridiff.harness.registry import Registry, register_family
from tridiff.harness.runner.drawing import drawn as draw_cases

MEMBERS = {"strategies": "OP", "reference": "reference", "kernels": "KERNELS", "kernels.faults": "FAULTS"}
"""The folders of a family's four modules, with the name at top level by which such a module is known."""

_EXAMPLES = 50
"""Examples within which Hypothesis finds the simplest case: it begins with it."""


# Files


def members(modules: Iterable[Source], package: str) -> dict[str, set[str]]:
    """Per family, the folders in which it has a module."""
    found: dict[str, set[str]] = {}
    for source in modules:
        folder, _, name = source.module.removeprefix(f"{package}.").rpartition(".")
        if folder in MEMBERS and defines(source.tree, MEMBERS[folder]):
            found.setdefault(name, set()).add(folder)
    return found


def defines(tree: ast.Module, name: str) -> bool:
    """Whether a module assigns to `name`, imports it or defines it, at top level."""
    return any(name in _bound(node) for node in tree.body)


def _bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name):
            return [name]
        case ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
    return []


def layout(root: Path, package: str = "tridiff") -> Iterator[str]:
    """Modules that a family at `root` lacks, and modules that are no family's."""
    apart = (f"{package}.harness", f"{package}.adapters")
    modules = [source for source in sources(root, package) if not source.within(*apart)]
    found = members(modules, package)
    for name, folders in found.items():
        for folder in MEMBERS.keys() - folders:
            yield f"{name} has no {folder.replace('.', '/')}/{name}.py with {MEMBERS[folder]}"
    used = reached({f"{package}.{folder}.{name}" for name, folders in found.items() for folder in folders}, modules)
    for source in modules:
        if source.module not in used and not _is_folder(source, package):
            yield f"{source.module} belongs to no family, and none imports it"


def _is_folder(source: Source, package: str) -> bool:
    return source.is_package and source.module.removeprefix(f"{package}.") in MEMBERS


def reached(modules: Iterable[str], known: Iterable[Source]) -> set[str]:
    """`modules`, and what they import, directly or not."""
    by_name = {source.module: source for source in known}
    seen: set[str] = set()
    left = [name for name in modules if name in by_name]
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            imported = [imported for _, imported in imports(by_name[name])]
            left.extend(other for other in by_name if any(below(one, other) for one in imported))
    return seen


# The contract


def contract(name: str, package: str = "tridiff") -> Iterator[str]:
    """What the family `name` of `package` promises and does not keep."""
    with targeting(DEFAULT_TARGET):
        modules = {folder: importlib.import_module(f"{package}.{folder}.{name}") for folder in MEMBERS}
    op: Op = modules["strategies"].OP
    if op.name != name:
        yield f"OP.name is {op.name!r}, and its modules are called {name}"
        return
    if complaints := list(case(op.case)):
        yield from complaints
        return
    registry = Registry()
    try:
        register_family(registry, name, package)
    except UsageError as error:
        yield str(error)
        return
    yield from kernels(registry, op)
    yield from drawn(op)
    yield from agreement(registry, op, modules["kernels"])


def kernels(registry: Registry, op: Op) -> Iterator[str]:
    """That there are kernels, all of this op, and that each has faults."""
    if not registry.kernels:
        yield f"{op.name} has no kernel"
    for kernel in registry.kernels.values():
        if not registry.faults.get(kernel.name):
            yield f"kernel {kernel.name} has no fault: nothing shows that its checks can fail"


def case(kind: type[Any]) -> Iterator[str]:
    """That a Case is frozen, that its defaults make a legal one, and that this one survives JSON."""
    if not dataclasses.is_dataclass(kind):
        yield f"{kind.__name__} is no dataclass"
        return
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined] # private, and the only way to ask
        yield f"{kind.__name__} is not frozen"
    missing = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    if missing:
        yield f"{kind.__name__} has no default for {', '.join(missing)}"
        return
    try:
        simplest = kind()
        again = from_json(kind, json.loads(json.dumps(to_json(simplest))))
    except (TypeError, ValueError) as error:
        yield f"{kind.__name__}() does not survive JSON, or is not legal: {error}"
        return
    if again != simplest:
        yield f"{kind.__name__}() comes back from JSON as {again}"


def drawn(op: Op) -> Iterator[str]:
    """That both strategies draw Cases for every target, and that the general one shrinks to the default Case."""
    for target in TARGETS:
        for what, strategy in (("strategy", op.strategy), ("presets", op.presets)):
            try:
                simplest = _simplest(strategy, target, shrunk=(what, target) == ("strategy", DEFAULT_TARGET))
            except Exception as error:  # noqa: BLE001 - whatever a strategy raises is the complaint
                yield f"{what} draws nothing for {target}: {type(error).__name__}: {error}"
                continue
            if type(simplest) is not op.case:
                yield f"{what} draws {type(simplest).__name__} for {target}, not {op.case.__name__}"
            elif (what, target) == ("strategy", DEFAULT_TARGET) and simplest != op.case():
                yield f"strategy shrinks to {simplest}, not to {op.case.__name__}()"


def _simplest(strategy: Callable[[Domain], Any], target: str, *, shrunk: bool) -> Any:
    phases = (Phase.generate, Phase.shrink) if shrunk else (Phase.generate,)
    settings = hypothesis.settings(database=None, max_examples=_EXAMPLES, phases=phases)
    return hypothesis.find(strategy(Domain(target=target)), lambda _: True, settings=settings, random=Random(0))


_FACET_DRAWS = 8


def sample(op: Op, count: int = 150) -> list[Any]:
    """Cases of an Op."""
    return draw_cases(_only(op), op.name, DEFAULT_TARGET, count=count, seed=0)


def _only(op: Op) -> Registry:
    registry = Registry()
    registry.ops[op.name] = op
    return registry


def facets(op: Op, cases: Sequence[Any]) -> Iterator[str]:
    """That strategies draw nothing that a Kernel may leave out: each facet is restricted to the value that `cases` have least."""
    registry = _only(op)
    for name, facet in op.facets.items():
        seen = Counter(value for case in cases for value in values(facet, case))
        limits = {name: (min(seen, key=seen.__getitem__),)}
        try:
            draw_cases(registry, op.name, DEFAULT_TARGET, count=_FACET_DRAWS, seed=1, limits=limits)
        except (Malformed, UsageError) as error:
            yield f"{limits}: {error}"


_PROPERTY_DRAWS = 500


def properties(op: Op, cases: Sequence[Any]) -> Iterator[str]:
    """That reports have something to count, and that each word which a property names is drawn: in `cases`, or in some more."""
    if not op.properties:
        yield f"{op.name} has no properties: reports cannot say what its cases were"
        return
    if _missing(op, cases):
        for name, words in _missing(op, sample(op, _PROPERTY_DRAWS)).items():
            yield f"property {name} of {op.name}: no case of {_PROPERTY_DRAWS} is {', '.join(words)}"


def _missing(op: Op, cases: Iterable[Any]) -> dict[str, list[str]]:
    """The words that properties name and none of `cases` has."""
    drawn: dict[str, set[str]] = {name: set() for name in op.properties}
    for case in cases:
        for name, word in words_of(op, case).items():
            drawn[name].add(word)
    named = {name: of.words for name, of in op.properties.items() if isinstance(of, Property)}
    missing = {name: [word for word in words if word not in drawn[name]] for name, words in named.items()}
    return {name: words for name, words in missing.items() if words}


def agreement(registry: Registry, op: Op, module: ModuleType) -> Iterator[str]:
    """That launchers take what `build` makes, and that the reference takes each kernel's rounding and answers for all outputs."""
    arena = Arena()
    inputs = op.build(op.case(), arena)
    written = {allocation.name for allocation in arena if allocation.writable.size}
    if not written:
        yield f"{op.name} declares no output: nothing would be compared"
    for kernel in registry.kernels.values():
        yield from launchable(kernel, module, inputs)
        yield from judged(registry, kernel, module, inputs, written)


def launchable(kernel: Kernel, module: ModuleType, inputs: Mapping[str, Any]) -> Iterator[str]:
    """That the launcher exists and takes the Inputs as keyword arguments."""
    try:
        inspect.signature(getattr(module, kernel.launcher)).bind(**inputs)
    except (AttributeError, TypeError) as error:
        yield f"kernel {kernel.name}: its launcher does not take what build makes: {error}"


def judged(registry: Registry, kernel: Kernel, module: ModuleType, inputs: Mapping[str, Any], written: set[str]) -> Iterator[str]:
    """That the reference accepts the kernel's rounding, and gives a value and a bound for just what is written."""
    try:
        rounding = {} if kernel.rounding is None else getattr(module, kernel.rounding)(**inputs)
        outputs = set(registry.judge(kernel.op, inputs, rounding).outputs)
    except Exception as error:  # noqa: BLE001 - whatever a reference raises is the complaint
        yield f"kernel {kernel.name}: the reference fails with its rounding: {type(error).__name__}: {error}"
        return
    if outputs != written:
        yield f"the reference answers for {', '.join(sorted(outputs))}, and build declares {', '.join(sorted(written))}"
