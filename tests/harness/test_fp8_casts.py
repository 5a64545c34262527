"""FP8 per target: the data is complete and says what is known, the page follows from it, and the installed Triton agrees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fp8_page
import fp8_probes
import fp8_reading
import fp8_table
import pytest
import triton_survey
import tritons

from tridiff.harness.engines.spec import TARGETS
from tridiff.harness.targets import fp8_casts
from tridiff.harness.targets.fp8_casts import EMULATED, FORBIDDEN, NATIVE, UNKNOWN, WRONG, constant, conversion, product

DATA = json.loads(fp8_casts.DATA.read_text(encoding="utf-8"))
RELEASES = tuple(DATA["releases"].split())
AMD = tuple(target for target in TARGETS if target.startswith("gfx"))
NVIDIA = tuple(target for target in TARGETS if target.startswith("sm_"))
OCP, FNUZ = ("f8E4M3FN", "f8E5M2"), ("f8E4M3FNUZ", "f8E5M2FNUZ")
WIDE = ("f32", "bf16", "f16")
OLD, NEW = RELEASES[:2], RELEASES[2:]


def kinds(form: str, wide: str, target: str, release: str) -> tuple[str, str]:
    """Of the casts from `form` and to it."""
    return conversion(target, form, wide, release).kind, conversion(target, wide, form, release).kind


# The data


def test_every_probe_has_one_row_for_each_target_and_release() -> None:
    """Nothing is missing, nothing is said twice, and the releases are those that the tests run with."""
    found = [
        (row["probe"], target, release)
        for row in DATA["rows"]
        for target in row["targets"].split()
        for release in row["releases"].split()
    ]

    assert len(found) == len(set(found))
    assert set(found) == {(probe, target, release) for probe in fp8_probes.probes() for target in TARGETS for release in RELEASES}
    assert list(RELEASES) == triton_survey.pinned(tritons.ROOT)


def test_every_row_has_evidence() -> None:
    """Each says what was seen; what is forbidden, by whom, and what is wrong, by how much."""
    for row in DATA["rows"]:
        assert row["evidence"].strip()
        assert row["kind"] in {NATIVE, EMULATED, FORBIDDEN, WRONG}
        assert (row.get("stage") in {"refused", "fails", "aborts"}) == (row["kind"] == FORBIDDEN)
        assert (row.get("factor") in {0.5, 2.0}) == (row["kind"] == WRONG)
        assert "/" not in row["evidence"], "a place on the machine where it was probed"


def test_data_is_folded() -> None:
    """Rows as the tool writes them: those of one verdict are one row."""
    verdicts = {
        (row["probe"], target, release): fp8_reading.Verdict(
            row["kind"], row["evidence"], row.get("stage", ""), row.get("factor", 1.0)
        )
        for row in DATA["rows"]
        for target in row["targets"].split()
        for release in row["releases"].split()
    }

    assert fp8_table.written(fp8_table.folded(verdicts), RELEASES) == fp8_casts.DATA.read_text(encoding="utf-8")


def test_page_is_current() -> None:
    """docs/reference/fp8.md follows from the data: run tools/fp8_table.py --page."""
    assert fp8_table.PAGE.read_text(encoding="utf-8") == fp8_page.page(DATA)


# What is known


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("wide", WIDE)
def test_gfx942_has_fnuz_and_emulates_ocp(wide: str, release: str) -> None:
    """Both e4m3 and e5m2, both ways."""
    assert {kinds(form, wide, "gfx942", release) for form in FNUZ} == {(NATIVE, NATIVE)}
    assert {kinds(form, wide, "gfx942", release) for form in OCP} == {(EMULATED, EMULATED)}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("wide", WIDE)
def test_gfx950_has_ocp_and_emulates_e4m3fnuz(wide: str, release: str) -> None:
    """The part after gfx942 has the other formats."""
    assert {kinds(form, wide, "gfx950", release) for form in OCP} == {(NATIVE, NATIVE)}
    assert kinds("f8E4M3FNUZ", wide, "gfx950", release) == (EMULATED, EMULATED)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("target", ["gfx90a", "gfx1100"])
def test_parts_without_fp8(target: str, release: str) -> None:
    """All is emulated, but that FNUZ and bf16 end the compiler before 3.8."""
    for form in (*OCP, *FNUZ):
        for wide in WIDE:
            dies = form in FNUZ and wide == "bf16" and release in OLD
            assert kinds(form, wide, target, release) == ((FORBIDDEN, FORBIDDEN) if dies else (EMULATED, EMULATED))
    if release in OLD:
        assert conversion(target, "f8E4M3FNUZ", "bf16", release).stage == "aborts"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("target", ["gfx1200", "gfx1201"])
def test_gfx12_takes_fnuz_for_ocp_in_bf16(target: str, release: str) -> None:
    """Before 3.8 the bare instruction of the OCP format: twice as large when read, half when written."""
    assert kinds("f8E4M3FNUZ", "f32", target, release) == kinds("f8E4M3FNUZ", "f16", target, release) == (EMULATED, EMULATED)
    found = conversion(target, "f8E4M3FNUZ", "bf16", release), conversion(target, "bf16", "f8E4M3FNUZ", release)
    if release in OLD:
        assert [each.kind for each in found] == [WRONG, WRONG]
        assert [each.factor for each in found] == [2.0, 0.5]
        assert [each.evidence.split()[0] for each in found] == ["v_cvt_pk_f32_fp8", "v_cvt_pk_fp8_f32"]
    else:
        assert [each.kind for each in found] == [EMULATED, EMULATED]


def test_e5m2fnuz_to_bf16_is_wrong_on_gfx950_too() -> None:
    """Before 3.8, and only when read."""
    assert {conversion("gfx950", "f8E5M2FNUZ", "bf16", release).kind for release in OLD} == {WRONG}
    assert {conversion("gfx950", "f8E5M2FNUZ", "bf16", release).kind for release in NEW} == {EMULATED}
    assert {conversion("gfx950", "bf16", "f8E5M2FNUZ", release).kind for release in RELEASES} == {EMULATED}


@pytest.mark.parametrize("target", AMD)
def test_e5m2fnuz_toward_zero_is_e5m2_from_3_8_on(target: str) -> None:
    """The upper byte of an fp16 number is OCP's e5m2, which FNUZ reads as half of it; before, the back end failed."""
    for release in RELEASES:
        found = conversion(target, "f16", "f8E5M2FNUZ", release, toward_zero=True)
        assert (found.kind, found.factor) == ((FORBIDDEN, 1.0) if release in OLD else (WRONG, 0.5))
        assert conversion(target, "f16", "f8E5M2", release, toward_zero=True).kind == EMULATED


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("target", NVIDIA)
def test_nvidia_refuses_fnuz_and_older_parts_e4m3fn(target: str, release: str) -> None:
    """By the front end, whatever the cast."""
    old = target in {"sm_80", "sm_86"}
    for form in (*FNUZ, *OCP[:1]):
        stages = {conversion(target, *pair, release).stage for wide in WIDE for pair in ((form, wide), (wide, form))}
        assert stages == ({"refused"} if form in FNUZ or old else {""})
    assert kinds("f8E5M2", "f16", target, release) == ((EMULATED, EMULATED) if old else (NATIVE, NATIVE))


@pytest.mark.parametrize("release", RELEASES)
def test_products(release: str) -> None:
    """Matrix instructions take a part's own formats only; other operands are converted first, or the compiler says no."""
    for target in TARGETS:
        own = fp8_reading.OWN.get(target, ())
        for form in (*OCP, *FNUZ):
            assert product(target, form, form, release).kind != WRONG
            assert (product(target, form, form, release).kind == NATIVE) == (form in own)


@pytest.mark.parametrize("release", RELEASES)
def test_constants_of_no_format_do_not_compile(release: str) -> None:
    """`tl.full` with 0.3, for any target."""
    assert {constant(target, form, release).kind for target in TARGETS for form in (*OCP, *FNUZ)} == {FORBIDDEN}


# Asking


@pytest.mark.parametrize(
    ("release", "nearest"),
    [
        ("3.7.1", "3.7.1"),
        ("3.7.0", "3.7.1"),
        ("3.7.1+git0263a6a6.rocm7", "3.7.1"),
        ("3.8", "3.8.0"),
        ("3.9.2", "3.9.0"),
        ("3.10.0", "3.9.0"),
        ("3.2.0", "3.6.0"),
        ("4.0.0", "3.6.0"),
    ],
)
def test_release_that_was_not_probed(release: str, nearest: str) -> None:
    """The minor version decides, then the patch; of another major version nothing is near, and the oldest answers."""
    assert conversion("gfx1201", "f8E4M3FNUZ", "bf16", release).release == nearest


def test_what_is_unknown() -> None:
    """Another target, and a cast that is none of FP8."""
    assert conversion("gfx1250", "f8E4M3FN", "bf16", "3.7.1").kind == UNKNOWN
    assert conversion("gfx942", "i32", "f8E4M3FN", "3.7.1").kind == UNKNOWN


# Reading assembly


def read(probe: str, *listings: str, target: str = "gfx1201", **others: str) -> fp8_reading.Verdict:
    """The verdict on a probe with this assembly."""
    answers: dict[str, dict[str, Any]] = {probe: {"assembly": list(listings)}}
    source, result, rounding = probe.split()[1:]
    twin = {form: fp8_reading.TWIN.get(form, form) for form in (source, result)}
    answers[f"cast {twin[source]} {twin[result]} {rounding}"] = {"assembly": [others.get("twin", "v_other_b32 v0")]}
    return fp8_reading.verdicts(target, answers)[probe]


def test_instruction_of_a_format_that_the_part_does_not_have() -> None:
    """Wrong, by the difference of the biases; the evidence has all that computes."""
    code = "convert:\n\tv_cvt_pk_f32_fp8_e32 v[0:1], v2\n\tv_lshrrev_b32_e32 v1, 16, v1\n\ts_endpgm"

    assert read("cast f8E4M3FN bf16 -", code).kind == NATIVE
    found = read("cast f8E4M3FNUZ bf16 -", code)
    assert (found.kind, found.factor) == (WRONG, 2.0)
    assert found.evidence == "v_cvt_pk_f32_fp8 alone: v_cvt_pk_f32_fp8 v_lshrrev_b32"
    assert read("cast f8E4M3FN bf16 -", code, target="gfx942").factor == 0.5
    assert read("cast f8E4M3FN bf16 -", code, target="gfx90a").kind == WRONG


@pytest.mark.parametrize(
    ("probe", "listings"),
    [
        ("cast f8E5M2 bf16 -", ["\tv_cvt_pk_f32_fp8_e32 v[0:1], v2"]),  # for other fields
        ("cast f8E4M3FN bf16 -", ["\tv_cvt_pk_f32_fp8_e32 v[0:1], v2", "\tv_and_b32 v0"]),  # for one number, not for eight
        ("cast f8E4M3FN f8E5M2 -", ["\tv_and_b32 v0"]),  # what never compiled
    ],
)
def test_assembly_that_the_rules_cannot_judge(probe: str, listings: list[str]) -> None:
    """Is read by a person, instead of being counted as something."""
    with pytest.raises(fp8_reading.Undecided):
        read(probe, *listings)


def test_same_code_for_two_formats() -> None:
    """Right for e5m2, the upper byte of fp16, so wrong for its twin; of e4m3 nobody knows."""
    code = "\tv_lshrrev_b16 v0, 8, v0"

    assert read("cast f16 f8E5M2 rtz", code, twin=code).kind == EMULATED
    assert read("cast f16 f8E5M2FNUZ rtz", code, twin=code).factor == 0.5
    assert read("cast f8E5M2FNUZ f16 -", code, twin=code).factor == 2.0
    with pytest.raises(fp8_reading.Undecided):
        read("cast f16 f8E4M3FN -", code, twin=code)


def test_emulation_that_is_run_and_wrong_is_not_accepted() -> None:
    """A unit in the last place is an emulation's affair; more is for a person to read."""
    emulated = {"cast f32 f8E5M2 -": fp8_reading.Verdict(EMULATED, "none")}

    def ran(units: int) -> dict[str, fp8_reading.Verdict]:
        answer = {"tried": 1000, "wrong": units, "units": units}
        return fp8_reading.executed("gfx942", emulated, {"cast f32 f8E5M2 -": answer})

    assert ran(0)["cast f32 f8E5M2 -"].evidence.endswith("all numbers tried are right")
    assert ran(1)["cast f32 f8E5M2 -"].evidence.endswith("0.1% of the numbers tried are one unit off")
    with pytest.raises(fp8_reading.Undecided):
        ran(2)


# The installed release


@pytest.mark.parametrize("target", ["gfx942", "gfx1201"])
def test_installed_triton_does_what_the_data_says(target: str, tmp_path: Path) -> None:
    """Its assembly gives the kind that was written down and the same instruction: native, emulated and, before 3.8, wrong."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    probes = ["cast f8E4M3FNUZ bf16 -", "cast f8E4M3FN bf16 -"]

    found = fp8_reading.verdicts(target, fp8_table.gathered(fp8_table.PROBER, environment, probes, target))

    for probe in probes:
        _, source, result, _ = probe.split()
        known = conversion(target, source, result)
        assert (found[probe].kind, found[probe].factor) == (known.kind, known.factor)
        assert known.evidence.startswith(found[probe].evidence)


def test_probe_that_ends_its_process(tmp_path: Path) -> None:
    """Is an answer too, with what was said last, and the others are asked again; whatever else is printed."""
    script = tmp_path / "prober.py"
    script.write_text(
        "import json, os, sys\n"
        "for probe in sys.argv[2:]:\n"
        "    print(f'<{probe}>', file=sys.stderr, flush=True)\n"
        "    if probe == 'cast b':\n"
        "        print('LLVM ERROR: Cannot select: x', file=sys.stderr, flush=True)\n"
        "        os.abort()\n"
        "    print(json.dumps({'probe': probe, 'assembly': []}), flush=True)\n",
        encoding="utf-8",
    )

    found = fp8_table.gathered(script, dict(os.environ), ["cast a", "cast b", "cast c"], "gfx942")

    assert [found[name].get("stage", "") for name in ("cast a", "cast b", "cast c")] == ["", "aborts", ""]
    assert fp8_reading.cause(found["cast b"]["error"]) == "Cannot select: x"


def test_light_to_import() -> None:
    """The data is looked up without torch and Triton, which the doctor's table must not need."""
    code = "import sys, tridiff.harness.targets.fp8_casts; sys.exit('torch' in sys.modules or 'triton' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
