"""The judge of the pictogram world: which object, colour, background and style does a picture show?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from lit_memories.data.pictograms import FACTORS, parse_caption


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
        logits = self(images)
        return {factor: [FACTORS[factor][i] for i in logits[factor].argmax(1).tolist()] for factor in FACTORS}


def load_classifier(folder: Path) -> PictogramClassifier:
    """The classifier saved in `folder`, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds none.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"no classifier in {folder}: expected config.json and safetensors weights")
    model = PictogramClassifier.from_pretrained(folder, low_cpu_mem_usage=False, use_safetensors=True)
    return model.requires_grad_(False).eval()


class PictogramJudge(nn.Module):
    """Says of pictures what they show, and whether it is what their prompts asked for.

    Args:
        classifier: folder of the trained classifier.
    """

    def __init__(self, classifier: Path) -> None:
        super().__init__()
        self.classifier = load_classifier(classifier)

    def __call__(self, images: Tensor, prompts: Sequence[str], concept: Mapping[str, str]) -> list[dict[str, Any]]:
        """Judge pictures.

        Args:
            images: (n, 3, 64, 64) in [0, 1].
            prompts: captions; one that is not of the world's grammar has no ``correct``.
            concept: factor values that make up the concept.

        Returns:
            For each picture ``shows_concept`` (0 or 1) and ``correct``, a verdict a factor.
        """
        # One at a time: a verdict does not depend on the pictures beside it.
        predicted = [self.classifier.predict(image[None]) for image in images]
        verdicts = []
        for seen, prompt in zip(predicted, prompts, strict=True):
            shown = all(seen[factor][0] == value for factor, value in concept.items())
            verdicts.append({"shows_concept": float(shown), "correct": _compare(seen, prompt)})
        return verdicts


def _compare(seen: Mapping[str, list[str]], prompt: str) -> dict[str, bool] | None:
    try:
        asked = parse_caption(prompt)
    except ValueError:
        return None
    return {factor: seen[factor][0] == getattr(asked, factor) for factor in FACTORS}
