"""How likely the seeds are under the prior, and how like its draws they look."""

from typing import Any

from torch import Tensor

from lit_memories.metrics.base import IntervalMetric, named
from lit_memories.metrics.bootstrap import wilson_interval
from lit_memories.metrics.functional import TESTS, Null, combined_p_value, gaussian_nll, typicality


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
        return self._mean(nll) | {"sd": nll.std(correction=0), "z": z.mean()}


class Typicality(IntervalMetric):
    """Share of seeds that do not look like draws of the prior, and in which way, see `typicality`.

    `compute` returns ``value``, ``low``, ``high``: the share of seeds whose `combined_p_value` is at most `alpha`, with
    Wilson's interval; it is at most about `alpha` for seeds from the prior. For each of `TESTS` there are ``NAME``,
    ``NAME_low`` and ``NAME_high``, the mean of its statistic with its interval.

    Args:
        alpha: below which p-value a seed is atypical.
        kwargs: see `IntervalMetric`.

    Raises:
        ValueError: if `alpha` is out of range.

    Example:
        >>> import torch
        >>> metric = Typicality(draws=1000)
        >>> metric.update(1.3 * torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
        >>> result = metric.compute()
        >>> {name: round(float(result[name]), 2) for name in ("value", "norm", "kurtosis")}
        {'value': 1.0, 'norm': 1.67, 'kurtosis': 0.14}
    """

    def __init__(self, alpha: float = 0.05, **kwargs: Any) -> None:
        super().__init__(columns=1 + len(TESTS), **kwargs)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
        self.alpha = alpha

    def update(self, latents: Tensor) -> None:
        """Add seeds (n, c, h, w).

        Raises:
            ValueError: if one is not finite, or they have another shape or too few elements.
        """
        tests = typicality(latents)
        self._append(p_value=combined_p_value(tests), **{name: test.value for name, test in tests.items()})

    def compute(self) -> dict[str, Tensor]:
        """The numbers named above.

        Raises:
            ValueError: if there are no seeds.
        """
        p_values, *values = self._cases().unbind(1)
        result = named(wilson_interval(int((p_values <= self.alpha).sum()), len(p_values), self.level))
        for name, column in zip(TESTS, values, strict=True):
            result |= self._mean(column, name=name)
        return result
