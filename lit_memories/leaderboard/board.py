"""One table of a leaderboard: rows of erased models with ranks as far as data tell them, and the references apart."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_memories.leaderboard.columns import Quantity, Table, quantities
from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.ranks import pairs, rank_intervals
from lit_memories.report.formats import DASH, decimal
from lit_memories.report.results import ConceptLevel
from lit_memories.report.verdict import Verdict, judge
from lit_memories.runs import Run
from lit_memories.statistics.criteria import damaged
from lit_memories.statistics.exposure import Scale, expose
from lit_memories.statistics.pairing import Comparison
from lit_memories.statistics.quantities import Summary
from lit_memories.statistics.ranking import size
from lit_memories.statistics.summary import summarise
from lit_memories.terminal import printable


@dataclass(frozen=True)
class Bar:
    """Places on a cell's bar, in per cent of its width; what lies beyond either end stands at it."""

    value: float
    low: float
    high: float
    marks: tuple[float, ...]


@dataclass(frozen=True)
class Cell:
    """One number of one model.

    Args:
        quantity: the column.
        found: the number with its interval; None where there is none.
        rank: the first and the last rank that it may have; None where none is given.
        of: how many rows were ranked.
        bar: how it is drawn; None where its interval is not known.
        muted: whether it means little, as the model is damaged.
    """

    quantity: Quantity
    found: Estimate | None
    rank: tuple[int, int] | None
    of: int
    bar: Bar | None
    muted: bool

    @property
    def text(self) -> str:
        """The number, for people."""
        if self.found is None:
            return DASH
        if self.quantity.words is not None:
            return self.quantity.words(self.found).partition(" [")[0]
        return decimal(self.quantity.scale * self.found.value, self.quantity.digits)

    @property
    def interval(self) -> str:
        """Its interval, for people; empty where its words say it all."""
        if self.found is None or (self.quantity.words is not None and "[" not in self.quantity.words(self.found)):
            return ""
        low, high = (
            decimal(self.quantity.scale * end, self.quantity.digits) for end in (self.found.low, self.found.high)
        )
        return f"[{low}, {high}]"

    @property
    def ranks(self) -> str:
        """Its ranks, for people."""
        if self.rank is None:
            return ""
        first, last = self.rank
        return f"rank {first} of {self.of}" if first == last else f"ranks {first} to {last} of {self.of}"

    @property
    def order(self) -> str:
        """By which rows are sorted; empty where there is nothing."""
        if self.found is None or math.isnan(self.found.value):
            return ""
        return repr(abs(self.found.value) if self.quantity.sized else self.found.value)


@dataclass(frozen=True)
class Model:
    """A row.

    Args:
        run: of the model.
        anchor: name of its section in the page.
        method: what erased the concept.
        base: what it was erased from, or the model itself.
        verdict: of the audit.
        cells: its numbers, in the order of the columns.
    """

    run: Run
    anchor: str
    method: str
    base: str
    verdict: Verdict
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.info.name


@dataclass(frozen=True)
class Board:
    """One table.

    Args:
        level: what a report would know of these runs.
        columns: numbers that any row has.
        rows: erased models, by name.
        references: vanilla, controls and random weights, which rows are measured by.
        compared: how many pairs were compared for the ranks of a column, by its key.
    """

    level: ConceptLevel
    columns: tuple[Quantity, ...]
    rows: tuple[Model, ...]
    references: tuple[Model, ...]
    compared: Mapping[str, int]

    @property
    def concept(self) -> str:
        """Its name."""
        return self.level.summary.concept_name

    @property
    def base(self) -> str:
        """The model before any erasure."""
        return printable(str(self.level.summary.base))


def board(
    comparison: Comparison, number: int, scale: Scale, draws: int, seed: int, begin: Callable[[str], None]
) -> Board:
    """A table of the runs of one concept and world.

    Args:
        comparison: the runs.
        number: of the table, from 1, by which the sections of its rows are told from those of others.
        scale: that turns numbers into pictures seen, where it holds.
        draws: resamples of the bootstrap.
        seed: of the resampling.
        begin: is told which stage begins.
    """
    summary = summarise(comparison, draws, seed, begin)
    summary = expose(summary, scale, comparison.runs[comparison.vanilla].info)
    table = Table(comparison, summary)
    begin(f"ranks of {summary.concept_name}")
    columns = quantities(table)
    every = [_column(table, quantity) for quantity in columns]
    verdicts = judge(summary)
    models = [
        Model(
            run=run,
            anchor=f"model-{number}-{row}",
            method=method_of(run.info.model),
            base=base_of(run.info.model),
            verdict=verdicts[row],
            cells=tuple(cells[row] for cells in every),
        )
        for row, run in enumerate(comparison.runs)
    ]
    rows = sorted((one for one in models if one.run.info.role == "erased"), key=lambda one: one.name.casefold())
    return Board(
        level=ConceptLevel(comparison, summary, verdicts),
        columns=tuple(columns),
        rows=tuple(rows),
        references=tuple(one for one in models if one.run.info.role != "erased"),
        compared={
            one.key: pairs(max((cell.of for cell in cells), default=0))
            for one, cells in zip(columns, every, strict=True)
        },
    )


def method_of(model: Mapping[str, Any]) -> str:
    """What a run says that its concept was erased by: an erasure, a guard, both, or weights as they came."""
    parts = model.get("erasure"), model.get("guard")
    names = [part.get(key) for part, key in zip(parts, ("method", "name"), strict=True) if isinstance(part, dict)]
    return printable(" + ".join(map(str, names))) or "whole model"


def base_of(model: Mapping[str, Any]) -> str:
    """The base that a run names."""
    erasure = model.get("erasure")
    return printable(str(erasure.get("base") if isinstance(erasure, dict) else model.get("base")))


def _column(table: Table, quantity: Quantity) -> list[Cell]:
    """The cells of all runs, references too."""
    found = [quantity.find(table, row) for row in range(len(table.summary.runs))]
    runs = table.summary.runs
    muted = [quantity.memory and damaged(table.summary, run) for run in runs]
    ranked = [
        row
        for row, (run, one) in enumerate(zip(runs, found, strict=True))
        if run.role == "erased" and one is not None and not muted[row] and quantity.difference is not None
    ]
    ranks = dict(zip(ranked, _ranks(table, quantity, ranked), strict=True))
    sound = [one for row, one in enumerate(found) if one is not None and not damaged(table.summary, runs[row])]
    ends = _ends(quantity, sound or [one for one in found if one is not None], table.summary)
    return [
        Cell(quantity, one, ranks.get(row), len(ranked), _bar(quantity, one, ends), muted[row])
        for row, one in enumerate(found)
    ]


def _ranks(table: Table, quantity: Quantity, rows: Sequence[int]) -> list[tuple[int, int]]:
    difference = quantity.difference
    if difference is None:
        return []
    sign = 1 if quantity.better == "less" else -1

    def signed(one: int, other: int, level: float) -> Estimate | None:
        first, second = (rows[one], rows[other])[::sign]
        return difference(table, first, second, level)

    return rank_intervals(len(rows), signed)


def _place(quantity: Quantity, value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value) if quantity.logarithmic else value


def _ends(quantity: Quantity, found: Sequence[Estimate], summary: Summary) -> tuple[float, float]:
    """What a column's bars begin and end with."""
    if not quantity.marks:
        return 0.0, 1.0
    most = summary.doses[-1:] if quantity.logarithmic else ()
    shown = [size(one) for one in found] if quantity.sized else found
    values = [value for one in shown for value in (one.value, one.low, one.high)]
    placed = [_place(quantity, value) for value in (*values, *quantity.marks, *most) if math.isfinite(value)]
    low, high = min(placed), max(placed)
    return (low, high) if high > low else (low, low + 1)


def _bar(quantity: Quantity, found: Estimate | None, ends: tuple[float, float]) -> Bar | None:
    if found is None or math.isnan(found.value):
        return None
    shown = size(found) if quantity.sized else found
    shown = shown if shown.low <= shown.high else replace(shown, low=shown.value, high=shown.value)

    def at(value: float) -> float:
        part = (_place(quantity, value) - ends[0]) / (ends[1] - ends[0])
        return round(100 * min(max(part, 0.0), 1.0), 2)

    return Bar(at(shown.value), at(shown.low), at(shown.high), tuple(at(mark) for mark in quantity.marks))
