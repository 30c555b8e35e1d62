"""How far an audit is: a bar in a terminal, a few lines in a file, numbers for a logger."""

import contextlib
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from shlex import quote
from statistics import mean
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import get_console
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lit_memories.attacks.base import MEASURED
from lit_memories.audit.base import Audit
from lit_memories.records import PARTS, Record
from lit_memories.runs import RunInfo
from lit_memories.terminal import printable

LINES = 10
"""How often an audit tells a file, in which a bar would be noise, how far it is."""


class Tally:
    """What all processes of a run have recorded, a probe's answer about a sample at a time, counted from their parts.

    Files need no process to wait for another, which a sum over processes would where batches are uneven.

    Args:
        folder: the run folder.
        recorded: records that were there before.
    """

    def __init__(self, folder: Path, recorded: Iterable[Record] = ()) -> None:
        self.folder = folder
        self._answers: dict[tuple[str, str], int | None] = {}
        self._attacks: set[str] = set()
        self._add(recorded)
        self._read: dict[Path, int] = {}
        self._times = deque([(time.monotonic(), self.done)], maxlen=30)
        self._lock = threading.Lock()

    def look(self) -> None:
        """Read what has been added; from any thread."""
        with self._lock:
            for file in (self.folder / PARTS).glob("records-*.jsonl"):
                with contextlib.suppress(OSError, ValueError):  # gone into the merged file, or damaged
                    self._follow(file)
            if self.done != self._times[-1][1]:
                self._times.append((time.monotonic(), self.done))

    def _follow(self, file: Path) -> None:
        with file.open("rb") as lines:
            lines.seek(self._read.get(file, 0))
            added = lines.read()
        whole = added.rfind(b"\n") + 1
        self._read[file] = self._read.get(file, 0) + whole
        self._add(map(Record.from_json, added[:whole].decode().splitlines()))

    def _add(self, records: Iterable[Record]) -> None:
        for record in records:
            for probe, answer in record.probes.items():
                self._answers[record.key, probe] = answer.get("evaluations")
                if answer.keys() >= {*MEASURED}:
                    self._attacks.add(probe)

    @property
    def done(self) -> int:
        """How many answers there are: one a sample and probe."""
        return len(self._answers)

    @property
    def evaluations(self) -> float | None:
        """Network evaluations an inversion took, on average."""
        return self._mean(attacks=False)

    @property
    def attacking(self) -> float | None:
        """Network evaluations that an attack took on a sample, on average."""
        return self._mean(attacks=True)

    def _mean(self, attacks: bool) -> float | None:
        of_kind = (n for (_, probe), n in self._answers.items() if (probe in self._attacks) == attacks)
        taken = [count for count in of_kind if count is not None]
        return mean(taken) if taken else None

    @property
    def rate(self) -> float | None:
        """Answers a second, over the last changes."""
        (began, before), (now, after) = self._times[0], self._times[-1]
        return (after - before) / (now - began) if after > before else None

    def describe(self, expected: int) -> str:
        """Speed, cost and time left in words; nothing where nothing can be said yet."""
        said = []
        if self.rate is not None:
            said.append(f"{self.rate:.3g} answers/s")
        if self.evaluations is not None:
            said.append(f"{self.evaluations:.1f} evaluations/inversion")
        if self.attacking is not None:
            said.append(f"{self.attacking:.1f} evaluations/attack")
        if self.rate is not None and self.done < expected:
            said.append(f"{timedelta(seconds=round((expected - self.done) / self.rate))} left")
        return ", ".join(said)


class AuditProgress(ProgressBar):
    """Shows how far an audit is, over all its processes: answers, how many a second, evaluations each, time left.

    What an earlier run recorded is done from the start. Without a terminal there are a few plain lines instead of a
    bar. If the trainer has loggers, they get the same numbers, by records done, and the run's metrics at its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: _Bar | None = None
        self._tally: Tally | None = None

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """If there is nothing to do, say so in place of Lightning, which knows only of an empty loader."""
        super().setup(trainer, pl_module, stage)
        audit = cast("Audit", pl_module)
        if audit.finished:
            warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero")
            self._say(f"nothing left to do: all {audit.expected} answers are in {audit.folder}")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with what is recorded already."""
        audit = cast("Audit", pl_module)
        self._tally, self._expected = Tally(audit.folder, audit.recorded.values()), audit.expected
        self._told = self._tally.done
        console = get_console()
        if self._enabled and console.is_interactive and "CI" not in os.environ:
            self._bar = _Bar(self._expected, self._look)
            self._bar.start()
        else:
            self._say(f"{self._tally.done} of {self._expected} answers are in {audit.folder}")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Go on."""
        if not trainer.is_global_zero:
            return
        done, said = self._look()
        if self._bar is None and (done - self._told) * LINES >= self._expected:
            self._told = done
            self._say(f"{done} of {self._expected} answers: {said}")
        self._log(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what came of it, by the merged run folder."""
        if self._tally is None or not trainer.is_global_zero:
            return
        audit = cast("Audit", pl_module)
        whole = RunInfo.load(audit.folder).complete
        if whole and self._bar is not None:
            self._bar.show(self._expected, self._tally.describe(0))
        self._stop()
        if whole:
            report = f"lit-memories report {quote(str(audit.folder))} RUN …, with the folders of other models"
            self._say(f"all {self._expected} answers are in {audit.folder}; to read them: {report}")
        else:
            self._say(
                f"answers are missing in {audit.folder}: it must be one folder for all processes, on whichever node; "
                "run the same command again to complete it"
            )
        for logger in trainer.loggers:
            logger.log_metrics(RunInfo.load(audit.folder).metrics, step=self._expected)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop()

    def _look(self) -> tuple[int, str]:
        """How many records there are, and what is to be said about it."""
        tally = cast("Tally", self._tally)
        tally.look()
        return tally.done, tally.describe(self._expected)

    def _log(self, trainer: Trainer) -> None:
        tally = cast("Tally", self._tally)
        numbers = {
            "answers": tally.done,
            "answers_per_second": tally.rate,
            "evaluations_per_inversion": tally.evaluations,
            "evaluations_per_attack": tally.attacking,
        }
        known = {name: float(value) for name, value in numbers.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(known, step=tally.done)

    def _say(self, line: str) -> None:
        if self._enabled:
            get_console().print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Bar(Progress):
    """A bar that looks for itself whenever it is drawn, also while its process waits for others."""

    def __init__(self, expected: int, look: Callable[[], tuple[int, str]]) -> None:
        self._look_again: Callable[[], tuple[int, str]] | None = None
        columns = BarColumn(bar_width=14), MofNCompleteColumn(), TextColumn("{task.fields[said]}")
        super().__init__(*columns, console=get_console(), refresh_per_second=2)
        self._task = self.add_task("", total=expected, said="")
        self._look_again = look

    def show(self, done: int, said: str) -> None:
        """Draw this, and look no more."""
        self._look_again = None
        self.update(self._task, completed=done, said=said)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        if self._look_again is not None:
            done, said = self._look_again()
            self.update(self._task, completed=done, said=said)
        yield from super().get_renderables()
