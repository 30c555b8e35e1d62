"""The numbers of benchmarks/attacks.py, from records alone: what attacks come to, and what that proves."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lit_memories.attacks import ATTACKS
from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.inference import auc
from lit_memories.runs import Run
from lit_memories.statistics.doors import doors
from lit_memories.statistics.pairing import compare_runs
from lit_memories.statistics.transfers import transfers

VANILLA, KNOWS, NEVER, TAUGHT = "vanilla", "knows", "never-knew", "taught"
"""How models of known truth are called; those of other trainings and of longer lessons add to these."""
FEWEST = 5
"""Pictures below which nothing is said."""
Row = dict[str, Any]
Standing = tuple[float, float, float]


def rows_of(runs: Mapping[str, Run]) -> list[Row]:
    """A row an attack and model.

    Args:
        runs: of one concept, by name: vanilla, never-knew and others.
    """
    comparison, rows = compare_runs(list(runs.values())), []
    for name, run in runs.items():
        (number,) = (place for place, other in enumerate(comparison.runs) if other is run)
        for attack, door in doors(comparison, number).items():
            if attack not in ATTACKS:
                continue
            row = {"concept": run.info.concept, "model": name, "attack": attack, "threat": door.threat}
            row |= {"hits": round(door.success.value * door.success.count), "count": door.success.count}
            row |= {"over_never_knew": ends(door.over_never_knew), "over_draws": ends(door.over_draws)}
            row |= {"looks": door.looks, "draws": door.draws, "evaluations": door.evaluations}
            row["seconds"] = _rounded(run.cost.get(attack, {}).get("seconds"))
            rows.append(row)
    return rows


def proofs_of(runs: Mapping[str, Run]) -> list[Row]:
    """A row an attack: whether it tells models of known truth apart, and orders those that learnt by degree.

    Args:
        runs: of one concept, by name. What is not there is not said.
    """
    taught = sorted(int(name.removeprefix(f"{TAUGHT}-")) for name in runs if name.startswith(f"{TAUGHT}-"))
    ladder = [NEVER, *(f"{TAUGHT}-{steps}" for steps in taught)]
    rows = []
    for attack in ATTACKS:
        tables = {name: standings(run, attack) for name, run in runs.items()}
        tables = {name: table for name, table in tables.items() if table}
        if not tables:
            continue
        told = ordered = None
        if {KNOWS, NEVER} <= tables.keys():
            told = told_apart(tables[KNOWS], tables[NEVER])
        rungs = [tables[name] for name in ladder if name in tables]
        if len(rungs) > 2 and NEVER in tables:
            ordered = ordered_right(rungs)
        concept = next(iter(runs.values())).info.concept
        rows.append({"concept": concept, "attack": attack, "told_apart": ends(told), "ordered": ends(ordered)})
    return rows


def standings(run: Run, attack: str) -> dict[str, Standing]:
    """How far an attack opened a model, by picture: what stands higher opens more easily.

    Any success stands above none, one with fewer pictures judged above one with more, and where these are equal the
    likelier picture above the other.
    """
    found = {}
    for key, record in run.holding("concept", f"{attack}.success").items():
        success, looks, likely = (record.number(f"{attack}.{name}") for name in ("success", "looks", "probability"))
        if success is not None and looks is not None and likely is not None:
            found[key] = (success, -looks if success > 0.5 else 0.0, likely)
    return found


def told_apart(knows: Mapping[str, Standing], never: Mapping[str, Standing]) -> Estimate | None:
    """AUC of how far a model that knows was opened against one that never knew; None with too few pictures."""
    if min(len(knows), len(never)) < FEWEST:
        return None
    return auc(*_ranked([list(knows.values()), list(never.values())]))


def ordered_right(rungs: Sequence[Mapping[str, Standing]]) -> Estimate | None:
    """How often a picture orders two models as they learnt, ties half; Wilson's interval over pictures.

    Args:
        rungs: standings in models that learnt more and more.
    """
    keys = [key for key in rungs[0] if all(key in rung for rung in rungs)]
    if len(keys) < FEWEST:
        return None
    right = [
        fmean(float(later[key] > earlier[key]) + (later[key] == earlier[key]) / 2 for earlier, later in pairs)
        for pairs in [list(combinations(rungs, 2))]
        for key in keys
    ]
    return wilson_interval(sum(right), len(right))


def transfers_of(runs: Sequence[Run]) -> list[Row]:
    """A row a model on which an attack found something, and a model on which that was tried.

    Args:
        runs: of one concept, with those that replay what others found.
    """
    return [{"concept": runs[0].info.concept, **vars(found)} for found in transfers(runs)]


def _ranked(sets: Sequence[Sequence[Standing]]) -> list[Tensor]:
    """Numbers in the order of standings, equal where they are."""
    order = {standing: number for number, standing in enumerate(sorted({one for some in sets for one in some}))}
    return [torch.tensor([order[one] for one in some], dtype=torch.float64) for some in sets]


def never_there(rows: Sequence[Row], attack: str) -> tuple[int, int]:
    """How often an attack "brought back" what models never saw, and how often it was tried: all concepts together."""
    never = [row for row in rows if row["attack"] == attack and row["model"].startswith(NEVER)]
    return sum(row["hits"] for row in never), sum(row["count"] for row in never)


def ends(estimate: Estimate | None) -> list[float | None] | None:
    """Value, low and high."""
    if estimate is None:
        return None
    return [_rounded(x) for x in (estimate.value, estimate.low, estimate.high)]


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 3)
