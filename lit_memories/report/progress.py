"""How far a report is: a bar on standard error where that is a terminal, and nothing elsewhere."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lit_memories.terminal import printable


@contextmanager
def stages(count: int) -> Iterator[Callable[[str], None]]:
    """What is to be told which stage begins; the one before it is done then.

    Standard output is left to the report, which may go to a file while somebody waits for it in a terminal.

    Args:
        count: of the stages.
    """
    console = Console(stderr=True)
    shown = console.is_interactive and "CI" not in os.environ
    columns = BarColumn(bar_width=14), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    bar = Progress(*columns, console=console, transient=True, refresh_per_second=2, disable=not shown)
    task, begun = bar.add_task("", total=count), 0

    def begin(stage: str) -> None:
        nonlocal begun
        bar.update(task, completed=begun, description=printable(stage), refresh=True)
        begun += 1

    with bar:
        yield begin
