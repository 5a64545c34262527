"""Settings: what a project says once, in `tridiff.toml` or in `[tool.tridiff]` of its `pyproject.toml`.

`profile`: the profiles, one table for the command line and for pytest. `model`: the settings as dataclasses, and the `Plan` of a
run that follows from them and from the command line. `files`: which file counts, and what it holds. `checking`: it against
`schema.json`. Light to import: neither torch nor Hypothesis, and jsonschema only where there is a file.
"""

from tridiff.harness.settings.checking import SCHEMA_FILE
from tridiff.harness.settings.files import read
from tridiff.harness.settings.model import Database, GitHub, Override, Plan, Settings, Store
from tridiff.harness.settings.profile import PROFILES, Profile

__all__ = ["PROFILES", "SCHEMA_FILE", "Database", "GitHub", "Override", "Plan", "Profile", "Settings", "Store", "read"]
