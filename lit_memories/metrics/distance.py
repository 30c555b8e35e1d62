"""How far a set of seeds is from the prior."""

from functools import partial
from typing import Any

from torch import Tensor

from lit_memories.metrics.base import IntervalMetric, split_by_concept
from lit_memories.metrics.functional import DistanceForm, Null, distance, relative_distance


class EarthMoversDistance(IntervalMetric):
    """Distance of the NLL of a set from the exact law of the prior, see `distance`.

    `compute` returns ``value``, ``low``, ``high``, in nats (``form="w1"``) or squared nats (``form="w2_squared"``).

    Args:
        dimension: number of elements of a seed.
        form: ``"w1"`` the paper's words, ``"w2_squared"`` its official code.
        kwargs: see `IntervalMetric`.

    Raises:
        ValueError: if the form is unknown or the dimension not positive.

    Example:
        >>> metric = EarthMoversDistance(dimension=1024, draws=1000)
        >>> metric.update(Null(1024).quantiles(50) + 30)
        >>> {name: round(float(number)) for name, number in metric.compute().items()}
        {'value': 30, 'low': 23, 'high': 36}
    """

    def __init__(self, dimension: int, form: DistanceForm = "w1", **kwargs: Any) -> None:
        super().__init__(columns=1, **kwargs)
        self.null, self.distance = Null(dimension), distance(form)

    def update(self, nll: Tensor) -> None:
        """Add NLL (n,).

        Raises:
            ValueError: if one is not finite.
        """
        self._append(nll=nll)

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if there are no cases.
        """
        return self._bootstrap(lambda nll: self.distance(nll, self.null), [self._cases()[:, 0]])


class RelativeDistance(IntervalMetric):
    """Relative distance d_N(E, R) of a concept, see `relative_distance`.

    `compute` returns ``value``, ``low``, ``high``, without unit.

    Args:
        dimension: number of elements of a seed.
        form: ``"w1"`` the paper's words, ``"w2_squared"`` its official code.
        kwargs: see `IntervalMetric`.

    Raises:
        ValueError: if the form is unknown or the dimension not positive.

    Example:
        >>> import torch
        >>> seeds = Null(1024).quantiles(50)
        >>> metric = RelativeDistance(dimension=1024, draws=1000)
        >>> metric.update(seeds + 90, torch.ones(50, dtype=torch.bool))
        >>> metric.update(seeds + 30, torch.zeros(50, dtype=torch.bool))
        >>> {name: round(float(number), 1) for name, number in metric.compute().items()}
        {'value': 3.0, 'low': 2.4, 'high': 3.8}
    """

    def __init__(self, dimension: int, form: DistanceForm = "w1", **kwargs: Any) -> None:
        super().__init__(columns=2, **kwargs)
        distance(form)
        self.null, self.form = Null(dimension), form

    def update(self, nll: Tensor, is_concept: Tensor) -> None:
        """Add cases.

        Args:
            nll: (n,).
            is_concept: whether the case is of E, not of R (n,).

        Raises:
            ValueError: if the two differ in length or one is not finite.
        """
        self._append(is_concept=is_concept, nll=nll)

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if E or R is empty.
        """
        samples = [rows[:, 0] for rows in split_by_concept(self._cases())]
        return self._bootstrap(partial(relative_distance, null=self.null, form=self.form), samples)
