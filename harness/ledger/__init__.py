"""The ledger `known-failures.toml`: what is known to fail, and waived until a date: quarantined or tolerated.

`entry`: one entry as plain data, and how it is shown. `files`: which file counts, what it may say, against `schema.json`. These
two are light to import. `waivers`: what the entries mean for Cases and outcomes. `binding`: entries held against a registry.
`confirming`: the Case of each tolerated entry runs first in a run, and a pass is loud.
"""

from tridiff.harness.ledger.entry import QUARANTINED, TOLERATED, Entry, Ledger
from tridiff.harness.ledger.files import NAME, SCHEMA_FILE, read

__all__ = ["NAME", "QUARANTINED", "SCHEMA_FILE", "TOLERATED", "Entry", "Ledger", "read"]
