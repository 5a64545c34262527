"""The consoles that commands print to."""

from __future__ import annotations

from rich.console import Console

PLAIN_WIDTH = 132
"""Columns of a table that goes to a file or a pipe."""


def stdout() -> Console:
    """Standard output; as wide as the terminal, or wide enough for the tables where it is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(PLAIN_WIDTH, console.width))


def stderr() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)
