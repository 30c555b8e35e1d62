"""Pretraining of a world's autoencoder: images to latents and back."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from lit_memories.worlds.pretraining import Pretraining


class Autoencoder(Pretraining):
    """`AutoencoderKL` trained with mean squared error and a slight KL term.

    Args:
        save_to: folder that receives the trained weights.
        block_out_channels: channels at each resolution; each level after the first halves it.
        latent_channels: channels of the latent.
        sample_size: of a side of the pictures, in pixels.
        norm_num_groups: groups of each normalisation; one channel a group would wash the flat colours out.
        kl_weight: weight of the KL term per latent element.
        **optimisation: see `Pretraining`.
    """

    def __init__(
        self,
        save_to: Path,
        block_out_channels: tuple[int, ...] = (32, 64, 64),
        latent_channels: int = 4,
        sample_size: int = 64,
        norm_num_groups: int = 4,
        kl_weight: float = 1e-4,
        **optimisation: Any,
    ) -> None:
        super().__init__(save_to, **optimisation)
        levels = len(block_out_channels)
        self.kl_weight = kl_weight
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=block_out_channels,
            latent_channels=latent_channels,
            layers_per_block=1,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            mid_block_add_attention=False,
        )
        self._moments: list[Tensor] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Reconstruction error of a posterior sample, plus the KL term."""
        pixels = batch["images"] * 2 - 1
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.sample()
        self._last_moment = posterior.mode().detach().square().mean()
        error = (self.vae.decode(latents).sample - pixels).square().mean()
        kl = posterior.kl().mean() / latents[0].numel()
        self.log_dict({"train/mse": error, "train/kl": kl}, prog_bar=True)
        return error + self.kl_weight * kl

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's latents."""
        self._moments.clear()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """PSNR of the round trip through the posterior mean, an image at a time."""
        images = batch["images"]
        latents = self.vae.encode(images * 2 - 1).latent_dist.mode()
        restored = (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        psnr = peak_signal_noise_ratio(restored, images, data_range=1.0, dim=(1, 2, 3), reduction="none")
        self.log("val/psnr", psnr.mean(), prog_bar=True, batch_size=len(images), sync_dist=True)
        self._moments.append(latents.square().mean())
        if batch_idx == 0:
            self.log_grid("autoencoder", torch.cat([images[:8], restored[:8]]))

    def save(self, folder: Path) -> None:
        """Write the autoencoder with the scaling factor that gives its latents unit scale."""
        scale = torch.stack(self._moments or [self._last_moment]).mean().rsqrt()
        self.vae.register_to_config(scaling_factor=round(float(scale), 4))
        self.vae.save_pretrained(folder)
