"""Does the installed Triton say what we think it says? A kernel for each construct, with results known beforehand.

How Triton prints its IR is nobody's promise, and a release may also change what a property means or leave one out. So
before a process executes anything, these kernels go through the real front end and the executor. That they passed is
remembered in the cache, for this build of Triton and this source of ours; a failure is not.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from tridiff.harness.engines.cpu import cache, fingerprint
from tridiff.harness.engines.cpu import selftest_kernels as kernels
from tridiff.harness.engines.cpu.errors import KernelError
from tridiff.harness.engines.cpu.ttir import SUPPORTED, FrontEndDrift
from tridiff.harness.engines.spec import UsageError

Launcher = Callable[[], None]
Execute = Callable[[Launcher], None]
_log = logging.getLogger("tridiff")


class SelfTestError(FrontEndDrift, UsageError):
    """The installed Triton is not one that this executor understands; `drifted`: what went wrong, by construct."""

    def __init__(self, drifted: dict[str, str]) -> None:
        self.drifted = drifted
        what = "; ".join(f"{name}: {reason}" for name, reason in drifted.items())
        super().__init__(
            f"triton {triton.__version__} does not pass the self-test of the cpu engine ({what}); "
            f"tested versions: {SUPPORTED}: install one of these, or report the construct that drifted"
        )


@dataclass(frozen=True)
class Construct:
    """A thing that kernels do: `check(execute)` runs its kernel and says what is wrong, or nothing."""

    name: str
    kernel: Any
    check: Callable[[Execute], str | None]


_passed: set[str] = set()


def ensure(backend: str, execute: Execute) -> None:
    """Run the self-test for a back end (`hip`, `cuda`) unless it has passed before. Raises `SelfTestError`."""
    if backend in _passed:
        return
    _passed.add(backend)  # at once: what the self-test executes does not start another
    try:
        _ensure(backend, execute)
    except BaseException:
        _passed.discard(backend)
        raise


def _ensure(backend: str, execute: Execute) -> None:
    if not is_tested(triton.__version__):
        _log.warning("tridiff was not tested with triton %s, but with %s: its self-test decides", triton.__version__, SUPPORTED)
    store = cache.store()
    key = fingerprint.digest(f"self-test {backend} {_source()}")
    if store is not None and store.get(key) == "passed":
        return
    drifted = drift(execute)
    if drifted:
        raise SelfTestError(drifted)
    if store is not None:
        store.put(key, "passed")


def is_tested(version: str) -> bool:
    """Whether `version` of Triton is one that the tests run with."""
    match = re.match(r"(\d+)\.(\d+)", version)
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in SUPPORTED.split(" to "))
    return match is not None and low <= (int(match[1]), int(match[2])) <= high


def drift(execute: Execute) -> dict[str, str]:
    """What is wrong, by construct; nothing at all with a Triton that we understand."""
    found: dict[str, str] = {}
    for construct in CONSTRUCTS:
        construct.kernel.device_caches.clear()  # from the front end on, not what this process has compiled already
        try:
            reason = construct.check(execute)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here is the answer
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        if reason is not None:
            found[construct.name] = reason
    if len(found) == len(CONSTRUCTS):  # then it is none of them in particular
        return {"the form in which IR is printed": next(iter(found.values()))}
    return found


@lru_cache(maxsize=1)
def _source() -> str:
    """A digest of the executor's source and of what captures launches."""
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *(here.parent.parent / "capture").glob("*.py")])
    return fingerprint.digest(b"".join(file.read_bytes() for file in files))


# The constructs -------------------------------------------------------------------------------------------------------


def _differs(got: torch.Tensor, want: Any) -> str | None:
    expected = torch.as_tensor(want, dtype=got.dtype).reshape(got.shape)
    if torch.equal(torch.nan_to_num(got, nan=12345), torch.nan_to_num(expected, nan=12345)):
        return None
    return f"computes {got.tolist()} instead of {expected.tolist()}"


def _masked(execute: Execute) -> str | None:
    x, out = torch.arange(8, dtype=torch.float32), torch.full((8,), -1.0)
    execute(lambda: kernels.masked[(1,)](x, out, 5, 8))
    return _differs(out, [0, 2, 4, 6, 8, -6.5, -6.5, -1])


def _loops(execute: Execute) -> str | None:
    out = torch.zeros(3, 3, dtype=torch.int32)
    execute(lambda: kernels.loops[(3,)](out, 9, 10))
    return _differs(out, [[74, 8, 1], [43, 7, 2], [74, 8, 0]])


def _early_return(execute: Execute) -> str | None:
    out = torch.zeros(4, dtype=torch.int32)
    execute(lambda: kernels.early_return[(4,)](out, 3))
    return _differs(out, [1, 2, 3, 0])


def _helpers(execute: Execute) -> str | None:
    x, out = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4)
    execute(lambda: kernels.helpers[(1,)](x, out, 4))
    return _differs(out, [4, 10, 16, 22])


def _reductions(execute: Execute) -> str | None:
    x, out = torch.tensor([[1.0, 5, 5, 2], [4, 3, 0, 9]]), torch.zeros(8)
    execute(lambda: kernels.reductions[(1,)](x, out, 2, 4))
    return _differs(out, [13, 16, 4, 5, 5, 9, 1, 3])


def _products(execute: Execute) -> str | None:
    a = torch.arange(256, dtype=torch.float32).reshape(16, 16) % 7
    b = torch.arange(256, dtype=torch.float32).reshape(16, 16) % 5 - 2
    out = torch.zeros(16, 16)
    execute(lambda: kernels.products[(1,)](a, b, out, 16))
    return _differs(out, a @ b + a @ b.T)


def _casts(execute: Execute) -> str | None:
    x, out = torch.tensor([1.00390625, 300.7, -1.5, 2049.0]), torch.zeros(4)
    halves, narrow = torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.int8)
    execute(lambda: kernels.casts[(1,)](x, out, halves, narrow, 4))
    return (
        _differs(halves, [1.0, 300.0, -1.5, 2048.0])
        or _differs(narrow, [1, 44, -1, 1])
        or _differs(out, [4.00390625, 300.75 + 44 + 44 + 1, -1.5 - 1 + 255, 2048.0 + 1 + 1 + 1])
    )


def _pointers(execute: Execute) -> str | None:
    x, out = torch.arange(20, dtype=torch.float32), torch.zeros(8)
    execute(lambda: kernels.pointers[(1,)](x, out, 10, 2, 4))
    return _differs(out, [4, 6, 8, 10, 24, 26, 28, 30])


def _constants(execute: Execute) -> str | None:
    out, halves, whole = torch.zeros(8), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(8, dtype=torch.int64)
    execute(lambda: kernels.constants[(1,)](out, halves, whole))
    return (
        _differs(out, [math.inf, -math.inf, math.nan, 0.1, -2.5, 1e-40, 3e38, 0.1])
        or _differs(halves, [1.5] * 4 + [-0.15625] * 4)
        or _differs(whole, [-5_000_000_000] * 4 + [7] * 4)
    )


def _arguments(execute: Execute) -> str | None:
    out = torch.zeros(1)
    execute(lambda: kernels.arguments[(1,)](out, -3, 20_000_000_000, 0.25, True, 1, None, tl.float32))  # noqa: FBT003 - a kernel's
    return _differs(out, [-3 + 20 + 0.25 + 1 + 100 + 1000])


def _comparisons(execute: Execute) -> str | None:
    x, y = torch.tensor([1.0, 2.0, 2.0, math.nan]), torch.tensor([2.0, 2.0, 1.0, 1.0])
    u, v = torch.tensor([1, 7, -1, 3], dtype=torch.int32), torch.tensor([2, 2, 1, 3], dtype=torch.int32)
    out = torch.zeros(2, 4, dtype=torch.int32)
    execute(lambda: kernels.comparisons[(1,)](x, y, u, v, out, 4))
    less, equal, more = (1, 2, 32), (2, 8, 16), (4, 8, 32)
    floats = [sum(less), sum(equal), sum(more), 32]
    signed = [64 * one for one in (sum(less), sum(more), sum(less), sum(equal))]
    unsigned = [4096 * one for one in (3, 12, 12, 10)]
    return _differs(out, [[sum(bits) for bits in zip(floats, signed, unsigned, strict=True)], [2, 5, 1, 3]])


def _arithmetic(execute: Execute) -> str | None:
    x, y = torch.tensor([7, -7, 9, 4], dtype=torch.int32), torch.tensor([2, 2, 4, -3], dtype=torch.int32)
    out = torch.zeros(2, 4, dtype=torch.int32)
    execute(lambda: kernels.arithmetic[(1,)](x, y, out, 4))
    whole = [3 * 10000 + 100 + (14 ^ 2) + 3, -3 * 10000 - 100 + (-14 ^ 2) - 4, 20000 + 100 + 18 + 4, -10000 + 100 + (8 ^ 1) + 2]
    return _differs(out, [whole, [8, 8, 10, 5]])


def _line(execute: Execute) -> str | None:
    out = torch.zeros(3, dtype=torch.int32)
    source, first = inspect.getsourcelines(kernels.overrun.fn)
    wanted = f"{Path(str(kernels.__file__)).name}:{first + next(at for at, line in enumerate(source) if 'overruns' in line)}"
    try:
        execute(lambda: kernels.overrun[(1,)](out, 4))
    except KernelError as error:
        return (
            None
            if (error.check, error.line) == ("bounds", wanted)
            else f"reported {error.check} at {error.line}, not at {wanted}"
        )
    return "a store beyond the end was not noticed"


CONSTRUCTS = (
    Construct("early return", kernels.early_return, _early_return),
    Construct("masked load and store", kernels.masked, _masked),
    Construct("loops and branches", kernels.loops, _loops),
    Construct("calls of helpers", kernels.helpers, _helpers),
    Construct("reductions", kernels.reductions, _reductions),
    Construct("dot", kernels.products, _products),
    Construct("casts", kernels.casts, _casts),
    Construct("pointer arithmetic", kernels.pointers, _pointers),
    Construct("constants", kernels.constants, _constants),
    Construct("scalar arguments", kernels.arguments, _arguments),
    Construct("comparisons", kernels.comparisons, _comparisons),
    Construct("arithmetic", kernels.arithmetic, _arithmetic),
    Construct("source lines", kernels.overrun, _line),
)
