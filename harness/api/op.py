"""Op and Kernel: what is to be computed, and one implementation of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from hypothesis.strategies import SearchStrategy

    from tridiff.harness.api.arena import Arena

Allowed = tuple[Any, ...] | range
"""Values of a facet that a Kernel supports."""

Inputs = dict[str, Any]
"""Launcher keyword arguments of one Case: tensors (views into an Arena), numbers and strings."""


class Victim(Protocol):
    """What stood in memory that was overwritten."""

    def __call__(self, inputs: Inputs, name: str, cells: npt.NDArray[np.int64], *, is_changed: bool = True) -> str:
        """What stood there, and by which token it is overwritten, one phrase; "" where nothing is known of that tensor.

        `cells`: sorted int64 offsets of the elements, from the first one of tensor `name`. `is_changed`: whether they hold other
        bits than before; they were written back as they were otherwise.
        """


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The part of an Op's contract from which Cases are drawn. It narrows a strategy; drawn Cases are never filtered by it.

    `target`: the GPU architecture that kernels are compiled for, "gfx942" or "sm_90", say: it has some number formats and
    lacks others. `models`: names of real models, to which presets keep; none for all. `whole`: also what the target lacks, FP8
    formats above all, which a launcher must refuse by itself (`Kernel.unsupported`). `limits`: by facet (`Op.facets`) the values
    to which a Kernel keeps (`Kernel.domain`); a strategy draws no others.
    """

    target: str
    models: tuple[str, ...] = ()
    whole: bool = False
    limits: Mapping[str, Allowed] = field(default_factory=dict)

    def allows(self, facet: str, *values: Any) -> bool:
        """Whether all `values` of `facet` lie in the domain; any do where nothing limits the facet."""
        limit = self.limits.get(facet)
        return limit is None or all(value in limit for value in values)

    @property
    def platform(self) -> str:
        """The vendor's platform, "hip" or "cuda"."""
        return "cuda" if self.target.startswith("sm_") else "hip"


@dataclass(frozen=True, kw_only=True)
class Facet:
    """One aspect of an Op's contract by which a Kernel may narrow it.

    `description`: what it is, one phrase. `of`: (case) -> what a Case has of it: one value, or a tuple of several (the lengths of
    its rows, say), all of which must be allowed. `choices`: all values that there are, where they are a closed list; then a
    restriction that names another one is refused. `counted`: False where no Case of the whole Op is as a restriction wants it
    (all of them hold poison somewhere, say): then it is left out of the share of the Op that a Kernel covers.
    """

    description: str
    of: Callable[[Any], Any]
    choices: tuple[Any, ...] = ()
    counted: bool = True


@dataclass(frozen=True)
class Property:
    """A property of Cases that reports count, whose words are a closed list.

    `of`: (case) -> one of `words`. Each of them is there to be drawn: a word that no Case has is a complaint of the tests.
    """

    of: Callable[[Any], str]
    words: tuple[str, ...]

    def __call__(self, case: Any) -> str:
        """The word for `case`."""
        return self.of(case)


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """What a Kernel supports of one facet of its Op, and why no more.

    `facet`: a name in `Op.facets`. `allowed`: the values supported, a tuple or a range. `reason`: where the Kernel's authors
    document or plainly assume it, one sentence. What a Kernel gets wrong is no restriction but a Finding.
    """

    facet: str
    allowed: Allowed
    reason: str


@dataclass(frozen=True, kw_only=True)
class Op:
    """A contract: what goes in, what comes out, what may be written.

    `name`: lower-case identifier, also the name of the family's modules.
    `case`: the frozen dataclass of its Cases; every field has a default.
    `strategy`: (domain) -> strategy of Cases over the whole of `domain`.
    `presets`: (domain) -> strategy of Cases whose dimensions are those of real models; drawn first in a run, or alone where
    `domain` names models.
    `build`: (case, arena) -> Inputs; deterministic, allocates every tensor through the arena and declares what is written.
    `models`: the models that `presets` knows, by name, each with the names of its variants: of its rank counts, say.
    `within`: (case, domain) -> whether a Case that its class accepts lies in `domain`. None: every one does.
    `compile_time`: names of the Case's fields that change what kernels are compiled to: dtypes, sizes of tiles, strides that
    may be divisible by 16. A Finding's other fields are simplified first, since that costs no compilation.
    `score`: (case, ratio) -> numbers by name; some hunts look for Cases in which each of them is large. `ratio` is that of the
    clean Case, see `Clean`. Only what the strategy draws as structure can be climbed, not what follows from a seed.
    `placements`: (case) -> the same Case with its tensors placed otherwise in memory, by name; "production" comes first: views
    aligned, caches beyond 2 GiB. Triton compiles a kernel differently for each. Empty: Cases are compiled as they are drawn.
    `facets`: by name, what a Kernel may restrict (`Kernel.domain`); `strategy` and `presets` draw nothing that `domain.allows`
    forbids.
    `properties`: by name, what reports count of the Cases that were judged: (case) -> a word, of few that there are. A `Property`
    where these can be listed.
    `victim`: what stood in memory that was overwritten, and by which token, see `Victim`.
    """

    name: str
    case: type[Any]
    strategy: Callable[[Domain], SearchStrategy[Any]]
    presets: Callable[[Domain], SearchStrategy[Any]]
    build: Callable[[Any, Arena], Inputs]
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    within: Callable[[Any, Domain], bool] | None = None
    compile_time: frozenset[str] = frozenset()
    score: Callable[[Any, float], Mapping[str, float]] | None = None
    placements: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    facets: Mapping[str, Facet] = field(default_factory=dict)
    properties: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)
    victim: Victim | None = None

    def knows(self, model: str) -> bool:
        """Whether `model` is the name of a model, or of one of its variants."""
        return model in self.models or any(model in variants for variants in self.models.values())


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the reference says of one output.

    `value` and `bound`: float64 tensors of the output's shape; `bound` is the largest legitimate |output - value|, infinite
    where a right kernel may overflow. Where `value` is infinite or NaN the output must be that.
    `at`: of which elements it speaks, where not of all: `output[at]` has the shape of `value`. An int64 tensor for each
    dimension; together the elements are those that the Op declares as written.
    `signed_zeros`: whether -0 is another number than 0, where the bound is 0: of what is copied or converted, not computed.
    """

    value: torch.Tensor
    bound: torch.Tensor
    at: tuple[torch.Tensor, ...] | None = None
    signed_zeros: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a reference returns: `Expected` per output name, and whether a mismatch could be seen at all.

    `conclusive`: False where even a dropped key would hide below the bound.
    """

    outputs: Mapping[str, Expected]
    conclusive: bool = True


Reference = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
"""(inputs, rounding) -> {"outputs": {name: (value, bound) or (value, bound, at)}, "conclusive": bool}, see `Expected`.

Optionally "signed_zeros": bool, of all outputs. Plain data: a reference knows no harness.
"""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One implementation of an Op.

    `name`: unique among Kernels. `op`: the Op's name. `module`: importable module that holds the launcher.
    `launcher`: name of the launcher in that module; it takes the Op's Inputs as keyword arguments.
    `rounding`: name of a function there, (inputs) -> mapping, that says where the kernel rounds; None: see the reference.
    `engines`: names of the engines that can run it: "cpu" where all it launches are Triton kernels, which can be captured, and
    so compiled for other targets; "gpu" alone for HIP C++, CUDA C++ and assembly.
    `unsupported`: name of an exception class there, by which the launcher refuses what the GPU cannot do, or what its documented
    domain leaves out, before it compiles anything; None: it has none, and whatever it raises is a Finding.
    `domain`: the part of the Op's contract that it supports; no Case outside is drawn for it. Empty: all of it.
    `outputs`: names of the Op's outputs that it writes; the others it must leave alone. None: all of them.
    """

    name: str
    op: str
    module: str
    launcher: str
    rounding: str | None = None
    engines: tuple[str, ...] = ("cpu",)
    unsupported: str | None = None
    domain: tuple[Restriction, ...] = ()
    outputs: tuple[str, ...] | None = None

    @property
    def limits(self) -> dict[str, Allowed]:
        """`domain` as `Domain.limits` has it."""
        return {restriction.facet: restriction.allowed for restriction in self.domain}


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One source edit of a Fault: `old` must occur exactly once and becomes `new`."""

    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A deliberate defect patched into a Kernel's source, by which we prove that a check can fail.

    `name`: identifier, unique within its Kernel. `kernel`: the Kernel's name. `description`: one sentence.
    `checks`: the names of the checks of which one must catch it; those of the compiler (`COMPILER`) stand alone.
    `target`: the GPU architecture for which it shows, for checks of the compiler; "" where that does not matter.
    """

    name: str
    kernel: str
    description: str
    patches: tuple[Patch, ...]
    checks: frozenset[str] = field(default_factory=frozenset)
    target: str = ""
