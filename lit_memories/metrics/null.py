r"""The likelihood of seeds under the prior N(0, I), and the law it has when seeds really come from there.

The negative log-likelihood of a seed z of dimension d, in nats (Memories of Forgotten Concepts, CVPR 2025), is

.. math:: \mathrm{NLL}(z) = \frac{d}{2} \ln 2\pi + \frac{1}{2} \lVert z \rVert^2

For :math:`z \sim N(0, I)` the squared norm is chi-square with d degrees of freedom, so the energy
:math:`\lVert z \rVert^2 / 2` has the Gamma law of shape d/2 and scale 1. The null is thus known exactly and never needs
to be sampled; the official code samples it 50 times, which `Null.sample` can mimic.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_memories.metrics.checks import as_float64


def gaussian_nll(latents: Tensor) -> Tensor:
    """Negative log-likelihood of seeds under the prior N(0, I), in nats; it depends on their norm only.

    Args:
        latents: seeds (n, ...); everything but the first dimension is one seed.

    Returns:
        NLL (n,), float64.

    Raises:
        ValueError: if the seeds have no dimension besides the first.

    Example:
        >>> gaussian_nll(torch.zeros(2, 4, 16, 16))
        tensor([940.9931, 940.9931], dtype=torch.float64)
    """
    if latents.ndim < 2:
        raise ValueError(f"latents must have shape (n, ...), got {tuple(latents.shape)}")
    seeds = as_float64(latents).flatten(1)
    return seeds.square().sum(1) / 2 + Null(seeds.shape[1]).minimum


@dataclass(frozen=True)
class Null:
    """Exact law of the NLL of a seed drawn from the prior.

    Args:
        dimension: number of elements of a seed, such as 4 * 64 * 64.

    Raises:
        ValueError: if the dimension is not positive.

    Example:
        >>> null = Null(16384)
        >>> round(null.mean, 2), round(null.sd, 2)
        (23247.89, 90.51)
        >>> null.quantile(torch.tensor([0.25, 0.5, 0.75]))
        tensor([23186.6608, 23247.5556, 23308.7537], dtype=torch.float64)
    """

    dimension: int

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"the dimension of a seed must be positive, got {self.dimension}")

    @property
    def minimum(self) -> float:
        """NLL of the zero seed: the most likely one, and one that is never drawn."""
        return self.dimension / 2 * math.log(2 * math.pi)

    @property
    def mean(self) -> float:
        """Expected NLL, d/2 (ln 2 pi + 1)."""
        return self.minimum + self.dimension / 2

    @property
    def variance(self) -> float:
        """Variance of the NLL, d/2."""
        return self.dimension / 2

    @property
    def sd(self) -> float:
        """Standard deviation of the NLL."""
        return math.sqrt(self.variance)

    def z_score(self, nll: Tensor) -> Tensor:
        """How many standard deviations an NLL is from the mean; negative for seeds that are too short."""
        return (as_float64(nll) - self.mean) / self.sd

    def cdf(self, nll: Tensor) -> Tensor:
        """Probability that a seed from the prior has at most this NLL."""
        probability: Tensor = torch.special.gammainc(self._shape(nll), self._energy(nll))
        return probability

    def density(self, nll: Tensor) -> Tensor:
        """Probability density of the NLL, per nat."""
        energy, shape = self._energy(nll), self._shape(nll)
        inside = as_float64(nll) >= self.minimum
        return torch.exp(torch.xlogy(shape - 1, energy) - energy - torch.lgamma(shape)) * inside

    def quantile(self, p: Tensor) -> Tensor:
        """NLL that a seed from the prior exceeds with probability 1 - p.

        Args:
            p: probabilities, any shape.

        Raises:
            ValueError: if one is outside [0, 1].
        """
        p = as_float64(p)
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError("probabilities must be in [0, 1]")
        # Laurent and Massart (2000), lemma 1: at most exp(-37) of the law lies above, less than float64 resolves at 1.
        reach = self.dimension / 2 + math.sqrt(37 * self.dimension) + 37
        low, high = torch.zeros_like(p), torch.full_like(p, reach)
        for _ in range(64):
            middle = (low + high) / 2
            below = torch.special.gammainc(self._shape(p), middle) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return torch.where(p == 1, math.inf, high + self.minimum)

    def quantiles(self, count: int) -> Tensor:
        """Quantiles at the midpoints of `count` equal parts of [0, 1]: the null as equally likely atoms (count,).

        As a stand-in for the null, the atoms are off by at most about 2 sd / count in earth mover's distance.
        """
        return self.quantile((torch.arange(count, dtype=torch.float64) + 0.5) / count)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """NLL of `count` seeds drawn from the prior (count,)."""
        return gaussian_nll(torch.randn(count, self.dimension, generator=generator, dtype=torch.float64))

    def partial_mean(self, nll: Tensor) -> Tensor:
        r"""Expectation of (NLL - mean) over the part of the null below a value, :math:`E[(X - \mu) 1(X \le x)]`.

        For the Gamma law of shape a this is :math:`-x^a e^{-x} / \Gamma(a)`, free of cancellation.
        """
        energy, shape = self._energy(nll), self._shape(nll)
        return -torch.exp(torch.xlogy(shape, energy) - energy - torch.lgamma(shape))

    def _energy(self, nll: Tensor) -> Tensor:
        return (as_float64(nll) - self.minimum).clamp(min=0)

    def _shape(self, like: Tensor) -> Tensor:
        return torch.full_like(as_float64(like), self.dimension / 2)
