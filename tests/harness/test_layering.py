"""Who may import whom, read from the source: the arrows between harness, kernels, reference and strategies.

Imports inside functions and below `TYPE_CHECKING` count as well: these rules are about knowledge, not about load order.
"""

from __future__ import annotations

import ast
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sources import Source, below, imports, sources

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Layer:
    """`package` may import the standard library and `allowed`, and of that nothing of `denied`; `but` are not its members."""

    package: str
    allowed: tuple[str, ...]
    but: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()

    def violations(self, source: Source) -> Iterator[str]:
        """What `source` imports and must not, if it is a member."""
        if source.within(self.package) and not source.within(*self.but):
            for line, name in imports(source):
                if not self.permits(name):
                    yield f"{source.module}:{line} imports {name}"

    def permits(self, name: str) -> bool:
        """Whether a member may import `name`."""
        if below(name, *self.denied):
            return False
        return name.partition(".")[0] in sys.stdlib_module_names or below(name, *self.allowed)


PLUGIN_FACE = ("tridiff.harness.api", "tridiff.harness.registry", "tridiff.harness.engines.spec")
"""What a stranger's plug-in imports of the harness: the third for `UsageError`."""

LAYERS = {
    "strategies know the api of the harness and each other": Layer(
        "tridiff.strategies", allowed=("tridiff.harness.api", "tridiff.strategies", "hypothesis", "torch", "numpy")
    ),
    "references know torch alone": Layer("tridiff.reference", allowed=("tridiff.reference", "torch", "numpy")),
    "kernels know Triton and torch, and not their faults": Layer(
        "tridiff.kernels",
        allowed=("tridiff.kernels", "torch", "triton"),
        but=("tridiff.kernels.faults",),
        denied=("tridiff.kernels.faults",),
    ),
    "faults are plain data": Layer("tridiff.kernels.faults", allowed=("tridiff.kernels.faults",)),
    "adapters know the face for plug-ins and the environment, and nothing of our kernels": Layer(
        "tridiff.adapters",
        allowed=("tridiff.adapters", *PLUGIN_FACE, "tridiff.harness.config", "torch", "triton"),
    ),
    "the api knows nothing of the harness besides itself": Layer(
        "tridiff.harness.api", allowed=("tridiff.harness.api", "hypothesis", "torch", "numpy")
    ),
}


def family_names(root: Path) -> list[str]:
    """The kernel families of the checkout at `root`: as for the registry, the modules and packages in kernels/faults."""
    return sorted(module.name for module in pkgutil.iter_modules([str(root / "kernels" / "faults")]))


def named_families(source: Source, families: list[str]) -> Iterator[str]:
    """Where a module of the harness names a family of kernels in code; what docstrings and comments give as examples is free."""
    if source.within("tridiff.harness") and families:
        word = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(families)})(?![a-z0-9])")
        for line, text in code_texts(source.tree):
            if match := word.search(text):
                yield f"{source.module}:{line} names {match.group()}"


def code_texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of all names, imports and string constants except docstrings and other bare strings."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) not in bare:
            yield from ((getattr(node, "lineno", 0), text) for text in texts_of(node))


def texts_of(node: ast.AST) -> list[str]:
    """The identifiers and the string that `node` itself carries."""
    values = [getattr(node, field, None) for field in ("id", "attr", "arg", "name", "module", "asname", "value")]
    return [value for value in values if isinstance(value, str)]


@pytest.fixture(scope="module")
def ours() -> list[Source]:
    """The modules of this checkout, which take a second to parse."""
    return sources(ROOT)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=list(LAYERS))
def test_layer(ours: list[Source], layer: Layer) -> None:
    """No module of a layer imports what the layer must not know."""
    members = [source for source in ours if source.within(layer.package)]

    found = [violation for source in members for violation in layer.violations(source)]

    assert members
    assert found == []


def test_harness_names_no_family(ours: list[Source]) -> None:
    """The harness knows no particular kernel: adding a family changes nothing in it."""
    families = family_names(ROOT)

    found = [place for source in ours for place in named_families(source, families)]

    assert families
    assert found == []


def plant(root: Path, path: str, code: str) -> Source:
    """The module that a file `path` below `root` with this `code` becomes."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code, encoding="utf-8")
    (source,) = sources(root)
    return source


def blamed(source: Source) -> list[str]:
    """The violations of all layers together."""
    return [violation for layer in LAYERS.values() for violation in layer.violations(source)]


@pytest.mark.parametrize(
    ("path", "code", "name"),
    [
        ("strategies/f.py", "from tridiff.harness.engines.cpu import engine", "tridiff.harness.engines.cpu.engine"),
        ("strategies/f.py", "from tridiff.harness import capture", "tridiff.harness.capture"),
        ("strategies/f.py", "from tridiff import harness", "tridiff.harness"),
        ("strategies/f.py", "from ..harness.registry import builtin", "tridiff.harness.registry.builtin"),
        ("strategies/f.py", "import tridiff.harness.api_extra", "tridiff.harness.api_extra"),
        ("strategies/f.py", "import tridiff.kernels.f", "tridiff.kernels.f"),
        ("strategies/f.py", "import tridiff.reference.f", "tridiff.reference.f"),
        ("strategies/f.py", "import triton", "triton"),
        ("strategies/f.py", "def late():\n    import rich", "rich"),
        ("reference/f.py", "import triton.language as tl", "triton.language"),
        ("reference/f.py", "from tridiff.harness.api import Inputs", "tridiff.harness.api.Inputs"),
        ("reference/f.py", "from tridiff.kernels import f", "tridiff.kernels.f"),
        ("reference/__init__.py", "from ..strategies import f", "tridiff.strategies.f"),
        ("kernels/f.py", "from tridiff.harness.api import Kernel", "tridiff.harness.api.Kernel"),
        ("kernels/f.py", "from tridiff.reference.f import reference", "tridiff.reference.f.reference"),
        ("kernels/f.py", "import importlib\nimportlib.import_module('tridiff.strategies.f')", "tridiff.strategies.f"),
        ("kernels/f.py", "from .faults import f", "tridiff.kernels.faults.f"),
        ("kernels/faults/f.py", "from tridiff.harness.api import Fault", "tridiff.harness.api.Fault"),
        ("adapters/p/f.py", "from tridiff.kernels.f import rounding", "tridiff.kernels.f.rounding"),
        ("adapters/p/f.py", "from tridiff.reference import f", "tridiff.reference.f"),
        ("adapters/p/f.py", "from tridiff.harness.capture import targeting", "tridiff.harness.capture.targeting"),
        ("adapters/p/f.py", "import vllm.platforms", "vllm.platforms"),
        ("harness/api/f.py", "from tridiff.harness.checks import memory", "tridiff.harness.checks.memory"),
        ("harness/api/__init__.py", "from ..registry import builtin", "tridiff.harness.registry.builtin"),
        ("harness/api/f.py", "if TYPE_CHECKING:\n    from tridiff.kernels import f", "tridiff.kernels.f"),
        ("harness/api/f.py", "import triton", "triton"),
    ],
)
def test_planted_import_is_blamed(tmp_path: Path, path: str, code: str, name: str) -> None:
    """Each rule fails on an import that breaks it, and names the import."""
    source = plant(tmp_path, path, code)

    found = blamed(source)

    assert len(found) == 1
    assert found[0].endswith(f" imports {name}")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("strategies/f.py", "from tridiff.harness import api"),
        (
            "strategies/f.py",
            "from tridiff.harness.api import Op\nfrom . import heads\nimport hypothesis.strategies, torch, numpy, math",
        ),
        ("reference/f.py", "from __future__ import annotations\nimport torch\nfrom tridiff.reference import rounding"),
        ("kernels/f.py", "import torch\nimport triton\nfrom tridiff.kernels.common import cdiv"),
        ("harness/api/f.py", "from tridiff.harness.api.case import require\nfrom .poison import Poison"),
        ("harness/runner.py", "from tridiff.harness.engines import spec\nimport triton, rich"),
        (
            "adapters/p.py",
            "from tridiff.adapters.stubs import Stub\nfrom tridiff.harness.registry import Registry\nimport triton",
        ),
    ],
)
def test_legal_imports_pass(tmp_path: Path, path: str, code: str) -> None:
    """What the design allows is not blamed."""
    source = plant(tmp_path, path, code)

    assert blamed(source) == []


@pytest.mark.parametrize(
    "code",
    [
        "from tridiff.kernels import fancy_attention",
        "import tridiff.strategies.fancy_attention as family",
        "import_module('tridiff.reference.fancy_attention')",
        "DEFAULT = 'fancy_attention'",
        "def fancy_attention_inputs(): ...",
        "table = {'a': family.fancy_attention}",
        "run(fancy_attention=1)",
        "message = f'{op} is not fancy_attention'",
    ],
)
def test_planted_family_name_is_found(tmp_path: Path, code: str) -> None:
    """A family's name in the code of the harness is found, however it is written."""
    source = plant(tmp_path, "harness/runner.py", code)

    (found,) = set(named_families(source, ["decode_attention", "fancy_attention"]))

    assert found == "tridiff.harness.runner:1 names fancy_attention"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("harness/runner.py", '"""For example fancy_attention."""\n# fancy_attention'),
        ("harness/runner.py", "unfancy_attention = 'fancy_attentions'"),
        ("kernels/fancy_attention.py", "def fancy_attention(): ..."),
    ],
)
def test_family_name_elsewhere_is_free(tmp_path: Path, path: str, code: str) -> None:
    """Docstrings, comments, longer words and the family itself may say the name."""
    source = plant(tmp_path, path, code)

    assert list(named_families(source, ["fancy_attention"])) == []
