"""What a captured launch consists of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime.jit import TensorWrapper


@dataclass(frozen=True, eq=False)
class Specialisation:
    """One jit function with one signature, set of constants, attributes and options, for one target.

    `constants`, `attributes`: by path, (2,) for the third parameter and (2, 0) for the first element of a tuple there.
    """

    function: Any
    target: GPUTarget
    key: str
    signature: dict[str, Any]
    constants: dict[Any, Any]
    attributes: dict[Any, Any]
    options: Any
    memo: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The jit function's name and a digest of all that it was specialised on."""
        digest = hashlib.blake2b(f"{self.target}{self.key}".encode(), digest_size=4).hexdigest()
        return f"{self.function.__name__}-{digest}"


@dataclass(frozen=True, eq=False)
class Argument:
    """A run-time argument: `x`, or a leaf of a tuple, `x[1][0]`. `kind`: its type in the signature, `*fp32` or `i32`."""

    name: str
    kind: str
    value: Any


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch: specialisation, grid, bound arguments by parameter name, and the autotuner's configuration if any."""

    specialisation: Specialisation
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    config: str | None = None

    @property
    def name(self) -> str:
        """The specialisation's name, with the configuration that gave it."""
        return self.specialisation.name + (f"[{self.config}]" if self.config else "")

    def leaves(self) -> list[Argument]:
        """What the compiled function takes, in its order: tuples flattened, constants left out, wrapped tensors unwrapped."""
        signature = self.specialisation.signature
        return [leaf for name, kind in signature.items() for leaf in _leaves(name, kind, self.arguments[name])]

    def flattened(self, types: Sequence[str]) -> list[tuple[str, Any]]:
        """(name, value) of every argument of the compiled function, whose `types` (`*f32`, `i32`) say how it takes descriptors.

        A `TensorDescriptor` becomes several arguments. Where Triton's passes rewrote it to a pointer: base, shape, strides,
        flags of the padding and, from 3.7 on, of rounding to tf32; then, as everywhere, shape and strides once more.
        """
        values: list[tuple[str, Any]] = []
        for leaf in self.leaves():
            if leaf.kind.startswith("tensordesc"):
                values.extend(_descriptor(leaf, types[len(values) :]))
            else:
                values.append((leaf.name, leaf.value))
        return values


def _descriptor(leaf: Argument, types: Sequence[str]) -> list[tuple[str, Any]]:
    descriptor = leaf.value
    layout = [
        *((f"{leaf.name}.shape[{at}]", size) for at, size in enumerate(descriptor.shape)),
        *((f"{leaf.name}.strides[{at}]", stride) for at, stride in enumerate(descriptor.strides)),
    ]
    if not types or not types[0].startswith("*"):
        return [(leaf.name, descriptor), *layout]
    flags = [("padding", descriptor.padding == "nan"), ("round_f32_to_tf32", getattr(descriptor, "round_f32_to_tf32", False))]
    behind = types[1 + len(layout) :]
    count = next((at for at, kind in enumerate(behind) if kind != "i1"), len(behind))
    named = [(f"{leaf.name}.{name}", value) for name, value in flags[:count]]
    return [(f"{leaf.name}.base", _unwrapped(descriptor.base)), *layout, *named, *layout]


def _leaves(name: str, kind: Any, value: Any) -> Iterator[Argument]:
    if isinstance(kind, tuple):
        for at, (inner, element) in enumerate(zip(kind, value, strict=True)):
            yield from _leaves(f"{name}[{at}]", inner, element)
    elif kind != "constexpr":
        yield Argument(name, kind, _unwrapped(value))


def _unwrapped(value: Any) -> Any:
    return value.base if isinstance(value, TensorWrapper) else value
