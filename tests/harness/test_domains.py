"""Domains: what a Kernel declares of the part of its Op that it supports, and that all that draws and keeps Cases keeps to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import recorded
import torch
from hypothesis import strategies as st
from toy.family import registry
from toy.kernels import scale as toy
from toy.strategies.scale import ScaleCase

from tridiff.harness import registry as registries
from tridiff.harness.api import Allowed, Clean, Domain, Facet, Finding, Found, Kernel, Op, Outcome, Restriction
from tridiff.harness.declarations import Malformed
from tridiff.harness.domains import Coverage, contains, coverage, domain_of, outside
from tridiff.harness.engines.spec import EngineSpec, UsageError
from tridiff.harness.registry import Registry, builtin
from tridiff.harness.report.domain_text import covered, described, domain_document, percent
from tridiff.harness.report.run_document import run_document
from tridiff.harness.report.run_text import notes
from tridiff.harness.report.summary import Summary
from tridiff.harness.report.text import domains_text
from tridiff.harness.runner import campaign as campaigns
from tridiff.harness.runner.campaign import Budget, Campaign
from tridiff.harness.runner.covering import coverages
from tridiff.harness.runner.drawing import batches, drawn
from tridiff.harness.runner.events import CaseDone, Event
from tridiff.harness.runner.examine import KernelRef, examine
from tridiff.harness.runner.offered import simplest

WHY = "The authors say so in their documentation."
FACETS = {
    "rows": Facet(description="rows", of=lambda case: case.rows),
    "sizes": Facet(description="both sizes", of=lambda case: (case.rows, case.columns)),
    "factor": Facet(description="the factor", of=lambda case: case.factor),
    "kind": Facet(
        description="whether it is a preset",
        of=lambda case: "preset" if case.preset else "drawn",
        choices=("preset", "drawn"),
    ),
}


def rows_within(domain: Domain) -> st.SearchStrategy[ScaleCase]:
    """Cases that keep to what the domain allows for `rows`, and know no other facet."""
    rows = [rows for rows in range(1, 9) if domain.allows("rows", rows)]
    if not rows:
        return st.nothing()
    return st.builds(ScaleCase, rows=st.sampled_from(rows), columns=st.integers(1, 20), factor=st.sampled_from((1.0, 2.0)))


def presets_within(domain: Domain) -> st.SearchStrategy[ScaleCase]:
    """One preset, of two rows."""
    return st.just(ScaleCase(rows=2, columns=8, preset=True)) if domain.allows("rows", 2) else st.nothing()


def restricted(*domain: Restriction, **changed: Any) -> Registry:
    """The toy family, whose Op has facets, and `part`, a Kernel with `domain`."""
    known = registry()
    known.ops["scale"] = dataclasses.replace(known.op("scale"), strategy=rows_within, presets=presets_within, facets=FACETS)
    known.register_kernel(dataclasses.replace(known.kernel("scale"), name="part", domain=domain, **changed))
    return known


def rows(*allowed: int) -> Restriction:
    """A restriction of `rows`."""
    return Restriction(facet="rows", allowed=allowed, reason=WHY)


# Declarations


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ([], r"kernel 'part': domain=\[\]: must be a tuple of Restrictions"),
        ((1,), "kernel 'part': domain has 1: must be a Restriction"),
        (
            (Restriction(facet="row", allowed=(1,), reason=WHY),),
            r"kernel 'part' restricts 'row', no facet of scale: did you mean 'rows'\?; facets: rows, sizes, factor, kind",
        ),
        ((rows(1), rows(2)), "kernel 'part': restriction of rows: there are two; join them"),
        ((rows(),), r"kernel 'part': restriction of rows: allowed=\(\): must be a tuple or a range, with one value at least"),
        (
            (Restriction(facet="rows", allowed=range(3, 3), reason=WHY),),
            r"kernel 'part': restriction of rows: allowed=range\(3, 3\): must be a tuple or a range, with one value at least",
        ),
        (
            (Restriction(facet="rows", allowed=("2",), reason=WHY),),
            "kernel 'part': restriction of rows: allowed has '2': must be of its kind, 1 for example",
        ),
        (
            (Restriction(facet="rows", allowed=(True,), reason=WHY),),
            "kernel 'part': restriction of rows: allowed has True: must be of its kind, 1 for example",
        ),
        (
            (Restriction(facet="kind", allowed=range(3), reason=WHY),),
            r"kernel 'part': restriction of kind: allowed=range\(0, 3\): its values are no numbers, 'drawn' for example",
        ),
        (
            (Restriction(facet="kind", allowed=("drawn", "presets"), reason=WHY),),
            r"kernel 'part': restriction of kind: allowed has 'presets': did you mean 'preset'\?; values: preset, drawn",
        ),
        (
            (Restriction(facet="rows", allowed=(1,), reason="why"),),
            "kernel 'part': restriction of rows: reason='why': must say in a sentence where the kernel's authors assume it",
        ),
    ],
)
def test_malformed_domains(domain: Any, message: str) -> None:
    """Each is refused in one line."""
    with pytest.raises(UsageError, match=f"^{message}$"):
        restricted(*domain) if isinstance(domain, tuple) else _with_domain(domain)


def _with_domain(domain: Any) -> None:
    known = registry()
    known.register_kernel(dataclasses.replace(known.kernel("scale"), name="part", domain=domain))


@pytest.mark.parametrize(
    ("facets", "message"),
    [
        (("rows",), "op 'other': facets is tuple: must map names to Facets"),
        ({"rows": 1}, "op 'other': facets has 'rows': 1: must be a name with a Facet"),
        ({"rows": Facet(description="", of=lambda case: case.row)}, r"op 'other': facet rows of ScaleCase\(\) fails: Attribute"),
    ],
)
def test_malformed_facets(facets: Any, message: str) -> None:
    """Facets are asked for the default case when the Op is registered."""
    known = registry()

    with pytest.raises(UsageError, match=f"^{message}"):
        known.register_op(dataclasses.replace(known.op("scale"), name="other", facets=facets), known.references["scale"])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((), r"outputs=\(\): must be a tuple of names, one at least, or None for all"),
        ("out", "outputs='out': must be a tuple of names, one at least, or None for all"),
        (("out", "out"), "outputs names 'out' twice"),
        (("totals",), r"outputs names 'totals', which scale does not declare as written: did you mean 'total'\?"),
        (("x",), "outputs names 'x', which scale does not declare as written"),
    ],
)
def test_malformed_outputs(outputs: Any, message: str) -> None:
    """They are names of tensors that the Op declares as written."""
    with pytest.raises(UsageError, match=f"^kernel 'part': {message}$"):
        restricted(outputs=outputs)


# Strategies


def test_what_lies_outside_is_told_by_facet() -> None:
    """Of a facet with several values all must be allowed; what nothing limits lies inside."""
    op = restricted().op("scale")
    domain = Domain(target="gfx942", limits={"rows": (2, 3), "sizes": range(1, 10)})

    assert list(outside(op, ScaleCase(rows=4, columns=12, factor=9.0), domain)) == [("rows", 4), ("sizes", (4, 12))]
    assert contains(op, ScaleCase(rows=2, columns=9), domain)


def test_draws_lie_in_the_domain() -> None:
    """Lists and batches, presets included."""
    known = restricted()
    domain = Domain(target="gfx942", limits={"rows": (2, 5)})

    cases = drawn(known, "scale", "gfx942", count=30, seed=0, limits=domain.limits)

    assert {case.rows for case in cases} == {2, 5}
    assert {case.rows for case in next(batches(known, "scale", domain, seed=0))} == {2, 5}
    assert any(case.preset for case in cases)


def test_a_strategy_that_ignores_a_facet_is_caught() -> None:
    """The harness looks at what was drawn."""
    known = restricted()

    with pytest.raises(Malformed, match=r"^the strategy of scale drew factor=[12].0, outside the domain: it must ask domain.all"):
        drawn(known, "scale", "gfx942", count=30, seed=0, limits={"factor": (3.0,)})


def test_a_domain_without_presets() -> None:
    """There are the others."""
    cases = drawn(restricted(), "scale", "gfx942", count=20, seed=0, limits={"rows": (7, 8)})

    assert {case.rows for case in cases} == {7, 8}


def test_a_domain_without_cases() -> None:
    """The facet that is to blame is named, and no other."""
    with pytest.raises(UsageError, match=r"^scale has no cases on gfx942 within the kernel's domain: rows=\(99,\)$"):
        drawn(restricted(), "scale", "gfx942", count=20, seed=0, limits={"factor": (1.0,), "rows": (99,)})


def test_simplest_case_of_a_domain() -> None:
    """The default one where it lies inside, else what the strategy shrinks to."""
    op = restricted().op("scale")

    assert simplest(op, Domain(target="gfx942", limits={"rows": (1, 2)})) == ScaleCase()
    assert simplest(op, Domain(target="gfx942", limits={"rows": (3, 2)})) == ScaleCase(rows=2)


# Campaigns


def fuzzed(
    monkeypatch: pytest.MonkeyPatch, known: Registry, outcome: Callable[[ScaleCase], Outcome], **more: Any
) -> tuple[list[ScaleCase], dict[str, Finding]]:
    """The Cases that a campaign of the Kernel `part` examines, and its findings; `outcome` stands for the kernel."""
    events: list[Event] = []
    monkeypatch.setattr(campaigns, "examine", lambda _ref, _spec, case, _registry: outcome(case))
    findings = Campaign(KernelRef(kernel="part"), EngineSpec(), 0, Budget(examples=40), events.append, known, **more).run()
    return [event.case for event in events if isinstance(event, CaseDone)], findings


def found(case: ScaleCase) -> Found:
    """A mismatch."""
    return Found(
        finding=Finding(
            check="mismatch", message="", line=None, op="scale", kernel="part", engine="cpu", target="gfx942", case=case
        )
    )


def test_a_campaign_keeps_to_the_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the Cases that it is to examine first, of which it leaves others out."""
    first = [ScaleCase(rows=1), ScaleCase(rows=5, columns=3)]

    cases, _ = fuzzed(monkeypatch, restricted(rows(5, 6)), lambda _: Clean(ratio=0.0), first=first)

    assert cases[0] == first[1]
    assert {case.rows for case in cases} == {5, 6}
    assert len(cases) == 41


def test_shrinking_ends_at_the_simplest_case_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the default lies outside: of two allowed numbers of rows the simpler, and of columns as few as fail."""
    known, first = restricted(rows(6, 3)), [ScaleCase(rows=6, columns=17, factor=2.0)]

    cases, findings = fuzzed(monkeypatch, known, lambda case: found(case) if case.columns > 4 else Clean(ratio=0.0), first=first)

    assert [finding.case for finding in findings.values()] == [ScaleCase(rows=3, columns=5)]
    assert {case.rows for case in cases} == {3, 6}


def test_models_outside_the_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that keeps to models of which the kernel supports none says so."""
    with pytest.raises(UsageError, match=r"^scale has no presets of Toy on gfx942 within the kernel's domain: rows=\(3,\)$"):
        fuzzed(monkeypatch, restricted(rows(3)), lambda _: Clean(ratio=0.0), models=("Toy",))


# Outputs


def scale_out(*, x: torch.Tensor, out: torch.Tensor, total: torch.Tensor, factor: float) -> None:
    """Write `out` alone."""
    toy.scale(x=x, out=out, total=torch.empty_like(total), factor=factor)


rounding, scale = toy.rounding, toy.scale


@pytest.mark.parametrize(
    ("launcher", "outputs", "checks"),
    [
        ("scale_out", ("out",), ()),
        ("scale_out", None, ("unwritten", "nan", "poison")),
        ("scale", ("out",), ("corruption",)),
        ("scale", ("total", "out"), ()),
    ],
)
def test_outputs_that_a_kernel_does_not_write(launcher: str, outputs: tuple[str, ...] | None, checks: tuple[str, ...]) -> None:
    """They are memory like any other, which must not change, and nobody judges them."""
    known = restricted()
    known.register_kernel(
        Kernel(name="some", op="scale", module=__name__, launcher=launcher, rounding="rounding", outputs=outputs)
    )

    outcome = examine(KernelRef(kernel="some"), EngineSpec(), ScaleCase(rows=2, columns=3), known)

    assert ((outcome.finding.check, *outcome.finding.others) if isinstance(outcome, Found) else ()) == checks


# Engines


def test_kernels_that_need_a_gpu() -> None:
    """They register without an import, are left out, and refused where they are named."""
    known = restricted(engines=("gpu",), module="no_such_module")

    assert [kernel.name for kernel in known.select([], [])] == ["scale", "scale_wrong"]
    assert [kernel.name for kernel in known.chosen([], [])] == ["scale", "scale_wrong", "part"]
    with pytest.raises(
        UsageError, match=r"^kernel 'part' needs engine gpu, a real GPU, and that engine is not available yet: ch"
    ):
        known.select([], ["scale", "part"])
    del known.kernels["scale"], known.kernels["scale_wrong"]
    with pytest.raises(UsageError, match=r"^no kernel is left: part needs engine gpu"):
        known.select(["scale"], [])
    with pytest.raises(UsageError, match=r"no_such_module"):
        restricted(engines=("gpu", "cpu"), module="no_such_module")


def test_kernels_left_out_are_named() -> None:
    """In one line, whatever the number of runs."""
    runs = [Summary(recorded.run(unrunnable=["hip", "asm"])), Summary(recorded.run(unrunnable=["hip"]))]

    assert list(notes(runs)) == ["needs a GPU, left out: hip, asm"]
    assert run_document(runs[0])["unrunnable"] == ["hip", "asm"]
    assert registries.runs_here(Kernel(name="a", op="b", module="c", launcher="d", engines=("gpu",))) is False


# Coverage


def test_coverage_counts_cases() -> None:
    """The share inside, and for each restriction the share that it leaves out, whatever the others do."""
    op = restricted().op("scale")
    cases = [ScaleCase(rows=1), ScaleCase(rows=2), ScaleCase(rows=3, factor=2.0), ScaleCase(rows=4, factor=2.0)]

    known = coverage(op, {"rows": (1, 2, 3), "factor": (1.0,)}, cases)

    assert known == Coverage(cases=4, share=0.5, left_out={"rows": 0.25, "factor": 0.5})


def test_coverage_is_drawn_from_the_whole_op() -> None:
    """For kernels with a domain alone, the same each time."""
    known = restricted(rows(1, 2, 3, 4))

    first, again = (coverages(known, known.kernels.values(), "gfx942") for _ in range(2))

    assert list(first) == ["part"]
    assert first == again
    assert first["part"].share == pytest.approx(0.5, abs=0.2)


def test_a_share_of_nothing_is_explained() -> None:
    """A kernel may ask for what the whole Op never has: its 0 % then say nothing of the rest, and the line names the facet."""
    known = restricted(rows(2, 3))
    none = Coverage(cases=200, share=0.0, left_out={"rows": 1.0})
    run = recorded.run("part", domains={"part": domain_document(known.kernel("part"), none)})

    lines = list(notes([Summary(run)]))

    assert lines == [
        "part: covers below 2 % of scale, by its declared domain; rows: what it supports is drawn for such kernels alone"
    ]


def test_coverage_of_which_no_case_was_drawn() -> None:
    """A domain so small that chance misses it is not said to be none; what lies outside is."""
    assert [covered(share) for share in (0.0, 0.001, 0.5, 1.0)] == ["below 2 %", "below 1 %", "50 %", "100 %"]


def test_facet_that_fails_is_the_plugins_matter() -> None:
    """Of a Case that is drawn for coverage, too: one line that names the plug-in."""
    known = Registry()
    with known.source("mine.py"):
        facets = {"rows": Facet(description="rows", of=lambda case: 1 // (case.rows % 2))}
        declared = restricted().op("scale")
        known.register_op(dataclasses.replace(declared, facets=facets), restricted().references["scale"])
    kernel = restricted(rows(1)).kernel("part")

    with pytest.raises(UsageError, match=r"^plug-in mine.py: a facet of scale raised ZeroDivisionError"):
        coverages(known, [kernel], "gfx942")


def test_what_is_shown_of_coverage() -> None:
    """At the end of a run, in its document, and by `tridiff list` with the reasons."""
    known = restricted(rows(2, 3))
    part = known.kernel("part")
    figures = Coverage(cases=200, share=0.625, left_out={"rows": 0.375})
    kernels = [{"op": "scale", "kernel": "part", "plugins": []}, {"op": "scale", "kernel": "scale", "plugins": []}]
    run = recorded.run(kernels=kernels, domains={"part": domain_document(part, figures), "scale": None})
    summary = Summary(run)
    summary.add(recorded.case("unsupported", kernel="part"))

    assert list(notes([summary])) == ["part: covers 62 % of scale, by its declared domain; 1 case of it refused or unsupported"]
    assert [kernel["domain"] and kernel["domain"]["share"] for kernel in run_document(summary)["kernels"]] == [0.625, None]
    assert domains_text([part, known.kernel("scale")], {"part": figures}) == [
        "part: covers 62 % of scale",
        f"  rows: 2, 3 (leaves out 38 %): {WHY}",
    ]


def test_facets_that_are_not_counted() -> None:
    """They leave nothing out of the share: no Case of the whole Op is as the kernel wants it."""
    facets = {"rows": FACETS["rows"], "factor": dataclasses.replace(FACETS["factor"], counted=False)}
    op = dataclasses.replace(registry().op("scale"), facets=facets)

    found = coverage(op, {"rows": (1,), "factor": (99.0,)}, [ScaleCase(rows=1), ScaleCase(rows=2)])

    assert (found.share, found.left_out) == (0.5, {"rows": 0.5})
    told = domain_document(restricted(rows(1), Restriction(facet="factor", allowed=(99.0,), reason=WHY)).kernel("part"), found)
    assert told is not None
    assert [each["left_out"] for each in told["restrictions"]] == [0.5, None]


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0 %"), (0.001, "below 1 %"), (0.5, "50 %"), (0.999, "above 99 %"), (1.0, "100 %")]
)
def test_shares_are_not_rounded_to_none_or_all(share: float, shown: str) -> None:
    """What is not all is not shown as all."""
    assert percent(share) == shown


def test_values_are_shown_in_short() -> None:
    """Ranges by their ends, long tuples cut."""
    assert described(range(16, 257, 16)) == "16 to 256 in steps of 16"
    assert described(range(1, 4)) == "1 to 3"
    assert described(range(1, 2)) == "1"
    assert described(tuple(range(10))) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


# The built-in Op


COMBINED: dict[str, dict[str, Allowed]] = {
    "flat latent caches": {
        "is_mla": (True,),
        "cache_rank": (3,),
        "page_size": (1,),
        "dtype": ("bfloat16", "float16"),
        "seq_lens": range(1, 2**20),
        "k_scale": (0.5, 1.0),
    },
    "shared strides of other widths": {"cache_strides": ("alike",), "widths": ("wider_values",)},
    "far heads": {"far": ("heads",), "group_size": (1, 5)},
    "numbers that no pool has": {"head_dim": (72,), "page_size": (24,), "num_kv_splits": (7,), "logit_cap": (20.0,)},
    "wide and large": {"dtype": ("float32",), "cache_dtype": ("same",), "page_size": (2048,), "num_kv_heads": (1, 2)},
    "long rows": {"seq_lens": range(2000, 4000), "num_kv_splits": (264,)},
}


@pytest.mark.parametrize("name", COMBINED)
def test_restrictions_of_decode_attention_go_together(name: str) -> None:
    """What one of them needs, another leaves; every Case is legal and inside."""
    cases = drawn(builtin(), "decode_attention", "gfx942", count=12, seed=0, limits=COMBINED[name])

    domain = Domain(target="gfx942", limits=COMBINED[name])
    assert len(cases) == 12
    assert all(contains(builtin().op("decode_attention"), case, domain) for case in cases)


def test_presets_of_a_domain() -> None:
    """Models of which no rank is allowed are dropped; where none is left there is no strategy."""
    op = builtin().op("decode_attention")
    domain = Domain(target="gfx942", limits={"head_dim": (256,), "is_mla": (False,)})

    cases = drawn(builtin(), "decode_attention", "gfx942", count=30, seed=0, limits=domain.limits)

    assert {case.model.rpartition(" ")[0] for case in cases if case.model} <= {
        "Qwen3-Next-80B-A3B",
        "Qwen3-class 27B",
        "Gemma-7B",
        "Gemma-2-9B",
    }
    assert any(case.model for case in cases)
    assert op.presets(Domain(target="gfx942", limits={"head_dim": (72,)})).is_empty


def test_what_decode_attention_cannot_draw_names_the_facet() -> None:
    """The one that leaves nothing by itself."""
    with pytest.raises(UsageError, match=r"no cases on gfx942 within the kernel's domain: key_layout=\('packd',\)$"):
        drawn(builtin(), "decode_attention", "gfx942", count=1, seed=0, limits={"key_layout": ("packd",), "dtype": ("float32",)})


def test_domain_of_a_kernel() -> None:
    """Its limits on a target."""
    kernel = restricted(rows(2)).kernel("part")

    assert domain_of(kernel, "sm_90", whole=True) == Domain(target="sm_90", whole=True, limits={"rows": (2,)})
    assert isinstance(restricted().op("scale"), Op)
