"""The statistics that any number gets, by how its probe says it is compared."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate, wilson_interval
from lit_memories.metrics.inference import images_to_resolve, resolvable
from lit_memories.metrics.intervals import mean_interval, paired_rate_interval
from lit_memories.numbers import Asked, Number
from lit_memories.records import Record, SetName
from lit_memories.statistics.chance import Chance
from lit_memories.statistics.conditionings import conditioned, conditioned_shifts
from lit_memories.statistics.pairing import PAIRED, Comparison
from lit_memories.statistics.placebos import placebos, sides
from lit_memories.statistics.quantities import NumberStatistics, Resolution, SetStatistics
from lit_memories.statistics.shifts import Shifts, shifts

GOAL, GOAL_SHARE = 5.0, 0.1
"""What is worth resolving: so many nats or, with a control, this share of its forgetting."""
ATYPICAL = 0.05
"""A test calls a sample atypical if its p-value is below this."""


def tested(comparison: Comparison, row: int, asked: Asked, number: Number) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of sets that `number_statistics` puts to permutation tests.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        asked: the probe.
        number: one of its numbers.
    """
    path = asked.path(number)
    if number.compare != "forgetting":
        return
    for moved in conditioned_shifts(comparison, row, path, number.sign).values():
        yield moved.concept, moved.reference
    if (own := shifts(comparison, row, path, number.sign)) is not None:
        yield from sides(own.reference, *_prompts(comparison, row, path)).values()


def number_statistics(
    comparison: Comparison, row: int, asked: Asked, number: Number, chance: Chance
) -> NumberStatistics | None:
    """What one number says of one run; None if it stands in no table, or no sample of the run has it.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        asked: the probe.
        number: one of its numbers.
        chance: of tests.
    """
    path = asked.path(number)
    if number.compare == "none":
        return None
    sets = {name: found for name in asked.sets if (found := _set(comparison, row, name, path, number)) is not None}  # type: ignore[arg-type]
    if not sets:
        return None
    moved = shifts(comparison, row, path, number.sign) if number.compare == "forgetting" else None
    if moved is None:
        return NumberStatistics(number, sets)
    return NumberStatistics(
        number=number,
        sets=sets,
        forgetting=moved.forgetting,
        fraction=moved.fraction,
        damage=moved.damage,
        conditionings=conditioned(comparison, row, path, number.sign, chance),
        placebos=placebos(moved.reference, *_prompts(comparison, row, path), chance),
        resolution=_resolution(comparison, moved, path, number.sign),
    )


def _prompts(comparison: Comparison, row: int, path: str) -> tuple[list[str], str]:
    """Of the reference images that a number rests on, and the concept's name."""
    used = comparison.used(row, "reference", path)
    return [record.prompt for record in used], comparison.runs[row].info.concept


def _set(comparison: Comparison, row: int, name: SetName, path: str, number: Number) -> SetStatistics | None:
    """A number of one set: of images, those that vanilla has it of too; of all else, the run's own."""
    pairs = [list(table) for table in comparison.shared([row, comparison.vanilla], name, path)]
    vanilla, run = comparison.runs[comparison.vanilla], comparison.runs[row]
    images = name in PAIRED and vanilla.holding(name, path)
    records = pairs[0] if images else list(run.holding(name, path).values())
    if not records:
        return None
    values = _values(records, path, number)
    change = None
    if number.compare in ("forgetting", "paired") and pairs[0]:
        change = mean_interval(_values(pairs[0], path, number) - _values(pairs[1], path, number))
    elif number.compare == "rate" and pairs[0]:
        own, usual = (_values(table, path, number) for table in pairs)
        change = paired_rate_interval(int((own > usual).sum()), int((own < usual).sum()), len(own))
    return SetStatistics(len(records), _value(values, number), change)


def _value(values: Tensor, number: Number) -> Estimate:
    if number.compare in ("rate", "test"):
        return wilson_interval(int(values.sum()), len(values))
    return mean_interval(values)


def _values(records: Sequence[Record], path: str, number: Number) -> Tensor:
    """A number of some records (n,), of rates and tests 0 or 1."""
    if number.compare == "test":
        found = [float(_p_value(record, path) < ATYPICAL) for record in records]
    else:
        found = [record.number(path) or 0.0 for record in records]
        if number.compare == "rate":
            found = [float(value > 0.5) for value in found]
    return torch.tensor(found, dtype=torch.float64)


def _p_value(record: Record, path: str) -> float:
    value = record.value(path)
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not isinstance(value[1], int | float)
        or not 0 <= value[1] <= 1
    ):
        raise ValueError(f"{path} of the record {record.key} is not a value and a p-value: {str(value)[:40]!r}")
    return float(value[1])


def _resolution(comparison: Comparison, moved: Shifts, path: str, sign: int) -> Resolution | None:
    """What the sets resolve, from how much the shifts of their images scatter, and how many images the goal takes."""
    sets = [moved.concept, moved.reference]
    if min(map(len, sets)) < 2 or not any(shift.any() for shift in sets):
        return None
    (concept, n), (reference, m) = ((float(shift.std()), len(shift)) for shift in sets)
    goal = GOAL
    if comparison.control is not None and (control := shifts(comparison, comparison.control, path, sign)) is not None:
        known = control.forgetting
        if known.low > 0 or known.high < 0:
            goal = GOAL_SHARE * abs(known.value)
    return Resolution(resolvable(concept, n, reference, m), goal, images_to_resolve(goal, concept, reference))
