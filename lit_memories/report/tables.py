"""Statistics to tables: one description of columns, written as text, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.report.quantities import RunStatistics, Summary

Value: TypeAlias = Estimate | str | int | float | None
DASH = "–"
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$", "²": "$^2$", "<": r"\textless{}",
    ">": r"\textgreater{}",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        key: its name in CSV files.
        title: its head for people, with the unit.
        value: what it shows of a run.
        digits: decimals shown.
        percent: whether the value is a share shown in percent.
        missing: what stands for None.
        interval: whether values come with an interval.
        left: whether the column is text, aligned left.
    """

    key: str
    title: str
    value: Callable[[RunStatistics], Value]
    digits: int = 1
    percent: bool = False
    missing: str = DASH
    interval: bool = True
    left: bool = False


@dataclass(frozen=True)
class Table:
    """A table of runs.

    Args:
        name: of its files.
        title: for people.
        columns: of it, the first is the name of the run.
        runs: rows.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    runs: tuple[RunStatistics, ...]

    def cells(self, run: RunStatistics) -> list[tuple[str, str]]:
        """Value and interval of each column, as text."""
        return [_cell(column, column.value(run)) for column in self.columns]


def _count(key: str, title: str, value: Callable[[RunStatistics], int]) -> Column:
    return Column(key, title, value, interval=False)


NAME = Column("model", "model", lambda run: run.name, interval=False, left=True)
MAIN = (
    NAME,
    Column("role", "role", lambda run: run.role, interval=False, left=True),
    Column("forgetting", "forgetting, nats", lambda run: run.forgetting),
    Column("fraction", "of control", lambda run: run.fraction, digits=2, missing="not calibrated"),
    Column("damage", "damage, nats", lambda run: run.damage),
    Column("prompted", "prompted concept, %", lambda run: run.prompted, digits=0, percent=True),
    Column("retained", "other prompts met, %", lambda run: run.retained, digits=0, percent=True),
    Column("seen", "concept in rebuilt images, %", lambda run: run.concept.seen, digits=0, percent=True),
)
MEASURES = (
    NAME,
    Column("nll_concept", "NLL(E), nats", lambda run: run.concept.nll),
    Column("z_concept", "z(E)", lambda run: run.concept.z, digits=2),
    Column("nll_reference", "NLL(R), nats", lambda run: run.reference.nll),
    Column("z_reference", "z(R)", lambda run: run.reference.z, digits=2),
    Column("w1_concept", "W1(E), nats", lambda run: run.concept.w1),
    Column("w1_reference", "W1(R), nats", lambda run: run.reference.w1),
    Column("relative_distance", "relative distance, W1", lambda run: run.relative_distance, digits=2),
    Column(
        "relative_distance_w2_squared",
        "relative distance, official squared form",
        lambda run: run.relative_distance_w2_squared,
        digits=2,
    ),
    Column("psnr_concept", "PSNR(E), dB", lambda run: run.concept.psnr),
    Column("psnr_reference", "PSNR(R), dB", lambda run: run.reference.psnr),
)
HYGIENE = (
    NAME,
    _count("concept_used", "E used", lambda run: run.used["concept"]),
    _count("reference_used", "R used", lambda run: run.used["reference"]),
    _count("known_used", "known seeds", lambda run: run.inverter.known),
    Column("resolvable", "resolvable, nats", lambda run: run.resolvable, interval=False),
    _count("flagged", "flagged", lambda run: sum(run.flags.values())),
    _count("unreadable", "unreadable", lambda run: sum(map(len, run.unreadable.values()))),
    Column("psnr_ceiling_concept", "VAE ceiling(E), dB", lambda run: run.concept.psnr_ceiling),
    Column("psnr_round_trip_concept", "PSNR(E) to round trip, dB", lambda run: run.concept.psnr_round_trip),
    Column("nll_bias", "bias on known seeds, nats", lambda run: run.inverter.nll_bias, digits=2),
    Column("worst_bias", "worst bias, nats", lambda run: run.inverter.worst_bias, digits=2, interval=False),
    Column("seed_error", "seed error", lambda run: run.inverter.seed_error, digits=4),
    Column("converged", "converged, %", lambda run: run.inverter.converged, digits=0, percent=True),
    Column("evaluations", "evaluations", lambda run: run.inverter.evaluations, digits=0),
    Column("worst_residual", "worst residual", lambda run: run.inverter.worst_residual, digits=5, interval=False),
)


def tables(summary: Summary) -> list[Table]:
    """The tables of a report; those of options that no audit was asked for are left out."""
    found = [
        Table("main", "What was forgotten, and at what price", MAIN, summary.runs),
        Table("measures", "The paper's measures", MEASURES, summary.runs),
        Table("hygiene", "What the measurement can resolve", HYGIENE, summary.runs),
    ]
    for name, title, columns in (
        ("conditionings", "Forgetting under other prompts and guidance, nats", _conditionings(summary)),
        ("seeds", "Beyond the seed's norm", _seeds(summary)),
    ):
        if columns:
            found.append(Table(name, title, (NAME, *columns), summary.runs))
    return found


def _conditionings(summary: Summary) -> list[Column]:
    """Two columns a conditioning, if there is one besides the own prompt."""
    labels = [entry.label for entry in summary.vanilla.conditionings]
    columns = []
    for number, label in enumerate(labels if len(labels) > 1 else []):
        key = label.replace("@", "_at_")

        def amount(run: RunStatistics, number: int = number) -> Value:
            return run.conditionings[number].forgetting

        def chance(run: RunStatistics, number: int = number) -> Value:
            return run.conditionings[number].p

        columns += [
            Column(f"forgetting_{key}", label, amount),
            Column(f"p_{key}", f"p, {label}", chance, digits=4, interval=False),
        ]
    return columns


def _seeds(summary: Summary) -> list[Column]:
    """Typicality, likelihood and reach, as far as they were measured."""
    columns = []
    for name in summary.vanilla.typicality:

        def share(run: RunStatistics, name: str = name) -> Value:
            return run.typicality.get(name)

        columns.append(Column(f"atypical_{name}", f"atypical {name.replace('_', ' ')}, %", share, 0, percent=True))
    if any(run.likelihood is not None for run in summary.runs):
        columns.append(Column("likelihood", "forgetting of log p(x), nats", lambda run: run.likelihood))
    if any(run.reach is not None for run in summary.runs):
        columns.append(Column("reach", "reach, degrees", lambda run: run.reach, digits=0))
    return columns


def to_rich(table: Table) -> RichTable:
    """For the terminal, one row a model; names are not read as markup."""
    rich = _grid(table.title)
    for column in table.columns:
        word = max(map(len, column.title.split()))
        rich.add_column(Text(column.title), justify="left" if column.left else "right", overflow="fold", min_width=word)
    for run in table.runs:
        cells = table.cells(run)
        rich.add_row(*(Text(f"{value}\n{interval}" if interval else value) for value, interval in cells))
    return rich


def to_rich_transposed(table: Table) -> RichTable:
    """For the terminal, one row a quantity and without intervals: for tables too wide to have one row a model."""
    rich = _grid(table.title)
    rich.add_column()
    for run in table.runs:
        rich.add_column(Text(run.name), justify="right", overflow="fold")
    rows = zip(*(table.cells(run) for run in table.runs), strict=True)
    for column, cells in list(zip(table.columns, rows, strict=True))[1:]:
        rich.add_row(Text(column.title), *(Text(value) for value, _ in cells))
    return rich


def _grid(title: str) -> RichTable:
    return RichTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def to_csv(table: Table) -> str:
    """Full precision; an estimate takes three columns: value, low, high."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([head for column in table.columns for head in _heads(column)])
    for run in table.runs:
        writer.writerow([cell for column in table.columns for cell in _raw(column, column.value(run))])
    return buffer.getvalue()


def to_latex(table: Table) -> str:
    """A tabular in the style of the booktabs package, which the document must load."""
    titles = " & ".join(escape_latex(column.title) for column in table.columns)
    rows = [titles, *(" & ".join(_latex(*cell) for cell in table.cells(run)) for run in table.runs)]
    spec = "l" * sum(column.left for column in table.columns)
    spec += "r" * (len(table.columns) - len(spec))
    # After a line break LaTeX would take a bracket or star that begins the next row for the break's own argument.
    head, *body = [("{}" if row.startswith(("[", "*")) else "") + f"{row} \\\\" for row in rows]
    lines = [f"\\begin{{tabular}}{{{spec}}}", "\\toprule", head, "\\midrule", *body, "\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def decimal(value: float, digits: int) -> str:
    """A number with a true minus sign, no minus before a zero, and a dash for what is not finite."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _cell(column: Column, value: Value) -> tuple[str, str]:
    scale = 100 if column.percent else 1
    if value is None:
        return column.missing, ""
    if isinstance(value, Estimate):
        low, high = (decimal(scale * bound, column.digits) for bound in (value.low, value.high))
        return decimal(scale * value.value, column.digits), f"[{low}, {high}]"
    if isinstance(value, float):
        return decimal(scale * value, column.digits), ""
    return str(value), ""


def _heads(column: Column) -> Sequence[str]:
    return [column.key, f"{column.key}_low", f"{column.key}_high"] if column.interval else [column.key]


def _raw(column: Column, value: Value) -> list[str | int | float]:
    if not column.interval:
        return ["" if value is None or isinstance(value, Estimate) else value]
    if isinstance(value, Estimate):
        return [value.value, value.low, value.high]
    return ["" if value is None else value, "", ""]


def _latex(value: str, interval: str) -> str:
    small = f" {{\\scriptsize {escape_latex(interval)}}}" if interval else ""
    return escape_latex(value) + small
