"""Which packages the distribution holds, computed from the folders; everything else is in pyproject.toml.

setuptools finds packages by their place under one root, but ours stand at the top of the repository and are installed
below `tridiff`, which no setting in pyproject.toml can express without a list that silently drops a new sub-package.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).resolve().parent
FOLDERS = ("adapters", "harness", "kernels", "reference", "strategies")


def packages_of(folder: str) -> list[str]:
    """`tridiff.FOLDER` and every folder below it, with or without `__init__.py`, by dotted name."""
    below = find_namespace_packages(str(ROOT / folder), exclude=["__pycache__", "*.__pycache__"])
    return [f"tridiff.{folder}", *(f"tridiff.{folder}.{name}" for name in below)]


setup(
    packages=[package for folder in FOLDERS for package in packages_of(folder)],
    package_dir={f"tridiff.{folder}": folder for folder in FOLDERS},
    py_modules=["_tridiff_pytest"],
)
