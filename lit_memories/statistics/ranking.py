"""Differences between two runs on the same samples, at any level of confidence: what ranks are made of.

Vanilla and the control, which both readings share, cancel: the shift of a picture in one model less that in another is
the number of the one less that of the other, and to divide both by the control's changes no sign.
"""

from dataclasses import replace

from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.intervals import mean_interval, paired_rate_interval
from lit_memories.records import SetName
from lit_memories.statistics.pairing import PAIRED, Comparison
from lit_memories.statistics.shifts import shifts


def forgetting_difference(
    comparison: Comparison, row: int, other: int, path: str, sign: int, level: float
) -> Estimate | None:
    """How much more one run forgot than another, in the number's unit, paired by picture.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        other: row of the one whose forgetting is taken off.
        path: of the number.
        sign: 1 if it grows as a model forgets, else -1.
        level: confidence of the interval.

    Returns:
        None if they have no picture in common of either set.
    """

    def moved(name: SetName) -> Tensor:
        table = comparison.table([row, other, comparison.vanilla], name, path)
        return sign * (table[:, 0] - table[:, 1])

    concept, reference = map(moved, PAIRED)
    return mean_interval(concept, reference, level) if len(concept) and len(reference) else None


def rate_difference(
    comparison: Comparison, row: int, other: int, name: SetName, path: str, level: float
) -> Estimate | None:
    """How much larger a rate is of one run than of another, paired by sample.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        other: row of the one whose rate is taken off.
        name: of the set.
        path: of the number, which is met above 0.5.
        level: confidence of the interval.

    Returns:
        None if they have no sample in common.
    """
    met = comparison.table([row, other], name, path) > 0.5
    if not len(met):
        return None
    own, others = met[:, 0], met[:, 1]
    return paired_rate_interval(int((own & ~others).sum()), int((others & ~own).sum()), len(met), level)


def damage_size(comparison: Comparison, row: int, path: str, level: float) -> Estimate | None:
    """How far reference images moved, whichever way.

    Args:
        comparison: runs that may be compared.
        row: of the run.
        path: of the number.
        level: confidence of the interval.

    Returns:
        None if it and vanilla have no image in common.
    """
    moved = shifts(comparison, row, path)
    return None if moved is None else size(mean_interval(moved.reference, level=level))


def size(found: Estimate) -> Estimate:
    """An estimate without its sign, with the interval of sizes that its interval holds.

    Example:
        >>> size(Estimate(-2.0, -5.0, 1.0))
        Estimate(value=2.0, low=0.0, high=5.0, level=0.95, count=0)
    """
    low, high = sorted((abs(found.low), abs(found.high)))
    return replace(found, value=abs(found.value), low=0.0 if found.low <= 0 <= found.high else low, high=high)
