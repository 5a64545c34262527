"""Where what is shown of runs goes: the terminal or a JSON document, and files for CI systems."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tridiff.harness.engines.spec import UsageError
from tridiff.harness.report.junit import junit
from tridiff.harness.report.markdown import markdown
from tridiff.harness.report.run_document import runs_document
from tridiff.harness.report.run_text import show
from tridiff.harness.report.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """`console`: standard output; it gets a JSON document where `as_json`, else text. `junit`, `markdown`: files to write."""

    console: Console
    as_json: bool = False
    junit: Path | None = None
    markdown: Path | None = None

    def prepare(self) -> None:
        """Make sure before the work that the files can be written. Raises `UsageError`."""
        if self.junit is not None and importlib.util.find_spec("junitparser") is None:
            raise UsageError("--junit needs junitparser, which is not installed: pip install junitparser")
        for file in self._files():
            file.prepare()

    def show(self, runs: Sequence[Summary]) -> list[str]:
        """Show the runs everywhere; a line for each file that could not be written."""
        if self.as_json:
            self.console.print_json(json.dumps(runs_document(runs)))
        else:
            show(self.console, runs)
        complaints = [file.write(runs) for file in self._files()]
        return [complaint for complaint in complaints if complaint is not None]

    def _files(self) -> Iterator[_File]:
        if self.junit is not None:
            yield _File("--junit", self.junit, junit)
        if self.markdown is not None:
            yield _File("--markdown", self.markdown, lambda runs: markdown(runs).encode())


@dataclass(frozen=True)
class _File:
    option: str
    path: Path
    content: Callable[[Sequence[Summary]], bytes]

    def prepare(self) -> None:
        try:
            if not self.path.parent.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
        except OSError as error:
            raise UsageError(f"{self.option} {self.path}: cannot be written: {error.strerror}; choose another file") from error

    def write(self, runs: Sequence[Summary]) -> str | None:
        """Replace the file's content; what to say where that fails."""
        try:
            self.path.write_bytes(self.content(runs))
        except OSError as error:
            return f"{self.option} {self.path}: could not be written: {error.strerror}"
        return None
