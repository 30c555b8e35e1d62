"""One writer a folder: a second one ends at its start, before it can undo what the first is doing."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lit_memories.ops.sound import LOOK_EVERY, check_losses
from lit_memories.records import LOCK
from lit_memories.storage.files import check_place, check_writable

MARK = b"process "
"""How what a process writes to its lock begins."""
_HELD: dict[Path, int] = {}
"""Descriptors of the locks that this process has, by folder: an audit that failed may be tried again."""


def lock(folder: Path) -> None:
    """Be the one process that writes to a run folder, until `unlock` or the process's end, however that comes.

    Args:
        folder: the run folder, which is there.

    Raises:
        ValueError: if another process is, which it names, or something else is in the lock's place.
        OSError: if the folder cannot be written.
    """
    file = folder.resolve() / LOCK
    check_place(file)
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
            rank_zero_warn(f"{folder} cannot be locked ({error.strerror}): do not start two runs in it at once")
            _HELD[file] = descriptor
            return
        if not _is(file, descriptor):  # its owner took it away in between
            os.close(descriptor)
            continue
        there = os.pread(descriptor, 100, 0)
        if there and not there.startswith(MARK):
            os.close(descriptor)
            raise ValueError(f"{file} is not of this program, which would replace it: move it")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, MARK + f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
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


class Unlock(Callback):
    """Lets others write to folders when a run ends or fails in a process that lives on, as a notebook's does.

    Args:
        folders: of the run.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders

    def on_exception(self, *_: object) -> None:
        """Of whatever kind."""
        self.teardown()

    def teardown(self, *_: object, **__: object) -> None:
        """Whatever was run."""
        for folder in self.folders:
            unlock(folder)


class OneWriter(LightningModule):
    """A training that is the one process which writes to its folders, and ends when its loss is no number."""

    @property
    def folders(self) -> list[Path]:
        """Those that it writes to, of which the first is the trainer's."""
        return [Path(self.trainer.default_root_dir)]

    def configure_callbacks(self) -> list[Callback]:
        """What gives the folders free in the end."""
        return [Unlock(self.folders)]

    def prepare_data(self) -> None:
        """Refuse company.

        Raises:
            ValueError: if another process writes to one of the folders.
            OSError: if one cannot be written.
        """
        if self.trainer.state.fn == "fit" and self.trainer.is_global_zero:
            for folder in self.folders:
                check_writable(folder)
                lock(folder)

    def on_train_batch_end(self, *_: object) -> None:
        """End a training that is in vain; not every step, as the host waits for the device to know it."""
        if self.global_step % LOOK_EVERY == 0:
            check_losses(self.trainer.callback_metrics, self.global_step)

    def on_train_end(self) -> None:
        """The same at the end."""
        check_losses(self.trainer.callback_metrics, self.global_step)


def check_alone(trainer: Trainer) -> None:
    """Refuse company before anything is read; whoever comes until the folder is locked is refused then.

    Args:
        trainer: whose folder it is; its processes may not have been started yet.

    Raises:
        ValueError: if another process writes to the folder.
        OSError: if it cannot be written.
    """
    if trainer.is_global_zero:
        check_writable(Path(trainer.default_root_dir))
        lock(Path(trainer.default_root_dir))
        unlock(Path(trainer.default_root_dir))


def _is(file: Path, descriptor: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(file.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
