"""Importing: a module of another project's package without what is heavy around it.

No `__init__` of the package runs: they import compiled extensions and half of the package. Its folders are bare packages, and
the modules that a kernel's file asks for its platform or a logger are stand-ins (`stubs`). Both exist only while a file is
imported or one of its launchers runs; at all other times `sys.modules` is as if the adapter were not there, so a test suite that
imports the real package in the same process has that, before and after.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tridiff.adapters import packages
from tridiff.adapters.packages import Package
from tridiff.adapters.stubs import Stub
from tridiff.harness.engines.spec import UsageError


class Upstream:
    """Another project's package, as far as its kernels need it.

    `name`: what is imported, "vllm". `distribution`: what it is installed as, where that is another name. `tried`: the releases
    that the adapter was written for, by the beginning of their version, "0.33"; others are used, and the run says so. `stubs`:
    the stand-ins by the name of the module that each replaces, given the package. `runs`: packages whose `__init__` runs.
    `advice`: what to do where there is no such package.
    """

    def __init__(
        self,
        name: str,
        *,
        tried: tuple[str, ...],
        stubs: Callable[[Package], Mapping[str, Stub]],
        distribution: str = "",
        runs: tuple[str, ...] = (),
        advice: str = "",
    ) -> None:
        self.name = name
        self.distribution = distribution or name
        self._tried = tried
        self._stubs = stubs
        self._runs = runs
        self._advice = advice or f"pip install {self.distribution}, or tools/fetch_upstream.py {self.distribution}"
        self._modules: dict[str, ModuleType] = {}

    @cached_property
    def package(self) -> Package:
        """The release on this machine. Raises `UsageError` where there is none."""
        return packages.find(self.name, self.distribution, self._advice)

    @property
    def description(self) -> str:
        """One line: which release is used, from where, and whether it is one that the adapter was written for."""
        known = any(f"{self.package.version}.".startswith(f"{version}.") for version in self._tried)
        untried = "" if known else f"; untried: the adapter was written for {self.expected}"
        return f"{self.package}, {self.package.place}{untried}"

    @property
    def expected(self) -> str:
        """The releases that the adapter was written for."""
        return " or ".join(f"{version}.*" for version in self._tried)

    def module(self, name: str) -> ModuleType:
        """The module `name` of the package, with nothing of `sys.modules` changed afterwards.

        Raises `UsageError` where this release has no such module, or it needs what is not there.
        """
        with self.visible():
            try:
                return importlib.import_module(name)
            except UsageError:
                raise
            except ModuleNotFoundError as error:
                raise UsageError(self._missing(name, error)) from error
            except Exception as error:
                raise UsageError(f"{self.package}: importing {name} raised {type(error).__name__}: {error}") from error

    def find(self, name: str) -> ModuleType | None:
        """The module `name` as the launchers see it; None where it is not the package's. See `Registry.register_finder`."""
        if not self.owns(name):
            return None
        try:
            return self._modules.get(name) or self.module(name)
        except UsageError as error:
            raise ImportError(str(error)) from error

    def _missing(self, name: str, error: ModuleNotFoundError) -> str:
        absent = str(error.name)
        if f"{name}.".startswith(f"{absent}."):
            what = f"has no module {name}, which {self.expected} has"
        elif self.owns(absent):
            what = f"{name} imports {absent}, for which the adapter has no stand-in and this release no file"
        else:
            return f"{self.package}: {name} imports {absent}, which is not installed: pip install {absent}"
        return f"{self.package} ({self.package.place}): {what}; use a release that the adapter knows, or update tridiff"

    def owns(self, name: str) -> bool:
        """Whether the module `name` belongs to the package, or is replaced by a stand-in, or below one."""
        return name.partition(".")[0] in self._roots

    @cached_property
    def _finder(self) -> _Finder:
        return _Finder(self.package, dict(self._stubs(self.package)), self._runs)

    @cached_property
    def _roots(self) -> frozenset[str]:
        return frozenset({self.name, *(name.partition(".")[0] for name in self._finder.stubs)})

    @contextmanager
    def visible(self) -> Iterator[None]:
        """Within this context, an import finds the package without its heavy parts, and the stand-ins."""
        before = self._taken()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self._finder)
        try:
            yield
        finally:
            sys.meta_path.remove(self._finder)
            self._modules = self._taken()
            sys.modules.update(before)

    def _taken(self) -> dict[str, ModuleType]:
        """The modules that `owns` says are the package's, out of `sys.modules`."""
        return {name: sys.modules.pop(name) for name in [name for name in sys.modules if self.owns(name)]}


class Launcher:
    """A function of another project's package, found when it is first needed.

    `passes`: the names of the parameters that the adapter gives, all by keyword.
    """

    def __init__(self, upstream: Upstream, module: str, name: str, *, passes: tuple[str, ...]) -> None:
        self._upstream = upstream
        self._module = module
        self._name = name
        self._passes = passes

    @cached_property
    def module(self) -> ModuleType:
        """The module that holds it. Raises `UsageError` where there is none."""
        return self._upstream.module(self._module)

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself. Raises `UsageError` where this release lacks it, or it takes something else."""
        function: Callable[..., Any] | None = getattr(self.module, self._name, None)
        if function is None or not callable(function):
            raise UsageError(self._changed("there is no such function"))
        self._check(inspect.signature(function).parameters)
        return function

    def _check(self, parameters: Mapping[str, inspect.Parameter]) -> None:
        """Raise `UsageError` unless a function of these `parameters` takes what the adapter passes, and requires no more."""
        kinds = {parameter.kind for parameter in parameters.values()}
        gone = [name for name in self._passes if name not in parameters]
        if gone and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise UsageError(self._changed(f"it takes no {', '.join(gone)}, which the adapter passes"))
        required = [name for name, parameter in parameters.items() if _is_required(parameter) and name not in self._passes]
        if required:
            raise UsageError(self._changed(f"it requires {', '.join(required)}, which the adapter does not pass"))

    def check(self) -> None:
        """Raise `UsageError` unless this release has it, and it takes what the adapter passes."""
        self.function  # noqa: B018 - finding it is the check

    def __call__(self, **arguments: Any) -> Any:
        """Call it; what it imports while it runs is found as when it was imported itself."""
        function = self.function
        with self._upstream.visible():
            return function(**arguments)

    def _changed(self, what: str) -> str:
        upstream = self._upstream
        return (
            f"{upstream.package} ({upstream.package.place}): {self._name} of {self._module}: {what}; "
            f"the adapter was written for {upstream.expected}: use such a release, or update tridiff"
        )


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}


class _Finder(MetaPathFinder):
    """Finds stand-ins first, then files of the package; its folders become packages whose `__init__` does not run."""

    def __init__(self, package: Package, stubs: Mapping[str, Stub], runs: tuple[str, ...]) -> None:
        self.stubs = stubs
        self._package = package
        self._runs = runs

    def find_spec(self, fullname: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """What is to be imported as `fullname`, or None."""
        place = self._place(fullname)
        if fullname in self.stubs:
            return self._given(self.stubs[fullname], fullname)
        if place is None:
            return None
        if place.is_dir():
            if fullname in self._runs:
                return spec_from_file_location(fullname, place / "__init__.py", submodule_search_locations=[])
            return self._given(_Bare(fullname, self._package, place), fullname)
        file = place.with_name(f"{place.name}.py")
        return spec_from_file_location(fullname, file) if file.is_file() else None

    def _given(self, module: ModuleType, fullname: str) -> ModuleSpec:
        spec = ModuleSpec(fullname, _Given(module))
        spec.submodule_search_locations = []  # nothing but this finder looks below it
        return spec

    def _place(self, fullname: str) -> Path | None:
        """Folder of a package, or file of a module without its suffix; None for a module of another package."""
        root, *below = fullname.split(".")
        return self._package.folder.joinpath(*below) if root == self._package.name else None


class _Given(Loader):
    """Loads a module that exists already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def create_module(self, _spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is to be executed."""


class _Bare(ModuleType):
    """A package whose `__init__` did not run: it has its modules, and what `__init__` makes is missing."""

    def __init__(self, name: str, package: Package, place: Path) -> None:
        super().__init__(name)
        self.__dict__["_package"], self.__dict__["_place"] = package, place

    def __getattr__(self, name: str) -> Any:
        place: Path = self.__dict__["_place"]
        is_module = (place / name).is_dir() or (place / f"{name}.py").is_file()
        if is_module or name.startswith("__"):
            raise AttributeError(name)  # the import system goes on to look for a module
        package = self.__dict__["_package"]
        raise UsageError(f"{package} asks {self.__name__} for {name}, which the adapter has no stand-in for: update tridiff")
