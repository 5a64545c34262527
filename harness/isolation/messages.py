"""What is sent to a worker and what comes back: names and plain data, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from tridiff.harness.api import (
    Clean,
    Compiled,
    Finding,
    Found,
    Infrastructure,
    Outcome,
    Program,
    Skipped,
    Unsupported,
    from_json,
    to_json,
)
from tridiff.harness.capture.rewriting import Rewrite
from tridiff.harness.engines.spec import EngineSpec
from tridiff.harness.registry import Registry
from tridiff.harness.runner.examine import KernelRef

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Clean, Skipped, Unsupported, Infrastructure)}


def request(ref: KernelRef, spec: EngineSpec, case: Any) -> dict[str, Any]:
    """What a worker needs to examine `case`."""
    return {
        "kernel": ref.kernel,
        "fault": ref.fault,
        "plugins": list(ref.plugins),
        "spec": vars(spec),
        "case": to_json(case),
        **({} if ref.rewrite is None else {"rewrite": dataclasses.asdict(ref.rewrite)}),
    }


def ref_of(data: dict[str, Any]) -> KernelRef:
    """The kernel of a request."""
    rewrite = data.get("rewrite")
    return KernelRef(
        kernel=data["kernel"],
        fault=data["fault"],
        plugins=tuple(data["plugins"]),
        rewrite=None if rewrite is None else Rewrite(**_frozen(rewrite)),
    )


def case_of(known: Registry, ref: KernelRef, data: Any) -> Any:
    """The Case of a request."""
    return from_json(known.op(known.kernel(ref.kernel).op).case, data)


def encoded(outcome: Outcome) -> dict[str, Any]:
    """`outcome` as JSON-ready values; a Finding's Case stays behind, since whoever asked has it."""
    if isinstance(outcome, Found):
        finding = {
            field.name: getattr(outcome.finding, field.name)
            for field in dataclasses.fields(outcome.finding)
            if field.name != "case"
        }
        compiled = [dataclasses.asdict(entry) for entry in outcome.compiled]
        return {"finding": finding, "specialisations": outcome.specialisations, "compiled": compiled}
    return {"outcome": type(outcome).__name__, **dataclasses.asdict(outcome)}


def decoded(answer: dict[str, Any], case: Any) -> Outcome:
    """The outcome that `encoded` was given, for `case`. Raises KeyError or TypeError where `answer` is nothing of ours."""
    if "finding" in answer:
        finding = Finding(**_frozen(answer["finding"]), case=case)
        return Found(
            finding=finding, specialisations=tuple(answer["specialisations"]), compiled=_compiled(answer.get("compiled", ()))
        )
    fields = dict(answer)
    if "compiled" in fields:
        fields["compiled"] = _compiled(fields["compiled"])
    if "programs" in fields:
        fields["programs"] = tuple(Program(**_frozen(entry)) for entry in fields["programs"])
    outcome: Outcome = _KINDS[fields.pop("outcome")](**_frozen(fields))
    return outcome


def _compiled(entries: Iterable[dict[str, Any]]) -> tuple[Compiled, ...]:
    return tuple(
        Compiled(**{**entry, "registers": tuple((name, count) for name, count in entry["registers"])}) for entry in entries
    )


def _frozen(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
