from pathlib import Path

import pytest
from board_runs import Made, save_scale, world

from lit_memories.leaderboard.board import Board, board
from lit_memories.leaderboard.groups import grouped
from lit_memories.leaderboard.main import write_leaderboard
from lit_memories.runs import read_run
from lit_memories.statistics.exposure import read_scale


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of `world`; read only."""
    return world(tmp_path_factory.mktemp("board") / "runs")


@pytest.fixture(scope="package")
def scale(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale that holds for them."""
    return save_scale(tmp_path_factory.mktemp("scale") / "scale.json", runs[0])


@pytest.fixture(scope="package")
def table(runs: list[Path], scale: Path) -> Board:
    """The table of them."""
    (comparison,) = grouped([read_run(folder) for folder in runs])
    return board(comparison, 1, read_scale(scale), 20, 0, lambda _: None)


@pytest.fixture(scope="package")
def made(runs: list[Path], scale: Path, table: Board, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The page and the file of it."""
    out = tmp_path_factory.mktemp("made")
    write_leaderboard([table], out, 20, 0)
    return Made(runs, scale, out)
