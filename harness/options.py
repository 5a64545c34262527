"""The options that several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from tridiff.harness.engines.spec import DEFAULT_TARGET, DEFAULT_TARGETS
from tridiff.harness.settings import PROFILES


def finite(value: float | None) -> float | None:
    """Refuse what is no number, and infinity: both are above any minimum to the command-line library, or below none."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


OpOption = Annotated[
    list[str] | None, typer.Option("--op", metavar="NAME", help="Only kernels of this op; repeatable; may be a pattern.")
]
KernelOption = Annotated[
    list[str] | None,
    typer.Option("--kernel", metavar="NAME", help="Only this kernel, or those that match, 'vllm_*'; repeatable."),
]
EngineOption = Annotated[str | None, typer.Option("--engine", metavar="NAME", help="How kernels are executed [default: cpu].")]
TargetOption = Annotated[
    str | None, typer.Option("--target", metavar="ARCH", help=f"GPU architecture to compile for [default: {DEFAULT_TARGET}].")
]
TargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="ARCH",
        help=f"GPU architecture to compile for; repeatable, the first is executed [default: {', '.join(DEFAULT_TARGETS)}].",
    ),
]
NoVerdictsOption = Annotated[
    bool, typer.Option("--no-verdicts", help="Do not compile for the targets; --no-isolation implies it.")
]
SurveyTargetsOption = Annotated[
    list[str] | None, typer.Option("--target", metavar="ARCH", help="Only this GPU architecture; repeatable [default: all].")
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same cases and verdicts.")]
RunSeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", metavar="N", help="The same seed gives the same cases and verdicts [default: the profile's, 0 for dev]."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ExamplesOption = Annotated[
    int | None,
    typer.Option("--max-examples", metavar="N", min=1, help="Cases to draw, in all [default: the profile's, no limit for dev]."),
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", min=1.0, callback=finite, help="Time to spend [default: the profile's, 120 for dev]."),
]
SpecialisationsOption = Annotated[
    int | None,
    typer.Option(
        "--max-specialisations",
        metavar="N",
        min=1,
        help="Specialisations of a kernel to compile for a target, placed as in production [default: 60].",
    ),
]
SurveySecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", metavar="S", min=1.0, callback=finite, help="Time for all targets, instead of a number."),
]
FullOption = Annotated[
    bool, typer.Option("--full", help="Compile to machine code: aborts, compile times, registers, spills. Slower by far.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME", help="Draw only shapes of this real model, or of NAME TPn; repeatable."),
]
PluginOption = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE", help="Python file or module with more kernels; repeatable.")
]
NoIsolationOption = Annotated[
    bool, typer.Option("--no-isolation", help="Run kernels in this process: for debuggers; a kernel that dies ends the run.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", min=1.0, callback=finite, help="Seconds that one case may take [default: 60]."),
]
CompileTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="S",
        min=1.0,
        callback=finite,
        help="Seconds that one case may take to compile [default: 60]; with --full, one specialisation [default: 120].",
    ),
]
MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory-limit",
        metavar="GIB",
        min=0.5,
        callback=finite,
        help="GiB for the process that runs a case [default: 8, or half of the machine's where that is less].",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Case files of findings go to DIR/findings, records to DIR/events.jsonl [default: tridiff-out].",
    ),
]
CaseFilesOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Case files of failures go to DIR/findings [default: tridiff-out].")
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Part I, counted from 0, of N: its share of the cases, with a seed of its own."),
]
JunitOption = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML as well.")]
MarkdownOption = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write a summary in Markdown as well.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings [default: the nearest tridiff.toml, or pyproject.toml with ours]."),
]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help=f"Budget, seed and database: {', '.join(PROFILES)} [default: dev]."),
]
CasesOption = Annotated[
    list[Path] | None,
    typer.Option("--cases", metavar="PATH", help="Run these first: a list of cases, or a folder of them; repeatable."),
]
KnownFailuresOption = Annotated[
    Path | None,
    typer.Option("--known-failures", metavar="FILE", help="Ledger of known failures [default: the nearest known-failures.toml]."),
]
NoKnownFailuresOption = Annotated[
    bool, typer.Option("--no-known-failures", help="Waive nothing: known failures are findings, and everything runs.")
]
