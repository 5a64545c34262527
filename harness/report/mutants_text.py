"""What the terminal shows of hunts of mutants: a table by operator, each survivor as a diff, and what else there is to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tridiff.harness.mutation.operators import OPERATORS
from tridiff.harness.report.run_text import plural, printable
from tridiff.harness.report.targets_text import triton
from tridiff.harness.runner.mutant_hunt import EQUIVALENT, KILLED, STILLBORN, SURVIVED, Hunt
from tridiff.harness.runner.mutating import Mutating


def headline(run: Mutating) -> str:
    """What is mutated, and how it is hunted."""
    spec = run.spec
    return (
        f"mutating {run.kernel.name} on engine {spec.name}, target {spec.target}, Triton {triton()}, seed {run.seed}, "
        f"up to {plural(run.quota.examples)} a mutant"
    )


def show(console: Console, run: Mutating) -> None:
    """Everything but the headline."""
    if not run.hunts:
        why = "interrupted" if run.interrupted else "time ran out"
        console.print(f"{run.kernel.name}: {why} before a mutant was tried", markup=False, soft_wrap=True)
        return
    console.print(table(run))
    for hunt in run.by_fate(SURVIVED):
        console.print("\n".join(survivor(hunt)), markup=False, soft_wrap=True)
    for line in (*notes(run), closing(run)):
        console.print(line, markup=False, soft_wrap=True)


def table(run: Mutating) -> Table:
    """One row an operator, and one for all."""
    shown = Table()
    for heading in ("operator", "mutants", EQUIVALENT, STILLBORN, KILLED, SURVIVED):
        shown.add_column(heading, justify="left" if heading == "operator" else "right", overflow="fold")
    shown.add_column("killed by", overflow="fold")
    hunts = list(run.hunts.values())
    for name in OPERATORS:
        of_operator = [hunt for hunt in hunts if hunt.mutant.operator == name]
        if of_operator:
            shown.add_row(name, *_cells(of_operator))
    shown.add_section()
    shown.add_row("all", *_cells(hunts))
    return shown


def _cells(hunts: list[Hunt]) -> Iterator[str]:
    yield str(len(hunts))
    for fate in (EQUIVALENT, STILLBORN, KILLED, SURVIVED):
        yield str(sum(hunt.fate == fate for hunt in hunts))
    yield ", ".join(f"{check} {count}" for check, count in by_check(hunts).items()) or "-"


def by_check(hunts: list[Hunt]) -> dict[str, int]:
    """How many each check has killed, the busiest first."""
    counts = Counter(hunt.check for hunt in hunts if hunt.fate == KILLED)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def survivor(hunt: Hunt) -> Iterator[str]:
    """A mutant that no check has killed: how often it ran, and what was changed, as a diff of one hunk."""
    mutant = hunt.mutant
    count = len(mutant.before)
    place = f"{mutant.line},{count}" if count > 1 else str(mutant.line)
    yield f"SURVIVOR {mutant.name}: {hunt.judged} of {plural(hunt.examples)} ran it"
    if hunt.reason:
        yield f"  not judged elsewhere: {printable(hunt.reason)}"
    yield f"--- {mutant.file}:{mutant.line}"
    yield f"+++ {mutant.operator}"
    yield f"@@ -{place} +{place} @@"
    yield from (f"-{line}" for line in mutant.before)
    yield from (f"+{line}" for line in mutant.after)


def notes(run: Mutating) -> Iterator[str]:
    """What else there is to say, a line each."""
    name = run.kernel.name
    if run.left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(run.left_out.items()))
        yield f"{name}: cases left out, since the original does not pass them: {kinds}"
    if run.unsteady:
        yield f"{name}: the original fails {plural(run.unsteady)} only sometimes: mutants may have been killed by chance"
    if run.hidden:
        yield f"{name}: not mutated, since these are no functions of their modules: {', '.join(run.hidden)}"
    if len(run.hunts) < len(run.mutants):
        yield f"{name}: {len(run.hunts)} of {len(run.mutants)} mutants were tried ({_why_not_all(run)})"


def _why_not_all(run: Mutating) -> str:
    if run.interrupted:
        return "interrupted"
    if len(run.hunts) == len(run.chosen):
        return "a sample that depends on the seed alone"
    return "time ran out" + (f", before {run.cut_short} more were killed or had survived" if run.cut_short else "")


def closing(run: Mutating) -> str:
    """The last line: the score and how it came about."""
    killed, survived = run.by_fate(KILLED), run.by_fate(SURVIVED)
    score = "" if run.score is None else f" ({run.score:.1f} %)"
    counts = f"{len(killed)} of {len(killed) + len(survived)} mutants killed{score}"
    apart = f"not counted: {len(run.by_fate(EQUIVALENT))} equivalent, {len(run.by_fate(STILLBORN))} stillborn"
    to_kill = run.examples_to_kill
    effort = "" if to_kill is None else f"; cases to kill one: median {to_kill[0]:g}, most {to_kill[1]}"
    return f"{run.kernel.name}: {counts} in {run.elapsed:.0f} s; {apart}{effort}"
