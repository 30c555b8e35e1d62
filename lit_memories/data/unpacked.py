"""Where rows of a data set are unpacked."""

import functools
import os
import tempfile
import warnings
from pathlib import Path

import datasets


def rows_cache() -> str | None:
    """The folder for `datasets` to unpack rows in: None is its own cache, if that cannot be written a temporary one.

    Even rows that are there already it reads under a lock, which is a file beside them.
    """
    place = Path(datasets.config.HF_DATASETS_CACHE)
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return None if os.access(there, os.W_OK) else _temporary(place).name


@functools.cache
def _temporary(place: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for as long as the process lives."""
    message = f"{place} cannot be written: rows are unpacked into a temporary folder, and again by the next run"
    warnings.warn(message, stacklevel=2)
    return tempfile.TemporaryDirectory(prefix="lit-memories-")
