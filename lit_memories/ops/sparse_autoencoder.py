"""A k-sparse autoencoder: vectors as a few of many features (Makhzani & Frey 2014, Gao et al. 2024)."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

PARTS = ("encoder", "decoder", "centre", "bias")
"""Names of its tensors."""


class SparseAutoencoder(nn.Module):
    r"""Features :math:`z = \mathrm{relu}(\mathrm{top}_k(E (x - m) + b))` of vectors x, and :math:`\hat x = m + D z`.

    Args:
        tensors: E (features, width), D (width, features), m (width,) and b (features,), by `PARTS`.
        k: features that a vector may have at once.

    Raises:
        ValueError: if one is missing, they do not fit one another, hold NaN or infinity, or k is out of range.
    """

    def __init__(self, tensors: Mapping[str, Tensor], k: int) -> None:
        super().__init__()
        if missing := [part for part in PARTS if part not in tensors]:
            raise ValueError(f"{missing[0]} is missing: a sparse autoencoder has {', '.join(PARTS)}")
        shapes = [tuple(tensors[part].shape) for part in PARTS]
        features, width = shapes[0] if len(shapes[0]) == 2 else (0, 0)
        if not features or shapes != [(features, width), (width, features), (width,), (features,)]:
            raise ValueError(f"tensors {dict(zip(PARTS, shapes, strict=True))} are not one sparse autoencoder's")
        if not all(tensors[part].isfinite().all() for part in PARTS):
            raise ValueError("a sparse autoencoder holds NaN or infinity: its training diverged, or it is damaged")
        if not 1 <= k <= features:
            raise ValueError(f"k ({k}) must be at least 1 and at most the number of features ({features})")
        self.k = k
        self.encoder, self.decoder, self.centre, self.bias = (nn.Parameter(tensors[part].float()) for part in PARTS)

    @classmethod
    def fresh(cls, vectors: Tensor, features: int, k: int, generator: Generator) -> Self:
        """One to be trained on vectors (n, width): E drawn, its rows of length 1, D its transpose, m their mean."""
        drawn = functional.normalize(torch.randn(features, vectors.shape[1], generator=generator), dim=1)
        centre = vectors.mean(0).cpu()
        made = (drawn, drawn.T.contiguous(), centre, torch.zeros(features))
        return cls(dict(zip(PARTS, made, strict=True)), k)

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self.encoder.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by `PARTS`."""
        return {part: getattr(self, part).detach() for part in PARTS}

    def activations(self, vectors: Tensor) -> Tensor:
        """How strongly every feature is there in vectors (..., width): (..., features), none below 0."""
        return functional.relu(functional.linear(vectors - self.centre, self.encoder, self.bias))

    def encode(self, vectors: Tensor) -> Tensor:
        """The same, of the k strongest features alone."""
        return strongest(self.activations(vectors), self.k)

    def direction(self, features: Tensor) -> Tensor:
        """What features (..., features) add up to (..., width), without the centre."""
        return functional.linear(features, self.decoder)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (..., width) as their k strongest features have them."""
        return self.centre + self.direction(self.encode(vectors))


def strongest(features: Tensor, k: int) -> Tensor:
    """Features (..., features) of which only the k largest in each row are left, the others 0."""
    found = features.topk(k, dim=-1)
    return torch.zeros_like(features).scatter(-1, found.indices, found.values)


def unexplained(vectors: Tensor, rebuilt: Tensor) -> Tensor:
    """The share of vectors' (n, width) variance that is not in what was made of them: 0 at best, 1 for their mean.

    Example:
        >>> unexplained(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [3.0]]))
        tensor(0.5000)
    """
    return (vectors - rebuilt).square().sum() / (vectors - vectors.mean(0)).square().sum()
