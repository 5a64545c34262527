"""Packages: where another project's Python files lie and of which release they are, found out without importing any of them.

Either the package is installed, or `tools/fetch_upstream.py` put its Python files into `.upstream/DISTRIBUTION` of the current
folder. What is installed comes first, unless TRIDIFF_UPSTREAM names the folder of those that were fetched.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tridiff.harness import config
from tridiff.harness.engines.spec import UsageError


@dataclass(frozen=True, kw_only=True)
class Package:
    """A release on this machine.

    `name`: what is imported. `distribution`: what it is installed as. `folder`: the one of its files. `place`: what is said of
    where that is.
    """

    name: str
    distribution: str
    version: str
    folder: Path
    place: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def find(name: str, distribution: str, advice: str) -> Package:
    """The package `name` of `distribution`.

    Raises `UsageError` where it is neither installed nor fetched; `advice` says what to do about that.
    """
    folder, is_named = config.upstream()
    places = [_installed(name, distribution), _fetched(name, distribution, folder / distribution)]
    found = next((package for package in (reversed(places) if is_named else places) if package is not None), None)
    if found is None:
        raise UsageError(f"{distribution} is neither installed nor in {_shown(folder / distribution)}: {advice}")
    return found


def _installed(name: str, distribution: str) -> Package | None:
    """None also where a distribution of another name brings a package `name`."""
    try:
        version = metadata.version(distribution)
        spec = importlib.util.find_spec(name)
    except (metadata.PackageNotFoundError, ImportError, ValueError):  # ValueError: a module without a spec is in its place
        return None
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return None
    return Package(name=name, distribution=distribution, version=version, folder=folder, place="installed")


def _fetched(name: str, distribution: str, place: Path) -> Package | None:
    versions = list(fetched_versions(distribution, place))
    folder = place / name
    if not versions or not folder.is_dir():
        return None
    if len(versions) > 1:
        raise UsageError(f"{_shown(place)} holds {distribution} {' and '.join(sorted(versions))}: remove it, and fetch one again")
    return Package(name=name, distribution=distribution, version=versions[0], folder=folder, place=f"from {_shown(place)}")


def fetched_versions(distribution: str, place: Path) -> Iterator[str]:
    """The releases of `distribution` whose description lies in the folder `place`."""
    for found in metadata.distributions(path=[str(place)]):
        if _normal(found.metadata["Name"] or "") == _normal(distribution):
            yield found.version


def _shown(path: Path) -> str:
    """`path`, relative to the current folder where it lies inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _normal(distribution: str) -> str:
    """A distribution's name as it is compared (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
