r"""Means over several trainings and the same cases, with intervals that hold for other trainings and other cases.

Trainings (or erasures) t and cases i are crossed: every training is asked about every case. With the mean squares of
the two-way layout without replicates, :math:`M_T`, :math:`M_C` and :math:`M_E` of trainings, cases and the rest, the
mean over T trainings and n cases varies by (Searle, Casella and McCulloch 1992, chapter 4)

.. math:: \widehat{\operatorname{Var}}(\bar y) = \frac{M_T}{T n} + \frac{M_C - M_E}{T n}

and the interval joins the two parts, each with its own quantile of Student's law, as squares (Howe 1974): few trainings
must not borrow degrees of freedom from many cases. A bootstrap that draws trainings and cases again (Owen 2007) has the
same aim and too few trainings to reach it, as three can be drawn in ten ways.
"""

import math
from dataclasses import dataclass

from scipy.special import stdtrit
from torch import Tensor

from lit_memories.metrics.bootstrap import Estimate
from lit_memories.metrics.checks import as_float64
from lit_memories.metrics.intervals import least_effect

MANY = 10**9
"""Cases that leave nothing hidden: a training's reading is a mean itself, and has no long tail."""


@dataclass(frozen=True)
class Crossed:
    """A mean over trainings and cases, and where its scatter comes from.

    Args:
        value: the mean, or the difference of the means of two sets of cases.
        between: variance of the trainings' means; NaN for a single training.
        rest: the part of it that comes from how each training took to these cases.
        cases: variance of the mean over all trainings that comes from the cases, which all trainings share.
        count: number of trainings.
        fewest: cases of the smaller set.
    """

    value: float
    between: float
    rest: float
    cases: float
    count: int
    fewest: int

    @property
    def trainings(self) -> float:
        """Variance of what trainings would read if they were asked of all cases there are; 0 or more, NaN for one."""
        return max(self.between - self.rest, 0.0)

    @property
    def error(self) -> float:
        """Standard error of the mean, over trainings and cases."""
        return math.sqrt(self.between / self.count + self.cases)

    @property
    def scatter(self) -> float:
        """Standard deviation of what one more training reads on these cases, about the mean of these trainings."""
        return math.sqrt(self.between * (1 + 1 / self.count))

    def interval(self, level: float = 0.95) -> Estimate:
        """The mean with its interval, over trainings and cases; NaN if a single training says nothing of others."""
        if self.count == 1:
            return Estimate(self.value, math.nan, math.nan, level, 1)
        t = [float(stdtrit(freedom, (1 + level) / 2)) for freedom in (self.count - 1, self.fewest - 1)]
        half = math.sqrt(t[0] ** 2 * self.between / self.count + t[1] ** 2 * self.cases)
        return Estimate(self.value, self.value - half, self.value + half, level, self.count)


def crossed(values: Tensor, others: Tensor | None = None) -> Crossed:
    """A mean over trainings and cases, or the difference between two sets of cases under the same trainings.

    Args:
        values: a row a training, a column a case (trainings, n), of 2 cases or more.
        others: the same trainings on the cases whose mean is taken off (trainings, m); None takes nothing off.

    Raises:
        ValueError: if a table is empty, not finite, of one case, or the trainings are not as many.

    Example:
        >>> import torch
        >>> found = crossed(torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]))
        >>> found.value, found.between, found.rest
        (2.5, 0.5, 0.0)
    """
    tables = [_table(values, "values")] + ([] if others is None else [_table(others, "others")])
    count, fewest = len(tables[0]), min(table.shape[1] for table in tables)
    means = tables[0].mean(1)
    if others is not None:
        if len(others) != count:
            raise ValueError(
                f"give the same trainings twice: there are {count} of one set and {len(others)} of another"
            )
        means = means - tables[1].mean(1)
    shared = sum(float(table.mean(0).var()) / table.shape[1] for table in tables)
    if count == 1:
        return Crossed(float(means[0]), math.nan, 0.0, shared, 1, fewest)
    rest = sum(_rest(table) / table.shape[1] for table in tables)
    return Crossed(float(means.mean()), float(means.var()), rest, max(0.0, shared - rest / count), count, fewest)


def least_difference(scatter: float, trainings: int, power: float = 0.8, level: float = 0.95) -> float:
    """The least difference between two kinds of models that is told from none, so many trainings of each.

    Args:
        scatter: standard deviation of what a training reads, the same for both kinds.
        trainings: of each kind, 2 or more.
        power: how often it is to be told.
        level: confidence of the interval that is to leave out 0.

    Raises:
        ValueError: if there are fewer than two trainings, or the scatter is negative.

    Example:
        >>> round(least_difference(0.1, 3), 2), round(least_difference(0.1, 10), 2)
        (0.31, 0.13)
    """
    if trainings < 2 or scatter < 0:
        raise ValueError(f"give two trainings or more, and no negative scatter: got {trainings} and {scatter}")
    return least_effect(scatter * math.sqrt(2 / trainings), MANY, 2 * trainings - 2, power, level) if scatter else 0.0


def _rest(table: Tensor) -> float:
    """Variance of what neither the training nor the case explains."""
    left = table - table.mean(1, keepdim=True) - table.mean(0, keepdim=True) + table.mean()
    return float(left.square().sum()) / ((table.shape[0] - 1) * (table.shape[1] - 1))


def _table(values: Tensor, name: str) -> Tensor:
    table = as_float64(values.detach()).cpu()
    if table.ndim != 2 or table.shape[0] == 0 or table.shape[1] < 2 or not bool(table.isfinite().all()):
        raise ValueError(f"{name} must be finite, a row a training and two columns or more: got {tuple(values.shape)}")
    return table
