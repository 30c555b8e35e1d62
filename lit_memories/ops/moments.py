"""First and second moments of many vectors, added up a batch at a time, and their principal directions."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Of some vectors: how many there were, their sum, and the sum of their outer products, in double precision.

    Attributes:
        count: of vectors.
        total: their sum (width,).
        outer: sum of their outer products (width, width).
    """

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Those of vectors (n, width)."""
        vectors = vectors.double()
        return cls(len(vectors), vectors.sum(0), vectors.T @ vectors)

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both together."""
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        """The mean (width,)."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """The mean outer product of what is left without the mean (width, width)."""
        return self.outer / self.count - torch.outer(self.mean, self.mean)

    def about(self, point: Tensor) -> Tensor:
        """The mean outer product (width, width) of the way from a point (width,) to the vectors."""
        away = self.mean - point
        return self.covariance + torch.outer(away, away)


def principal(matrix: Tensor, rank: int) -> Tensor:
    """The eigenvectors (width, rank) of a symmetric matrix (width, width) that have the largest eigenvalues.

    Their signs, which nothing determines, are such that each one's largest entry is positive.

    Example:
        >>> principal(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), 1).tolist()
        [[0.0], [1.0]]
    """
    vectors = torch.linalg.eigh(matrix).eigenvectors[:, -rank:].flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def whitener(covariance: Tensor, ridge: float) -> Tensor:
    r"""The symmetric map :math:`(C + r\, \overline{\lambda}\, 1)^{-1/2}` (width, width) that makes a covariance white.

    Args:
        covariance: C (width, width).
        ridge: r, what is added to each direction's variance, as a share of their mean :math:`\overline{\lambda}`.

    Example:
        >>> whitener(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), 1 / 3)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag((values.clamp(min=0) + ridge * values.mean()).rsqrt()) @ vectors.T
