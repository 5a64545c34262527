"""Commands: fuzz, targets, report, prove, repro, cases, list, doctor.

Exit codes: 0 clean, 1 findings, 2 usage or environment, 3 tridiff itself or infrastructure.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tridiff.harness import config, starting
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec, UsageError
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
    MarkdownOption,
    MemoryOption,
    ModelOption,
    NoIsolationOption,
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
from tridiff.harness.report.verdict import Exit, Verdict
from tridiff.harness.targets import table

if TYPE_CHECKING:
    from tridiff.harness.api import Fault, Kernel
    from tridiff.harness.registry import Registry
    from tridiff.harness.runner.events import Event
    from tridiff.harness.runner.examiner import Examiner
    from tridiff.harness.runner.prove import Proof

__all__ = ["Exit", "app", "main"]

PLAIN_WIDTH = 132
"""Columns of a table that goes to a file or a pipe."""
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
    part = starting.shard(shard)
    plugins = starting.plugins(given, plugin)
    worker = starting.worker(plugins, plan.target, off=no_isolation)  # it loads torch while we do
    registry = starting.registry(plugins, plan.target)
    from tridiff.harness import repro
    from tridiff.harness.isolation.journal import Journal
    from tridiff.harness.preparing import recall
    from tridiff.harness.report import eventfile
    from tridiff.harness.report.fuzzing import FuzzReport
    from tridiff.harness.report.outputs import Outputs
    from tridiff.harness.runner.campaign import Budget
    from tridiff.harness.runner.session import Session

    spec = starting.spec(engine, plan.target, given, timeout)
    kernels = registry.knowing(registry.select(op or [], kernel or []), model or [])
    folder = repro.prepare(starting.short(plan.out))
    outputs = Outputs(console=_stdout(), as_json=as_json, junit=junit, markdown=markdown)
    outputs.prepare()
    budget = Budget(examples=starting.examples(part, plan.profile.examples, len(kernels)), seconds=plan.profile.seconds)
    if part.count > 1 and not as_json:
        _say(f"shard {part} of the run with seed {plan.seed}")
    compilers = starting.compilers(plugins, verdicts, plan.target)  # nothing else can go wrong before they are watched
    with (
        starting.judging(worker, compilers, verdicts, given, timeout, memory_limit, off=no_isolation) as examiner,
        eventfile.fresh(starting.short(plan.out) / eventfile.NAME) as events,
        contextlib.closing(Journal(starting.short(plan.out))) as journal,
    ):
        report = FuzzReport(outputs, _stderr(), folder, events, shard=str(part) if part.count > 1 else None)
        session = Session(kernels, spec, part.seed(plan.seed), budget, report.listen, registry, tuple(model or ()))
        session.examiner, session.verdicts = examiner, verdicts
        recall(plan, session, (part,), _warn, starting.short)
        journal.accompany(session)
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
    given = starting.settings(config_file)
    target, plugins = target or given.target or DEFAULT_TARGET, starting.plugins(given, plugin)
    worker = starting.worker(plugins, target, off=no_isolation)
    registry = starting.registry(plugins, target)
    spec = starting.spec(engine, target, given, timeout)
    kernels = registry.select(op or [], kernel or [])
    untried = _without_deadly(registry, kernels) if no_isolation else []
    if not any(registry.faults.get(known.name) for known in kernels):
        raise UsageError(f"no fault is registered for {', '.join(known.name for known in kernels)}: nothing could be proven")
    with starting.examining(worker, given, timeout, memory_limit, off=no_isolation) as examiner:
        proofs, interrupted = _prove(registry, kernels, spec, seed, max_examples, examiner)
    from tridiff.harness.report import document, text

    if as_json:
        found = document.prove_document(proofs, spec, seed, max_examples, registry.plugins, interrupted=interrupted)
        _stdout().print_json(json.dumps(found))
    else:
        _stdout().print(text.prove_table(proofs))
        missed = [proof.fault.name for proof in proofs if not proof.caught]
        _say(f"{len(proofs) - len(missed)} of {len(proofs)} faults caught within {max_examples} examples each")
        if missed:
            _say(f"missed: {', '.join(missed)}")
        if untried:
            _say(f"not tried, because they would end this process: {', '.join(untried)}")
        if interrupted:
            _say("interrupted: the faults above are those tried so far")
    return Exit.CLEAN if not interrupted and all(proof.caught for proof in proofs) else Exit.FINDINGS


def _without_deadly(registry: Registry, kernels: list[Kernel]) -> list[str]:
    """Drop from `registry` the faults that end the process they run in, and return their names."""
    from tridiff.harness.api import DEADLY

    names = []
    for kernel in kernels:
        faults = registry.faults.get(kernel.name, [])
        names += [fault.name for fault in faults if fault.checks <= DEADLY]
        registry.faults[kernel.name] = [fault for fault in faults if not fault.checks <= DEADLY]
    return names


def _prove(
    registry: Registry, kernels: list[Any], spec: EngineSpec, seed: int, examples: int, examiner: Examiner | None
) -> tuple[list[Proof], bool]:
    from tridiff.harness.report.progress import progress
    from tridiff.harness.runner.events import CaseDone
    from tridiff.harness.runner.interruption import Interruption
    from tridiff.harness.runner.prove import prove as prove_faults

    proofs: list[Proof] = []
    current = [""]
    total = sum(len(registry.faults.get(kernel.name, [])) for kernel in kernels)

    interruption = Interruption()

    def announce(fault: Fault) -> None:
        current[0] = fault.name

    def listen(event: Event) -> None:
        shown.update()
        if isinstance(event, CaseDone):
            interruption.check()

    with progress(_stderr(), lambda: f"fault {len(proofs) + 1} of {total}: {current[0]}") as shown:
        results = prove_faults(
            kernels,
            spec,
            seed=seed,
            examples=examples,
            listener=listen,
            announce=announce,
            registry=registry,
            examiner=examiner,
        )
        try:
            with interruption.watching():
                proofs.extend(results)
        except KeyboardInterrupt:
            return proofs, True
    return proofs, False


@app.command()
def repro(
    case: Annotated[Path, typer.Argument(metavar="CASE.json", help="A case file that fuzz wrote.")],
    plugin: PluginOption = None,
    config_file: ConfigOption = None,
    timeout: TimeoutOption = None,
    memory_limit: MemoryOption = None,
    no_isolation: NoIsolationOption = False,
) -> int:
    """Run the case of a finding again. Exit 1 if it still fails, 0 if it does not."""
    from tridiff.harness.commands.repro import repro as again

    return _concluded(again(case, plugin, starting.settings(config_file), timeout, memory_limit, _stdout(), off=no_isolation))


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


@app.command("list")
def list_(plugin: PluginOption = None, config_file: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Show ops, kernels, engines and faults."""
    registry = starting.registry(starting.plugins(starting.settings(config_file), plugin))
    from tridiff.harness.report import document, text
    from tridiff.harness.report.run_text import WIDE

    if as_json:
        _stdout().print_json(json.dumps(document.list_document(registry)))
    else:
        console = _stdout()
        console.print(text.list_table(registry, wide=console.width >= WIDE))
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


def _stdout() -> Console:
    """Standard output; as wide as the terminal, or wide enough for the tables where it is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(PLAIN_WIDTH, console.width))


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


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
    return int(code) if isinstance(code, int) else Exit.CLEAN


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
