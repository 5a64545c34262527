"""Commands: fuzz, targets, report, prove, mutate, repro, cases, waived, list, doctor.

Exit codes: 0 clean, 1 findings, 2 usage or environment, 3 tridiff itself or infrastructure.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from tridiff.harness import config, ledger, starting
from tridiff.harness.commands.mutate import mutate
from tridiff.harness.engines.spec import DEFAULT_TARGET, UsageError
from tridiff.harness.options import (
    CaseFilesOption,
    CasesOption,
    CompileTimeoutOption,
    ConfigOption,
    EngineOption,
    ExamplesOption,
    FullOption,
    JsonOption,
    JunitOption,
    KernelOption,
    KnownFailuresOption,
    MarkdownOption,
    MemoryOption,
    ModelOption,
    NoIsolationOption,
    NoKnownFailuresOption,
    NoVerdictsOption,
    OpOption,
    OutOption,
    PluginOption,
    ProfileOption,
    RunSeedOption,
    SecondsOption,
    SeedOption,
    ShardOption,
    SpecialisationsOption,
    SurveySecondsOption,
    SurveyTargetsOption,
    TargetOption,
    TargetsOption,
    TimeoutOption,
)
from tridiff.harness.report.consoles import stderr as _stderr
from tridiff.harness.report.consoles import stdout as _stdout
from tridiff.harness.report.verdict import Exit, Verdict
from tridiff.harness.targets import table

__all__ = ["Exit", "app", "main"]

_INTERRUPTED = 128 + signal.SIGINT


app = typer.Typer(
    name="tridiff",
    help="Differential fuzzing of Triton attention and KV-cache kernels, for AMD GPUs, with or without one.",
    epilog="Exit codes: 0 clean, 1 findings, 2 usage or environment, 3 tridiff itself failed, or the machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def fuzz(
    op: OpOption = None,
    kernel: KernelOption = None,
    engine: EngineOption = None,
    target: TargetsOption = None,
    profile: ProfileOption = None,
    max_examples: ExamplesOption = None,
    seconds: SecondsOption = None,
    seed: RunSeedOption = None,
    shard: ShardOption = None,
    model: ModelOption = None,
    case_lists: CasesOption = None,
    known_failures: KnownFailuresOption = None,
    no_known_failures: NoKnownFailuresOption = False,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    out: OutOption = None,
    timeout: TimeoutOption = None,
    memory_limit: MemoryOption = None,
    no_isolation: NoIsolationOption = False,
    no_verdicts: NoVerdictsOption = False,
    as_json: JsonOption = False,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
) -> int:
    """Draw hostile but legal cases, run each kernel beside its reference, report every way it goes wrong."""
    given = starting.settings(config_file)
    plan = given.plan(
        profile=profile,
        target=target[0] if target else None,
        examples=max_examples,
        seconds=seconds,
        seed=seed,
        out=out,
        cases=case_lists or (),
    )
    verdicts = starting.verdict_targets(plan.target, target or (), given, off=no_verdicts or no_isolation)
    known = ledger.read(given, known_failures, off=no_known_failures)
    part = starting.shard(shard)
    plugins = starting.plugins(given, plugin)
    worker = starting.worker(plugins, plan.target, off=no_isolation)  # it loads torch while we do
    registry = starting.registry(plugins, plan.target)
    from tridiff.harness import repro
    from tridiff.harness.isolation.journal import Journal
    from tridiff.harness.ledger import confirming
    from tridiff.harness.ledger.binding import bound
    from tridiff.harness.preparing import recall
    from tridiff.harness.registry import runs_here
    from tridiff.harness.report import eventfile
    from tridiff.harness.report.fuzzing import FuzzReport
    from tridiff.harness.report.outputs import Outputs
    from tridiff.harness.runner.campaign import Budget
    from tridiff.harness.runner.covering import coverages
    from tridiff.harness.runner.session import Session

    spec = starting.spec(engine, plan.target, given, timeout)
    waivers = bound(known, registry)
    kernels, left_out = starting.running(registry.knowing(registry.select(op or [], kernel or []), model or []), waivers)
    unrunnable = tuple(known.name for known in registry.chosen(op or [], kernel or []) if not runs_here(known))
    folder = repro.prepare(starting.short(plan.out))
    outputs = Outputs(console=_stdout(), as_json=as_json, junit=junit, markdown=markdown)
    outputs.prepare()
    budget = Budget(examples=starting.examples(part, plan.profile.examples, len(kernels)), seconds=plan.profile.seconds)
    if part.count > 1 and not as_json:
        _say(f"shard {part} of the run with seed {plan.seed}")
    covered = coverages(registry, kernels, plan.target)  # while the worker loads torch
    compilers = starting.compilers(plugins, verdicts, plan.target)  # nothing else can go wrong before they are watched
    with (
        starting.judging(
            worker, compilers, verdicts, given, timeout, memory_limit, off=no_isolation, waivers=waivers
        ) as examiner,
        eventfile.fresh(starting.short(plan.out) / eventfile.NAME) as events,
        contextlib.closing(Journal(starting.short(plan.out))) as journal,
    ):
        report = FuzzReport(outputs, _stderr(), folder, events, shard=str(part) if part.count > 1 else None)
        session = Session(kernels, spec, part.seed(plan.seed), budget, report.listen, registry, tuple(model or ()))
        session.examiner, session.verdicts = examiner, verdicts
        session.coverage, session.unrunnable = covered, unrunnable
        session.waivers, session.left_out = waivers, left_out
        recall(plan, session, (part,), _warn, starting.short)
        journal.accompany(session)
        confirming.accompany(session)
        return _concluded(report.run(session))


def _concluded(verdict: Verdict) -> int:
    """The exit code, after the line that belongs to it."""
    return verdict.code if verdict.complaint is None else _fail(verdict.complaint, verdict.code)


@app.command()
def targets(
    op: OpOption = None,
    kernel: KernelOption = None,
    target: SurveyTargetsOption = None,
    max_specialisations: SpecialisationsOption = None,
    seconds: SurveySecondsOption = None,
    full: FullOption = False,
    known_failures: KnownFailuresOption = None,
    no_known_failures: NoKnownFailuresOption = False,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    out: CaseFilesOption = None,
    seed: SeedOption = 0,
    timeout: CompileTimeoutOption = None,
    memory_limit: MemoryOption = None,
    as_json: JsonOption = False,
) -> int:
    """Compile for GPUs that need not be here, and say what fails."""
    from tridiff.harness.commands.targets import Request
    from tridiff.harness.commands.targets import targets as survey

    request = Request(
        ops=op or (),
        kernels=kernel or (),
        targets=target or (),
        specialisations=max_specialisations,
        seconds=seconds,
        full=full,
        known_failures=known_failures,
        no_known_failures=no_known_failures,
        plugins=plugin or (),
        out=out,
        seed=seed,
        timeout=timeout,
        memory_limit=memory_limit,
        as_json=as_json,
    )
    return _concluded(survey(request, starting.settings(config_file), _stdout(), _stderr()))


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(metavar="EVENTS.jsonl", help="Records that fuzz wrote; of several, the sum.")],
    as_json: JsonOption = False,
    junit: JunitOption = None,
    markdown: MarkdownOption = None,
) -> int:
    """Show again what runs recorded, also of one that was killed. Exits as the run did."""
    from tridiff.harness.report import eventfile
    from tridiff.harness.report.outputs import Outputs
    from tridiff.harness.report.run_text import headline
    from tridiff.harness.report.verdict import verdict_of, without_output

    outputs = Outputs(console=_stdout(), as_json=as_json, junit=junit, markdown=markdown)
    outputs.prepare()
    readings = [eventfile.read(file) for file in files]
    runs = [run for reading in readings for run in reading.runs]
    if not as_json:
        _say(headline(runs))
    complaints = outputs.show(runs)
    torn = [f"{reading.path}: the last line is not whole, and was left out" for reading in readings if reading.torn]
    for line in (*complaints, *torn):
        _fail(line, Exit.USAGE)
    known = verdict_of(runs)
    return _concluded(without_output(known) if complaints else known)


@app.command()
def prove(
    op: OpOption = None,
    kernel: KernelOption = None,
    engine: EngineOption = None,
    target: TargetOption = None,
    max_examples: Annotated[int, typer.Option("--max-examples", metavar="N", min=1, help="Cases drawn per fault.")] = 200,
    seed: SeedOption = 0,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    timeout: TimeoutOption = None,
    memory_limit: MemoryOption = None,
    no_isolation: NoIsolationOption = False,
    as_json: JsonOption = False,
) -> int:
    """Patch known defects into each kernel and show that the expected check catches every one."""
    from tridiff.harness.commands.prove import Request
    from tridiff.harness.commands.prove import prove as again

    request = Request(
        ops=op or (),
        kernels=kernel or (),
        engine=engine,
        target=target,
        max_examples=max_examples,
        seed=seed,
        plugins=plugin or (),
        timeout=timeout,
        memory_limit=memory_limit,
        no_isolation=no_isolation,
        as_json=as_json,
    )
    return again(request, starting.settings(config_file), _stdout(), _stderr())


app.command()(mutate)


@app.command()
def repro(
    case: Annotated[Path, typer.Argument(metavar="CASE.json", help="A case file that fuzz wrote.")],
    known_failures: KnownFailuresOption = None,
    no_known_failures: NoKnownFailuresOption = False,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    timeout: TimeoutOption = None,
    memory_limit: MemoryOption = None,
    no_isolation: NoIsolationOption = False,
) -> int:
    """Run the case of a finding again. Exit 1 if it still fails, 0 if it does not."""
    from tridiff.harness.commands.repro import repro as again

    given = starting.settings(config_file)
    known = ledger.read(given, known_failures, off=no_known_failures)
    return _concluded(again(case, plugin, given, timeout, memory_limit, _stdout(), known, off=no_isolation))


@app.command()
def cases(
    op: Annotated[str, typer.Option("--op", metavar="NAME", help="The op of the cases.")],
    max_examples: Annotated[int, typer.Option("--max-examples", metavar="N", min=1, help="How many distinct cases.")] = 100,
    seed: SeedOption = 0,
    target: TargetOption = None,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the list goes, else standard output.")] = None,
) -> int:
    """Draw a list of cases, to be committed and run with `fuzz --cases`."""
    given = starting.settings(config_file)
    target = target or given.target or DEFAULT_TARGET
    registry = starting.registry(starting.plugins(given, plugin), target)
    from tridiff.harness import case_lists
    from tridiff.harness.runner.drawing import drawn

    found = drawn(registry, op, target, count=max_examples, seed=seed)
    content = case_lists.written(op, target, found)
    if out is None:
        sys.stdout.write(content)
    else:
        _write(out, content)
    if len(found) < max_examples:
        _warn(f"{op} on {target} has {len(found)} distinct cases, not {max_examples}; the list has them all")
    return Exit.CLEAN


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written: {error.strerror}; choose another file") from error


@app.command()
def waived(
    known_failures: KnownFailuresOption = None,
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show all that is waived: known failures, kernels that cannot run here, what kernels do not support."""
    from tridiff.harness.commands.waived import waived as listing

    given = starting.settings(config_file)
    known = ledger.read(given, known_failures)
    listing(known, starting.registry(starting.plugins(given, plugin)), _stdout(), as_json=as_json)
    return Exit.CLEAN


@app.command("list")
def list_(
    kernel: KernelOption = None, plugin: PluginOption = None, config_file: ConfigOption = None, as_json: JsonOption = False
) -> int:
    """Show ops, kernels and their domains, engines and faults."""
    registry = starting.registry(starting.plugins(starting.settings(config_file), plugin))
    from tridiff.harness.report import document, text
    from tridiff.harness.runner.covering import coverages

    kernels = registry.chosen([], kernel or [])
    covered = coverages(registry, kernels, DEFAULT_TARGET)
    if as_json:
        _stdout().print_json(json.dumps(document.list_document(registry, kernels, covered)))
    else:
        console = _stdout()
        console.print(text.fitting_list(console, registry, kernels, covered))
        for line in text.domains_text(kernels if kernel else [], covered):
            _say(line)
        for line in text.models_text(registry):
            _say(line)
    return Exit.CLEAN


@app.command()
def doctor(as_json: JsonOption = False) -> int:
    """Show what this machine offers, and what to do about what it lacks."""
    from tridiff.harness.doctor.diagnosis import document, examine_machine
    from tridiff.harness.report import doctor as report

    diagnosis = examine_machine()
    if as_json:
        _stdout().print_json(json.dumps(document(diagnosis)))
    else:
        _stdout().print(report.facts_text(diagnosis), soft_wrap=True)
        if lines := report.legend(diagnosis):
            _stdout().print(report.targets_table(diagnosis))
            _say("\n".join(lines))
        _stdout().print(report.problems_text(diagnosis), end="", soft_wrap=True)
    if diagnosis.obstacle is not None:
        raise UsageError(f"nothing can be fuzzed on this machine: {diagnosis.obstacle}")
    if not as_json:
        _say("fuzzing is possible here: tridiff fuzz")
    return Exit.CLEAN


def _say(line: str) -> None:
    _stdout().print(line, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `tridiff`; exits with the codes of `Exit`. Without arguments it says how it is used."""
    config.one_blas_thread()
    given = sys.argv[1:] if arguments is None else arguments
    code = _run(given or ["--help"])
    sys.exit(code if given else Exit.USAGE)


def _run(arguments: list[str]) -> int:
    try:
        with table.scope():  # the targets that its settings add are this command's
            code = _command(arguments)
    except UsageError as error:
        return _fail(str(error), Exit.USAGE)
    except KeyboardInterrupt:
        return _fail("interrupted", Exit.USAGE)
    except Exception as error:
        if hasattr(error, "format_message"):  # The command-line library's own complaint about options.
            return _fail(error.format_message(), Exit.USAGE)
        return _failed(error)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _failed(error)
    return _concluded(code) if isinstance(code, Verdict) else int(code) if isinstance(code, int) else Exit.CLEAN


def _command(arguments: list[str]) -> Any:
    """What the command returns. Releases of the command-line library hide Ctrl-C in one way or another: it is raised here."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _warn(message: str) -> None:
    """One line about what does not end the run."""
    sys.stderr.write(f"tridiff: warning: {' '.join(message.split())}\n")


def _fail(message: str, code: Exit) -> int:
    sys.stderr.write(f"tridiff: {' '.join(message.split())}\n")
    return code


def _failed(error: BaseException) -> int:
    """What is neither the user's matter nor a kernel's: no worker process starts, or it is a bug of ours."""
    if "tridiff.harness.isolation.isolated" in sys.modules:
        from tridiff.harness.isolation.isolated import WorkerLost

        lost = error.__cause__ if error.__cause__ is not None else error
        if isinstance(lost, WorkerLost):
            return _fail(str(lost), Exit.HARNESS)
    return _harness_failed(error)


def _harness_failed(error: BaseException) -> int:
    traceback.print_exception(error)
    return _fail(f"{error}; this is a defect of tridiff, not of a kernel: please report the lines above", Exit.HARNESS)
