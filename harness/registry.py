"""Registry: joins Ops, references, Kernels and Faults by name.

The built-in families go through the same calls as anybody else's. A family is a module of one name in `strategies`,
`reference`, `kernels` and `kernels.faults`; the three last are plain data and functions, so they know no harness.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tridiff.harness.api import CHECKS, Expected, Fault, Kernel, Op, Patch, Reference, Verdict
from tridiff.harness.capture import targeting
from tridiff.harness.engines.spec import DEFAULT_TARGET, UsageError, nearest


@dataclass
class Registry:
    """All Ops with their references, and all Kernels with their Faults, by name."""

    ops: dict[str, Op] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)

    def register_op(self, op: Op, reference: Reference) -> None:
        """Add an Op and its reference. Raises `UsageError` when the name is taken."""
        if op.name in self.ops:
            raise UsageError(f"an op named {op.name!r} is registered already: choose another name")
        self.ops[op.name] = op
        self.references[op.name] = reference

    def register_kernel(self, kernel: Kernel) -> None:
        """Add an implementation of a registered Op. Raises `UsageError` when the name is taken or the Op unknown."""
        if kernel.name in self.kernels:
            raise UsageError(f"a kernel named {kernel.name!r} is registered already: choose another name")
        if kernel.op not in self.ops:
            raise UsageError(f"kernel {kernel.name!r} implements the unknown op {kernel.op!r}{nearest(kernel.op, self.ops)}")
        self.kernels[kernel.name] = kernel

    def register_fault(self, fault: Fault) -> None:
        """Add a Fault of a registered Kernel. Raises `UsageError` for an unknown kernel or check, or a name taken."""
        self.kernel(fault.kernel)
        unknown = fault.checks - set(CHECKS)
        if not fault.checks:
            raise UsageError(f"fault {fault.name!r} names no check that must catch it; checks: {', '.join(CHECKS)}")
        if unknown:
            raise UsageError(
                f"fault {fault.name!r} expects unknown checks: {', '.join(sorted(unknown))}; checks: {', '.join(CHECKS)}"
            )
        known = self.faults.setdefault(fault.kernel, [])
        if any(other.name == fault.name for other in known):
            raise UsageError(f"kernel {fault.kernel!r} has a fault named {fault.name!r} already: choose another name")
        known.append(fault)

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
        """The Kernels named, or those of the Ops named, or all; in order of registration."""
        wanted_ops = {self.op(name).name for name in ops}
        wanted = {self.kernel(name).name for name in kernels}
        chosen = [
            kernel
            for kernel in self.kernels.values()
            if (not wanted or kernel.name in wanted) and (not wanted_ops or kernel.op in wanted_ops)
        ]
        if not chosen:
            among = f" among {', '.join(sorted(wanted))}" if wanted else ""
            raise UsageError(f"no kernel{among} implements {' or '.join(sorted(wanted_ops)) or 'any op'}: choose others")
        return chosen

    def judge(self, op: str, inputs: Mapping[str, Any], rounding: Mapping[str, Any]) -> Verdict:
        """What the Op's reference says of these inputs. Raises ValueError for shapes that would only match by broadcasting."""
        answer = self.references[op](inputs, rounding)
        outputs = {name: Expected(value=value, bound=bound) for name, (value, bound) in answer["outputs"].items()}
        for name, expected in outputs.items():
            _check_shape(op, name, expected, inputs[name])
        return Verdict(outputs=outputs, conclusive=bool(answer["conclusive"]))


def _check_shape(op: str, name: str, expected: Expected, output: Any) -> None:
    shapes = (tuple(expected.value.shape), tuple(expected.bound.shape))
    if shapes != (tuple(output.shape),) * 2:
        raise ValueError(f"the reference of {op} gives {name} and its bound the shapes {shapes}: must be {tuple(output.shape)}")


def _known(table: Mapping[str, Any], what: str, name: str) -> Any:
    if name not in table:
        raise UsageError(f"unknown {what} {name!r}{nearest(name, table)}; known: {', '.join(table) or 'none'}")
    return table[name]


def register_family(registry: Registry, name: str, package: str = "tridiff") -> None:
    """Register the family `name`: strategies/NAME, reference/NAME, kernels/NAME and kernels/faults/NAME of `package`."""
    with targeting(DEFAULT_TARGET):  # kernel modules may ask Triton for the current device when they are imported
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
    """Names of the built-in families: the modules that `kernels.faults` holds."""
    package = importlib.import_module("tridiff.kernels.faults")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


@lru_cache(maxsize=1)
def builtin() -> Registry:
    """The registry of all built-in families."""
    registry = Registry()
    for name in families():
        register_family(registry, name)
    return registry
