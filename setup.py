"""Where the wheel's recipes and checksums come from, which `pyproject.toml`, where all else is, has no words for."""

from setuptools import find_packages, setup

SHIPPED = {f"lit_memories.shipped.{folder}": folder for folder in ("recipes", "checkpoints")}
"""Folders of the repository that travel inside the package, as far as its data are named in pyproject.toml."""

setup(packages=[*find_packages(include=["lit_memories*"]), *SHIPPED], package_dir=SHIPPED)
