"""The leaderboard's page: built anew from records, every text of theirs escaped, and one script that is its own."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lit_memories.leaderboard.board import Board, Model
from lit_memories.leaderboard.columns import Quantity
from lit_memories.report.doors import missing
from lit_memories.report.page import TONES, flatten
from lit_memories.report.results import release, results
from lit_memories.report.tables import tables

SCRIPT = Path(__file__).with_name("leaderboard.js")


class Numbers(NamedTuple):
    """What a report's table says of one model: titles with value and interval."""

    title: str
    lines: list[tuple[str, str, str]]


class Section(NamedTuple):
    """What a report says of one model.

    Attributes:
        model: the row.
        tone: of its verdict.
        numbers: all tables of the report, of this model.
        provenance: lines of name and value.
        missing: what the gains of its attacks lack.
    """

    model: Model
    tone: str
    numbers: list[Numbers]
    provenance: list[tuple[str, str]]
    missing: list[str]


def render(boards: Sequence[Board], draws: int, seed: int) -> str:
    """The page.

    Args:
        boards: its tables.
        draws: resamples of the bootstrap.
        seed: of the resampling.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("lit_memories", "leaderboard"), PackageLoader("lit_memories", "report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = SCRIPT.read_text(encoding="utf-8")
    return environment.get_template("leaderboard.html").render(
        boards=boards,
        columns=_columns(boards),
        sections=[_sections(board, draws, seed) for board in boards],
        settings=[flatten(board.level.comparison.runs[0].info.settings) for board in boards],
        tones=TONES,
        count=sum(len(board.rows) for board in boards),
        script=Markup(script),  # noqa: S704 - the package's own file; nothing of a record is put into it
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        release=release(),
        draws=draws,
        seed=seed,
    )


def _columns(boards: Sequence[Board]) -> list[Quantity]:
    """Every column of any table, once."""
    return list({one.title: one for board in boards for one in board.columns}.values())


def _sections(board: Board, draws: int, seed: int) -> list[Section]:
    """What a report of the same runs says of each row, and of each reference."""
    level = board.level
    told: dict[str, Any] = {run["name"]: run["provenance"] for run in results(level, [], draws, seed)["runs"]}
    shown = tables(level.summary)
    lacks = missing(level.summary)
    sections = []
    for model in (*board.rows, *board.references):
        every = []
        for table in shown:
            for run in (run for run in table.runs if run.name == model.name):
                cells = zip(table.columns, table.cells(run), strict=True)
                lines = [(column.title, *cell) for column, cell in cells if column.title not in ("model", "role")]
                every.append(Numbers(table.title, lines))
        sections.append(
            Section(
                model,
                TONES.get(model.verdict.category, "plain"),
                every,
                flatten(told[model.name]),
                [line for line in lacks if f" on {model.name}: " in line],
            )
        )
    return sections
