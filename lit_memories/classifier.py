"""The judge of the pictogram world: which object, colour, background and style does a picture show?"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from lit_memories.concept import Concept
from lit_memories.data.pictograms import FACTORS, parse_caption
from lit_memories.judges.base import Judge, Verdict
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
        features = self.features(images * 2 - 1).mean((2, 3))
        return {factor: head(features) for factor, head in self.heads.items()}

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


def _compare(seen: Mapping[str, list[str]], prompt: str) -> dict[str, bool] | None:
    try:
        asked = parse_caption(prompt)
    except ValueError:
        return None
    return {factor: seen[factor][0] == getattr(asked, factor) for factor in FACTORS}
