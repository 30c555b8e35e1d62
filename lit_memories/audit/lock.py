"""One writer a run folder: a second one ends at its start, before it can undo what the first is doing."""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn

from lit_memories.records import LOCK

_HELD: dict[Path, int] = {}
"""Descriptors of the locks that this process has, by folder: an audit that failed may be tried again."""


def lock(folder: Path) -> None:
    """Be the one process that writes to a run folder, until `unlock` or the process's end, however that comes.

    Args:
        folder: the run folder, which is there.

    Raises:
        ValueError: if another process is; names it.
        OSError: if the folder cannot be written.
    """
    file = folder.resolve() / LOCK
    while file not in _HELD:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            _take(descriptor)
        except BlockingIOError:
            who = os.read(descriptor, 100).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise ValueError(
                f"{folder} is being written by {ascii(who)[1:-1]}: wait for it or stop it, or choose another folder "
                "with --trainer.default_root_dir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            rank_zero_warn(f"{folder} cannot be locked ({error.strerror}): do not start two audits in it at once")
            _HELD[file] = descriptor
            return
        if not _is(file, descriptor):  # its owner took it away in between
            os.close(descriptor)
            continue
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _HELD[file] = descriptor


def _take(descriptor: int) -> None:
    """Lock a file that nobody has; one who only looks whether it is held has it for a moment, which is waited for."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.1)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(folder: Path) -> None:
    """Let others write to a run folder again."""
    file = folder.resolve() / LOCK
    if (descriptor := _HELD.pop(file, None)) is not None:
        if _is(file, descriptor):
            file.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for processes that were forked meanwhile
        os.close(descriptor)


class UnlockOnException(Callback):
    """Lets others write to a run folder when its audit fails in a process that lives on, as a notebook's does.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_exception(self, *_: object) -> None:
        """Of whatever kind."""
        unlock(self.folder)


def _is(file: Path, descriptor: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(file.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
