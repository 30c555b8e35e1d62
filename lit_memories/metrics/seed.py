"""How likely the seeds are under the prior."""

from typing import Any

from torch import Tensor

from lit_memories.metrics.base import IntervalMetric, mean
from lit_memories.metrics.functional import Null, gaussian_nll


class SeedNLL(IntervalMetric):
    """Mean negative log-likelihood of seeds under N(0, I), in nats, see `gaussian_nll`.

    `compute` returns ``value``, ``low``, ``high`` (the mean), ``sd`` (population, as in the official code) and ``z``:
    the mean of the cases' z-scores under the exact null, 0 for seeds from the prior.

    Args:
        kwargs: see `IntervalMetric`.

    Example:
        >>> import torch
        >>> metric = SeedNLL(draws=1000)
        >>> metric.update(torch.ones(3, 4, 8, 8))
        >>> {name: round(float(number), 2) for name, number in metric.compute().items()}
        {'value': 363.25, 'low': 363.25, 'high': 363.25, 'sd': 0.0, 'z': 0.0}
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(columns=2, **kwargs)

    def update(self, latents: Tensor) -> None:
        """Add seeds (n, ...).

        Raises:
            ValueError: if one has a NLL that is not finite, or they have no dimension besides the first.
        """
        nll = gaussian_nll(latents)
        self._append(nll=nll, z=Null(latents[0].numel()).z_score(nll) if len(latents) else nll)

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if there are no seeds.
        """
        nll, z = self._cases().unbind(1)
        return self._bootstrap(mean, [nll]) | {"sd": nll.std(correction=0), "z": z.mean()}
