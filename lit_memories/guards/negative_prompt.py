"""Negative prompts: guidance away from the concept instead of away from the empty prompt."""

from lit_memories.guards.base import Guard, named


class NegativePrompt(Guard):
    r"""Put the concept in the place of the empty prompt, as everybody's pipelines offer it.

    .. math:: \hat\epsilon = \epsilon(x_t, s) + w\, [\epsilon(x_t, c) - \epsilon(x_t, s)]

    Classifier-free guidance (Ho & Salimans 2022) with the concept s where the empty prompt is; no evaluation more.

    Args:
        concept: s, in words.

    Raises:
        ValueError: if it is empty.
    """

    def __init__(self, concept: str) -> None:
        self.concept = named(concept)

    @property
    def beside(self) -> list[str]:
        """The concept."""
        return [self.concept]
