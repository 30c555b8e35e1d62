"""The networks that predict, one call for all families: U-Nets, and the transformers of Stable Diffusion 3 and FLUX.

Nothing above knows which it is. What they differ in is how latents are cut into tokens, how the level is told, and
whether guidance is something that the network was taught to take as an input.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from lit_memories.ops.joint_attention import RepeatedRow

FLUX_SIZE = 128
"""Height and width of FLUX's latents at its native 1024 pixels, which its configuration does not say."""


@dataclass(frozen=True)
class Denoiser(ABC):
    """How a family's network is asked. It holds no weights: the network is given with every call.

    Args:
        latent_shape: shape (c, h, w) of one latent at the model's native size.
        patch: latents' height and width must be multiples of it.
        takes_guidance: whether guidance is an input (guidance distillation), so that it costs no second evaluation.
        guidable: whether predictions can be guided at all, in that way or by the empty prompt.
    """

    component: ClassVar[str] = "transformer"
    """Name of the network in its pipeline, with which its parameters' names begin."""
    even: ClassVar[bool] = False
    """Whether its pipeline samples a flow at levels from 1 to 1 over the number of steps; see `ops.flow`."""
    latent_shape: tuple[int, int, int]
    patch: int = 1
    takes_guidance: bool = False
    guidable: bool = True

    def image_size(self, factor: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
        """Height and width of pictures in pixels.

        Args:
            factor: pixels of a picture's side to one of its latents.
            size: that is asked for; the native one if None.

        Raises:
            ValueError: if latents of this size cannot be cut into patches.
        """
        native = self.latent_shape[1] * factor, self.latent_shape[2] * factor
        height, width = native if size is None else (size, size) if isinstance(size, int) else size
        if min(height, width) < 1 or height % (unit := factor * self.patch) or width % unit:
            name = "image_size" if size is not None else "the model's native size (sample_size)"
            raise ValueError(f"{name} must be multiples of {factor * self.patch} pixels, got {height} x {width}")
        return height, width

    @abstractmethod
    def __call__(
        self, network: Any, latents: Tensor, timesteps: Tensor, text: Tensor, guidance: float, added: dict[str, Any]
    ) -> Tensor:
        """What the network predicts.

        Args:
            network: its weights.
            latents: in the network's own scale (n, c, h, w).
            timesteps: (n,).
            text: rows of the prompts (n, tokens, width).
            guidance: told to a network that takes it.
            added: what else the family's conditioning gives; see `lit_memories.conditioning`.
        """


class UNet(Denoiser):
    """`UNet2DConditionModel`, of Stable Diffusion 1, 2 and XL."""

    component = "unet"

    def __call__(
        self, network: Any, latents: Tensor, timesteps: Tensor, text: Tensor, guidance: float, added: dict[str, Any]
    ) -> Tensor:
        """See `Denoiser`."""
        return cast("Tensor", network(latents, timesteps, text, **added).sample)


class SD3Transformer(Denoiser):
    """`SD3Transformer2DModel`, of Stable Diffusion 3 and 3.5."""

    def __call__(
        self, network: Any, latents: Tensor, timesteps: Tensor, text: Tensor, guidance: float, added: dict[str, Any]
    ) -> Tensor:
        """See `Denoiser`."""
        return cast("Tensor", network(latents, text, timestep=timesteps, **added).sample)


class FluxTransformer(Denoiser):
    """`FluxTransformer2DModel`: squares of two by two latents are a token, and tokens are told where they are."""

    even = True

    def __call__(
        self, network: Any, latents: Tensor, timesteps: Tensor, text: Tensor, guidance: float, added: dict[str, Any]
    ) -> Tensor:
        """See `Denoiser`."""
        height, width = latents.shape[2:]
        found = network(
            hidden_states=pack(latents),
            encoder_hidden_states=text,
            timestep=timesteps.to(latents.dtype) / 1000,  # the network takes it times 1000
            guidance=torch.full((len(latents),), guidance, device=latents.device) if self.takes_guidance else None,
            txt_ids=torch.zeros(text.shape[1], 3, device=latents.device, dtype=latents.dtype),
            img_ids=positions(height // 2, width // 2, latents),
            **added,
        ).sample
        return unpack(found, height, width)


def pack(latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) as tokens (n, h w / 4, 4 c), one a square of two by two.

    Example:
        >>> pack(torch.arange(4.0).view(1, 1, 2, 2))
        tensor([[[0., 1., 2., 3.]]])
    """
    return latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Latents (n, c, height, width) of what `pack` makes of them."""
    squares = tokens.unflatten(1, (height // 2, width // 2)).unflatten(3, (-1, 2, 2))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Coordinates (rows * columns, 3) of tokens: 0, row and column."""
    along = torch.cartesian_prod(torch.arange(rows, device=like.device), torch.arange(columns, device=like.device))
    return torch.cat([torch.zeros_like(along[:, :1]), along], 1).to(like.dtype)


def denoiser_of(pipeline: Any) -> tuple[Denoiser, nn.Module]:
    """How a pipeline's network is asked, and the network."""
    if hasattr(pipeline, "unet"):
        size = pipeline.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return UNet((pipeline.unet.config.in_channels, height, width)), pipeline.unet
    network = pipeline.transformer
    if hasattr(network.config, "guidance_embeds"):
        shape = (network.config.in_channels // 4, FLUX_SIZE, FLUX_SIZE)
        taught = bool(network.config.guidance_embeds)  # FLUX-dev by its input, FLUX-schnell not at all
        return FluxTransformer(shape, 2, takes_guidance=taught, guidable=taught), network
    if pipeline.text_encoder_3 is None:
        network.set_attn_processor(RepeatedRow())
    size = network.config.sample_size
    return SD3Transformer((network.config.in_channels, size, size), network.config.patch_size), network
