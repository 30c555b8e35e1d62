"""What each probe of an audit costs: network evaluations, seconds and samples, counted as it goes."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from lit_memories.audit.group import SampleGroup
from lit_memories.costs import read_cost, write_cost
from lit_memories.records import PARTS
from lit_memories.storage.files import whole
from lit_memories.storage.plain import parse_json

Cost: TypeAlias = dict[str, dict[str, float]]
"""By probe: ``evaluations``, ``seconds`` and ``samples``."""


class Costs:
    """Counts what one process spends, and keeps it beside its records, so that a killed run tells too.

    Args:
        folder: the run folder.
        rank: number of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.parts, self.spent = folder, folder / PARTS, Cost()
        self.file = self.parts / f"cost-{rank}.json"
        self.stopped = any(self.parts.glob("records-*.jsonl"))

    @contextmanager
    def count(self, probe: str, group: SampleGroup) -> Iterator[None]:
        """Add what a probe spends on a group within the context."""
        began = time.perf_counter()
        yield
        entry = self.spent.setdefault(probe, {"evaluations": 0.0, "seconds": 0.0, "samples": 0.0})
        entry["evaluations"] += group.spent()
        entry["seconds"] += time.perf_counter() - began
        entry["samples"] += len(group.samples)

    def keep(self) -> None:
        """Put it on disk."""
        with whole(self.file) as part:
            part.write_text(json.dumps(self.spent), encoding="utf-8")

    def gather(self) -> None:
        """Add what every process has put on disk to what earlier attempts spent, once."""
        files = sorted(self.parts.glob("cost-*.json"))
        total = read_cost(self.folder) if files else {}
        for file in files:
            for probe, entry in parse_json(file.read_text(encoding="utf-8")).items():
                kept = total.setdefault(probe, {})
                for name, value in entry.items():
                    kept[name] = kept.get(name, 0.0) + float(value)
        if files:
            write_cost(self.folder, total)
        for file in files:
            file.unlink()
