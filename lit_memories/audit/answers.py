"""What a probe found, as records hold it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_memories.probes.base import Answers, Column
from lit_memories.records import finite


def values_of(answers: Answers, count: int) -> list[dict[str, Any]]:
    """A sample's numbers by name, those that are not finite left out, and a flag that says why it must not count.

    Args:
        answers: of a probe.
        count: samples that it was asked about.

    Raises:
        ValueError: if it does not answer for each of them, and once.
    """
    columns = {name: _values(column) for name, column in answers.numbers.items()}
    counts = {len(column) for column in columns.values()} | ({len(answers.flags)} if answers.flags else set())
    if counts - {count}:
        raise ValueError(f"a probe was asked about {count} samples and answered for {sorted(counts - {count})[0]}")
    return [_answer(answers, columns, row) for row in range(count)]


def _answer(answers: Answers, columns: dict[str, Sequence[Any]], row: int) -> dict[str, Any]:
    values = {name: column[row] for name, column in columns.items()}
    required = [value for name, value in values.items() if isinstance(answers.numbers[name], Tensor)]
    unsound = {name for name, value in values.items() if isinstance(value, float) and finite(value) is None}
    lost = bool(unsound) or any(value is None or (isinstance(value, list) and None in value) for value in required)
    flag = "not finite" if lost else answers.flags[row] if answers.flags else None
    kept = {name: value for name, value in values.items() if value is not None and name not in unsound}
    return kept if flag is None else {**kept, "flag": flag}


def _values(column: Column) -> Sequence[Any]:
    """A value a sample; in place of numbers that are not finite there is None. All are read off at once."""
    if not isinstance(column, Tensor):
        return column
    return [[*map(finite, row)] if isinstance(row, list) else finite(row) for row in column.cpu().tolist()]
