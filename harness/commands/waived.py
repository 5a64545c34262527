"""The command `waived`: the whole waived surface in one listing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console

from tridiff.harness.ledger import Ledger

if TYPE_CHECKING:
    from tridiff.harness.registry import Registry


def waived(ledger: Ledger | None, registry: Registry, out: Console, *, as_json: bool) -> None:
    """Show on `out` what of the registered kernels is not held to its Op's contract, and why.

    Raises `UsageError` for an entry of the ledger that does not fit its kernel.
    """
    from tridiff.harness.ledger.binding import bound
    from tridiff.harness.report import surface

    bound(ledger, registry)
    if as_json:
        out.print_json(json.dumps(surface.document(ledger, registry)))
    else:
        surface.show(out, ledger, registry)
