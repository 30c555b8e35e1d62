"""Under what else images are inverted: other prompts, other guidance, captions of other images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_memories.concept import Concept
from lit_memories.data.samples import ImageRows, Sample
from lit_memories.numbers import STRONGEST

PROMPTS = ("own", "empty", "anchor", "paraphrase", "phrase", "shuffled")
"""Prompts a conditioning can have."""


@dataclass(frozen=True)
class Conditioning:
    """Another prompt, or other guidance, to invert images under."""

    label: str
    prompt: str
    guidance_scale: float | None

    @classmethod
    def parse(cls, text: str) -> "Conditioning":
        """Read ``PROMPT`` or ``PROMPT@GUIDANCE``.

        Raises:
            ValueError: if it is neither, or is what every audit does anyway.
        """
        prompt, _, guidance = text.partition("@")
        try:
            scale = float(guidance) if guidance else None
        except ValueError:
            scale = math.nan
        if prompt not in PROMPTS or text == "own" or (scale is not None and not 0 <= scale <= STRONGEST):
            raise ValueError(
                f"unknown conditioning {text!r}: choose {', '.join(PROMPTS)}, or one with @GUIDANCE, 0 to {STRONGEST}"
            )
        return cls(text, prompt, scale)

    def all(self, images: ImageRows, concept: Concept) -> list[Sample]:
        """All images of a set under this, less those for which it changes nothing.

        Raises:
            ValueError: if captions cannot be shuffled as all are the same.
        """
        if self.prompt == "shuffled":
            return [self._under(sample, other.prompt) for sample, other in shuffled(images.samples)]
        pairs = [(sample, self._prompt(sample, concept)) for sample in images.samples]
        return [self._under(s, prompt) for s, prompt in pairs if prompt != s.prompt or self.guidance_scale is not None]

    def _under(self, sample: Sample, prompt: str) -> Sample:
        return replace(sample, prompt=prompt, conditioning=self.label, guidance_scale=self.guidance_scale)

    def _prompt(self, sample: Sample, concept: Concept) -> str:
        if self.prompt == "empty":
            return ""
        if sample.set == "concept" and self.prompt == "phrase":
            return concept.phrase
        if sample.set == "concept" and self.prompt == "anchor":
            return concept.anchored(sample.prompt)
        if sample.set == "concept" and self.prompt == "paraphrase":
            return concept.paraphrased(sample.prompt, sample.index)
        return sample.prompt


def shuffled(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Each image of a set with the one whose caption it gets: the next with another caption, in a cycle by content.

    Contents are hashes, so the cycle is a shuffle. It does not depend on the order of the rows, and an image that is
    added changes the caption of no more than one other where captions differ.

    Raises:
        ValueError: if all captions are the same.
    """
    if samples and len({s.prompt for s in samples}) == 1:
        raise ValueError(f"the {samples[0].set} set cannot be shuffled: all its captions are {samples[0].prompt!r}")
    cycle, pairs = sorted(samples, key=lambda s: s.content), []
    for number, sample in enumerate(cycle, 1):
        others = cycle[number:] + cycle[:number]
        pairs.append((sample, next(other for other in others if other.prompt != sample.prompt)))
    return pairs
