"""The fixture `tridiff`: fuzzes a Kernel within a test, writes case files, and fails with what was found.

Whoever imports this needs torch and Triton.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings

from tridiff.harness import profiles, repro
from tridiff.harness.api import Finding
from tridiff.harness.engines.cpu.engine import CpuEngine
from tridiff.harness.engines.spec import DEFAULT_TARGET, EngineSpec, UsageError, best_engine, check_target
from tridiff.harness.pytest_plugin import events, options, running, spreading, summary
from tridiff.harness.pytest_plugin.failure import Failure, one_line
from tridiff.harness.pytest_plugin.kernels import selected, waivers, warnings_as_usual
from tridiff.harness.registry import Registry, needs, runs_here
from tridiff.harness.report import waived
from tridiff.harness.report.recording import Recording
from tridiff.harness.report.run_text import block, infrastructure_blocks, plural, reasons_text
from tridiff.harness.report.summary import Deaths
from tridiff.harness.report.text import finding_text
from tridiff.harness.runner.campaign import Budget, HarnessBug
from tridiff.harness.runner.events import Event, FindingMinimal, FindingSeen, Tally
from tridiff.harness.runner.session import Session
from tridiff.harness.runner.shards import Shard


@dataclass(frozen=True, kw_only=True)
class FuzzRun:
    """What a call of `Fuzzer.fuzz` did: a kernel without findings. `tally`: its counts and the largest error ratio.

    `seed` and `budget` are those of the shard, and without shards those of the run; `shard`: "I/N", "" without.
    """

    kernel: str
    spec: EngineSpec
    seed: int
    budget: Budget
    tally: Tally
    shard: str = ""


class Fuzzer:
    """The fixture `tridiff` of one test, and of one shard of its examples."""

    def __init__(self, item: pytest.Item, registry: Registry, target: str | None, shard: Shard) -> None:
        self._item = item
        self._registry = registry
        self._target = target
        self._options = item.config.stash[options.KEY]
        self._shards = (self._options.shard, shard)

    def fuzz(
        self,
        kernel: str,
        *,
        target: str = DEFAULT_TARGET,
        examples: int | None = None,
        seconds: float | None = None,
        seed: int = 0,
    ) -> FuzzRun:
        """Draw cases of `kernel`, judge and shrink; fail the test with what was found.

        Likewise where cases ended in infrastructure failures, or none could be judged: that is no proof; and where a known
        failure (`docs/reference/known-failures.md`) does not fail any more. A kernel that is quarantined skips the test.

        `examples`: cases to draw, in all shards together; `seconds`: time that each shard takes; whichever ends first.
        Without both, the `max_examples` of the current Hypothesis profile. `seed`: added to the seed of the whole run, so
        that several tests of one kernel draw different cases. `--tridiff-target`, `--tridiff-examples` and
        `--tridiff-seconds` replace what the test says. Skips the test if `--tridiff-kernel` or `--tridiff-op` leave the
        kernel out. The returned run is that of this shard, which has drawn nothing where there are fewer examples than
        shards. Cases that could not be judged are counted in it; whether there may be any is for the test to say.
        """
        __tracebackhide__ = True
        try:
            session = self._session(kernel, self._target or target, self._budget(examples, seconds), seed)
            quarantine = session.waivers.whole(kernel)
        except UsageError as error:
            raise Failure(f"tridiff: {one_line(error)}") from None
        known = self._registry.kernel(kernel)
        if not runs_here(known):
            pytest.skip(f"kernel {kernel} {needs(known)}")
        if kernel not in selected(self._item.config):
            pytest.skip(f"kernel {kernel} is left out by --tridiff-kernel or --tridiff-op")
        if quarantine is not None:
            entry = quarantine.record()
            pytest.skip(f"kernel {kernel} is quarantined: {waived.why(entry)} ({waived.by_whom(entry)})")
        return _Run(self._item, self._options, session, self._shards, self._random_seed()).go()

    def _session(self, name: str, target: str, budget: Budget, seed: int) -> Session:
        kernel = self._registry.kernel(name)
        spec = EngineSpec(name=self._options.engine or best_engine(), target=check_target(target))
        with warnings_as_usual():
            CpuEngine(spec)  # An engine that cannot work with this Triton is the machine's matter, not the kernel's.
        session = Session([kernel], spec, self._seed(seed), self._share(budget), lambda _event: None, self._registry)
        session.waivers = waivers(self._item.config)
        running.isolate(self._item.config, session)
        return session

    def _seed(self, added: int) -> int:
        """The shard's: derived from that of the run, to which `added` is added."""
        seed = (self._options.seed or self._random_seed() or 0) + added
        for shard in self._shards:
            seed = shard.seed(seed)
        return seed

    def _random_seed(self) -> int | None:
        """The seed of the whole run where it is a random one."""
        is_random = self._options.seed is None and profiles.is_nightly()
        return spreading.random_seed(self._item.config) if is_random else None

    def _share(self, budget: Budget) -> Budget:
        """The shard's examples; each shard takes the whole time."""
        examples = budget.examples
        for shard in self._shards:
            examples = None if examples is None else shard.share(examples)
        return replace(budget, examples=examples)

    def _budget(self, examples: int | None, seconds: float | None) -> Budget:
        """That of all shards together: the command line's, else the test's, else the profile's."""
        if self._options.examples is not None or self._options.seconds is not None:
            return Budget(examples=self._options.examples, seconds=self._options.seconds)
        if examples is not None and examples < 1:
            raise UsageError(f"{examples=}: must be at least 1")
        if seconds is not None and not seconds > 0.0:
            raise UsageError(f"{seconds=}: must be above 0")
        if examples is None and seconds is None:
            examples = settings().max_examples
        return Budget(examples=examples, seconds=seconds)


@dataclass
class _Run:
    """A session within a test: what becomes of its findings, of its counts, and of what interrupts it."""

    item: pytest.Item
    options: options.Options
    session: Session
    parts: tuple[Shard, ...]
    random_seed: int | None
    files: dict[str, Path] = field(default_factory=dict)
    minimal: dict[str, FindingMinimal] = field(default_factory=dict)
    unwritten: str = ""

    @property
    def shard(self) -> str:
        """What the shard is called, "" where there is one only."""
        return " ".join(str(part) for part in self.parts if part.count > 1)

    def __post_init__(self) -> None:
        """Begin the records."""
        folder = self._from_here(self.options.out / "findings")
        file = events.file_of(self.item.config)
        self.recording = Recording(
            self.session, file, folder=folder, shard=self.shard or None, named=lambda name: str(self._from_here(Path(name)))
        )

    def go(self) -> FuzzRun:
        """Run to the end of the budget. Raises `Failure`, or KeyboardInterrupt."""
        __tracebackhide__ = True
        self.session.listener = self._listen
        try:
            running.equip(self.item.config, self.session, self.parts)
            with warnings_as_usual(), self.recording:
                self._fuzz()
        except UsageError as error:
            raise Failure(f"tridiff: {one_line(error)}") from None
        except HarnessBug as bug:
            raise Failure(_bug_text(str(bug), bug.__cause__ or bug), str(bug)) from None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no finding, and is said to be none
            headline = f"tridiff failed: {traceback.format_exception_only(error)[-1].strip()}"
            raise Failure(_bug_text(headline, error), headline) from None
        finally:
            self._record()
        if self.session.interrupted:
            failed = self.session.findings or self._passes
            summary.interrupted(self.item.config, self._properties(), self._text() if failed else "")
            raise KeyboardInterrupt
        return self._judged()

    def _fuzz(self) -> None:
        if self.session.budget.examples != 0:  # there are shards without examples
            self.session.run()

    def _judged(self) -> FuzzRun:
        __tracebackhide__ = True
        session = self.session
        if session.findings or self._passes:
            raise Failure(self._text(), self._headline())
        kernel = session.kernels[0].name
        if self._deaths():
            cases = plural(sum(deaths.cases for deaths in self._deaths().values()))
            what = f"infrastructure: {cases} of {kernel} killed the process, and did not when run again alone"
            raise Failure(self._deaths_text(), what)
        if session.unjudged:
            raise Failure(
                "\n".join([f"no case of {kernel} could be judged", *reasons_text({kernel: session.tallies[kernel].reasons})]),
                self._headline(),
            )
        return FuzzRun(
            kernel=kernel,
            spec=session.spec,
            seed=session.seed,
            budget=session.budget,
            tally=session.tallies.get(kernel, Tally()),
            shard=self.shard,
        )

    def _listen(self, event: Event) -> None:
        """Write a case file the moment a finding is seen, and again once it is minimal."""
        if isinstance(event, FindingSeen | FindingMinimal):
            try:
                folder = repro.prepare(self.options.out, option="--tridiff-out")
                self.files[event.finding.signature()] = repro.write(folder, event.finding)
            except (UsageError, OSError) as error:
                self.unwritten = one_line(error)
        if isinstance(event, FindingMinimal):
            self.minimal[event.finding.signature()] = event
        file = self.files.get(event.finding.signature()) if isinstance(event, FindingSeen | FindingMinimal) else None
        self.recording.event(event, path=self._from_here(file) if file else None, unwritten=None if file else self.unwritten)

    def _headline(self) -> str:
        """One line: the first finding and how many there are besides, or why nothing could be judged."""
        findings = list(self.session.findings.values())
        if not findings and self._passes:
            return self._passes[0]
        if not findings:
            reasons = [reason for tally in self.session.tallies.values() for reason in tally.reasons]
            return f"no case of {self.session.kernels[0].name} could be judged: {one_line(Exception(reasons[0]))}"
        others = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        return f"{findings[0].check}{others}: {findings[0].kernel}: {findings[0].message.splitlines()[0]}"

    def _text(self) -> str:
        """All findings, each with the command that runs its case again, and apart from them what ended in infrastructure."""
        blocks = [self._finding_text(signature, finding) for signature, finding in self.session.findings.items()]
        passes = [block(*rows).plain.rstrip("\n") for rows in waived.pass_rows([self.recording.summary])]
        return "\n".join([*blocks, *passes, *([self._deaths_text()] if self._deaths() else [])])

    @property
    def _passes(self) -> list[str]:
        """A line for each known failure that does not fail any more."""
        return list(waived.pass_lines([self.recording.summary]))

    def _deaths(self) -> dict[str, Deaths]:
        """How processes died whose cases passed when they were run again alone."""
        return self.recording.summary.kernels[self.session.kernels[0].name].infrastructure

    def _deaths_text(self) -> str:
        return "\n".join(block.plain.rstrip("\n") for block in infrastructure_blocks(self.recording.summary.kernels))

    def _finding_text(self, signature: str, finding: Finding) -> str:
        session, file = self.session, self.files.get(signature)
        block = finding_text(
            finding,
            file=self._from_here(file) if file else None,
            hits=session.tallies[finding.kernel].hits.get(signature, 1),
            shrunk=signature in self.minimal and self.minimal[signature].shrunk,
            why=self.minimal[signature].why if signature in self.minimal else "interrupted",
            plugins=[str(self._from_here(Path(name))) for name in session.registry.plugins_for(finding.kernel)],
        )
        return block.plain.rstrip("\n") + ("" if file else f"\n  no case file: {self.unwritten}")

    def _from_here(self, path: Path) -> Path:
        """`path`, relative to the folder in which pytest was started, if it lies below."""
        here = self.item.config.invocation_params.dir
        return path.relative_to(here) if path.is_relative_to(here) else path

    def _record(self) -> None:
        """Let the counts travel with the report of the test: to the summary, from xdist's workers too, and to JUnit XML."""
        self.item.user_properties.append((summary.PROPERTY, self._properties()))
        file = events.file_of(self.item.config)
        if file.complaint:
            self.item.user_properties.append((summary.LOST, json.dumps([str(file.path), file.complaint])))

    def _properties(self) -> str:
        session = self.session
        kernel = session.kernels[0].name
        return summary.as_property(
            kernel=kernel,
            target=session.spec.target,
            seed=session.seed,
            random_seed=self.random_seed,
            shard=self.shard,
            tally=session.tallies.get(kernel, Tally()),
            infrastructure={reason: deaths.cases for reason, deaths in self._deaths().items()},
            findings=list(session.findings),
            known=waived.known_cases(self.recording.summary),
            passes=self._passes,
        )


def _bug_text(headline: str, error: BaseException) -> str:
    """For a failure of ours, or of the strategy or builder of a plug-in's op: here the traceback is what is needed."""
    return "\n".join(
        [
            headline,
            "this is a defect of tridiff, or of an op that a plug-in declares, not of a kernel: please report the lines below",
            *"".join(traceback.format_exception(error)).splitlines(),
        ]
    )
