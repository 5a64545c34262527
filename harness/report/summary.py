"""Summary: the records of a run, folded. Whatever is shown of a run is derived from one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tridiff.harness.report.records import Record, RecordError

Distribution = dict[str, dict[str, int]]
"""Cases by property, by word."""


@dataclass
class Deaths:
    """Cases whose process died one way, and did not when they were run again alone; `tail`: the last words of the latest."""

    cases: int = 0
    tail: tuple[str, ...] = ()


@dataclass
class Counts:
    """What became of the cases of one kernel: examples by outcome, as `Tally` counts them.

    `cases` are drawn; of the `replayed`, which are counted besides, the outcomes are counted likewise. `infrastructure`: by
    reason. `quarantined`, `tolerated`: cases by the key of their entry in the ledger; `messages`: what those first said that are
    tolerated. `worker_deaths`: processes that died, those of confirmations left out. `seconds`: time spent on the kernel.
    `properties`: judged cases, drawn or replayed, by the words of each property of the op.
    """

    op: str
    kernel: str
    cases: int = 0
    replayed: int = 0
    shrink_runs: int = 0
    clean: int = 0
    inconclusive: int = 0
    failing: int = 0
    skipped: int = 0
    unsupported: int = 0
    worker_deaths: int = 0
    worst_ratio: float = 0.0
    seconds: float = 0.0
    specialisations: set[str] = field(default_factory=set)
    hits: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    infrastructure: dict[str, Deaths] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    tolerated: dict[str, int] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    properties: Distribution = field(default_factory=dict)

    @property
    def in_infrastructure(self) -> int:
        """Cases that ended in infrastructure failures."""
        return sum(deaths.cases for deaths in self.infrastructure.values())

    @property
    def unjudged(self) -> bool:
        """Whether cases were drawn and not one could be judged: no findings there is no good news."""
        return self.cases > 0 and not self.clean + self.failing + sum(self.tolerated.values())

    def add(self, case: Record) -> None:
        """Count one record `case`."""
        self.specialisations.update(case.get("specialisations", ()))
        if case["kind"] == "shrinking":
            self.shrink_runs += 1
            return
        self.cases += case["kind"] == "drawn"
        self.replayed += case["kind"] == "replayed"
        by_outcome = {
            "clean": self._clean,
            "found": self._found,
            "skipped": self._skipped,
            "unsupported": self._unsupported,
            "infrastructure": self._infrastructure,
            "quarantined": lambda case: _increase(self.quarantined, case["entry"]),
            "tolerated": self._tolerated,
        }
        by_outcome[case["outcome"]](case)

    def _clean(self, case: Record) -> None:
        self.clean += 1
        self.inconclusive += not case["conclusive"]
        self.worst_ratio = max(self.worst_ratio, case["ratio"] or 0.0)

    def _found(self, case: Record) -> None:
        self.failing += 1
        _increase(self.hits, case["signature"])

    def _skipped(self, case: Record) -> None:
        self.skipped += 1
        _increase(self.reasons, case["reason"])

    def _unsupported(self, case: Record) -> None:
        self.unsupported += 1
        _increase(self.reasons, f"{case['reason']} ({case['line']})" if case["line"] else case["reason"])

    def _infrastructure(self, case: Record) -> None:
        deaths = self.infrastructure.setdefault(case["reason"], Deaths())
        deaths.cases += 1
        deaths.tail = tuple(map(str, case["tail"]))

    def _tolerated(self, case: Record) -> None:
        _increase(self.tolerated, case["entry"])
        self.messages.setdefault(case["entry"], case["message"])

    def merge(self, other: Counts) -> None:
        """Add the counts of another run of the same kernel."""
        for name in ("cases", "replayed", "shrink_runs", "clean", "inconclusive", "failing", "skipped", "unsupported"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.worker_deaths += other.worker_deaths
        self.worst_ratio = max(self.worst_ratio, other.worst_ratio)
        self.seconds += other.seconds
        self.specialisations |= other.specialisations
        for name in ("hits", "reasons", "quarantined", "tolerated"):
            for key, count in getattr(other, name).items():
                _increase(getattr(self, name), key, count)
        self.messages = {**other.messages, **self.messages}
        merge_distribution(self.properties, other.properties)
        for reason, deaths in other.infrastructure.items():
            known = self.infrastructure.setdefault(reason, Deaths(tail=deaths.tail))
            known.cases += deaths.cases


def add_words(distribution: Distribution, words: Mapping[str, str]) -> None:
    """Count one case, which has `words` by property."""
    for name, word in words.items():
        _increase(distribution.setdefault(name, {}), word)


def merge_distribution(distribution: Distribution, other: Mapping[str, Mapping[str, int]]) -> None:
    """Add the counts of `other`."""
    for name, words in other.items():
        for word, count in words.items():
            _increase(distribution.setdefault(name, {}), word, count)


def most_first(words: Mapping[str, int]) -> list[tuple[str, int]]:
    """Words with their counts, the most frequent first."""
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))


def _increase(counts: dict[str, int], key: str, by: int = 1) -> None:
    counts[key] = counts.get(key, 0) + by


class Summary:
    """Folds the records of one run that begins with the record `run`.

    `kernels`: their counts by name, in the order of the run. `findings`: by signature, in the order found, the latest record of
    each. `passes`: the records `unexpected_pass`, by the key of their entry in the ledger. `seconds`: time from the beginning to
    the latest record. `current`: the kernel of the latest record. `end`: the record `summary`, None while there is none.
    """

    def __init__(self, run: Record) -> None:
        self.run = run
        self.kernels = {entry["kernel"]: Counts(op=entry["op"], kernel=entry["kernel"]) for entry in run["kernels"]}
        self.findings: dict[str, Record] = {}
        self.passes: dict[str, Record] = {}
        self.seconds = 0.0
        self.current = ""
        self.end: Record | None = None

    def add(self, record: Record) -> None:
        """Fold one more record. Raises `RecordError` for a kernel that is none of the run's."""
        before, self.seconds = self.seconds, float(record["seconds"])
        if record["record"] == "summary":
            self.end = record
            return
        counts = self._counts(record["repro"]["kernel"] if record["record"] == "finding" else record["kernel"])
        self.current = counts.kernel
        counts.seconds += self.seconds - before
        if record["record"] == "case":
            counts.add(record)
        elif record["record"] == "distribution":
            merge_distribution(counts.properties, record["properties"])
        elif record["record"] == "worker_died":
            counts.worker_deaths += not record["confirming"]
        elif record["record"] == "unexpected_pass":
            self.passes[record["entry"]] = record
        else:
            self.findings[record["signature"]] = record

    def _counts(self, kernel: str) -> Counts:
        if kernel not in self.kernels:
            raise RecordError(f"the kernel {kernel} is none of the run's: {', '.join(self.kernels)}")
        return self.kernels[kernel]

    def hits(self, signature: str) -> int:
        """How many drawn or replayed cases showed a finding; 1 at least."""
        kernel = self.findings[signature]["repro"]["kernel"]
        return max(1, self.kernels[kernel].hits.get(signature, 0))

    @property
    def killed(self) -> bool:
        """Whether the run did not come to its end."""
        return self.end is None

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.end is not None and bool(self.end["interrupted"])

    @property
    def error(self) -> str | None:
        """What ended the run where tridiff or a plug-in failed."""
        return None if self.end is None else self.end["error"]

    @property
    def lost(self) -> int:
        """Records that could not be written, so that the sums lack them."""
        return 0 if self.end is None else int(self.end["lost"])

    def totals(self) -> dict[str, Any]:
        """Sums over all kernels, for the record `summary`."""
        kernels = self.kernels.values()
        names = ("cases", "replayed", "shrink_runs", "clean", "inconclusive", "failing", "skipped", "unsupported")
        return {
            **{name: sum(getattr(counts, name) for counts in kernels) for name in names},
            "infrastructure": sum(counts.in_infrastructure for counts in kernels),
            "worker_deaths": sum(counts.worker_deaths for counts in kernels),
            "findings": len(self.findings),
            "quarantined": sum(sum(counts.quarantined.values()) for counts in kernels),
            "tolerated": sum(sum(counts.tolerated.values()) for counts in kernels),
            "unexpected_passes": len(self.passes),
        }


def kernels_of(runs: Iterable[Summary]) -> dict[str, Counts]:
    """The counts of every kernel over several runs."""
    sums: dict[str, Counts] = {}
    for run in runs:
        for name, counts in run.kernels.items():
            sums.setdefault(name, Counts(op=counts.op, kernel=name)).merge(counts)
    return sums


def findings_of(runs: Iterable[Summary]) -> dict[str, tuple[Record, int]]:
    """Every finding of several runs once, with its hits in all; a minimal one replaces one that is not."""
    known: dict[str, tuple[Record, int]] = {}
    for run in runs:
        for signature, record in run.findings.items():
            before, hits = known.get(signature, (record, 0))
            known[signature] = (before if _rank(before) >= _rank(record) else record, hits + run.hits(signature))
    return known


def _rank(finding: Record) -> int:
    """0 for a finding as drawn, 1 for one whose shrinking was cut short, 2 for a minimal one."""
    return int(finding["stage"] == "minimal") + bool(finding["shrunk"])
