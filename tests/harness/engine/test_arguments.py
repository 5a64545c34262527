"""Arguments of a launch: tuples, constants, defaults, numbers, and pointers that are not plain tensors."""

# ruff: noqa: D103 - jit functions of a few lines
# mypy: allow-untyped-defs, allow-untyped-decorators

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import triton
import triton.language as tl
from launching import VERSION, attributes, captured, run, tensors
from triton.tools.tensor_descriptor import TensorDescriptor

from tridiff.harness.engines.cpu.errors import KernelError, UnsupportedOperation

# Tuples


@triton.jit
def nested(pair, out, extra):
    first, rest = pair[0], pair[1]
    tl.store(out, tl.load(first) * rest[0] + tl.load(rest[1][0]) + rest[1][1] + extra)


@pytest.mark.parametrize(("factor", "addend"), [(2, 3), (1, 3), (2, 1), (1, 1), (2, 0.5), (16, 2**40)])
def test_nested_tuples(factor: int, addend: float) -> None:
    """Tensors and numbers, run-time values and such that Triton takes for constants, wherever they stand."""
    x, y, out = *tensors(2), torch.zeros(1)

    run(lambda: nested[(1,)]((x, (factor, (y, addend))), out, 7))

    assert out.item() == torch.tensor(10.0 * factor + 20.0 + addend + 7).item()


def test_leaves_are_named_by_their_path() -> None:
    """In the order of the compiled function's arguments, without constants."""
    x, y, out = *tensors(2), torch.zeros(1)

    (launch,) = captured(lambda: nested[(1,)]((x, (1, (y, 5))), out, 7))

    leaves = [(leaf.name, leaf.kind) for leaf in launch.leaves()]
    assert leaves == [
        ("pair[0]", "*fp32"),
        ("pair[1][1][0]", "*fp32"),
        ("pair[1][1][1]", "i32"),
        ("out", "*fp32"),
        ("extra", "i32"),
    ]
    assert [launch.leaves()[at].value for at in (0, 1, 3)] == [x, y, out]


class Pair(NamedTuple):
    """A tensor and a number."""

    data: Any
    count: Any


@triton.jit
def named(pair, out):
    tl.store(out, tl.load(pair.data) + pair.count)


@pytest.mark.parametrize("count", [0, 1, 2, 2.5])
def test_named_tuples(count: float) -> None:
    """Their fields are reached by name."""
    (x,), out = tensors(1), torch.zeros(1)

    run(lambda: named[(1,)](Pair(x, count), out))

    assert out.item() == 10.0 + count


@triton.jit
def optional(pair, out):
    result = tl.load(pair[0])
    if pair[1] is not None:
        result += tl.load(pair[1])
    tl.store(out, result)


@pytest.mark.parametrize("second", [True, False])
def test_none_in_a_tuple(second: bool) -> None:
    """Is a constant, as an argument of its own is."""
    x, y, out = *tensors(2), torch.zeros(1)

    run(lambda: optional[(1,)]((x, y if second else None), out))

    assert out.item() == (30.0 if second else 10.0)


@triton.jit
def overrun(pair, out):
    tl.store(out, tl.load(pair[0] + pair[1]))


def test_bounds_of_a_tensor_in_a_tuple() -> None:
    """The finding names the leaf."""
    with pytest.raises(KernelError, match=r"load from scratch pair\[0\] out of bounds: element 5 of 4 of scratch pair\[0\]"):
        run(lambda: overrun[(1,)]((torch.zeros(4), 5), torch.zeros(1)))


@triton.jit
def constants_of(pair: tl.constexpr, out):
    tl.store(out, pair[0] * 10 + pair[1][1])


def test_constant_tuples() -> None:
    """A whole tuple as a constant."""
    out = torch.zeros(1)

    run(lambda: constants_of[(1,)]((4, (7, 2)), out))

    assert out.item() == 42.0


def test_lists_are_refused() -> None:
    """As in production."""
    with pytest.raises(TypeError, match="list"):
        run(lambda: named[(1,)]([torch.zeros(1), 2], torch.zeros(1)))


@pytest.mark.skipif(VERSION < (3, 8), reason="Triton binds *args from 3.8 on")
def test_variadic_arguments() -> None:
    """What `*rest` collects is a tuple."""
    x, y, out = *tensors(2), torch.zeros(1)

    run(lambda: variadic[(1,)](out, x, y))

    assert out.item() == 30.0


@triton.jit
def variadic(out, *rest):  # noqa: ANN002 - arguments of jit functions have no Python type
    tl.store(out, tl.load(rest[0]) + tl.load(rest[1]))


# Constants, defaults, keywords


@triton.jit
def double(x):
    return x * 2


@triton.jit
def triple(x):
    return x * 3


@triton.jit
def constant(x, out, which: tl.constexpr, function: tl.constexpr, dtype: tl.constexpr, extra: tl.constexpr = None):
    value = function(tl.load(x))
    if which == "rounded":
        value = value.to(dtype).to(tl.float32)
    if extra is not None:
        value += extra
    tl.store(out, value)


CONSTANTS: dict[str, tuple[tuple[Any, ...], float]] = {
    "string": (("plain", double, tl.float16), 2 * 2049.5),
    "other string": (("rounded", double, tl.float16), 4100.0),
    "other dtype": (("rounded", double, tl.bfloat16), 4096.0),
    "other function": (("plain", triple, tl.float16), 3 * 2049.5),
    "number": (("plain", double, tl.float16, 1), 4100.0),
    "float": (("plain", double, tl.float16, 0.5), 4099.5),
    "none": (("plain", double, tl.float16, None), 4099.0),
    "bool": (("plain", double, tl.float16, True), 4100.0),
    "wrapped": ((tl.constexpr("plain"), double, tl.float16, tl.constexpr(2)), 4101.0),
}


@pytest.mark.parametrize(("arguments", "expected"), CONSTANTS.values(), ids=CONSTANTS)
def test_constants(arguments: tuple[Any, ...], expected: float) -> None:
    """Integers, floats, strings, data types, functions and None."""
    x, out = torch.full((1,), 2049.5), torch.zeros(1)

    run(lambda: constant[(1,)](x, out, *arguments))

    assert out.item() == expected


def test_constants_are_specialisations() -> None:
    """Each combination is one; None is the default of the last."""
    x, out = torch.zeros(1), torch.zeros(1)

    launches = [captured(partial(constant[1,], x, out, *case))[0] for case, _ in CONSTANTS.values()]

    assert len({launch.specialisation.name for launch in launches}) == len(CONSTANTS) - 1


@pytest.mark.parametrize("values", [(1, True, 1.0), (1.0, 1, True), (0, False, -0.0)])
def test_constants_that_compare_equal(values: tuple[Any, ...]) -> None:
    """Triton looks a kernel up by values that it has met, as if 1, True and 1.0 were one; no Case depends on earlier ones."""
    x, out = torch.zeros(1), torch.zeros(1)

    launches = [captured(partial(constant[1,], x, out, "plain", double, tl.float16, value))[0] for value in values]

    assert [launch.specialisation.constants[5,] for launch in launches] == list(values)
    assert [type(launch.specialisation.constants[5,]) for launch in launches] == [type(value) for value in values]


@triton.jit
def mixed(x, out, n, scale=2.0, shift=1, block: tl.constexpr = 4):
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) * scale + shift, mask=i < n)


@pytest.mark.parametrize(
    ("positional", "keywords", "expected"),
    [
        ((4,), {}, [1, 3, 5, 7]),
        ((3,), {"scale": 3.0}, [1, 4, 7, 0]),
        ((4, 0.5), {"shift": 5}, [5, 5.5, 6, 6.5]),
        ((), {"n": 2, "block": 2, "shift": 0}, [0, 2, 0, 0]),
    ],
)
def test_defaults_and_keywords(positional: tuple[Any, ...], keywords: dict[str, Any], expected: list[float]) -> None:
    """In any mixture."""
    x, out = torch.arange(4.0), torch.zeros(4)

    run(lambda: mixed[(1,)](x, out, *positional, **keywords))

    assert out.tolist() == expected


@triton.jit
def keyword_only(x, out, *, shift=1, block: tl.constexpr = 4):
    i = tl.arange(0, block)
    tl.store(out + i, tl.load(x + i) + shift)


@pytest.mark.skipif(VERSION < (3, 9), reason="Triton compiles keyword-only parameters from 3.9 on")
@pytest.mark.parametrize(("keywords", "expected"), [({}, [1, 2, 3, 4]), ({"shift": 7, "block": 2}, [7, 8, 0, 0])])
def test_keyword_only_parameters(keywords: dict[str, Any], expected: list[float]) -> None:
    """Have defaults and values like any other."""
    x, out = torch.arange(4.0), torch.zeros(4)

    run(lambda: keyword_only[(1,)](x, out, **keywords))

    assert out.tolist() == expected


@triton.jit
def inner(x, factor=3):
    return x * factor


@triton.jit
def outer(x, factor, offset: tl.constexpr = 1):
    return inner(x) + inner(x, factor) + offset


@triton.jit
def helpers(x, out):
    tl.store(out, outer(tl.load(x), factor=5) + outer(tl.load(x), 7, offset=100))


def test_nested_helpers() -> None:
    """Jit functions that call each other, with their own defaults and keywords."""
    out = torch.zeros(1)

    run(lambda: helpers[(1,)](torch.full((1,), 10.0), out))

    assert out.item() == (30 + 50 + 1) + (30 + 70 + 100)


@triton.jit
def value_of(value, out):
    tl.store(out, value)


@pytest.mark.parametrize("value", [0, 1, -1, 16, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), True, False])
def test_integer_arguments(value: int) -> None:
    """Of any size, specialised or not."""
    out = torch.full((1,), 77, dtype=torch.int64)

    run(lambda: value_of[(1,)](value, out))

    assert out.item() == int(value)


@pytest.mark.parametrize("value", [0.1, 1.0, -0.0, float("inf"), 1e-40])
def test_float_arguments(value: float) -> None:
    """Are passed as float32, also 1.0."""
    out = torch.zeros(1, dtype=torch.float64)

    (launch,) = captured(lambda: value_of[(1,)](value, out))
    run(lambda: value_of[(1,)](value, out))

    assert launch.leaves()[0].kind == "fp32"
    assert out.item() == torch.tensor(value, dtype=torch.float32).item()


@triton.jit(do_not_specialize=["n"])
def unspecialised(x, n):
    tl.store(x, n)


@triton.jit(do_not_specialize_on_alignment=["x", "n"])
def unaligned(x, n):
    tl.store(x, n)


def test_do_not_specialize() -> None:
    """1 stays a run-time value, and 16 nothing special; alignment can be left out of it alone."""
    x = torch.zeros(16)

    for n in (1, 16, 5):
        run(lambda n=n: unspecialised[(1,)](x, n))
        assert x[0] == n
    names = {launch.specialisation.name for n in (1, 16, 5) for launch in captured(partial(unspecialised[1,], x, n))}
    (plain,), (one,) = (captured(partial(unaligned[1,], x, n)) for n in (16, 1))

    assert len(names) == 1
    assert attributes(plain) == {"x": {"tt.pointer_range"}, "n": set()}
    assert one.specialisation.signature["n"] == "constexpr"


# Pointers that are not plain tensors


@triton.jit
def widen(x, out):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i).to(tl.int32, bitcast=False) if x.dtype.element_ty.is_int() else tl.load(x + i))


def test_reinterpreted_tensor() -> None:
    """`triton.reinterpret` gives a tensor's bytes another type of the same width."""
    x, out = torch.tensor([0, 0x38, 0x40, 0xB8], dtype=torch.uint8), torch.zeros(4)
    same = torch.zeros(4, dtype=torch.int32)

    (launch,) = captured(lambda: widen[(1,)](triton.reinterpret(x, tl.float8e4nv), out))
    run(lambda: widen[(1,)](triton.reinterpret(x, tl.int8), same))

    assert launch.specialisation.signature["x"] == "*fp8e4nv"
    assert launch.leaves()[0].value is x
    assert same.tolist() == [0, 0x38, 0x40, 0xB8 - 256]


@triton.jit
def from_descriptor(tile, out, row, block: tl.constexpr):
    i = tl.arange(0, block)
    tl.store(out + i[:, None] * block + i[None, :], tile.load([row, 0]))


@pytest.mark.parametrize(("row", "rows"), [(0, 8), (0, 16), (8, 12), (16, 16)])
def test_host_descriptor(row: int, rows: int) -> None:
    """On gfx942 Triton makes a pointer of it, with bounds: what lies outside is zero."""
    x, out = torch.arange(1.0, 257.0).reshape(16, 16), torch.full((8, 8), -1.0)
    expected = torch.zeros(8, 8)
    expected[: max(0, min(8, rows - row))] = x[row : min(rows, row + 8), :8]

    run(lambda: from_descriptor[(1,)](TensorDescriptor.from_tensor(x[:rows], [8, 8]), out, row, 8))

    assert out.tolist() == expected.tolist()


def test_host_descriptor_padding() -> None:
    """What lies outside is NaN where the descriptor asks for that."""
    x, out = torch.ones(16, 16), torch.zeros(8, 8)
    tile = TensorDescriptor.from_tensor(x[:4], [8, 8], padding="nan")

    run(lambda: from_descriptor[(1,)](tile, out, 0, 8))

    assert out[:4].tolist() == [[1.0] * 8] * 4
    assert out[4:].isnan().all()


def test_none_for_a_pointer() -> None:
    """Is a constant that the kernel may ask for."""
    (x,), out = tensors(1), torch.zeros(1)

    run(lambda: optional_pointer[(1,)](x, None, out))

    assert out.item() == 10.0


@triton.jit
def optional_pointer(x, bias, out):
    result = tl.load(x)
    if bias is not None:
        result += tl.load(bias)
    tl.store(out, result)


def test_torch_dtype_is_refused_as_a_value() -> None:
    """As in production: only a parameter that is declared `tl.constexpr` takes it."""
    with pytest.raises(TypeError, match="dtype"):
        run(lambda: value_of[(1,)](torch.float16, torch.zeros(1)))


def test_descriptors_of_the_hardware_are_unsupported() -> None:
    """On sm_90 Triton keeps the descriptor; that is said, and nothing invented."""
    tile = TensorDescriptor.from_tensor(torch.zeros(16, 16), [8, 8])

    with pytest.raises(UnsupportedOperation, match=r"tt\.descriptor_load|TensorDescriptor"):
        run(lambda: from_descriptor[(1,)](tile, torch.zeros(64), 0, 8), target="sm_90")
