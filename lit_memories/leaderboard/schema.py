"""The types of ``leaderboard.json``; every field is described in ``docs/leaderboard.md``."""

from typing import Any, TypedDict

from lit_memories.report.schema import EstimateResult, ResamplingResult

LEADERBOARD_SCHEMA = 1


class ColumnResult(TypedDict):
    """A number that rows have."""

    key: str
    title: str
    unit: str
    better: str
    says: str
    ranked: bool
    compared: int


class CellResult(TypedDict):
    """A number of a row; shares are between 0 and 1, and open ends null."""

    number: EstimateResult
    ranks: list[int] | None


class ModelResult(TypedDict):
    """A row, or a reference."""

    name: str
    role: str
    method: str
    base: str
    verdict: str
    headline: str
    folder: str
    fingerprint: str | None
    numbers: dict[str, CellResult]


class BoardResult(TypedDict):
    """A table."""

    concept: str
    base: str
    vanilla: str
    control: str | None
    scale: str | None
    settings: dict[str, Any]
    notes: list[str]
    columns: list[ColumnResult]
    rows: list[ModelResult]
    references: list[ModelResult]


class LeaderboardResult(TypedDict):
    """The whole file."""

    schema: int
    version: str
    resampling: ResamplingResult
    boards: list[BoardResult]
