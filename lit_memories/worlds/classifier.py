"""The network that tells what a picture of a world shows: a value of each factor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from lit_memories.storage.configs import check_config, read_config
from lit_memories.storage.loading import check_finite, load_model
from lit_memories.storage.shipped import model_folder
from lit_memories.worlds.base import Grammar


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.GELU(),
    )


class WorldClassifier(ModelMixin, ConfigMixin):
    """A small convolutional network with one linear head a factor of its world.

    Args:
        factors: what pictures differ in, each with its values; pairs, as the order of a mapping is lost in its file.
        caption: how captions say it, with factors in braces.
        widths: channels after each halving of the picture.

    Raises:
        ValueError: if factors and caption make no `Grammar`.
    """

    @register_to_config
    def __init__(
        self,
        factors: list[tuple[str, list[str]]],
        caption: str,
        widths: tuple[int, ...] = (32, 64, 96, 128),
    ) -> None:
        super().__init__()
        channels = (3, *widths)
        self.features = nn.Sequential(*(_block(a, b) for a, b in zip(channels, widths, strict=False)))
        self.heads = nn.ModuleDict({factor: nn.Linear(widths[-1], len(values)) for factor, values in factors})
        self.grammar = Grammar({factor: tuple(values) for factor, values in factors}, caption)

    @classmethod
    def of(cls, grammar: Grammar, widths: tuple[int, ...] = (32, 64, 96, 128)) -> Self:
        """A network with fresh weights for a world."""
        return cls([(name, list(values)) for name, values in grammar.factors.items()], grammar.caption, widths)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (n, classes) a factor for images (n, 3, size, size) in [0, 1]."""
        features = self.pooled(images)
        return {factor: head(features) for factor, head in self.heads.items()}

    def layers(self, images: Tensor) -> list[Tensor]:
        """What each halving leaves (n, channels, h, w) of images (n, 3, size, size) in [0, 1]."""
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
        return self.likeliest(self(images))

    def likeliest(self, logits: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """The most likely value of each factor, an entry an image, of logits (n, classes) a factor."""
        factors = self.grammar.factors
        return {factor: [factors[factor][i] for i in logits[factor].argmax(1).tolist()] for factor in factors}


def load_classifier(folder: Path) -> WorldClassifier:
    """The classifier saved in `folder`, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if its weights are damaged, do not fit, leave parts at random, or are not finite.
    """
    if not (file := model_folder(folder) / "config.json").is_file():
        raise FileNotFoundError(f"no classifier in {folder}: expected config.json and safetensors weights")
    check_config(read_config(file), file, WorldClassifier)
    model = load_model(WorldClassifier, file.parent, kinds=("safetensors",), low_cpu_mem_usage=False)
    check_finite(model, f"classifier in {folder}")
    return model.requires_grad_(False).eval()
