"""What an audit asks of a detector."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_memories.concept import Concept

Verdict = dict[str, Any]
"""Fields of a `Record`: ``shows_concept`` (0 or 1), and ``probability`` and ``correct`` from judges that have them."""


class Judge(nn.Module, ABC):
    """Says of pictures whether they show the concept.

    A judge is loaded once, when it is built, and is a part of the audit: it goes to the audit's device.
    """

    fallible: ClassVar[bool] = False
    """Whether an audit with this judge has to measure how often it is wrong, with the probe ``judging``."""

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: Sequence[str], concept: Concept) -> list[Verdict]:
        """Judge pictures one at a time, so that a verdict does not depend on the pictures beside it.

        Args:
            images: (n, 3, h, w) in [0, 1], of any size.
            prompts: what was asked for.
            concept: what to look for.

        Returns:
            A verdict a picture. One with a number that is not finite says nothing: its ``shows_concept`` is NaN, and
            the audit flags the sample.
        """
        pairs = zip(images.split(1), prompts, strict=True)
        return [sound(self.look(image, prompt, concept)) for image, prompt in pairs]

    def check(self, concept: Concept) -> None:
        """Refuse a concept that this judge cannot tell, before any picture is looked at; any is told if not overridden.

        Raises:
            ValueError: naming what its file lacks.
        """

    @abstractmethod
    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture (1, 3, h, w)."""

    @abstractmethod
    def identity(self, concept: Concept) -> str:
        """All that verdicts depend on besides picture and prompt; part of the audit's settings."""


def sound(verdict: Verdict) -> Verdict:
    """The verdict, which is NaN where any number of it is."""
    lost = any(isinstance(value, float) and not math.isfinite(value) for value in verdict.values())
    return {**verdict, "shows_concept": math.nan} if lost else verdict
