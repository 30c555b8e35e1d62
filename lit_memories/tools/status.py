"""``lit-memories status``: how far an audit is, read from its run folder by any process at any time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Literal, TypeVar

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors import SafetensorError, safe_open

from lit_memories.records import MEMORY_SETS, PARTS, RECORDS_FILE, RUN_FILE, SETS, Record, order, read_lines
from lit_memories.runs import RunInfo
from lit_memories.statistics.asked import asked_of
from lit_memories.statistics.convergence import INVERTING, inversion_of

T = TypeVar("T")
State = Literal["complete", "running", "stalled", "stopped"]
CONDITIONED = "conditioned"
"""Under this name `RunInfo.data` counts the images that are inverted again under other prompts."""
WINDOW = 600.0
"""Seconds before the last write from which the speed is taken."""
PATIENCE = 4.0
"""A run that has been silent for as many of its longest batches is stalled, ten times longer: stopped."""


@dataclass(frozen=True)
class Status:
    """What a run folder says of its audit.

    Args:
        folder: that was read.
        expected: how many answers each set will have, one a sample and probe, as far as ``run.json`` says.
        inversions: how many of all answers rest on an inversion, which takes nearly all the time.
        records: those that are there.
        processes: how many answers each process wrote since the last merge, by its number.
        complete: whether the audit came to its end.
        silent: seconds since something was written.
        patience: seconds of silence that are nothing unusual.
        rate: inversions a second of late; None if nothing can be said.
    """

    folder: Path
    expected: dict[str, int]
    inversions: int
    records: tuple[Record, ...]
    processes: dict[int, int]
    complete: bool
    silent: float
    patience: float
    rate: float | None

    @property
    def state(self) -> State:
        """Whether the audit is at work, as far as a folder can tell."""
        if self.complete:
            return "complete"
        if self.silent <= self.patience:
            return "running"
        return "stalled" if self.silent <= 10 * self.patience else "stopped"

    @property
    def total(self) -> int:
        """How many answers the finished run will have."""
        return sum(self.expected.values())

    @property
    def seconds_left(self) -> float | None:
        """How long a running audit will take yet; None if it is not running, or nothing can be said."""
        if self.state != "running" or not self.rate:
            return None
        done = sum(probe in INVERTING for record in self.records for probe in record.probes)
        return max(0, self.inversions - done) / self.rate

    def of(self, name: str) -> list[Record]:
        """The records of one set, as `expected` names them."""
        return [record for record in self.records if _set(record) == name]


def expected_answers(info: RunInfo) -> dict[str, dict[str, int]]:
    """How many answers each set of a finished run has, by probe."""
    rows, asked = {name: int(entry["rows"]) for name, entry in info.data.items()}, asked_of(info)
    if "memory" in rows:
        queries = rows["memory"]
        supports = info.data["supports"].get("each", rows["supports"] // max(1, queries))
        rows = dict(zip(MEMORY_SETS, (queries, queries, queries * supports), strict=True))
    found = {}
    for name in (*SETS, *MEMORY_SETS, CONDITIONED):
        if name in rows:
            probes = [p for p in asked.values() if (p.conditioned if name == CONDITIONED else name in p.sets)]
            found[name] = {probe.name: rows[name] for probe in probes}
    return found


def look(folder: Path, now: float | None = None) -> Status:
    """Read how far an audit is. Writes nothing and locks nothing, so that it cannot disturb one that is running.

    Args:
        folder: the run folder.
        now: seconds since the epoch; the clock's if None.

    Raises:
        FileNotFoundError: if it is no run folder.
        ValueError: if a file in it is damaged; names it.
    """
    info = RunInfo.load(folder)
    # Parts first: what a merge takes out of them meanwhile, the merged file has by the time it is read.
    parts = {int(file.stem.split("-")[1]): _lines(file) for file in _parts(folder, "records-*.jsonl")}
    records = order([*_lines(folder / RECORDS_FILE), *(record for lines in parts.values() for record in lines)])
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
        folder=folder,
        expected={name: sum(counts.values()) for name, counts in expected.items()},
        inversions=sum(counts.get(probe, 0) for counts in expected.values() for probe in INVERTING),
        records=tuple(records),
        processes={rank: _answers(lines) for rank, lines in sorted(parts.items())},
        complete=info.complete,
        silent=max(0.0, (time.time() if now is None else now) - last),
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
        table.add_row(Text(one.folder.resolve().name, style="bold"), "all", *_row(one.records, one.total))
        for name, count in one.expected.items():
            table.add_row("", name, *_row(one.of(name), count))
    console = Console(highlight=False)
    console.print(table)
    console.print()
    for one in found:
        console.print(Text(describe(one)), soft_wrap=True)


def command(args: Sequence[str] | None = None) -> None:
    """``lit-memories status RUN RUN …``: `status` as a command.

    Args:
        args: command line after the command's name, or None for that of the process.
    """
    parser = ArgumentParser(prog="lit-memories status", description="How far are these audits?")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, of audits running or stopped")
    status(**parser.parse_args(args).as_dict())


def describe(one: Status) -> str:
    """A run's state in one line."""
    if one.complete:
        return f"{one.folder}: complete"
    parts = [f"{one.folder}: {one.state}, last write {duration(one.silent)} ago"]
    if one.state == "running" and one.rate:
        parts.append(f"{one.rate:.3g} inversions/s, about {duration(one.seconds_left or 0.0)} left")
    if len(one.processes) > 1:
        shares = ", ".join(f"{rank}: {count}" for rank, count in one.processes.items())
        parts.append(f"answers by process: {shares}")
    if one.state != "running":
        parts.append("what is recorded is safe: run the same command again to continue")
    return "; ".join(parts)


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


def _set(record: Record) -> str:
    return record.set if record.conditioning is None else CONDITIONED


def _parts(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / PARTS).glob(pattern))


def _lines(file: Path) -> list[Record]:
    return _gone(lambda: read_lines(file), [])


def _written(file: Path) -> float | None:
    return _gone(lambda: file.stat().st_mtime, None)


def _batch(file: Path) -> tuple[float, int]:
    """When a batch was written, and how many seeds it has; (0, 0) for a file that is gone or damaged."""

    def read() -> tuple[float, int]:
        with safe_open(file, "numpy") as seeds:
            return file.stat().st_mtime, len(seeds.keys())

    return _gone(read, (0.0, 0))


def _gone(read: Callable[[], T], otherwise: T) -> T:
    """What a function reads, or something else if a merge took the file away meanwhile, or it is damaged."""
    try:
        return read()
    except (OSError, SafetensorError, ValueError):
        return otherwise
