"""A file of records: JSON lines, written while a run goes on, and read again, also where the run was killed."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tridiff.harness.engines.spec import UsageError
from tridiff.harness.report.records import Record, RecordError, check
from tridiff.harness.report.summary import Summary

NAME = "events.jsonl"
PREVIOUS = ".previous"
"""Before its suffix the file of the run before has this: there are two at most, however often one runs."""
_ADVICE = "give the path of a file events.jsonl that tridiff wrote"


class EventFile:
    """Appends records to `path`, one write each, so that the death of this process costs at most the one being written.

    What cannot be written is counted in `lost`, with the first reason as `problem`, and the file ends with a whole line all
    the same. Nothing is raised for what the disk does, also where the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = 0
        self.problem = ""
        self._length = 0
        self._file: io.FileIO | None = None
        try:
            # Unbuffered: what a buffer holds would be lost with the process, and part of a line could stay in it after an error.
            self._file = path.open("ab", buffering=0)
            self._length = self._file.tell()
        except OSError as error:
            self.problem = error.strerror or str(error)

    def __enter__(self) -> EventFile:  # noqa: PYI034 - nobody derives from it, and Self is Python 3.11's
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Append one line."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            self.lost += 1
            self.problem = self.problem or (error.strerror or str(error))

    def _append(self, line: bytes) -> None:
        if self._file is None:
            raise OSError(self.problem)
        try:
            while line:
                line = line[self._file.write(line) :]
            self._length = self._file.tell()
        except OSError:
            self._repair()
            raise

    def _repair(self) -> None:
        """Cut off the part of a line that did reach the disk."""
        try:
            if self._file is not None:
                self._file.truncate(self._length)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file; what is written later is lost."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    @property
    def complaint(self) -> str | None:
        """What to say of records that were lost; None where there were none."""
        if not self.lost:
            return None
        return f"{self.path} is incomplete: {self.lost} record{'s' * (self.lost != 1)} could not be written: {self.problem}"


def fresh(path: Path) -> EventFile:
    """An empty file at `path`; the one that was there becomes events.previous.jsonl. Raises `UsageError`."""
    try:
        path.replace(path.with_suffix(PREVIOUS + path.suffix))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"cannot write to {path}: {error.strerror}; choose another folder with --out") from error
    file = EventFile(path)
    if file.problem:
        raise UsageError(f"cannot write to {path}: {file.problem}; choose another folder with --out")
    return file


@dataclass
class Reading:
    """The runs of one file, in order. `torn`: its last line is not whole, and was left out."""

    path: Path
    runs: list[Summary] = field(default_factory=list)
    torn: bool = False


def read(path: Path) -> Reading:
    """Fold the records of a file into the sums of its runs. Raises `UsageError` that names the file and the line."""
    reading = Reading(path=path)
    for number, line, whole in _lines(path):
        try:
            record = check(json.loads(line))
        except RecordError as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too
            if not whole:
                reading.torn = True
                break
            # The position within the line: the error's own would count lines from this one on.
            what = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise UsageError(f"{path}:{number}: not JSON: {what}; {_ADVICE}") from error
        _fold(reading, record, number)
    if not reading.runs:
        raise UsageError(f"{path}: holds no record of a run; {_ADVICE}")
    return reading


def _fold(reading: Reading, record: Record, number: int) -> None:
    if record["record"] == "run":
        reading.runs.append(Summary(record))
        return
    if not reading.runs or reading.runs[-1].end is not None:
        raise UsageError(f"{reading.path}:{number}: the record {record['record']} belongs to no run")
    try:
        reading.runs[-1].add(record)
    except RecordError as error:
        raise UsageError(f"{reading.path}:{number}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Number and bytes of every line, and whether it ends as a line does."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line, line.endswith(b"\n")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; {_ADVICE}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
