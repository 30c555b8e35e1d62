"""Where files are until they are finished: in folders that tell whether somebody still writes to them."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PART = ".part"
"""How the names of these folders end."""
LEFT = re.compile(r".+\.[0-9a-f]{8}\.part|\.tmp\w{6}")
"""Names of what killed processes left; in earlier releases safetensors wrote the second kind beside its files."""
HOUR = 3600
"""Seconds since a file of the second kind was last written if it is left over: other programs have such, too."""


@contextmanager
def room(file: Path) -> Iterator[Path]:
    """A folder for what becomes a file beside it, which is locked until the context, or the process, ends.

    Args:
        file: in a folder that is made if it is missing.

    Raises:
        OSError: if it cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        made = file.with_name(f"{file.name}.{uuid4().hex[:8]}{PART}")
        made.mkdir()
        with _locked(made, wait=True):
            if made.is_dir():  # else another process cleared it before it was locked
                try:
                    yield made
                finally:
                    shutil.rmtree(made, ignore_errors=True)
                return


def clear(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder of the program's own; what others still write stays.

    Args:
        folder: which need not exist; folders in it are not looked into.
    """
    for left in [*folder.iterdir()] if folder.is_dir() else []:
        if not LEFT.fullmatch(left.name):
            continue
        if left.name.endswith(PART) and left.is_dir() and not left.is_symlink():
            with _locked(left, wait=False) as mine:
                if mine:
                    shutil.rmtree(left, ignore_errors=True)
        elif left.name.endswith(PART) or (left.is_file() and time.time() - left.stat().st_mtime > HOUR):
            left.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path, wait: bool) -> Iterator[bool]:
    """Whether this process has a folder for itself within the context; where there are no locks, none has."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor, wait)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
