"""The installed or fetched SGLang."""

from __future__ import annotations

from tridiff.adapters import stubs
from tridiff.adapters.importing import Upstream

SGLANG = Upstream(
    "sglang", tried=("0.5",), stubs=stubs.sglang, advice="pip install sglang, or make fetch-sglang for its Python files alone"
)
