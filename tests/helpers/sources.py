"""The modules of the four folders, read and not imported: their names and what they import.

Imports inside functions and below `TYPE_CHECKING` count as well: this is about knowledge, not about load order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("adapters", "harness", "kernels", "reference", "strategies")


@dataclass(frozen=True)
class Source:
    """A module of one of the four folders: its dotted name, whether it is a package, and its syntax tree."""

    module: str
    is_package: bool
    tree: ast.Module

    def within(self, *packages: str) -> bool:
        """Whether this is one of `packages` or lies below one."""
        return below(self.module, *packages)


def below(module: str, *packages: str) -> bool:
    """Whether dotted name `module` is one of `packages` or lies below one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def sources(root: Path, package: str = "tridiff") -> list[Source]:
    """The modules of the four folders at `root`, which are those of `package`."""
    return [source_of(path, root, package) for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]


def source_of(path: Path, root: Path, package: str = "tridiff") -> Source:
    """The module in the file `path` of the checkout at `root`."""
    parts = (package, *path.relative_to(root).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return Source(
        ".".join(parts[:-1] if is_package else parts), is_package, ast.parse(path.read_text(encoding="utf-8"), str(path))
    )


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that the module imports; `from a import b` gives `a.b`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{origin(node, source)}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, name) for name in dynamic_import(node))


def origin(node: ast.ImportFrom, source: Source) -> str:
    """The absolute name of the module that `node` imports from."""
    if not node.level:
        return node.module or ""
    parents = source.module.split(".")
    kept = parents[: len(parents) - node.level + source.is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def dynamic_import(node: ast.Call) -> Iterator[str]:
    """The module named by a call of `import_module` or `__import__`, where it is written out."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called in {"import_module", "__import__"} and node.args:
        argument = node.args[0]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument.value
