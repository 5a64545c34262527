"""The installed or fetched vLLM."""

from __future__ import annotations

from tridiff.adapters import stubs
from tridiff.adapters.importing import Upstream

VLLM = Upstream(
    "vllm", tried=("0.33",), stubs=stubs.vllm, advice="pip install vllm, or make fetch-vllm for its Python files alone"
)
