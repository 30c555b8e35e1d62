"""The judge of a world: which object, colour or kind does a picture show, and is it what was asked for?"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lit_memories.concept import Concept
from lit_memories.judges.base import Judge, Verdict
from lit_memories.judges.measures import Features, Measure, PictureDistance, layered_distance
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.worlds.base import check_factors
from lit_memories.worlds.classifier import WorldClassifier, load_classifier
from lit_memories.worlds.pictograms import GRAMMAR


class WorldJudge(Judge):
    """Says of pictures of a world what they show, and whether it is what their prompts asked for.

    Args:
        classifier: folder of the world's trained classifier.
    """

    def __init__(self, classifier: Path) -> None:
        super().__init__()
        self.classifier = load_classifier(classifier)

    def check(self, concept: Concept) -> None:
        """Refuse a concept whose factors are none, or not the world's.

        Raises:
            ValueError: naming the ones that there are.
        """
        start, factors = f"concept {concept.name!r}", self.classifier.grammar.factors
        if not concept.factors:
            name, values = next(iter(factors.items()))
            example, known = f"{{{name}: {values[-1]}}}", ", ".join(factors)
            raise ValueError(f"{start}: factors must say how WorldJudge tells it, such as {example}: {known}")
        check_factors(concept.factors, factors, start)

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture.

        Args:
            image: (1, 3, size, size) in [0, 1].
            prompt: a caption; one that is not of the world's grammar has no ``correct``.
            concept: its ``factors`` are what must be seen.

        Returns:
            ``shows_concept`` (0 or 1; NaN if the classifier's logits are not finite), ``probability`` (of all the
            concept's factors together, which the classifier sees independently) and ``correct``, a verdict a factor.
        """
        found = self.classifier(image)
        on_host = torch.cat(list(found.values()), 1).cpu()  # all that is read of a picture leaves its device at once
        logits = dict(zip(found, on_host.split([values.shape[1] for values in found.values()], 1), strict=True))
        if not bool(on_host.isfinite().all()):
            return {"shows_concept": math.nan}  # the largest of such is the first, whatever the picture
        seen, factors = self.classifier.likeliest(logits), self.classifier.grammar.factors
        shown = all(seen[factor][0] == value for factor, value in concept.factors.items())
        wanted = [(logits[factor][0], factors[factor].index(value)) for factor, value in concept.factors.items()]
        probability = math.prod(float(values.softmax(0)[label]) for values, label in wanted)
        return {"shows_concept": float(shown), "probability": probability, "correct": self._compare(seen, prompt)}

    def identity(self, concept: Concept) -> str:
        """The weights, and which factors are the concept."""
        pictograms = self.classifier.grammar.caption == GRAMMAR.caption  # audits from before other worlds have its name
        return f"{'PictogramJudge' if pictograms else 'WorldJudge'} {fingerprint(self)} factors={concept.factors}"

    def _compare(self, seen: Mapping[str, list[str]], prompt: str) -> dict[str, bool] | None:
        try:
            asked = self.classifier.grammar.parse(prompt)
        except ValueError:
            return None
        return {factor: seen[factor][0] == value for factor, value in asked.items()}


class _OfClassifier(Measure):
    """What a world's classifier sees.

    Args:
        classifier: folder of the trained classifier.
    """

    def __init__(self, classifier: Path) -> None:
        self.classifier = classifier

    @property
    def remote(self) -> bool:
        """It is on this machine."""
        return False

    def load(self) -> nn.Module:
        """The classifier."""
        return load_classifier(self.classifier)

    def identity(self) -> str:
        """The weights."""
        return f"{type(self).__name__} {fingerprint(self.network)}"


class WorldFeatures(_OfClassifier, Features):
    """The features by which a world's classifier tells its pictures apart.

    Args:
        classifier: folder of the trained classifier.
    """

    name = "classifier"

    def look(self, network: nn.Module, image: Tensor) -> Tensor:
        """Features (1, d) of one picture."""
        return cast(WorldClassifier, network).pooled(image)


class WorldDistance(_OfClassifier, PictureDistance):
    """LPIPS's form on the classifier's layers, with weights of 1: nobody's judgements were learnt.

    Args:
        classifier: folder of the trained classifier.
    """

    def look(self, network: nn.Module, image: Tensor, other: Tensor) -> Tensor:
        """The distance of one pair of pictures."""
        classifier = cast(WorldClassifier, network)
        return layered_distance(classifier.layers(image), classifier.layers(other))
