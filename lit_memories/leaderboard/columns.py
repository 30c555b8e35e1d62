"""The numbers that a leaderboard shows of a model: where each is found, which way is better, how two are compared."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.ranks import less
from lit_memories.report.exposure import pictures
from lit_memories.statistics.criteria import gains
from lit_memories.statistics.doors import best_gain
from lit_memories.statistics.pairing import Comparison
from lit_memories.statistics.quantities import RunStatistics, Summary
from lit_memories.statistics.ranking import damage_size, forgetting_difference, rate_difference

Better = Literal["less", "more"]
Find = Callable[["Table", int], Estimate | None]
Difference = Callable[["Table", int, int, float], Estimate | None]


@dataclass(frozen=True)
class Table:
    """What columns are computed from.

    Args:
        comparison: the runs of one concept and world.
        summary: their statistics, in the same order.
    """

    comparison: Comparison
    summary: Summary

    def run(self, row: int) -> RunStatistics:
        """The statistics of a row."""
        return self.summary.runs[row]

    def sign(self, path: str) -> int:
        """Which way a number goes as a model forgets."""
        return next((run.numbers[path].number.sign for run in self.summary.runs if path in run.numbers), 1)


@dataclass(frozen=True)
class Quantity:
    """One column.

    Args:
        key: its name in ``leaderboard.json``.
        title: for people.
        unit: of the numbers shown; rates and gains stand in per cent and points.
        better: which end is rank 1 and comes first when the column is chosen.
        says: what it is, in a sentence.
        find: the number of a row; None where there is none.
        difference: of two rows, for ranks; None if none are given.
        memory: whether it speaks of memory, of which a damaged model says nothing.
        sized: whether it is compared by its distance from 0.
        digits: decimals shown.
        scale: what a number is shown in, 100 for per cent.
        marks: values that bars show as lines.
        words: how a value with open ends is told.
        logarithmic: whether bars show its logarithm.
    """

    key: str
    title: str
    unit: str
    better: Better
    says: str
    find: Find
    difference: Difference | None = None
    memory: bool = False
    sized: bool = False
    digits: int = 1
    scale: int = 1
    marks: tuple[float, ...] = (0.0,)
    words: Callable[[Estimate], str] | None = None
    logarithmic: bool = False


def quantities(table: Table) -> list[Quantity]:
    """The columns that any row of a table has a number for.

    Args:
        table: statistics of one concept and world.
    """
    by_seeds = table.summary.by_seeds
    every = [one for one in _quantities("seeds" if by_seeds else "surprise") if one.key != "seeds" or not by_seeds]
    rows = [row for row, run in enumerate(table.summary.runs) if run.role == "erased"]
    return [one for one in every if any(one.find(table, row) is not None for row in rows)]


def _rate(path: str, name: Literal["prompted", "retained"]) -> tuple[Find, Difference]:
    def find(table: Table, row: int) -> Estimate | None:
        return table.run(row).value(path, name)

    def difference(table: Table, row: int, other: int, level: float) -> Estimate | None:
        return rate_difference(table.comparison, row, other, name, path, level)

    return find, difference


def _forgetting(table: Table, row: int) -> Estimate | None:
    return table.run(row).forgetting


def _told(table: Table, row: int, path: str | None = None) -> Estimate | None:
    """Forgetting in units of the control's, where that sets a scale."""
    run = table.run(row)
    number = run.numbers.get(path or table.summary.headline)
    known = number is not None and number.fraction is not None and not math.isnan(number.fraction.low)
    return number.fraction if number is not None and known and table.summary.calibrated else None


def _more_forgotten(table: Table, row: int, other: int, level: float, path: str | None = None) -> Estimate | None:
    path = path or table.summary.headline
    return forgetting_difference(table.comparison, row, other, path, table.sign(path), level)


def _damage(table: Table, row: int) -> Estimate | None:
    return table.run(row).damage


def _more_damage(table: Table, row: int, other: int, level: float) -> Estimate | None:
    each = 1 - (1 - level) / 2  # two intervals that hold together
    one, two = (damage_size(table.comparison, at, table.summary.headline, each) for at in (row, other))
    return None if one is None or two is None else less(one, two)


def _gain(table: Table, row: int, level: float = 0.95) -> Estimate | None:
    names = [door.attack for door, _ in gains(table.summary, table.run(row))]
    return best_gain(table.comparison, row, names, level) if names else None


def _more_gain(table: Table, row: int, other: int, level: float) -> Estimate | None:
    one, two = (_gain(table, at, 1 - (1 - level) / 2) for at in (row, other))
    return None if one is None or two is None else less(one, two)


AREA = "relearning.area"


def _saved(table: Table, row: int) -> Estimate | None:
    found = _told(table, row, AREA)
    return None if found is None else replace(found, value=1 - found.value, low=1 - found.high, high=1 - found.low)


def _more_saved(table: Table, row: int, other: int, level: float) -> Estimate | None:
    return _more_forgotten(table, other, row, level, AREA)  # what is saved is what was not forgotten


def _exposure(table: Table, row: int) -> Estimate | None:
    return next(iter(table.run(row).exposures.values()), None)


def _quantities(by: str) -> tuple[Quantity, ...]:
    told = 0.0, 1.0
    return (
        Quantity(
            "prompted", "prompted rate", "%", "less",
            "share of samples under the concept's prompts that show it", *_rate("samples.shows_concept", "prompted"),
            digits=0, scale=100, marks=(),
        ),
        Quantity(
            "retained", "other prompts met", "%", "more",
            "share of samples under other prompts in which the judge sees all they ask for",
            *_rate("samples.met", "retained"), digits=0, scale=100, marks=(),
        ),
        Quantity(
            "forgetting", f"forgetting by {by}", "nats", "more",
            "how much further the concept's pictures moved from vanilla than other pictures",
            _forgetting, _more_forgotten, memory=True,
        ),
        Quantity(
            "fraction", "of control", "", "more",
            "forgetting in units of the control's: 0 as vanilla, 1 as a model that never saw the concept",
            _told, _more_forgotten, memory=True, digits=2, marks=told,
        ),
        Quantity(
            "seeds", "of control, by seeds", "", "more",
            "the same by the likelihood of the pictures' seeds, the paper's measure",
            partial(_told, path="seed.nll"), partial(_more_forgotten, path="seed.nll"), memory=True, digits=2,
            marks=told,
        ),
        Quantity(
            "damage", "damage", "nats", "less",
            "how far pictures of other things moved from vanilla; either way is damage",
            _damage, _more_damage, sized=True,
        ),
        Quantity(
            "gain", "best attack over control", "points", "less",
            "samples that the best of all attacks tried brings back, less those it brings back from the control",
            _gain, _more_gain, memory=True, digits=0, scale=100,
        ),
        Quantity(
            "savings", "relearning savings", "", "less",
            "how much sooner it learns the concept again than the control: 1 as vanilla, 0 as if it never knew",
            _saved, _more_saved, memory=True, digits=2, marks=told,
        ),
        Quantity(
            "exposure", "pictures seen", "", "less",
            "pictures of the concept that a model has seen which reads the same, on the scale below",
            _exposure, memory=True, digits=0, words=pictures,
            logarithmic=True,
        ),
    )  # fmt: skip
