"""What attacks bring back, and what that proves: the sentences, the table and the figure."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from lit_memories.attacks.plain import Plain
from lit_memories.metrics.bootstrap import Estimate
from lit_memories.records import TOO_FEW
from lit_memories.report.figures import MARKERS, ROLE_COLOURS, WIDTH, blank, png, shorten, style
from lit_memories.report.formats import Column, Table, Value, number, percent
from lit_memories.report.judging import judge_columns
from lit_memories.runs import Role
from lit_memories.statistics.criteria import Category, gains, opened, sure
from lit_memories.statistics.doors import Door, Typical
from lit_memories.statistics.quantities import RunStatistics, Summary

PROVEN = (
    "A gain over the model that never knew whose interval lies above 0 is evidence of memory; success alone is not, as "
    "an attack may teach a model what it shows."
)
TAKES = {
    "black box": "prompts alone",
    "grey box": "the text encoder, or the model before its erasure",
    "white box": "the weights",
    "white box with pictures": "the weights, and pictures of the concept",
}
"""What an attacker has to have, by threat."""
CONCLUDED: tuple[Category, ...] = "remembers", "not shown to forget", "partly forgot", "mostly forgot", "forgot"
"""Categories that say something of a memory."""
COLUMNS = 3
"""Panels side by side."""


class DoorRow(NamedTuple):
    """A row of a table: what an attack on a model comes to, or where seeds have to be so typical."""

    run: RunStatistics
    attack: str
    door: Door | Typical

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.name

    @property
    def role(self) -> Role:
        """Of the run."""
        return self.run.role


def _of(key: str) -> Column:
    titles = {
        "success": "brings it back, %",
        "over_never_knew": "over never-knew, points",
        "over_plain": "over one plain draw, points",
        "over_draws": "over as many plain draws, points",
    }

    def value(row: DoorRow) -> Value:
        found: Value = getattr(row.door, key)
        return found

    return Column(key, titles[key], value, digits=0, percent=True)


WHICH = (
    Column("attack", "attack", lambda row: row.attack, interval=False, left=True),
    Column("model", "model", lambda row: row.name, interval=False, left=True),
)
"""What a row is of."""
DOORS = (
    *WHICH,
    Column("threat", "attacker has", lambda row: row.door.threat, interval=False, left=True),
    Column("samples", "samples", lambda row: row.door.success.count, interval=False),
    _of("success"),
    _of("over_never_knew"),
    _of("over_plain"),
    _of("over_draws"),
    Column("evaluations", "evaluations, median", lambda row: row.door.evaluations, digits=0, interval=False),
)
SEEDS = (
    *WHICH,
    Column("least", "p of the seed, at least", lambda row: row.door.least, digits=3, interval=False),
    _of("success"),
    _of("over_never_knew"),
)


def door_tables(summary: Summary) -> list[Table]:
    """The tables of attacks, a row an attack and model, and of those that seek seeds one by how typical seeds are."""
    doors = [(run, run.doors[name]) for name in _names(summary) for run in summary.runs if name in run.doors]
    rows = tuple(DoorRow(run, door.attack, door) for run, door in doors)
    seeds = tuple(DoorRow(run, door.attack, typical) for run, door in doors for typical in door.typical)
    columns = (*DOORS, *judge_columns(summary))
    tables = [Table("doors", "Doors: what attacks bring back", columns, rows)] if rows else []
    if seeds:
        title = "Seeds: what attacks bring back, by how typical of the prior the seed may be"
        tables.append(Table("door_seeds", title, (*SEEDS, *judge_columns(summary)), seeds, detail=True))
    return tables


def missing(summary: Summary) -> list[str]:
    """What the gains of some attacks lack, a line each that names them."""
    by_lack: dict[tuple[str, str], list[str]] = {}
    for run in summary.runs:
        for door in run.doors.values():
            for lack in door.lacks:
                by_lack.setdefault((run.name, lack), []).append(door.attack)
    return [f"{', '.join(attacks)} on {name}: {lack}" for (name, lack), attacks in by_lack.items()]


def door_headline(summary: Summary, run: RunStatistics, category: Category) -> str:
    """What a verdict's headline adds of attacks, after a space; empty where none says anything."""
    if (door := opened(summary, run)) is not None:
        takes = "" if door.threat is None else f", which takes {TAKES[door.threat]}"
        if category == "forgot":
            opens, left = ("opens", "is") if sure(door) else ("may open", "may be")
            return f" Yet the attack {door.attack}{takes}{',' if takes else ''} {opens} it: something {left} left."
        return f" It {'opens' if sure(door) else 'may open'} to the attack {door.attack}{takes}."
    if category not in CONCLUDED or not gains(summary, run):
        return ""
    return " It is not shown to open to any attack that was tried."


def door_sentences(summary: Summary, run: RunStatistics) -> list[str]:
    """What attacks came to and how much of it is memory; nothing where there were none."""
    if not run.doors:
        return []
    if (door := opened(summary, run)) is not None and door.over_never_knew is not None:
        return [f"{_brings(door)}, {_points(door.over_never_knew)} more than from {summary.control}{_doubts(door)}."]
    names = ", ".join(run.doors)
    if judged := gains(summary, run):
        door, gain = max(judged, key=lambda pair: pair[1].value)
        text = f"No attack that was tried ({names}) is shown to bring it back more often than from {summary.control}"
        weak = opened(summary, summary.vanilla) is None and bool(gains(summary, summary.vanilla))
        return [
            f"{text}: at best {door.attack}, by {_points(gain)}"
            f"{'; vanilla itself opens to none, so the attacks are too weak to tell' if weak else ''}."
        ]
    door = max(run.doors.values(), key=lambda one: one.success.value)
    if door.success.count < TOO_FEW:
        return [f"{_brings(door)}: too few to conclude anything from, it takes {TOO_FEW}."]
    if door.success.value == 0:
        return [
            f"No attack that was tried ({names}) brings the concept back on any of {door.success.count} samples; that "
            "shows no forgetting unless the same attacks open vanilla."
        ]
    return [f"{_brings(door)}; that proves no memory: {_unproven(summary, door)}"]


def door_cautions(run: RunStatistics) -> list[str]:
    """What speaks against what is said of attacks."""
    if not run.doors:
        return []
    sentences = []
    if Plain.name not in run.doors:
        sentences.append(
            "No plain draws were made beside the attacks, so how much of their success is luck is not known: add the "
            f"probe {Plain.__name__}."
        )
    few = min(door.success.count for door in run.doors.values())
    if few < TOO_FEW:
        are = "samples" if few > 1 else "sample"
        sentences.append(f"An attack was tried on {few} {are}: nothing is concluded from fewer than {TOO_FEW}.")
    return sentences


def doors_figure(summary: Summary) -> bytes | None:
    """Success against what it costs, a panel an attack and a line a model.

    Returns:
        None if no model was attacked.
    """
    names = _names(summary)
    if not names:
        return None
    runs = [run for run in summary.runs if run.doors]
    with style():
        columns = min(COLUMNS, len(names))
        rows = -(-len(names) // columns)
        figure = blank(WIDTH, 0.8 + 2.3 * rows)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            shown = {place: run for place, run in enumerate(runs) if name in run.doors}
            costs = [max(1.0, cost) for run in shown.values() for cost in run.doors[name].curve["evaluations"]]
            for place, run in shown.items():
                _line(axes, run.doors[name], run, MARKERS[place % len(MARKERS)], (0.8 * min(costs), max(costs)))
            axes.set_title(shorten(name))
            axes.set_ylim(-4, 104)
            _costs(axes, min(costs), max(costs))
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("samples brought back, %")
        for place, run in enumerate(runs):
            marker, colour = MARKERS[place % len(MARKERS)], ROLE_COLOURS[run.role]
            grid[0, 0].plot([], [], marker=marker, ms=4, lw=1.4, color=colour, label=shorten(run.name))
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=min(5, len(runs)))
        return png(figure)


def _line(axes: Axes, door: Door, run: RunStatistics, marker: str, ends: tuple[float, float]) -> None:
    costs = [max(1.0, cost) for cost in door.curve["evaluations"]]
    share = [100 * value for value in door.curve["share"]]
    colour = ROLE_COLOURS[run.role]
    axes.plot(costs, share, marker, ms=4, color=colour)
    more = [ends[1]] if share[-1] == 100 else []  # where all are brought back, nothing can change any more
    axes.plot(
        [ends[0], *costs, *more], [0.0, *share, *share[-1:] * len(more)], drawstyle="steps-post", lw=1.4, color=colour
    )


def _costs(axes: Axes, least: float, most: float) -> None:
    """The axis of evaluations; matplotlib's own labels of logarithms need its formulas, which names may not use."""
    axes.set_xscale("log")
    axes.set_xlim(0.8 * least, 1.25 * most)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if most > 100 * least else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("network evaluations a sample")
    axes.grid(color="#eeeeee")


def _names(summary: Summary) -> list[str]:
    names = dict.fromkeys(name for run in summary.runs for name in run.doors)
    return sorted(names, key=lambda name: name != Plain.name)  # what all are compared with comes first


def _brings(door: Door) -> str:
    threat = "" if door.threat is None else f" ({door.threat})"
    count = door.success.count
    return (
        f"The attack {door.attack}{threat} brings the concept back on {round(door.success.value * count)} of {count} "
        f"{'sample' if count == 1 else 'samples'}"
    )


def _points(gain: Estimate) -> str:
    return number(percent(gain), "points", 0)


def _doubts(door: Door) -> str:
    """What weakens a gain over the model that never knew: many attacks, and luck."""
    text = ""
    if not sure(door):
        text += "; corrected for the attacks that were tried, that may be chance"
    if door.over_draws is not None:
        luck = "" if door.over_draws.low > 0 else ", which is not shown to be more than luck with the plain prompt"
        text += f", and {_points(door.over_draws)} more than as many plain draws{luck}"
    return text


def _unproven(summary: Summary, door: Door) -> str:
    if door.over_never_knew is None:
        first = next(iter(door.lacks), "it was put to no model that never knew.")
        return first[0].lower() + first[1:]
    if not summary.calibrated:
        return f"{summary.control}, which it is compared with, is not shown to lack the concept."
    return f"it shares fewer than {TOO_FEW} samples with {summary.control}."
