"""``lit-memories leaderboard``: run folders of many makers in, one page and its numbers out."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lit_memories.leaderboard.board import Board, board
from lit_memories.leaderboard.groups import grouped
from lit_memories.leaderboard.numbers import numbers
from lit_memories.leaderboard.page import render
from lit_memories.records import RUN_FILE
from lit_memories.report.progress import stages
from lit_memories.report.results import to_json
from lit_memories.shared_runs import read_runs
from lit_memories.statistics.exposure import SHIPPED, read_scale
from lit_memories.storage.files import check_inside, check_writable, write
from lit_memories.terminal import printable

PAGE_FILE, NUMBERS_FILE = "leaderboard.html", "leaderboard.json"
NO_FOLDER = (
    "no folder given: name run folders, one of vanilla and one of an erased model at least, folders that hold some, or "
    "ids on the hub"
)


def leaderboard(
    folders: list[str],
    out: Path = Path("runs/leaderboard"),
    draws: int = 10_000,
    seed: int = 0,
    scale: Path | None = None,
) -> None:
    """Compare erased models of many makers, on one page that sorts and filters.

    Writes ``leaderboard.html``, which needs nothing beside it, and ``leaderboard.json``. All is computed anew from
    records; no number, and no page, of a report is taken over.

    Args:
        folders: run folders, folders that hold some, as those of ``lit-memories audit``, or ids on the hub.
        out: folder to write, made if it is missing; a leaderboard in it is replaced.
        draws: resamples of the bootstrap behind some intervals.
        seed: of the resampling.
        scale: file of a scale that turns numbers into pictures seen; the pictogram world's if none is given.

    Raises:
        FileNotFoundError: if a folder is no run, or there is no such scale.
        ValueError: if runs cannot be compared, or `out` is one of the folders, or nothing can be written there.
        OSError: if it cannot be written, or the hub cannot be reached.
    """
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    if not folders:
        raise ValueError(NO_FOLDER)
    _check_out(out, folders)
    known = read_scale(scale or SHIPPED)
    with stages(len(folders)) as begin:
        runs = []
        for name in folders:
            begin(f"reading {name}")
            runs += read_runs(name)
    comparisons = grouped(runs)
    check_writable(out)
    with stages(sum(len(one.runs) + 2 for one in comparisons) + 1) as begin:
        boards = [board(one, number, known, draws, seed, begin) for number, one in enumerate(comparisons, 1)]
        begin("page")
        write_leaderboard(boards, out, draws, seed)
    _print(boards, out)


def write_leaderboard(boards: Sequence[Board], out: Path, draws: int, seed: int) -> None:
    """Write page and numbers.

    Args:
        boards: its tables.
        out: folder to write.
        draws: resamples of the bootstrap that they were made with.
        seed: of the resampling.

    Raises:
        OSError: if it cannot be written.
    """
    found = to_json(numbers(boards, draws, seed)), render(boards, draws, seed)
    for file, text in zip((NUMBERS_FILE, PAGE_FILE), found, strict=True):
        write(out / file, text.encode(errors="backslashreplace"), out)


def _check_out(out: Path, folders: Sequence[str]) -> None:
    """Refuse to write among the files of what is read."""
    check_inside(out, (PAGE_FILE, NUMBERS_FILE))
    place = out.resolve()
    taken = next((name for name in folders if Path(name).exists() and Path(name).resolve() == place), None)
    run = next((folder for folder in (place, *place.parents) if (folder / RUN_FILE).is_file()), None)
    if taken is not None or run is not None:
        what = f"is {taken}, which is read" if taken is not None else f"lies in the run folder {run}"
        raise ValueError(f"--out {out} {what}: choose another folder")


def _print(boards: Sequence[Board], out: Path) -> None:
    console = Console(highlight=False)
    for one in boards:
        count = f"{len(one.rows)} erased {'model' if len(one.rows) == 1 else 'models'}"
        console.print(Text(printable(f"“{one.concept}” of {one.base}: {count}")), soft_wrap=True)
        for model in one.rows:
            console.print(Text(printable(f"{model.name}: {model.verdict.category}")), soft_wrap=True)
    console.print(Text(printable(f"Leaderboard: {out / PAGE_FILE}")), soft_wrap=True)
