"""Ledgers of known failures of the toy kernels, as text and as what follows from it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from toy.family import registry

from tridiff.harness import ledger
from tridiff.harness.ledger.binding import bound
from tridiff.harness.ledger.waivers import Waivers
from tridiff.harness.settings import Settings

NOW = date(2026, 11, 22)
"""The day on which these tests believe to run."""
WHO = """owner = "@kernels"
expires = 2027-01-31
reason = "the tail is summed twice, see the issue"
"""
MISMATCH = f"""[[failure]]
kernel = "scale"
status = "tolerated"
check = "mismatch"
when = {{ columns = {{ min = 5 }} }}
case = {{ columns = 5 }}
{WHO}"""
"""Tolerates a mismatch of `scale` from 5 columns on."""
ROWS = f"""[[failure]]
kernel = "scale"
status = "quarantined"
when = {{ rows = [3, 4] }}
{WHO}"""
"""Keeps three or four rows from `scale`."""
WHOLE = f"""[[failure]]
kernel = "scale_wrong"
status = "quarantined"
{WHO}"""
"""Keeps `scale_wrong` from running."""


def read(text: str, name: str = ledger.NAME) -> ledger.Ledger:
    """The ledger with this text, written to a file of the current folder."""
    Path(name).write_text(text, encoding="utf-8")
    known = ledger.read(Settings(), Path(name), now=NOW)
    assert known is not None
    return known


def waivers(text: str) -> Waivers:
    """What a ledger with this text waives of the toy kernels."""
    return bound(read(text), registry())
