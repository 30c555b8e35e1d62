"""What is read off pictures by networks of their own: features, fit to a prompt, distance to another picture.

Networks are loaded when they are first asked, so that an audit can name those that are out of reach and go on without.
Pictures are looked at one at a time: no number depends on those beside it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn


class Measure(ABC):
    """A network that looks at pictures."""

    @cached_property
    def network(self) -> nn.Module:
        """The network, loaded when it is first asked for."""
        return self.load().requires_grad_(False).eval()

    def on(self, device: torch.device) -> nn.Module:
        """The network, where pictures are."""
        with torch.inference_mode(False):
            return self.network.to(device)

    @property
    def remote(self) -> bool:
        """Whether it comes from elsewhere, so that it may be out of reach; what is named on this machine has to be."""
        return True

    @abstractmethod
    def load(self) -> nn.Module:
        """The network.

        Raises:
            OSError: if it cannot be had.
            ImportError: if a package that makes it is not installed.
        """

    @abstractmethod
    def identity(self) -> str:
        """All that its numbers depend on besides the pictures."""


class Features(Measure):
    """Pictures as vectors, by which sets of them are compared."""

    name: ClassVar[str]
    """What records and reports call them."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (n, d) of pictures (n, 3, h, w) in [0, 1]."""
        return torch.cat([self.look(self.on(images.device), image).float() for image in images.split(1)])

    @abstractmethod
    def look(self, network: nn.Module, image: Tensor) -> Tensor:
        """Features (1, d) of one picture (1, 3, h, w)."""


class TextScore(Measure):
    """How well pictures fit their prompts."""

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """A score a picture (n,), of pictures (n, 3, h, w) in [0, 1]."""
        self.on(images.device)
        pairs = zip(images.split(1), prompts, strict=True)
        return torch.stack([self.look(image, prompt) for image, prompt in pairs])

    @abstractmethod
    def look(self, image: Tensor, prompt: str) -> Tensor:
        """The score () of one picture (1, 3, h, w)."""


class PictureDistance(Measure):
    """How far pictures are from others, one by one, as people see them."""

    @torch.no_grad()
    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        """A distance a pair (n,), of pictures (n, 3, h, w) in [0, 1]; 0 for equal ones."""
        network = self.on(images.device)
        pairs = zip(images.split(1), others.split(1), strict=True)
        return torch.stack([self.look(network, image, other) for image, other in pairs])

    @abstractmethod
    def look(self, network: nn.Module, image: Tensor, other: Tensor) -> Tensor:
        """The distance () of one pair of pictures (1, 3, h, w)."""


def layered_distance(layers: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    r"""LPIPS's form with weights of 1.

    .. math:: \sum_l \operatorname{mean}_{h, w} \lVert \hat f_l - \hat g_l \rVert^2

    of a network's layers, whose features are of unit norm at each place.

    Args:
        layers: of a picture, each (1, c, h, w).
        others: of another.
    """
    total = torch.zeros((), device=layers[0].device)
    for layer, other in zip(layers, others, strict=True):
        a, b = (part / (part.norm(dim=1, keepdim=True) + 1e-10) for part in (layer, other))
        total = total + (a - b).square().sum(1).mean()
    return total
