"""What the probes of a run took, beside its records: ``cost.json``. No number depends on it."""

import json
from dataclasses import dataclass
from pathlib import Path

from lit_memories.storage.files import write
from lit_memories.storage.plain import parse
from lit_memories.storage.signed import sign, unsign

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
    if not file.is_file():
        return {}
    try:
        text, intact = unsign(file.read_text(encoding="utf-8"))
        if not intact:
            raise ValueError("it was changed after it was written")
        return parse(_Cost, text).probes
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; it can be removed, no number depends on it") from None


def write_cost(folder: Path, cost: dict[str, dict[str, float]]) -> None:
    """Write what `read_cost` reads."""
    write(folder / COST_FILE, sign(json.dumps({"probes": cost}, indent=2, sort_keys=True)) + "\n")
