"""Training of the judge of a world."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from lit_memories.worlds.base import World
from lit_memories.worlds.classifier import WorldClassifier
from lit_memories.worlds.pretraining import Pretraining


class Classifier(Pretraining):
    """`WorldClassifier` trained on all factors of a world, on pictures blurred and made noisy at random.

    Generated pictures pass a lossy autoencoder; a judge that has only seen sharp ones would be misled by its traces.

    Args:
        world: whose factors it tells.
        save_to: folder that receives the trained weights.
        max_noise: largest standard deviation of the added noise.
        widths: channels of the classifier after each halving.
        mirror: whether a picture may as well be seen in a mirror.
        **optimisation: see `Pretraining`.
    """

    def __init__(
        self,
        world: World,
        save_to: Path,
        max_noise: float = 0.1,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        mirror: bool = False,
        **optimisation: Any,
    ) -> None:
        super().__init__(save_to, **optimisation)
        self.max_noise, self.mirror = max_noise, mirror
        self.classifier = WorldClassifier.of(world.grammar, widths)

    def disturb(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) with half of them blurred, then noise of a random strength on each."""
        if self.mirror:
            turned = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(turned, images.flip(-1), images)
        size = images.shape[-2:]
        blurred = interpolate(interpolate(images, scale_factor=0.5, mode="area"), size, mode="bilinear")
        coin = torch.rand(len(images), 1, 1, 1, device=images.device)
        images = torch.where(coin < 0.5, torch.lerp(images, blurred, coin * 2), images)
        return images + torch.rand_like(coin) * self.max_noise * torch.randn_like(images)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Sum of the cross entropies of all factors."""
        logits = self.classifier(self.disturb(batch["images"]))
        loss = torch.stack([cross_entropy(logits[factor], batch[factor]) for factor in logits]).sum()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Accuracy of each factor on clean pictures."""
        logits = self.classifier(batch["images"])
        for factor in logits:
            right = (logits[factor].argmax(1) == batch[factor]).float().mean()
            self.log(f"val/{factor}", right, prog_bar=True, batch_size=len(batch["images"]), sync_dist=True)

    def save(self, folder: Path) -> None:
        """Write the classifier as a diffusers model folder."""
        self.classifier.save_pretrained(folder)
