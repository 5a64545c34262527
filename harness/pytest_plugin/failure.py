"""How a test fails: with a text of ours and no traceback, whatever `--tb` says, and a headline for the short summary."""

from __future__ import annotations

from typing import Any

import pytest


class Failure(pytest.fail.Exception):  # type: ignore[misc,name-defined] # a class that pytest annotates as a variable
    """Fails the test with `text`; the short summary and JUnit XML say `headline`, which is the first line by default.

    Like every outcome of pytest it is no Exception, so a test's `except Exception` does not swallow it.
    """

    def __init__(self, text: str, headline: str = "") -> None:
        super().__init__(text, pytrace=False)
        self.headline = headline or text.partition("\n")[0]

    def shorten(self, report: Any) -> None:
        """Put the headline in place of the whole text, which pytest would print in the short summary of a CI run."""
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            crash.message = self.headline


def one_line(error: BaseException) -> str:
    """The error's message in one line."""
    return " ".join(str(error).split())
