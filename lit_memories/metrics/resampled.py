"""What a bootstrap asks of a set of NLL, from how often it drew each value: resamples are neither made nor sorted."""

from functools import lru_cache

import torch
from torch import Tensor

from lit_memories.metrics.checks import as_set
from lit_memories.metrics.null import Null
from lit_memories.metrics.wasserstein import DistanceForm, distance


class ResampledNLL:
    """Statistics of resamples of a set of NLL, for `bootstrap_counts`.

    Each takes how often every value was drawn, in ascending order of the values (draws, n), float64, and returns
    (draws,). All rows of one call draw equally many.

    Args:
        nll: the set (n,).
        null: the exact law.

    Raises:
        ValueError: if the set is empty, not finite or not (n,).

    Example:
        >>> found = ResampledNLL(torch.tensor([3.0, 1.0, 2.0]), Null(1))
        >>> found.sd(torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]]).double())
        tensor([0.8165, 0.0000], dtype=torch.float64)
    """

    def __init__(self, nll: Tensor, null: Null) -> None:
        values = as_set(nll, "set").cpu()
        if values.ndim != 1:
            raise ValueError(f"a set must be (n,), got {tuple(nll.shape)}")
        self.null, self.values = null, values.sort().values
        self.count = len(values)
        self._centre = self.values.mean()
        centred = self.values - self._centre
        self._moments = torch.stack([centred, centred.square()], 1)
        # The integral of the null's distribution function up to each value.
        self._shares, self._places = null.cdf(self.values), self.values - null.mean
        self._below = self._places * self._shares - null.partial_mean(self.values)

    def sd(self, counts: Tensor) -> Tensor:
        """Population standard deviation, nats."""
        return self._mean_and_sd(counts)[1]

    def distance(self, counts: Tensor, form: DistanceForm = "w1") -> Tensor:
        """Distance from the null: `earth_movers_distance` or `gaussian_w2_squared`.

        Raises:
            ValueError: if the form is unknown.
        """
        distance(form)
        if form == "w1":
            return self._w1(counts)
        mean, sd = self._mean_and_sd(counts)
        return (mean - self.null.mean).square() + (sd - self.null.sd).square()

    def _mean_and_sd(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        mean, square = (counts @ self._moments / counts[0].sum()).unbind(1)
        return mean + self._centre, (square - mean.square()).clamp(min=0).sqrt()

    def _w1(self, counts: Tensor) -> Tensor:
        """The area between the two distribution functions: before, between and after the values.

        Between two values a resample's is constant, u. Where the null's crosses it, the area is that of both sides,
        for which the null's partial mean up to its quantile of u is all that is needed.
        """
        total = round(float(counts[0].sum()))
        drawn = counts.cumsum(1)[:, :-1]
        width, area = self._places.diff(), self._below.diff()
        found = (drawn * (width / total) - area).abs_()
        crossed = (drawn > self._shares[:-1] * total).logical_and_(drawn < self._shares[1:] * total).nonzero()
        rows, places = crossed.unbind(1)
        u = drawn[rows, places]
        ends = (self._below[:-1] + self._below[1:])[places]
        ends = ends - u / total * (self._places[:-1] + self._places[1:])[places]
        found[rows, places] = 2 * _partial_means(self.null, total)[u.long()] + ends
        return found.sum(1) + self._below[0] + self._below[-1] - self._places[-1]


@lru_cache(maxsize=8)
def _partial_means(null: Null, parts: int) -> Tensor:
    """The null's partial means at its quantiles of 0, 1 / parts, …, 1 (parts + 1,)."""
    inner = torch.arange(1, parts, dtype=torch.float64) / parts
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([zero, null.partial_mean(null.quantile(inner)), zero])
