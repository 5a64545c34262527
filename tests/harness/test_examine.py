"""One Case through all checks: every planted defect is caught by its check, and by none for the wrong reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy.family import registry
from toy.kernels import scale as toy_kernels
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Arena, Clean, Finding, Found, Outcome, Patch, Skipped, StagingError, Unsupported
from tridiff.harness.engines.cpu import ttir
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.faults import load
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef, examine

SPEC = EngineSpec(max_steps=100)
CASE = ScaleCase(rows=2, columns=3, gap=2, factor=2.0)


@pytest.fixture
def known() -> Registry:
    """A registry of its own for every test."""
    return registry()


def examined(known: Registry, fault: str | None = None, case: ScaleCase = CASE, spec: EngineSpec = SPEC) -> Outcome:
    """Examine the toy kernel, or its twin with a fault."""
    return examine(KernelRef(kernel="scale", fault=fault), spec, case, known)


def finding(outcome: Outcome) -> Finding:
    """The Finding of an Outcome that must be one."""
    assert isinstance(outcome, Found), outcome
    return outcome.finding


def plant(known: Registry, old: str, new: str) -> str:
    """Register a fault of one patch and return its name."""
    fault = dataclasses.replace(known.fault("scale", "factor_off"), name="planted", patches=(Patch(old=old, new=new),))
    known.register_fault(fault)
    return fault.name


def line_of(known: Registry, fault: str, snippet: str) -> str:
    """FILE:LINE of the only line of the twin's source that holds `snippet`."""
    path = Path(str(load(known.kernel("scale"), known.fault("scale", fault)).__file__))
    (number,) = (at for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if snippet in line)
    return f"scale.py:{number}"


def test_rounding_that_the_reference_cannot_use(known: Registry) -> None:
    """What a plug-in's kernel lacks is told its author in one line; a built-in kernel that lacks it is our bug."""
    known.references["scale"] = lambda _, rounding: rounding["additions_of"]
    with known.source("mine.py"):
        known.register_kernel(dataclasses.replace(known.kernel("scale"), name="mine", rounding=None))

    told = r"plug-in mine.py: the reference of scale cannot use the rounding \{\} of kernel .mine., which declares none: KeyError"
    with pytest.raises(UsageError, match=told):
        examine(KernelRef(kernel="mine"), SPEC, CASE, known)
    with pytest.raises(KeyError, match="additions_of"):
        examined(known)


# The right kernel


@pytest.mark.parametrize("case", [ScaleCase(), CASE, ScaleCase(rows=7, columns=33, factor=-0.3), ScaleCase(columns=1000)])
def test_right_kernel_is_clean(known: Registry, case: ScaleCase) -> None:
    """The outcome says how close to the bound it came and what was compiled."""
    outcome = examined(known, case=case)

    assert isinstance(outcome, Clean)
    assert 0.0 <= outcome.ratio <= 1.0
    assert outcome.conclusive
    assert [name.partition("-")[0] for name in outcome.specialisations] == ["_scale"]


def test_inconclusive_verdict_is_passed_on(known: Registry) -> None:
    """Where the reference says that nothing could be seen, the outcome says so."""
    reference = known.references["scale"]
    known.references["scale"] = lambda *arguments: {**reference(*arguments), "conclusive": False}

    outcome = examined(known)

    assert isinstance(outcome, Clean)
    assert not outcome.conclusive


def test_reference_learns_where_the_kernel_rounds(known: Registry) -> None:
    """From the function that the kernel names, in the twin's own module where there is a fault; else it learns nothing."""
    reference, told = known.references["scale"], []

    def spy(inputs: Any, rounding: Any) -> Any:
        told.append(dict(rounding))
        return reference(inputs, rounding)

    known.references["scale"] = spy
    examined(known)
    examined(known, plant(known, '{"additions": x.shape[1]}', '{"additions": 17}'))
    examine(KernelRef(kernel="scale_wrong"), SPEC, CASE, known)

    assert told == [{"additions": 3}, {"additions": 17}, {}]


def test_unknown_names_are_usage_errors(known: Registry) -> None:
    """A kernel or fault that is not there is the caller's mistake."""
    with pytest.raises(UsageError, match="unknown kernel 'scal'"):
        examine(KernelRef(kernel="scal"), SPEC, CASE, known)
    with pytest.raises(UsageError, match="unknown fault of scale 'factor_of'"):
        examined(known, "factor_of")


# Planted defects


@pytest.mark.parametrize(
    ("fault", "check", "message", "snippet", "others"),
    [
        ("launcher_raises", "launch", r"ValueError: 3 columns: must be 2", "raise ValueError", ()),
        ("front_end_refuses", "launch", r"Triton refuses .*arange.*constexpr.*", "tl.arange(0, columns)", ()),
        ("never_ends", "hang", r".* 100 loop steps", "while step < columns", ()),
        ("load_unmasked", "bounds", r"load from x .*1 element past the end of x.*", "values = tl.load(", ()),
        ("gap_written", "corruption", r"1 element into the gap after out\[0, 2\] must not be .*", "columns, 0.5", ()),
        ("last_column_skipped", "unwritten", r"out\[0, 2\] was never written: .*\(2 elements in all\)", "", ("nan", "poison")),
        ("gap_summed", "nan", r"total\[0\] is nan, expected -?\d.*", "", ("poison",)),
        ("factor_off", "mismatch", r"out\[\d, \d\] is .* times the error bound .*\(6 of 6 elements\)", "", ()),
        ("gap_summed_unless_nan", "poison", r"total\[0\] depends on memory that must not influence it: .*", "", ()),
    ],
)  # fmt: skip
def test_every_check_catches_its_defect(
    known: Registry, fault: str, check: str, message: str, snippet: str, others: tuple[str, ...]
) -> None:
    """The primary check, its message, the kernel's line where there is one, and what else fired."""
    found = finding(examined(known, fault))

    assert (found.check, found.others) == (check, others)
    assert re.fullmatch(message, found.message)
    assert found.line == (line_of(known, fault, snippet) if snippet else None)
    assert (found.op, found.kernel, found.engine, found.target) == ("scale", "scale", "cpu", "gfx942")
    assert found.case == CASE


def test_toy_faults_cover_every_check(known: Registry) -> None:
    """`assembly_used` is the only toy fault that nothing on the cpu engine can catch, so none is missing above."""
    names = {fault.name for fault in known.faults["scale"]}
    outcomes = {name: examined(known, name) for name in names}

    missed = {name for name, outcome in outcomes.items() if not isinstance(outcome, Found)}
    right = {name for name in names - missed if finding(outcomes[name]).check in known.fault("scale", name).checks}

    assert missed == {"assembly_used"}
    assert right == names - missed


@pytest.mark.parametrize("fault", [None, "load_unmasked", "gap_written", "factor_off", "gap_summed_unless_nan", "assembly_used"])
def test_same_case_same_outcome(known: Registry, fault: str | None) -> None:
    """Outcomes are equal in every part from run to run, whatever other kernel ran in between."""
    first = examined(known, fault)
    examined(known, "last_column_skipped")
    second = examined(known, fault)

    assert first == second


def test_failure_under_quiet_poison_alone_is_poison(known: Registry) -> None:
    """A loop that NaN ends and a number keeps going hangs in the second run only; the finding says so."""
    endless = "at = tl.arange(0, block)\n    while tl.load(x + columns) == 30000.0:\n        tl.store(total + row, 0.0)"
    fault = plant(known, "at = tl.arange(0, block)", endless)

    found = finding(examined(known, fault))

    assert found.check == "poison"
    assert found.message.startswith("with finite poison instead of NaN the kernel fails: ")
    assert found.line == line_of(known, fault, "while tl.load")


def test_inputs_that_the_kernel_spoils_do_not_mislead_the_reference(known: Registry) -> None:
    """A kernel that overwrites its input is caught for that, and is not measured against a spoilt reference."""
    store = "tl.store(out + row * stride + at, values * factor, mask=live)"
    fault = plant(known, store, f"{store}\n    tl.store(x + row * stride + at, values * 0, mask=live)")

    found = finding(examined(known, fault))

    assert (found.check, found.others) == ("corruption", ())
    assert found.message.startswith("x[0, 0] must not be written: it held ")


# What is nobody's finding


def test_unsupported_operation(known: Registry) -> None:
    """What the engine cannot run is neither clean nor a finding; operation and line are named."""
    outcome = examined(known, "assembly_used")

    assert isinstance(outcome, Unsupported)
    assert "tt.elementwise_inline_asm" in outcome.reason
    assert outcome.line == line_of(known, "assembly_used", "inline_asm")


def test_unsupported_is_reported_again(known: Registry) -> None:
    """The second case of a kernel that the engine cannot run gets the same answer as the first."""
    assert examined(known, "assembly_used") == examined(known, "assembly_used", dataclasses.replace(CASE, seed=1))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StagingError("no address space for x: 9.0 GiB of torch.float32"), "no address space for x: 9.0 GiB of torch.float32"),
        (MemoryError("Unable to allocate 9. GiB"), "not enough memory: Unable to allocate 9. GiB"),
    ],
)
def test_case_that_the_machine_cannot_hold_is_skipped(known: Registry, error: Exception, reason: str) -> None:
    """That says nothing of the kernel."""

    def build(_case: ScaleCase, _arena: Arena) -> dict[str, Any]:
        raise error

    known.ops["scale"] = dataclasses.replace(known.op("scale"), build=build)

    assert examined(known) == Skipped(reason=reason)


def test_launcher_that_runs_out_of_memory(known: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the kernel's doing, on its line; what our executor cannot hold is not."""

    def launch(**_: object) -> None:
        raise MemoryError("9.0 GiB")

    monkeypatch.setattr(toy_kernels, "scale", launch)

    outcome = examined(known)

    assert isinstance(outcome, Found)
    assert (outcome.finding.check, outcome.finding.message) == ("memory", "the launcher ran out of memory: MemoryError: 9.0 GiB")
    assert (outcome.finding.line or "").startswith("test_examine.py:")


class Stop(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("error", [Stop("no workspace"), SystemExit("no workspace")], ids=["its own", "exit"])
def test_launcher_that_raises_no_exception(known: Registry, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """It is a defect like any other, with its kind and its line."""

    def launch(**_: object) -> None:
        raise error

    monkeypatch.setattr(toy_kernels, "scale", launch)

    outcome = examined(known)

    assert isinstance(outcome, Found)
    assert (outcome.finding.check, outcome.finding.message) == ("launch", f"{type(error).__name__}: no workspace")
    assert (outcome.finding.line or "").startswith("test_examine.py:")


def test_ctrl_c_in_a_launcher(known: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the user's, and no kernel's."""

    def launch(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy_kernels, "scale", launch)

    with pytest.raises(KeyboardInterrupt):
        examined(known)


def broken_here(*_: object) -> None:
    """Raise where our own code is at work."""
    raise TypeError("broken")


def broken_in_a_library(*_: object) -> None:
    """Raise inside numpy, on our behalf."""
    np.broadcast_shapes((2,), (3,))


@pytest.mark.parametrize("broken", [broken_here, broken_in_a_library])
@pytest.mark.parametrize("spec", [EngineSpec(target="gfx90a"), EngineSpec(target="sm_90")])
def test_engine_bug_is_not_blamed_on_the_kernel(
    known: Registry, monkeypatch: pytest.MonkeyPatch, spec: EngineSpec, broken: Callable[..., None]
) -> None:
    """What our executor raises, itself or in a library that it calls, escapes as what it is."""
    monkeypatch.setitem(ttir.BUILDERS, "tt.load", lambda _bound: broken)
    fault = plant(known, "values * factor", f"values * factor * {1.0 + ('sm' in spec.target) + 2 * (broken is broken_here)}")

    with pytest.raises((TypeError, ValueError), match=r"broken|broadcast"):
        examined(known, fault, spec=spec)


def test_reference_bug_is_not_blamed_on_the_kernel(known: Registry) -> None:
    """Neither is what our reference raises."""
    known.references["scale"] = lambda *_: 1 / 0  # type: ignore[assignment]

    with pytest.raises(ZeroDivisionError):
        examined(known)


# Whose line it is


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("raise ValueError('\\n\\n  first\\nsecond')", "ValueError: first"),
        ("raise RuntimeError", "RuntimeError: no message"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x.new_empty(2).view(3)", r"RuntimeError: shape '\[3\]' is invalid for input of size 2"),
        ("torch.empty(-1)", "RuntimeError: .*negative dimension.*"),
        ("triton.next_power_of_2(None)", "TypeError: .*"),
        ("_scale[(rows,)](x)", "TypeError: .*missing .* required positional argument.*"),
        ("_scale[(rows,)](x, out, total, factor, columns, x.stride(0), block=3)", ".*power of 2.*"),
        ("import json; json.loads('{')", "JSONDecodeError: .*"),
    ],
)
def test_what_a_launcher_raises_has_its_line(known: Registry, code: str, message: str) -> None:
    """Whatever raises, torch and Triton below the launcher included, the line is the kernel author's own."""
    fault = plant(known, "rows, columns = x.shape", f"rows, columns = x.shape\n    {code}")

    found = finding(examined(known, fault))

    assert found.check == "launch"
    assert re.fullmatch(message, found.message), found.message
    assert found.line is not None
    assert found.line.startswith("scale.py:")


def test_line_of_a_raise_is_exact(known: Registry) -> None:
    """Also two calls below the launcher."""
    fault = plant(
        known, "rows, columns = x.shape", "rows, columns = x.shape\n    _refuse()\n\n\ndef _refuse():\n    x = torch.empty(-1)"
    )

    found = finding(examined(known, fault))

    assert found.line == line_of(known, fault, "x = torch.empty(-1)")


def test_wrong_signature_of_a_launcher_is_a_finding(known: Registry) -> None:
    """A launcher that does not take the op's arguments fails every case; there is no line of its own to show."""
    fault = plant(
        known,
        '*, x: torch.Tensor, out: torch.Tensor, total: torch.Tensor, factor: float) -> None:\n    """Write',
        '*, y) -> None:\n    """Write',
    )

    found = finding(examined(known, fault))

    assert (found.check, found.line) == ("launch", None)
    assert "unexpected keyword argument" in found.message


def test_one_defect_keeps_its_signature(known: Registry) -> None:
    """Cases of other shapes and values find the same defect under the same name."""
    cases = [CASE, ScaleCase(rows=3, columns=5, gap=1, factor=-0.5, seed=4), ScaleCase(rows=2, columns=17, gap=3)]
    faults = [fault.name for fault in known.faults["scale"] if fault.name != "assembly_used"]

    signatures = {fault: {finding(examined(known, fault, case)).signature() for case in cases} for fault in faults}

    assert {fault: len(found) for fault, found in signatures.items()} == dict.fromkeys(faults, 1)
    assert len(set.union(*signatures.values())) == len(faults)


def test_scratch_is_poisoned(known: Registry) -> None:
    """Memory that a launcher allocates without filling it holds NaN in the first run."""
    fault = plant(known, "rows, columns = x.shape", "rows, columns = x.shape\n    factor *= float(torch.empty(1))")

    found = finding(examined(known, fault))

    assert (found.check, found.others) == ("nan", ("poison",))
    assert found.message.startswith("out[0, 0] is nan, ")
