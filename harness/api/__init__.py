"""The public face for those who declare Ops and Kernels; small, frozen, without engines.

`case`: Cases and their JSON form. `values`: the counter-based generator. `poison`, `arena`: guarded memory.
`op`: Op, Kernel, Fault and what a reference returns. `findings`: checks, Findings and Outcomes.
"""

from tridiff.harness.api.arena import Allocation, Arena, Damage, StagingError, dense_strides
from tridiff.harness.api.case import SCHEMA, CaseError, from_json, require, require_one_of, require_range, to_json
from tridiff.harness.api.findings import (
    CHECKS,
    COMPILER,
    DEADLY,
    Clean,
    Compiled,
    Failure,
    Finding,
    Found,
    Infrastructure,
    Outcome,
    Skipped,
    Unsupported,
    rank,
    target_family,
)
from tridiff.harness.api.messages import normalised
from tridiff.harness.api.op import (
    Allowed,
    Domain,
    Expected,
    Facet,
    Fault,
    Inputs,
    Kernel,
    Op,
    Patch,
    Reference,
    Restriction,
    Verdict,
)
from tridiff.harness.api.poison import RAW, Poison, Zone, pattern
from tridiff.harness.api.values import gaussian, integers, permutation, uniform, words

__all__ = [
    "CHECKS",
    "COMPILER",
    "DEADLY",
    "RAW",
    "SCHEMA",
    "Allocation",
    "Allowed",
    "Arena",
    "CaseError",
    "Clean",
    "Compiled",
    "Damage",
    "Domain",
    "Expected",
    "Facet",
    "Failure",
    "Fault",
    "Finding",
    "Found",
    "Infrastructure",
    "Inputs",
    "Kernel",
    "Op",
    "Outcome",
    "Patch",
    "Poison",
    "Reference",
    "Restriction",
    "Skipped",
    "StagingError",
    "Unsupported",
    "Verdict",
    "Zone",
    "dense_strides",
    "from_json",
    "gaussian",
    "integers",
    "normalised",
    "pattern",
    "permutation",
    "rank",
    "require",
    "require_one_of",
    "require_range",
    "target_family",
    "to_json",
    "uniform",
    "words",
]
