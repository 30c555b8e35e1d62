"""What the probes of a run took, beside its records: ``cost.json``. No number depends on it."""

import json
from dataclasses import dataclass
from pathlib import Path

from lit_memories.storage.files import write
from lit_memories.storage.plain import parse

COST_FILE = "cost.json"


@dataclass(frozen=True)
class _Cost:
    """The file."""

    probes: dict[str, dict[str, float]]


def read_cost(folder: Path) -> dict[str, dict[str, float]]:
    """What each probe of a run took, as far as its finished attempts tell.

    Raises:
        ValueError: if the file is damaged; names it.
    """
    file = folder / COST_FILE
    try:
        return parse(_Cost, file.read_text(encoding="utf-8")).probes if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; it can be removed, no number depends on it") from None


def write_cost(folder: Path, cost: dict[str, dict[str, float]]) -> None:
    """Write what `read_cost` reads."""
    write(folder / COST_FILE, json.dumps({"probes": cost}, indent=2, sort_keys=True) + "\n")
