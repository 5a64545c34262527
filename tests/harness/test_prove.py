"""Faults of the compiler's checks are hunted by compiling, for their own targets, over all that a launcher must refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from toy.family import registry
from toy.strategies.scale import ScaleCase

from tridiff.harness.api import Clean, Domain, Fault, Finding, Found, Outcome, Patch
from tridiff.harness.engines.spec import COMPILER, EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.report import document, text
from tridiff.harness.runner import campaign as module
from tridiff.harness.runner.examine import KernelRef
from tridiff.harness.runner.prove import COMPILE_SECONDS, Proof, in_turn, prove_fault, spec_for

SPEC = EngineSpec(max_seconds=30.0)


def fault(check: str, target: str = "", *, name: str = "planted") -> Fault:
    """A fault of the toy kernel that this check is to catch."""
    patches = (Patch(old="a", new="b"),)
    return Fault(name=name, kernel="scale", description="A.", patches=patches, checks=frozenset({check}), target=target)


@dataclass
class Stage:
    """Stands in for `examine`: finds `check` in every case, and keeps by what it was asked to."""

    check: str = ""
    specs: list[EngineSpec] = field(default_factory=list)
    domains: list[Domain] = field(default_factory=list)

    def examine(self, ref: KernelRef, spec: EngineSpec, case: Any, _known: Registry) -> Outcome:
        """Find or not."""
        self.specs.append(spec)
        if not self.check:
            return Clean(ratio=0.0)
        finding = Finding(
            check=self.check,
            message="m",
            line=None,
            op="scale",
            kernel=ref.kernel,
            engine=spec.name,
            target=spec.target,
            case=case,
        )
        return Found(finding=finding)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage on which every campaign of the test plays."""
    made = Stage()
    monkeypatch.setattr(module, "examine", made.examine)
    return made


@pytest.fixture
def known(stage: Stage) -> Registry:
    """The toy's registry, whose strategies tell the stage for which domain they are asked."""
    toy = registry()
    op = toy.op("scale")

    def told(strategy: Callable[[Domain], Any], domain: Domain) -> Any:
        stage.domains.append(domain)
        return strategy(domain)

    toy.ops["scale"] = dataclasses.replace(op, strategy=partial(told, op.strategy), presets=partial(told, op.presets))
    return toy


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (fault("mismatch"), SPEC),
        (fault("compile"), EngineSpec(name=COMPILER, target="gfx942", max_seconds=30.0)),
        (fault("resources", "sm_86"), EngineSpec(name=COMPILER, target="sm_86", max_seconds=30.0)),
        (
            fault("compile_time", "gfx1201"),
            EngineSpec(name=COMPILER, target="gfx1201", max_seconds=COMPILE_SECONDS, full=True),
        ),
    ],
    ids=lambda value: next(iter(value.checks)) if isinstance(value, Fault) else "",
)
def test_engine_and_target(planted: Fault, expected: EngineSpec) -> None:
    """Checks of a run go as they were asked for; those of the compiler to its engine, all the way for its time alone."""
    assert spec_for(planted, SPEC) == expected


def test_a_smaller_budget_stays() -> None:
    """A user who allows less than the proof does gets less."""
    assert spec_for(fault("compile_time"), EngineSpec(max_seconds=2.0)).max_seconds == 2.0


def test_target_by_target() -> None:
    """Those for the run's own target first, then one target after the other, each in the order of registration."""
    faults = [
        fault("compile", "sm_90", name="a"),
        fault("mismatch", name="b"),
        fault("resources", "gfx90a", name="c"),
        fault("resources", "sm_90", name="d"),
        fault("compile", name="e"),
        fault("nan", name="f"),
    ]

    assert [one.name for one in in_turn(faults, SPEC)] == ["b", "f", "e", "a", "d", "c"]


@pytest.mark.parametrize(("check", "whole"), [("resources", True), ("mismatch", False)])
def test_the_whole_domain_is_for_the_compiler(stage: Stage, known: Registry, check: str, *, whole: bool) -> None:
    """What a launcher refuses by itself is drawn where its refusal may be what is broken, and nowhere else."""
    stage.check = check

    proof = prove_fault(fault(check, "sm_86" if whole else ""), SPEC, examples=20, registry=known)

    target = "sm_86" if whole else "gfx942"
    assert proof.finding is not None
    assert (proof.finding.check, proof.finding.target, proof.finding.case) == (check, target, ScaleCase())
    assert {(domain.target, domain.whole) for domain in stage.domains} == {(target, whole)}
    assert {(spec.name, spec.target) for spec in stage.specs} == {(COMPILER if whole else "cpu", target)}


def test_another_check_is_no_proof(stage: Stage, known: Registry) -> None:
    """A kernel that does not compile does not prove that what it needs is counted."""
    stage.check = "compile"

    proof = prove_fault(fault("resources", "sm_86"), SPEC, examples=20, registry=known)

    assert (proof.caught, proof.strays) == (False, 20)


def test_reports_name_the_target() -> None:
    """The table beside the check, the document in a field, where a fault without one has the run's."""
    proofs = [
        Proof(fault=each, finding=None, examples=1, strays=0) for each in (fault("resources", "sm_86"), fault("nan", name="b"))
    ]

    (column,) = [column for column in text.prove_table(proofs).columns if column.header == "expected"]
    entries = document.prove_document(proofs, SPEC, 0, 1)["faults"]

    assert list(column.cells) == ["resources on sm_86", "nan"]
    assert [entry["target"] for entry in entries] == ["sm_86", "gfx942"]
