"""Many processes, one run: if one of them dies, all end at once, and say which it was and what is safe."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from subprocess import Popen

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from rich import get_console
from torch.multiprocessing.spawn import ProcessExitedException

from lit_memories.terminal import SAFE

EVERY = 0.5
"""Seconds between looks at the other processes."""
GRACE = 5.0
"""Seconds in which a process whose connection broke waits to hear which process it was."""


class Watch(Callback):
    """Ends the processes of a run with the first of them that dies, be it killed, out of memory or in error.

    Left alone, they would work on and then wait for it: half an hour in a collective, or for ever as orphans that write
    to a folder which the next run has taken over. Of processes that Lightning starts, the first watches the others and
    they watch it; those that torchrun starts are ended by its agent, which they watch. A process of another node that
    dies is noticed where the next collective fails, see `lost`.
    """

    def start(self, trainer: Trainer) -> None:
        """Begin to watch; to be called before the trainer starts processes."""
        launcher = trainer.strategy.launcher
        self._launcher = launcher if isinstance(launcher, _SubprocessScriptLauncher) else None
        environment = getattr(trainer.strategy, "cluster_environment", None)
        self._watches_parent = isinstance(environment, TorchElasticEnvironment) or (
            isinstance(environment, LightningEnvironment) and environment.local_rank() > 0
        )
        self._parent, self._ending = os.getppid(), threading.Lock()
        if self._launcher is not None:
            threading.Thread(target=self._keep_watch, name="watch", daemon=True).start()

    def _keep_watch(self) -> None:
        while True:
            for thread in threading.enumerate():
                if isinstance(
                    thread, _ChildProcessObserver
                ):  # every 5 s, and kills without a word: it must not be first
                    thread._child_processes = []
            self._look()
            time.sleep(EVERY)

    def _look(self) -> None:
        """End this process and those it started, if one of them or the one that started it is dead."""
        with self._ending:  # the first to see it says it; no other gets further
            if self._watches_parent and os.getppid() != self._parent:
                _end("" if int(os.environ.get("LOCAL_RANK", "1")) > 1 else "the process that started this one ended")
            for local_rank, child in enumerate(self._children(), 1):
                if child.poll():
                    self._kill()
                    _end(f"process {local_rank} {_manner(child.returncode)}")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM end an audit: Lightning keeps it for training, where it means to stop after a step."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Name the process whose death is behind an error, if it is one of this machine; take the others along."""
        deadline = time.monotonic() + GRACE
        while lost(exception) and time.monotonic() < deadline:
            self._look()
            time.sleep(EVERY / 5)
        self._kill()

    def _children(self) -> Sequence[Popen[bytes]]:
        return () if self._launcher is None else self._launcher.procs

    def _kill(self) -> None:
        for child in self._children():
            child.kill()


def lost(error: BaseException) -> bool:
    """Whether an error only says that another process is gone."""
    if isinstance(error, torch.distributed.DistError | ProcessExitedException):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _manner(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}, its error is above"
    memory = ", perhaps as memory ran out" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{memory}"


def _end(reason: str) -> None:
    """End this process from any of its threads, whatever the others wait for."""
    get_console().show_cursor()  # a progress bar hides it
    if reason:
        print(f"lit-memories: {reason}; {SAFE}", file=sys.stderr)  # noqa: T201
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
