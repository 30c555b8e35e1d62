"""``lit-memories status``: how far an audit is, read from its run folder by any process at any time."""

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Literal, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_memories.records import (
    LOCK,
    MEMORY_SETS,
    PARTS,
    RECORDS_FILE,
    RUN_FILE,
    SETS,
    Record,
    read_lines,
    read_records,
)
from lit_memories.runs import CONDITIONED, Run, RunInfo, check_origin, counted_as
from lit_memories.seeds import seed_keys
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.convergence import INVERTING, inversion_of
from lit_memories.storage.files import check_inside
from lit_memories.storage.tensors import tensor_names
from lit_memories.terminal import SAFE, printable

T = TypeVar("T")
State = Literal["complete", "running", "stalled", "stopped"]
WINDOW = 600.0
"""Seconds before the last write from which the speed is taken."""
PATIENCE = 4.0
"""A run that is at work and has been silent for as many of its longest batches is stalled."""


@dataclass(frozen=True)
class Status:
    """What a run folder says of its audit.

    Args:
        run: the folder as a report reads it.
        expected: how many answers each set will have, one a sample and probe.
        inversions: how many of all answers rest on an inversion, which takes nearly all the time.
        processes: how many answers each process wrote since the last merge, by its number.
        damaged: what is wrong with its files.
        held: whether a process holds the folder's lock, as an audit does to its end.
        silent: seconds since something was written.
        patience: seconds of silence that are nothing unusual.
        rate: inversions a second of late; None if nothing can be said.
    """

    run: Run
    expected: dict[str, int]
    inversions: int
    processes: dict[str, int]
    damaged: tuple[str, ...]
    held: bool
    silent: float
    patience: float
    rate: float | None

    @property
    def state(self) -> State:
        """Whether the audit is at work, and if not, whether a report would call it complete."""
        if self.held:
            return "running" if self.silent <= self.patience else "stalled"
        return "stopped" if self.run.gaps or self.damaged else "complete"

    @property
    def total(self) -> int:
        """How many answers the finished run will have."""
        return sum(self.expected.values())

    @property
    def seconds_left(self) -> float | None:
        """How long a running audit will take yet; None if it is not running, or nothing can be said."""
        if self.state != "running" or not self.rate:
            return None
        done = sum(probe in INVERTING for record in self.run.records for probe in record.probes)
        return max(0, self.inversions - done) / self.rate

    def of(self, name: str) -> list[Record]:
        """The records of one set, as `expected` names them."""
        return [record for record in self.run.records if counted_as(record) == name]


def expected_answers(info: RunInfo) -> dict[str, dict[str, int]]:
    """How many answers each set of a finished run has, by probe; runs of earlier releases are asked for their rows."""
    order = (*SETS, *MEMORY_SETS, CONDITIONED)
    if info.expected:
        return {name: info.expected[name] for name in order if name in info.expected}
    rows, asked = {name: int(entry["rows"]) for name, entry in info.data.items()}, asked_of(info)
    if "memory" in rows:
        queries = rows["memory"]
        supports = info.data["supports"].get("each", rows["supports"] // max(1, queries))
        rows = dict(zip(MEMORY_SETS, (queries, queries, queries * supports), strict=True))
    found = {}
    for name in order:
        if name in rows:
            probes = [p for p in asked.values() if (p.conditioned if name == CONDITIONED else name in p.sets)]
            found[name] = {probe.name: rows[name] for probe in probes}
    return found


def look(folder: Path, now: float | None = None) -> Status:
    """Read how far an audit is. Writes nothing, so that it cannot disturb one that is running.

    Args:
        folder: the run folder.
        now: seconds since the epoch; the clock's if None.

    Raises:
        FileNotFoundError: if it is no run folder.
        ValueError: if its ``run.json`` is damaged or of another release, or its records or seeds are of another model.
    """
    check_inside(folder, (LOCK,))
    held, info = _held(folder), RunInfo.load(folder)
    parts = {file.stem.partition("-")[2]: _lines(file) for file in _parts(folder, "records-*.jsonl")}
    damaged: list[str] = []
    records = read_records(folder, damaged)
    if _cut(folder / RECORDS_FILE):
        damaged.append(f"{folder / RECORDS_FILE}: its last line is cut")
    check_origin(folder, info, records)
    started = (folder / RUN_FILE).stat().st_mtime  # of the last attempt: each writes it anew when it begins
    batches = [(started, 0), *sorted(b for b in map(_batch, _parts(folder, "seeds-*.safetensors")) if b[0] > started)]
    batches = [batch for batch in batches if batch[0] >= batches[-1][0] - WINDOW]
    times = [at for at, _ in batches]
    last = max([times[-1], *filter(None, map(_written, _parts(folder, "records-*.jsonl")))])
    gaps = [after - before for before, after in pairwise(times)]
    seconds = times[-1] - times[0]
    try:
        expected = expected_answers(info)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder / RUN_FILE} does not say how many samples its sets have ({error!r})") from None
    return Status(
        run=Run(folder, info, tuple(records), seeds=frozenset(seed_keys(folder))),
        expected={name: sum(counts.values()) for name, counts in expected.items()},
        inversions=sum(counts.get(probe, 0) for counts in expected.values() for probe in INVERTING),
        processes={name: _answers(lines) for name, lines in sorted(parts.items())},
        damaged=tuple(damaged),
        held=held,
        silent=(time.time() if now is None else now) - last,
        patience=max(60.0, PATIENCE * max(gaps)) if gaps else WINDOW,
        rate=sum(count for _, count in batches[1:]) / seconds if seconds > 0 else None,
    )


def status(runs: list[Path]) -> None:
    """How far are these audits? Prints a table of their sets and a line for each.

    Args:
        runs: run folders, of audits running or stopped.

    Raises:
        FileNotFoundError: if a folder is no run.
        ValueError: if a file in one is damaged.
    """
    found = [look(folder) for folder in runs]
    table = Table("run", "set", box=None, pad_edge=False)
    for heading in ("answers", "of", "flagged", "converged", "evaluations/inversion"):
        table.add_column(heading, justify="right")
    for one in found:
        name = Text(printable(one.run.folder.resolve().name), style="bold")
        table.add_row(name, "all", *_row(one.run.records, one.total))
        for subset, count in one.expected.items():
            table.add_row("", Text(printable(subset)), *_row(one.of(subset), count))
    console = Console(highlight=False)
    console.print(table)
    console.print()
    for one in found:
        console.print(Text(describe(one)), soft_wrap=True)


def describe(one: Status) -> str:
    """A run's state in one line."""
    parts = [f"{one.run.folder}: {one.state}"]
    if one.state != "complete":
        parts[0] += f", last write {duration(one.silent)} ago" if one.silent >= 0 else ", last write in the future"
    if one.state == "running" and one.rate:
        parts.append(f"{one.rate:.3g} inversions/s, about {duration(one.seconds_left or 0.0)} left")
    if len(one.processes) > 1:
        shares = ", ".join(f"{name}: {count}" for name, count in one.processes.items())
        parts.append(f"answers by process: {shares}")
    if one.damaged:
        parts.append(f"damaged: {'; '.join(one.damaged[:2])}" + (" …" if len(one.damaged) > 2 else ""))
    if one.state == "stopped":
        parts += [*one.run.gaps, SAFE]
    return printable("; ".join(parts))


def duration(seconds: float) -> str:
    """A time in words, to two digits or so.

    Example:
        >>> [duration(s) for s in (7.6, 500, 9000, 400000)]
        ['8 s', '8 min', '2.5 h', '4.6 days']
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _row(records: Sequence[Record], expected: int) -> list[str]:
    inversions = [found for record in records if (found := inversion_of(record)) is not None]
    converged = [found["converged"] for found in inversions if found.get("converged") is not None]
    evaluations = [found["evaluations"] for found in inversions]
    return [
        str(_answers(records)),
        str(expected),
        str(sum(record.flag(probe) is not None for record in records for probe in record.probes)),
        f"{100 * mean(converged):.0f} %" if converged else "–",
        f"{mean(evaluations):.1f}" if evaluations else "–",
    ]


def _answers(records: Sequence[Record]) -> int:
    return sum(len(record.probes) for record in records)


def _parts(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / PARTS).glob(pattern))


def _lines(file: Path) -> list[Record]:
    return _gone(lambda: read_lines(file, []), [])


def _written(file: Path) -> float | None:
    return _gone(lambda: file.stat().st_mtime, None)


def _batch(file: Path) -> tuple[float, int]:
    """When a batch was written, and how many seeds it has; (0, 0) for a file that is gone or damaged."""
    return _gone(lambda: (file.stat().st_mtime, len(tensor_names(file))), (0.0, 0))


def _gone(read: Callable[[], T], otherwise: T) -> T:
    """What a function reads, or something else if a merge took the file away meanwhile, or it is damaged."""
    try:
        return read()
    except (OSError, ValueError):
        return otherwise


def _cut(file: Path) -> bool:
    """Whether a merged file, which is written whole, ends within a line."""
    try:
        with file.open("rb") as lines:
            lines.seek(-1, os.SEEK_END)
            return lines.read() != b"\n"
    except OSError:
        return False  # there is none, or it is empty


def _held(folder: Path) -> bool:
    """Whether a process holds a run folder's lock; a file that a killed one left is held by none."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until it is closed; an audit that starts waits for that
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
