"""The registry joins what belongs together by name, and refuses what does not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from toy.family import registry

from tridiff.harness.api import Fault, Kernel, Op, Patch, Property
from tridiff.harness.engines.spec import TARGETS, UsageError
from tridiff.harness.registry import Registry, builtin, families, register_family

FAULT = Fault(name="new", kernel="scale", description="A defect.", patches=(Patch(old="a", new="b"),), checks=frozenset({"nan"}))


def refuses(message: str) -> Any:
    """Expects a `UsageError` whose whole text is `message`."""
    return pytest.raises(UsageError, match=f"^{re.escape(message)}$")


def test_builtin_families_are_complete() -> None:
    """Every family brings an op, a reference, a kernel of that op, and faults of that kernel."""
    known = builtin()

    assert families()
    assert list(known.ops) == families()
    assert set(known.references) == set(known.ops)
    assert {kernel.op for kernel in known.kernels.values()} == set(known.ops)
    assert all(known.faults[name] for name in known.kernels)


def test_plug_in_family() -> None:
    """A family of another package registers through the same call."""
    known = registry()

    assert list(known.ops) == ["scale"]
    assert list(known.kernels) == ["scale", "scale_wrong"]
    assert known.kernel("scale").module == "toy.kernels.scale"
    assert known.fault("scale", "load_unmasked").checks == {"bounds"}
    assert all(isinstance(patch, Patch) for fault in known.faults["scale"] for patch in fault.patches)


def test_names_are_taken_once() -> None:
    """A second op, kernel or fault of one name is refused; a fault of the same name in another kernel is not."""
    known = registry()

    with refuses("an op named 'scale' is registered already: choose another name"):
        register_family(known, "scale", package="toy")
    with refuses("a kernel named 'scale' is registered already: choose another name"):
        known.register_kernel(known.kernel("scale"))
    with refuses("kernel 'scale' has a fault named 'factor_off' already: choose another name"):
        known.register_fault(dataclasses.replace(FAULT, name="factor_off"))

    known.register_fault(dataclasses.replace(FAULT, name="factor_off", kernel="scale_wrong"))
    assert known.fault("scale_wrong", "factor_off").patches == FAULT.patches


def test_kernel_needs_an_op() -> None:
    """A kernel of an unknown op is refused, with the nearest op in the message."""
    kernel = Kernel(name="other", op="scales", module="m", launcher="f")

    with refuses("kernel 'other' implements the unknown op 'scales': did you mean 'scale'?"):
        registry().register_kernel(kernel)


def test_fault_needs_a_kernel_and_checks() -> None:
    """A fault of an unknown kernel, of an unknown check or of none is refused."""
    known = registry()

    with refuses("unknown kernel 'scala': did you mean 'scale'?; known: scale, scale_wrong"):
        known.register_fault(dataclasses.replace(FAULT, kernel="scala"))
    with pytest.raises(UsageError, match=r"^fault 'new' expects unknown checks: nam; checks: launch, crash, hang, "):
        known.register_fault(dataclasses.replace(FAULT, checks=frozenset({"nan", "nam"})))
    with pytest.raises(UsageError, match=r"^fault 'new' names no check that must catch it; checks: launch, "):
        known.register_fault(dataclasses.replace(FAULT, checks=frozenset()))
    assert "new" not in [fault.name for fault in known.faults["scale"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"checks": frozenset({"resources", "nan", "compile"})},
            "fault 'new' expects compile, resources of the compiler beside nan of a run: split it in two",
        ),
        (
            {"checks": frozenset({"compile"}), "target": "gfx943"},
            "fault 'new': unknown target 'gfx943': did you mean 'gfx942'?; targets: "
            + ", ".join(TARGETS)
            + "; `targets` in the settings adds others",
        ),
        (
            {"target": "gfx942"},
            "fault 'new' has target='gfx942': only one that shows when it is compiled has a target of its own",
        ),
    ],
)
def test_faults_of_the_compiler(change: dict[str, Any], message: str) -> None:
    """Checks of the compiler stand alone, and only they go with a target, which must be known."""
    known = registry()

    with refuses(message):
        known.register_fault(dataclasses.replace(FAULT, **change))

    known.register_fault(dataclasses.replace(FAULT, checks=frozenset({"compile", "resources"}), target="sm_90"))
    assert known.fault("scale", "new").target == "sm_90"


def test_a_refusal_is_an_exception_class_of_the_module() -> None:
    """A name that the module lacks, that is no exception class or every Exception is refused; the nearest one is named."""
    known = registry()
    kernel = dataclasses.replace(known.kernel("scale"), name="other")
    rest = "it must be one of its own, for what the GPU cannot do, and not every Exception"

    for name, hint in (("Refused", ": did you mean 'Refusal'?"), ("torch", ""), ("Everything", "")):
        message = f"kernel 'other': unsupported={name!r}: module 'toy.kernels.scale' has no such exception class{hint}; {rest}"
        with pytest.MonkeyPatch.context() as patch, refuses(message):
            patch.setattr("toy.kernels.scale.Refusal", type("Refusal", (NotImplementedError,), {}), raising=False)
            patch.setattr("toy.kernels.scale.Everything", Exception, raising=False)
            known.register_kernel(dataclasses.replace(kernel, unsupported=name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toy.kernels.scale.Refusal", type("Refusal", (NotImplementedError,), {}), raising=False)
        known.register_kernel(dataclasses.replace(kernel, unsupported="Refusal"))
    assert known.kernel("other").unsupported == "Refusal"


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        (None, "op 'other': properties is None: must map names to functions (case)"),
        ({"rows": "one"}, "op 'other': properties has 'rows': 'one': must be a name with a function (case)"),
        (
            {"rows": lambda case: case.rows},
            "op 'other': properties of the default case ScaleCase(): Malformed: the property rows of other is 1 for .*: must be",
        ),
        (
            {"rows": Property(lambda case: str(case.rows), ("2", "3"))},
            "op 'other': properties of .*: the property rows of other is '1' for .*: must be one of 2, 3",
        ),
        ({"rows": lambda case: case.lines}, "op 'other': properties of the default case ScaleCase(): AttributeError: .*'lines'"),
    ],
)
def test_properties_are_functions_that_give_words(properties: Any, message: str) -> None:
    """Anything else is refused when the Op is registered, as far as its default case shows it."""
    known = registry()
    op = dataclasses.replace(known.op("scale"), name="other", properties=properties)

    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)")):
        known.register_op(op, known.references["scale"])


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        (None, "op 'other': placements is None: must map names to functions (case)"),
        ({"production": 1}, "op 'other': placements has 'production': 1: must be a name with a function (case)"),
    ],
)
def test_placements_are_functions_by_name(placements: Any, message: str) -> None:
    """Anything else is refused when the Op is registered."""
    known = registry()
    op = dataclasses.replace(known.op("scale"), name="other", placements=placements)

    with refuses(message):
        known.register_op(op, known.references["scale"])


@pytest.mark.parametrize(
    ("look_up", "message"),
    [
        (lambda known: known.op("scael"), "unknown op 'scael': did you mean 'scale'?; known: scale"),
        (lambda known: known.kernel("qqq"), "unknown kernel 'qqq'; known: scale, scale_wrong"),
        (lambda known: known.fault("scale_wrong", "x"), "unknown fault of scale_wrong 'x'; known: none"),
        (lambda known: known.select(["qqq"], []), "unknown op 'qqq'; known: scale"),
        (
            lambda known: known.select([], ["scale_wrang"]),
            "unknown kernel 'scale_wrang': did you mean 'scale_wrong'?; known: scale, scale_wrong",
        ),
        (lambda _: Registry().op("scale"), "unknown op 'scale'; known: none"),
    ],
)
def test_unknown_names(look_up: Callable[[Registry], object], message: str) -> None:
    """What is not there is answered with what is, the nearest name first."""
    with refuses(message):
        look_up(registry())


@pytest.mark.parametrize(
    ("ops", "kernels", "chosen"),
    [
        ([], [], ["scale", "scale_wrong"]),
        (["scale"], [], ["scale", "scale_wrong"]),
        ([], ["scale_wrong"], ["scale_wrong"]),
        ([], ["scale_wrong", "scale", "scale"], ["scale", "scale_wrong"]),
        (["scale"], ["scale"], ["scale"]),
        (["sc*"], ["*_wrong"], ["scale_wrong"]),
        ([], ["scale*", "scale"], ["scale", "scale_wrong"]),
    ],
)
def test_selection(ops: list[str], kernels: list[str], chosen: list[str]) -> None:
    """No name selects all, names and patterns select those, in order of registration."""
    assert [kernel.name for kernel in registry().select(ops, kernels)] == chosen


def test_empty_selection() -> None:
    """Kernels of another op, and an op without kernels, are errors and not an empty run."""
    known = registry()
    op = known.op("scale")
    known.register_op(Op(**{**vars(op), "name": "lonely"}), known.references["scale"])

    with refuses("no kernel among scale implements lonely: choose others"):
        known.select(["lonely"], ["scale"])
    with refuses("no kernel implements lonely: choose others"):
        known.select(["lonely"], [])
    with refuses("no kernel matches 'vllm_*'; known: scale, scale_wrong"):
        known.select([], ["vllm_*"])


def test_judgement() -> None:
    """The reference's plain data becomes a Verdict."""
    known = registry()
    known.references["scale"] = lambda inputs, _: {"outputs": {"out": (inputs["x"], inputs["x"] * 0)}, "conclusive": 0}

    verdict = known.judge("scale", {"x": torch.ones(2), "out": torch.empty(2)}, {})

    assert verdict.conclusive is False
    assert torch.equal(verdict.outputs["out"].value, torch.ones(2))
    assert torch.equal(verdict.outputs["out"].bound, torch.zeros(2))


@pytest.mark.parametrize(("value", "bound"), [((2, 1), (2, 3)), ((2, 3), (1, 3)), ((2, 3), ()), ((3,), (3,))])
def test_reference_must_have_the_outputs_shape(value: tuple[int, ...], bound: tuple[int, ...]) -> None:
    """Shapes that broadcast would compare elements with the wrong ones: they are our bug, and said to be."""
    known = registry()
    known.references["scale"] = lambda *_: {"outputs": {"out": (torch.ones(value), torch.ones(bound))}, "conclusive": True}

    with pytest.raises(ValueError, match=r"^the reference of scale gives out and its bound the shapes .*: must be \(2, 3\)$"):
        known.judge("scale", {"out": torch.empty(2, 3)}, {})
