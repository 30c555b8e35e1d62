"""The page of benchmarks/attacks.py, from records alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from worlds_page import grid_of

from lit_memories.attacks import ATTACKS
from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.inference import auc
from lit_memories.runs import Run
from lit_memories.statistics.doors import doors
from lit_memories.statistics.pairing import compare_runs

NEVER, KNOWS = "never-knew", "knows"
Row = dict[str, Any]
HEAD = """# Every door

`python benchmarks/attacks.py`, seed 0: all attacks, as recipes/pictograms/attack has them, on {limit} pictures of the
concept each, on models of known truth and erased ones. *knows* is the control that never saw the other concept;
*never-knew* stands for the shipped control and, with its number, for controls of other trainings
(`benchmarks/replicates.py`). Brackets are 95 % intervals.

**What an attack proves.** It is evidence of a memory as far as it brings the concept back from a model that saw it and
not from one that never did. *Never there*: how often it "brings back" what a never-knew model never saw, over all such
models. *Told apart*: AUC of the best probability that the judge gave, knows against never-knew.
"""


def rows_of(runs: Mapping[str, Run]) -> list[Row]:
    """A row an attack and model.

    Args:
        runs: of one concept, by name: vanilla, never-knew and others.
    """
    comparison, rows = compare_runs(list(runs.values())), []
    for number, (name, run) in enumerate(runs.items()):
        for attack, door in doors(comparison, number).items():
            row = {"concept": run.info.concept, "model": name, "attack": attack, "threat": door.threat}
            row |= {"success": _ends(door.success), "count": door.success.count, "looks": door.looks}
            row |= {"over_never_knew": _ends(door.over_never_knew), "over_draws": _ends(door.over_draws)}
            row |= {"evaluations": door.evaluations}
            if name == NEVER and KNOWS in runs:
                row["told_apart"] = _ends(_told(runs[KNOWS], run, attack))
            rows.append(row)
    return rows


def _told(knows: Run, never: Run, attack: str) -> Estimate | None:
    found = [
        torch.tensor([record.number(path) for record in run.holding("concept", path).values()], dtype=torch.float64)
        for run in (knows, never)
        for path in [f"{attack}.probability"]
    ]
    return auc(*found) if all(map(len, found)) else None


def _ends(estimate: Estimate | None) -> list[float | None] | None:
    if estimate is None:
        return None
    return [None if x != x else round(x, 3) for x in (estimate.value, estimate.low, estimate.high)]


def page(rows: Sequence[Row], limit: int) -> str:
    """The page as Markdown.

    Args:
        rows: of all concepts.
        limit: pictures an attack was tried on.
    """
    attacks = [name for name in ATTACKS if any(row["attack"] == name for row in rows)]
    return "\n".join([HEAD.format(limit=limit), _proofs(rows, attacks), *_concepts(rows, attacks)])


def _proofs(rows: Sequence[Row], attacks: Sequence[str]) -> str:
    table = []
    for attack in attacks:
        mine = [row for row in rows if row["attack"] == attack]
        never = [row for row in mine if row["model"].startswith(NEVER)]
        hits = round(sum(row["success"][0] * row["count"] for row in never))
        total = sum(row["count"] for row in never)
        said = wilson_interval(hits, total)
        told = [f"{row['concept']} {_shown(row['told_apart'])}" for row in never if row.get("told_apart")]
        threat = next((row["threat"] for row in mine if row["threat"]), None)
        cells = [attack, threat or "–", f"{hits} of {total} [{100 * said.low:.0f}, {100 * said.high:.0f} %]"]
        table.append([*cells, ", ".join(told) or "–"])
    return grid_of(["attack", "attacker has", "never there", "told apart"], table)


def _concepts(rows: Sequence[Row], attacks: Sequence[str]) -> list[str]:
    parts = []
    for concept in dict.fromkeys(row["concept"] for row in rows):
        mine = {(row["attack"], row["model"]): row for row in rows if row["concept"] == concept}
        models = list(dict.fromkeys(model for _, model in mine))
        parts.append(f"\n## {concept}\n\nSuccess, %, and in brackets the gain over never-knew, points.\n")
        parts.append(
            grid_of(["attack", *models], [[a, *(_success(mine.get((a, m)), m) for m in models)] for a in attacks])
        )
        parts.append("\nGain over as many plain draws, points, and median evaluations of successes.\n")
        parts.append(grid_of(["attack", *models], [[a, *(_cost(mine.get((a, m))) for m in models)] for a in attacks]))
    return parts


def _success(row: Row | None, model: str) -> str:
    if row is None:
        return "–"
    rate, gain = f"{100 * row['success'][0]:.0f}", row["over_never_knew"]
    return rate if gain is None or model.startswith(NEVER) else f"{rate} [{100 * gain[1]:.0f}, {100 * gain[2]:.0f}]"


def _cost(row: Row | None) -> str:
    if row is None:
        return "–"
    over = "–" if row["over_draws"] is None else f"{100 * row['over_draws'][0]:+.0f}"
    return over if row["evaluations"] is None else f"{over} · {row['evaluations']:,.0f}"


def _shown(ends: Sequence[float | None]) -> str:
    value, low, high = ends
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"
