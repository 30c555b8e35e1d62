"""``leaderboard.json``: what the page shows, for programs, in the types of `lit_memories.leaderboard.schema`."""

from collections.abc import Sequence

from lit_memories.leaderboard.board import Board, Cell, Model
from lit_memories.leaderboard.schema import (
    LEADERBOARD_SCHEMA,
    BoardResult,
    CellResult,
    ColumnResult,
    LeaderboardResult,
    ModelResult,
)
from lit_memories.metrics.bootstrap import Estimate
from lit_memories.records import finite
from lit_memories.report.results import release
from lit_memories.report.schema import EstimateResult


def numbers(boards: Sequence[Board], draws: int, seed: int) -> LeaderboardResult:
    """Everything a leaderboard knows, ready for JSON.

    Args:
        boards: its tables.
        draws: resamples of the bootstrap, and relabellings of tests.
        seed: of both.
    """
    return {
        "schema": LEADERBOARD_SCHEMA,
        "version": release(),
        "resampling": {"draws": draws, "seed": seed},
        "boards": [_board(one) for one in boards],
    }


def _board(board: Board) -> BoardResult:
    summary = board.level.summary
    return {
        "concept": board.concept,
        "base": board.base,
        "vanilla": summary.vanilla.name,
        "control": summary.control,
        "scale": summary.scale,
        "settings": board.level.comparison.runs[0].info.settings,
        "notes": list(summary.notes),
        "columns": [_column(board, row) for row in range(len(board.columns))],
        "rows": [_model(one) for one in board.rows],
        "references": [_model(one) for one in board.references],
    }


def _column(board: Board, row: int) -> ColumnResult:
    column = board.columns[row]
    return {
        "key": column.key,
        "title": column.title,
        "unit": column.unit,
        "better": column.better,
        "says": column.says,
        "ranked": column.difference is not None,
        "compared": board.compared[column.key],
    }


def _model(model: Model) -> ModelResult:
    info = model.run.info
    return {
        "name": model.name,
        "role": info.role,
        "method": model.method,
        "base": model.base,
        "verdict": model.verdict.category,
        "headline": model.verdict.headline,
        "folder": str(model.run.folder),
        "fingerprint": info.fingerprint,
        "numbers": {cell.quantity.key: found for cell in model.cells if (found := _cell(cell)) is not None},
    }


def _cell(cell: Cell) -> CellResult | None:
    if cell.found is None:
        return None
    return {"number": _estimate(cell.found), "ranks": None if cell.rank is None else list(cell.rank)}


def _estimate(found: Estimate) -> EstimateResult:
    ends = {name: finite(getattr(found, name)) for name in ("value", "low", "high")}
    return {
        "value": ends["value"],
        "low": ends["low"],
        "high": ends["high"],
        "level": found.level,
        "count": found.count,
    }
