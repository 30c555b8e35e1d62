"""What stands beside a network and acts on what its layers give, without changing a weight."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor, nn


class Attachment(nn.Module, ABC):
    """Something hooked onto layers of a network: its weights and their names stay, and switched off it is the original.

    Attributes:
        strength: how strongly it acts: a number, or one a sample (n,); 0 as a number is off, to the bit.
    """

    parts: ClassVar[tuple[str, ...]]
    """What the names of its tensors end with, after a layer's own name and a dot."""
    last: ClassVar[tuple[str, ...]]
    """Those of them without which it changes nothing."""
    remedy: ClassVar[str]
    """What to do where a model with it cannot be taken."""

    def __init__(self) -> None:
        super().__init__()
        self.strength: Tensor | float = 1.0

    @abstractmethod
    def factors(self) -> dict[str, nn.Parameter]:
        """Its tensors under their names: that of a layer, and what they are to it."""

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the context the network is the original one, to the bit."""
        before, self.strength = self.strength, 0.0
        try:
            yield
        finally:
            self.strength = before

    @property
    def silent(self) -> bool:
        """Whether it is switched off."""
        return isinstance(self.strength, float) and self.strength == 0

    def scale(self, output: Tensor) -> Tensor | float:
        """The strength, in a shape that multiplies a layer's output (n, …)."""
        if isinstance(self.strength, float):
            return self.strength
        return self.strength.to(output).view(-1, *[1] * (output.ndim - 1))
