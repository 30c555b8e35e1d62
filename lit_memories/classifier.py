"""The judge of the pictogram world: which object, colour, background and style does a picture show?"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from lit_memories.concept import Concept
from lit_memories.data.pictograms import FACTORS, parse_caption
from lit_memories.judges.base import Judge, Verdict
from lit_memories.judges.measures import Features, Measure, PictureDistance, layered_distance
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.storage.configs import check_config, read_config
from lit_memories.storage.loading import check_finite, load_model
from lit_memories.storage.shipped import model_folder


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
    )


class PictogramClassifier(ModelMixin, ConfigMixin):
    """A small convolutional network with one linear head a factor.

    Args:
        widths: channels after each halving of the picture.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        channels = (3, *widths)
        self.features = nn.Sequential(*(_block(a, b) for a, b in zip(channels, widths, strict=False)))
        self.heads = nn.ModuleDict({factor: nn.Linear(widths[-1], len(values)) for factor, values in FACTORS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (n, classes) a factor for images (n, 3, 64, 64) in [0, 1]."""
        features = self.pooled(images)
        return {factor: head(features) for factor, head in self.heads.items()}

    def layers(self, images: Tensor) -> list[Tensor]:
        """What each halving leaves (n, channels, h, w) of images (n, 3, 64, 64) in [0, 1]."""
        found = [images * 2 - 1]
        for block in self.features:
            found.append(block(found[-1]))
        return found[1:]

    def pooled(self, images: Tensor) -> Tensor:
        """The features that its heads see (n, channels)."""
        return self.layers(images)[-1].mean((2, 3))

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, list[str]]:
        """The most likely value of each factor, an entry an image."""
        return likeliest(self(images))


def likeliest(logits: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The most likely value of each factor, an entry an image, of logits (n, classes) a factor."""
    return {factor: [FACTORS[factor][i] for i in logits[factor].argmax(1).tolist()] for factor in FACTORS}


def load_classifier(folder: Path) -> PictogramClassifier:
    """The classifier saved in `folder`, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if its weights are damaged, do not fit, leave parts at random, or are not finite.
    """
    if not (file := model_folder(folder) / "config.json").is_file():
        raise FileNotFoundError(f"no classifier in {folder}: expected config.json and safetensors weights")
    check_config(read_config(file), file, PictogramClassifier)
    model = load_model(PictogramClassifier, file.parent, kinds=("safetensors",), low_cpu_mem_usage=False)
    check_finite(model, f"classifier in {folder}")
    return model.requires_grad_(False).eval()


class PictogramJudge(Judge):
    """Says of pictures what they show, and whether it is what their prompts asked for.

    Args:
        classifier: folder of the trained classifier.
    """

    def __init__(self, classifier: Path) -> None:
        super().__init__()
        self.classifier = load_classifier(classifier)

    def check(self, concept: Concept) -> None:
        """Refuse a concept whose factors are none, or not the world's.

        Raises:
            ValueError: naming the ones that there are.
        """
        start = f"concept {concept.name!r}: "
        if not concept.factors:
            known = ", ".join(FACTORS)
            raise ValueError(f"{start}factors must say how PictogramJudge tells it, such as {{object: star}}: {known}")
        for factor, value in concept.factors.items():
            if factor not in FACTORS:
                raise ValueError(f"{start}no factor {factor!r} in factors: choose of {', '.join(FACTORS)}")
            if value not in FACTORS[factor]:
                raise ValueError(f"{start}no {factor} {value!r} in factors: choose one of {', '.join(FACTORS[factor])}")

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture.

        Args:
            image: (1, 3, 64, 64) in [0, 1].
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
        seen = likeliest(logits)
        shown = all(seen[factor][0] == value for factor, value in concept.factors.items())
        wanted = [(logits[factor][0], FACTORS[factor].index(value)) for factor, value in concept.factors.items()]
        probability = math.prod(float(values.softmax(0)[label]) for values, label in wanted)
        return {"shows_concept": float(shown), "probability": probability, "correct": _compare(seen, prompt)}

    def identity(self, concept: Concept) -> str:
        """The weights, and which factors are the concept."""
        return f"PictogramJudge {fingerprint(self)} factors={concept.factors}"


class _OfClassifier(Measure):
    """What the pictogram world's classifier sees.

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


class PictogramFeatures(_OfClassifier, Features):
    """The 128 features by which the classifier tells pictograms apart.

    Args:
        classifier: folder of the trained classifier.
    """

    name = "pictogram"

    def look(self, network: nn.Module, image: Tensor) -> Tensor:
        """Features (1, 128) of one picture."""
        return cast(PictogramClassifier, network).pooled(image)


class PictogramDistance(_OfClassifier, PictureDistance):
    """LPIPS's form on the classifier's layers, with weights of 1: nobody's judgements were learnt.

    Args:
        classifier: folder of the trained classifier.
    """

    def look(self, network: nn.Module, image: Tensor, other: Tensor) -> Tensor:
        """The distance of one pair of pictures."""
        classifier = cast(PictogramClassifier, network)
        return layered_distance(classifier.layers(image), classifier.layers(other))


def _compare(seen: Mapping[str, list[str]], prompt: str) -> dict[str, bool] | None:
    try:
        asked = parse_caption(prompt)
    except ValueError:
        return None
    return {factor: seen[factor][0] == getattr(asked, factor) for factor in FACTORS}
