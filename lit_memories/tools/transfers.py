"""``lit-memories transfers``: what opened one model, tried on others."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_memories.runs import read_run
from lit_memories.statistics.transfers import Transfer
from lit_memories.statistics.transfers import transfers as found_in
from lit_memories.terminal import said

LEGEND = (
    "Of the pictures on which the attack had opened the model of the row, those on which what it found opens that of "
    "the column. What opens a model that never knew the concept as well is no memory that was found."
)


def transfers(runs: list[Path]) -> None:
    """Print what attacks found on some models (rows) and what it came to on others (columns).

    Args:
        runs: folders of audits in which attacks were made, and of those that replay what these found, in any order; the
            names of runs are their models'.

    Raises:
        ValueError: if a folder is no audit, none replays anything, or one replays what none of the others found.
    """
    found = found_in([read_run(folder) for folder in runs])
    columns = list(dict.fromkeys(one.tried_on for one in found))
    table = Table()
    for name in ("attack", "found on", *columns):
        table.add_column(Text(said(name)))
    for attack, source in dict.fromkeys((one.attack, one.found_on) for one in found):
        own = {one.tried_on: one for one in found if (one.attack, one.found_on) == (attack, source)}
        table.add_row(
            *(Text(cell) for cell in (said(attack), said(source), *(_cell(own.get(name)) for name in columns)))
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(LEGEND))


def _cell(one: Transfer | None) -> str:
    return "–" if one is None else f"{one.moved} of {one.opened}"
