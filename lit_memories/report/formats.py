"""Tables in four forms: text for the terminal, CSV, LaTeX, and cells for the page; all text in them is anyone's."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.terminal import printable

Value: TypeAlias = Estimate | str | int | float | None
Row: TypeAlias = Any
"""What a table has a row of: anything with a name and a role."""
DASH = "–"
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$", "²": "$^2$", "∞": r"$\infty$",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        key: its name in CSV files.
        title: its head for people, with the unit.
        value: what it shows of a row.
        digits: decimals shown.
        percent: whether the value is a share shown in percent.
        missing: what stands for None.
        interval: whether values come with an interval.
        left: whether the column is text, aligned left.
        words: how people are told a value with an interval; files have the numbers.
    """

    key: str
    title: str
    value: Callable[[Row], Value]
    digits: int = 1
    percent: bool = False
    missing: str = DASH
    interval: bool = True
    left: bool = False
    words: Callable[[Estimate], str] | None = None


@dataclass(frozen=True)
class Table:
    """A table with a row a run.

    Args:
        name: of its files.
        title: for people.
        columns: of it, the first is the name of the run.
        runs: rows.
        detail: whether it is too long for the terminal, and folded away on the page.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    runs: tuple[Row, ...]
    detail: bool = False

    def cells(self, run: Row) -> list[tuple[str, str]]:
        """Value and interval of each column, as text."""
        return [_cell(column, column.value(run)) for column in self.columns]

    @property
    def transposed(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The columns after the first as rows: title, then the cells of each run."""
        rows = zip(*(self.cells(run) for run in self.runs), strict=True)
        titles = (column.title for column in self.columns)
        return list(zip(titles, map(list, rows), strict=True))[1:]


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
        rich.add_column(Text(printable(run.name)), justify="right", overflow="fold")
    for title, cells in table.transposed:
        rich.add_row(Text(title), *(Text(value) for value, _ in cells))
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
    """A number with a true minus sign, no minus before a zero, and a dash for what is not known."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def number(estimate: Estimate, unit: str = "", digits: int = 1) -> str:
    """An estimate with unit and interval, for a sentence."""
    value, low, high = (decimal(bound, digits) for bound in (estimate.value, estimate.low, estimate.high))
    return f"{value}{' ' * bool(unit)}{unit} [{low}, {high}]"


def percent(rate: Estimate) -> Estimate:
    """The same in percent."""
    return replace(rate, value=100 * rate.value, low=100 * rate.low, high=100 * rate.high)


def _cell(column: Column, value: Value) -> tuple[str, str]:
    scale = 100 if column.percent else 1
    if value is None:
        return column.missing, ""
    if isinstance(value, Estimate) and column.words is not None:
        return column.words(value), ""
    if isinstance(value, Estimate):
        low, high = (decimal(scale * bound, column.digits) for bound in (value.low, value.high))
        return decimal(scale * value.value, column.digits), f"[{low}, {high}]"
    if isinstance(value, float):
        return decimal(scale * value, column.digits), ""
    return printable(str(value)), ""


def _heads(column: Column) -> Sequence[str]:
    return [column.key, f"{column.key}_low", f"{column.key}_high"] if column.interval else [column.key]


def _raw(column: Column, value: Value) -> list[str | int | float]:
    if not column.interval:
        value = "" if value is None or isinstance(value, Estimate) else value
        return [_inert(printable(value)) if isinstance(value, str) else value]
    if isinstance(value, Estimate):
        return [value.value, value.low, value.high]
    return ["" if value is None else value, "", ""]


def _inert(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _latex(value: str, interval: str) -> str:
    small = f" {{\\scriptsize {escape_latex(interval)}}}" if interval else ""
    return escape_latex(value) + small
