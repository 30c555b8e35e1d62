"""Training of the judge of a world."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, pad

from lit_memories.worlds.base import World
from lit_memories.worlds.classifier import WorldClassifier
from lit_memories.worlds.pretraining import Pretraining


class Classifier(Pretraining):
    """`WorldClassifier` trained on all factors of a world, on pictures that were disturbed at random.

    Generated pictures pass a lossy autoencoder; a judge that has only seen sharp ones would be misled by its traces.

    Args:
        world: whose factors it tells.
        save_to: folder that receives the trained weights.
        max_noise: largest standard deviation of the added noise.
        widths: channels of the classifier after each halving.
        stem: channels before the first halving; 0: none.
        blurred: share of pictures that are blurred.
        mirror: whether a picture may as well be seen in a mirror.
        shift: pixels by which a picture may be moved up or down and sideways.
        **optimisation: see `Pretraining`.
    """

    def __init__(
        self,
        world: World,
        save_to: Path,
        max_noise: float = 0.1,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        stem: int = 0,
        blurred: float = 0.5,
        mirror: bool = False,
        shift: int = 0,
        **optimisation: Any,
    ) -> None:
        super().__init__(save_to, **optimisation)
        self.max_noise, self.blurred, self.mirror, self.shift = max_noise, blurred, mirror, shift
        self.classifier = WorldClassifier.of(world.grammar, widths, stem)

    def disturb(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w), turned and moved if they may be, some of them blurred, then noise on each."""
        if self.mirror:
            turned = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(turned, images.flip(-1), images)
        if self.shift:
            padded = pad(images, (self.shift,) * 4, mode="replicate")
            moves = torch.randint(2 * self.shift + 1, (len(images), 2)).tolist()
            height, width = images.shape[-2:]
            moved = [one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, moves, strict=True)]
            images = torch.stack(moved)
        size = images.shape[-2:]
        blurred = interpolate(interpolate(images, scale_factor=0.5, mode="area"), size, mode="bilinear")
        coin = torch.rand(len(images), 1, 1, 1, device=images.device)
        strength = coin / self.blurred if self.blurred else coin
        images = torch.where(coin < self.blurred, torch.lerp(images, blurred, strength), images)
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
