"""Declarations: what an Op and a Kernel say of themselves, and what their functions return, must be well-formed.

What is wrong with a declaration is a `UsageError`, of one line, when it is registered; what a function returns is `Malformed`
when it is called.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from hypothesis.strategies import SearchStrategy

from tridiff.harness.api import (
    CHECKS,
    COMPILER,
    Allocation,
    Arena,
    CaseError,
    Domain,
    Expected,
    Fault,
    Kernel,
    Op,
    Property,
    Verdict,
    from_json,
    offsets_of,
    require,
    to_json,
)
from tridiff.harness.domains import outside
from tridiff.harness.engines.spec import UsageError, check_target, nearest
from tridiff.harness.restrictions import check_engines, check_facets, check_outputs

_OP_NAME = re.compile(r"[a-z][a-z0-9_]*")
_KERNEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


class Malformed(ValueError):
    """What a function of an Op returned lacks the form that it must have."""


def check_op(op: Any, reference: Any) -> None:
    """Raise `UsageError` unless `op` and its reference can be used."""
    if not isinstance(op, Op):
        raise UsageError(f"register_op takes an Op and its reference, not {_shown(op)}")
    if not _matches(_OP_NAME, op.name):
        raise UsageError(f"op name {op.name!r}: must be lower-case letters, digits and underscores, such as 'rms_norm'")
    if reference is None:
        raise UsageError(f"op {op.name!r} has no reference: register_op takes a function (inputs, rounding) beside the Op")
    if not callable(reference):
        raise UsageError(f"op {op.name!r}: the reference is {_shown(reference)}: must be a function (inputs, rounding)")
    for part, takes in (("strategy", "domain"), ("presets", "domain"), ("build", "case, arena")):
        if not callable(getattr(op, part)):
            raise UsageError(f"op {op.name!r}: {part} is {_shown(getattr(op, part))}: must be a function ({takes})")
    for part, takes in (("within", "case, domain"), ("score", "case, ratio")):
        if not (getattr(op, part) is None or callable(getattr(op, part))):
            raise UsageError(f"op {op.name!r}: {part} is {_shown(getattr(op, part))}: must be a function ({takes}), or None")
    _check_models(op)
    _check_placements(op)
    _check_case(op)
    _check_properties(op)
    check_facets(op)


def _check_models(op: Op) -> None:
    models: Any = op.models
    if not isinstance(models, Mapping):
        raise UsageError(f"op {op.name!r}: models is {_shown(models)}: must map the name of each model to those of its variants")
    for name, variants in models.items():
        if not (isinstance(name, str) and isinstance(variants, tuple) and all(isinstance(each, str) for each in variants)):
            raise UsageError(f"op {op.name!r}: models has {name!r}: {_shown(variants)}: must be a name with a tuple of names")


def _check_placements(op: Op) -> None:
    placements: Any = op.placements
    if not isinstance(placements, Mapping):
        raise UsageError(f"op {op.name!r}: placements is {_shown(placements)}: must map names to functions (case)")
    for name, place in placements.items():
        if not (isinstance(name, str) and callable(place)):
            raise UsageError(f"op {op.name!r}: placements has {name!r}: {_shown(place)}: must be a name with a function (case)")


def _check_properties(op: Op) -> None:
    properties: Any = op.properties
    if not isinstance(properties, Mapping):
        raise UsageError(f"op {op.name!r}: properties is {_shown(properties)}: must map names to functions (case)")
    for name, of in properties.items():
        if not (isinstance(name, str) and callable(of)):
            raise UsageError(f"op {op.name!r}: properties has {name!r}: {_shown(of)}: must be a name with a function (case)")
    try:
        words_of(op, op.case())
    except Exception as error:
        raise UsageError(f"op {op.name!r}: properties of the default case {op.case.__name__}(): {_told(error)}") from error


def words_of(op: Op, case: Any) -> dict[str, str]:
    """The word that each property of `op` has for `case`. Raises `Malformed`, and what its functions raise."""
    found: dict[str, Any] = {name: of(case) for name, of in op.properties.items()}
    for name, word in found.items():
        of, given = op.properties[name], f"the property {name} of {op.name} is {_shown(word)} for {case}"
        if not (isinstance(word, str) and word):
            raise Malformed(f"{given}: must be a word, as a string")
        if isinstance(of, Property) and word not in of.words:
            raise Malformed(f"{given}: must be one of {', '.join(of.words)}")
    return found


def _check_case(op: Op) -> None:
    case: Any = op.case
    parameters = vars(case).get("__dataclass_params__") if isinstance(case, type) else None
    if parameters is None or not parameters.frozen:
        raise UsageError(f"op {op.name!r}: case is {_shown(case)}: must be a dataclass with @dataclass(frozen=True)")
    required = [
        field.name
        for field in dataclasses.fields(case)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if required:
        raise UsageError(
            f"op {op.name!r}: field {', '.join(required)} of {case.__name__} has no default: give its simplest value"
        )
    _check_compile_time(op)
    try:
        _check_json(case())
    except Exception as error:
        raise UsageError(f"op {op.name!r}: the default case {case.__name__}() cannot be used: {_told(error)}") from error


def _check_compile_time(op: Op) -> None:
    named: Any = op.compile_time
    if not isinstance(named, frozenset):
        raise UsageError(f"op {op.name!r}: compile_time is {_shown(named)}: must be a frozenset of names of fields")
    fields = [field.name for field in dataclasses.fields(op.case)]
    for name in sorted(map(str, named - set(fields))):
        raise UsageError(f"op {op.name!r}: compile_time names {name!r}{nearest(name, fields)}: no field of {op.case.__name__}")


def check_drawn(op: Op, case: Any, domain: Domain) -> None:
    """Raise `Malformed` unless `case`, which a strategy drew, is one of `op`'s, lies in `domain` and survives JSON."""
    if type(case) is not op.case:
        raise Malformed(f"the strategy of {op.name} drew {_shown(case)}: must be a {op.case.__name__}")
    try:
        _check_json(case)
    except ValueError as error:
        raise Malformed(f"the strategy of {op.name} drew {case}: {_told(error)}") from error
    for facet, value in outside(op, case, domain):
        raise Malformed(f"the strategy of {op.name} drew {facet}={value!r}, outside the domain: it must ask domain.allows")


def _check_json(case: Any) -> None:
    try:
        again = from_json(type(case), json.loads(json.dumps(to_json(case))))
    except Exception as error:
        raise CaseError(f"it has no JSON form: {_told(error)}") from error
    require(again == case, f"it comes back from JSON as {again}")


def check_strategy(op: Op, part: str, strategy: Any) -> None:
    """Raise `Malformed` unless what `part` (strategy or presets) of `op` returned can be drawn from."""
    if not isinstance(strategy, SearchStrategy):
        raise Malformed(f"{part} of {op.name} returns {_shown(strategy)}: must be a Hypothesis strategy of {op.case.__name__}")


def check_inputs(op: Op, inputs: Any) -> None:
    """Raise `Malformed` unless what `op`'s build returned are keyword arguments."""
    if not isinstance(inputs, dict):
        raise Malformed(f"build of {op.name} returns {_shown(inputs)}: must be a dict of the launcher's keyword arguments")


def check_kernel(kernel: Any) -> None:
    """Raise `UsageError` unless `kernel`'s fields can be used; imports nothing."""
    if not isinstance(kernel, Kernel):
        raise UsageError(f"register_kernel takes a Kernel, not {_shown(kernel)}")
    if not _matches(_KERNEL_NAME, kernel.name):
        raise UsageError(f"kernel name {kernel.name!r}: must be letters, digits and any of _ . + -, without spaces")
    for field in ("op", "module", "launcher"):
        value = getattr(kernel, field)
        if not isinstance(value, str):
            raise UsageError(f"kernel {kernel.name!r}: {field} is {_shown(value)}: must be a name, as a string")
    check_engines(kernel)
    check_outputs(kernel)


def kernel_module(kernel: Kernel) -> ModuleType:
    """The module of `kernel`, which must have its launcher, what it says of its rounding, and its exception class.

    Raises `UsageError`, and whatever the module itself raises when it is imported.
    """
    module = _imported(kernel)
    for field in ("launcher", "rounding"):
        name = getattr(kernel, field)
        if name is not None and not callable(getattr(module, str(name), None)):
            hint = nearest(str(name), (known for known, value in vars(module).items() if callable(value)))
            raise UsageError(f"kernel {kernel.name!r}: {field}={name!r}: module {kernel.module!r} has no such function{hint}")
    _check_unsupported(kernel, module)
    return module


def _check_unsupported(kernel: Kernel, module: ModuleType) -> None:
    name: Any = kernel.unsupported
    if name is not None and not _is_refusal(getattr(module, str(name), None)):
        hint = nearest(str(name), (known for known, value in vars(module).items() if _is_refusal(value)))
        raise UsageError(
            f"kernel {kernel.name!r}: unsupported={name!r}: module {kernel.module!r} has no such exception class{hint}; "
            "it must be one of its own, for what the GPU cannot do, and not every Exception"
        )


def _is_refusal(value: Any) -> bool:
    """Whether `value` is an exception class that says something: what is any Exception would hide defects of the launcher."""
    return isinstance(value, type) and issubclass(value, Exception) and value is not Exception


def check_fault(fault: Any) -> None:
    """Raise `UsageError` unless `fault`'s checks and target can be used."""
    if not isinstance(fault, Fault):
        raise UsageError(f"register_fault takes a Fault, not a {type(fault).__name__}")
    if not fault.checks:
        raise UsageError(f"fault {fault.name!r} names no check that must catch it; checks: {', '.join(CHECKS)}")
    unknown = fault.checks - set(CHECKS)
    if unknown:
        raise UsageError(
            f"fault {fault.name!r} expects unknown checks: {', '.join(sorted(unknown))}; checks: {', '.join(CHECKS)}"
        )
    compiler, others = (", ".join(sorted(names)) for names in (fault.checks & COMPILER, fault.checks - COMPILER))
    if compiler and others:
        raise UsageError(f"fault {fault.name!r} expects {compiler} of the compiler beside {others} of a run: split it in two")
    _check_fault_target(fault, compiles=bool(compiler))


def _check_fault_target(fault: Fault, *, compiles: bool) -> None:
    if fault.target == "":
        return
    try:
        check_target(fault.target)
    except UsageError as error:
        raise UsageError(f"fault {fault.name!r}: {error}") from error
    if not compiles:
        raise UsageError(
            f"fault {fault.name!r} has target={fault.target!r}: only one that shows when it is compiled has a target of its own"
        )


def _imported(kernel: Kernel) -> ModuleType:
    try:
        return importlib.import_module(kernel.module)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        if not is_absent(error, kernel.module):
            raise
        missing = f"there is no module {kernel.module!r}"
        raise UsageError(f"kernel {kernel.name!r}: {missing}; for a launcher in the plug-in write module=__name__") from error


def is_absent(error: Exception, module: str) -> bool:
    """Whether `import module` failed because there is no such module, and not because of what it imports itself."""
    if isinstance(error, ModuleNotFoundError):
        return error.name is not None and f"{module}.".startswith(f"{error.name}.")
    return not module or module.startswith(".")  # import_module refuses these with a ValueError or a TypeError


def verdict_of(op: str, answer: Any, inputs: Mapping[str, Any]) -> Verdict:
    """What a reference returned as a Verdict. Raises `Malformed` where the form or a shape is wrong."""
    if not isinstance(answer, Mapping) or not isinstance(answer.get("outputs"), Mapping) or "conclusive" not in answer:
        form = "{'outputs': {name: (value, bound) or (value, bound, at)}, 'conclusive': bool}"
        raise Malformed(f"the reference of {op} gives {_shown(answer)}: must be {form}")
    signed = bool(answer.get("signed_zeros", False))
    outputs = {
        name: dataclasses.replace(_expected(op, str(name), pair, inputs), signed_zeros=signed)
        for name, pair in answer["outputs"].items()
    }
    return Verdict(outputs=outputs, conclusive=bool(answer["conclusive"]))


def _expected(op: str, name: str, pair: Any, inputs: Mapping[str, Any]) -> Expected:
    if name not in inputs:
        raise Malformed(f"the reference of {op} gives {name!r}, which is none of the inputs{nearest(name, inputs)}")
    is_pair = isinstance(pair, (tuple, list)) and len(pair) in {2, 3} and all(isinstance(part, torch.Tensor) for part in pair[:2])
    if not is_pair:
        raise Malformed(f"the reference of {op} gives {_shown(pair)} for {name!r}: must be two tensors, (value, bound)")
    at = None if len(pair) == 2 else _index(op, name, pair[2], inputs[name])
    expected = Expected(value=pair[0], bound=pair[1], at=at)
    shapes = (tuple(expected.value.shape), tuple(expected.bound.shape))
    wanted = tuple(inputs[name].shape) if at is None else tuple(torch.broadcast_shapes(*(part.shape for part in at)))
    if shapes != (wanted,) * 2:
        raise Malformed(f"the reference of {op} gives {name} and its bound the shapes {shapes}: must be {wanted}")
    return expected


def _index(op: str, name: str, at: Any, output: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The elements of `output` that a reference speaks of: an int64 tensor for each dimension."""
    if not (
        isinstance(at, (tuple, list))
        and len(at) == output.dim()
        and all(isinstance(part, torch.Tensor) and part.dtype == torch.int64 for part in at)
    ):
        needs = f"must be {output.dim()} int64 tensors, one for each of its dimensions"
        raise Malformed(f"the reference of {op} gives {_shown(at)} for the elements of {name!r}: {needs}")
    return tuple(at)


def check_judged(op: str, verdict: Verdict, written: Iterable[str], arena: Arena) -> None:
    """Raise `Malformed` unless the reference said of exactly the `written` tensors what they must hold.

    Of tensors that are written in part, it must speak of exactly these elements.
    """
    written = tuple(written)
    missing = [name for name in written if name not in verdict.outputs]
    if missing:
        raise Malformed(f"the reference of {op} gives no value and bound for {', '.join(missing)}, which the kernel must write")
    surplus = [name for name in verdict.outputs if name not in written]
    if surplus:
        raise Malformed(
            f"the reference of {op} judges {', '.join(surplus)}, which build does not declare as written: use arena.output"
        )
    for name in arena.written():  # without those that this kernel does not write
        allocation = arena.allocations[name]
        if not _speaks_of(allocation, verdict.outputs[name].at):
            raise Malformed(
                f"the reference of {op} speaks of {verdict.outputs[name].value.numel()} elements of {name}, and not just of the "
                f"{allocation.writable.size} that build declares as written"
            )


def _speaks_of(allocation: Allocation, at: tuple[torch.Tensor, ...] | None) -> bool:
    """Whether the elements `at` of a tensor, all without it, are those that are declared as written."""
    if at is None:
        return allocation.view.numel() == allocation.writable.size
    cells = np.sort(offsets_of(allocation.view, at)) + int(allocation.view.storage_offset())
    return np.array_equal(cells, allocation.writable)


def _matches(pattern: re.Pattern[str], name: object) -> bool:
    return isinstance(name, str) and pattern.fullmatch(name) is not None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(value: object) -> str:
    """A value in a few words: its name where it has one, its keys or its type where it may be large."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, (str, int, float, bool, type(None))):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    name = getattr(value, "__name__", None)
    kind = type(value).__name__
    article = "an" if kind[0] in "AEIOUaeiou" else "a"
    return f"the {kind} {name}" if isinstance(name, str) else f"{article} {kind}"
