r"""Ranks as far as data tell them: from intervals of differences, instead of one order that noise decides.

With k things to rank and an interval for each of the :math:`k (k - 1) / 2` differences, all of them at a level that
makes them hold together (Bonferroni), the rank of one lies, with that confidence for all at once, between one more than
the number of those that are surely before it and k less the number of those that are surely behind it (Mogstad, Romano,
Shaikh and Wilhelm, "Inference for Ranks", Review of Economic Studies 2024, of which this is the step without their
bootstrap; Klein, Wright and Wieczorek 2020 do so with intervals of the things themselves).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from lit_memories.metrics.bootstrap import Estimate

Difference = Callable[[int, int, float], Estimate | None]
"""Of the first less the second at a level of confidence; None if data do not tell."""


def rank_interval(differences: Sequence[Estimate | None]) -> tuple[int, int]:
    """The ranks that one of several may have, from 1, which is that of the least.

    Args:
        differences: of this one less each other; None or NaN tells nothing.

    Example:
        >>> rank_interval([Estimate(3.0, 1.0, 5.0), Estimate(-2.0, -3.0, -1.0), Estimate(0.1, -1.0, 1.2), None])
        (2, 4)
    """
    told = [found for found in differences if found is not None]
    return 1 + sum(found.low > 0 for found in told), 1 + len(differences) - sum(found.high < 0 for found in told)


def rank_intervals(count: int, difference: Difference, level: float = 0.95) -> list[tuple[int, int]]:
    """The ranks that each of several may have, from 1, which is that of the least; together they hold at the level.

    Args:
        count: of what is to be ranked.
        difference: of any two; it is asked once a pair, at the level that makes all pairs hold together.
        level: confidence that no interval of ranks is wrong.

    Example:
        >>> ends = [(1.0, 2.0), (4.0, 5.0), (1.5, 4.5)]
        >>> rank_intervals(3, lambda i, j, _: less(Estimate(0, *ends[i]), Estimate(0, *ends[j])))
        [(1, 2), (2, 3), (1, 3)]
    """
    each = 1 - (1 - level) / max(1, pairs(count))
    found: dict[tuple[int, int], Estimate | None] = {}
    for one in range(count):
        for other in range(one + 1, count):
            told = difference(one, other, each)
            found[one, other] = told
            found[other, one] = None if told is None else _turned(told)
    return [rank_interval([found[one, other] for other in range(count) if other != one]) for one in range(count)]


def pairs(count: int) -> int:
    """Differences among so many.

    Example:
        >>> pairs(20)
        190
    """
    return count * (count - 1) // 2


def less(one: Estimate, other: Estimate) -> Estimate:
    """A difference whose interval holds however the two depend on each other, where theirs hold together.

    It excludes 0 where the two intervals do not meet.

    Example:
        >>> less(Estimate(5.0, 4.0, 6.0), Estimate(1.0, 0.5, 2.0))
        Estimate(value=4.0, low=2.0, high=5.5, level=0.95, count=0)
    """
    return replace(one, value=one.value - other.value, low=one.low - other.high, high=one.high - other.low)


def _turned(found: Estimate) -> Estimate:
    return replace(found, value=-found.value, low=-found.high, high=-found.low)
