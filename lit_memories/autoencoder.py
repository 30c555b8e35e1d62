"""Between pictures and latents, as all families of models have it: `AutoencoderKL`, its scale and its shift."""

from typing import Any, cast

import torch
from torch import Generator, Tensor


def factor(vae: Any) -> int:
    """Pixels of a picture's side to one of its latents."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def check(vae: Any, name: str) -> None:
    """Refuse an autoencoder that scales each channel by itself; SDXL's, which overflows in half precision, is widened.

    Args:
        vae: the autoencoder.
        name: of its model, for the message.

    Raises:
        ValueError: if it has statistics of channels.
    """
    if vae.config.get("latents_mean"):
        raise ValueError(f"the VAE of {name} shifts its latents by channel (latents_mean), which is not supported")
    if vae.config.force_upcast and vae.dtype == torch.float16:
        vae.float()


def encode(vae: Any, images: Tensor, generator: Generator | None = None) -> Tensor:
    """Latents (n, c, h, w) of images (n, 3, h, w) in [0, 1]: the posterior's mean, or a sample given a generator."""
    posterior = vae.encode((images * 2 - 1).to(vae.dtype)).latent_dist
    latents = cast("Tensor", posterior.mode() if generator is None else posterior.sample(generator))
    return scaled(vae, latents)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images (n, 3, h, w), not clamped, of latents (n, c, h, w)."""
    return decode_unscaled(vae, unscaled(vae, latents))


def unscaled(vae: Any, latents: Tensor) -> Tensor:
    """Latents as the decoder takes them, of those that the network knows."""
    found, shift = latents / vae.config.scaling_factor, vae.config.get("shift_factor")
    return found + shift if shift else found


def scaled(vae: Any, latents: Tensor) -> Tensor:
    """Latents as the network knows them, of those that the decoder takes."""
    shift = vae.config.get("shift_factor")
    return (latents - shift if shift else latents) * vae.config.scaling_factor


def decode_unscaled(vae: Any, latents: Tensor) -> Tensor:
    """Images (n, 3, h, w), not clamped, of latents as the decoder takes them: what an optimiser can climb."""
    return cast("Tensor", vae.decode(latents.to(vae.dtype)).sample / 2 + 0.5)
