"""Ways to compute the same in less time or memory, all off by default."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

RECOMPILATIONS = 64
"""Shapes and modes a block may be compiled for: resolutions, times rows of a call, times with and without gradients."""

ALIKE = {"vae_slicing", "text_cache"}
"""Options with which results are the same to the bit."""


@dataclass(frozen=True)
class Speed:
    """What to do with a model's networks once they are loaded.

    Attention needs no option: diffusers computes it by PyTorch's fused ``scaled_dot_product_attention`` where it can.

    Args:
        compile: backend of `torch.compile` for the U-Net's repeated blocks (its transformer blocks, as diffusers has
            it), ``inductor`` for instance; None does not compile. The first calls take minutes.
        channels_last: keep convolutions' weights with channels last, which tensor cores like.
        vae_slicing: have the autoencoder take one image at a time. Audits do so anyway.
        vae_tiling: have it take images larger than its own size in tiles, which are blended where they meet: pictures
            then differ, and with them latents.
        offload_text: keep text encoders in the host's memory, where prompts are then embedded, so that the accelerator
            holds none beside the network (T5 takes 9.5 GB). Embeddings differ in their last bits from those of an
            accelerator. Attacks on a text encoder take it back.
        text_cache: folder in which audits keep prompts' embeddings, named by all that they depend on, so that each is
            computed once, whatever audit asks; None keeps them for the run.

    Raises:
        ValueError: if there is no such backend.
    """

    compile: str | None = None
    channels_last: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload_text: bool = False
    text_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.compile is not None and self.compile not in torch.compiler.list_backends(exclude_tags=()):
            usual = ", ".join(torch.compiler.list_backends())
            raise ValueError(f"torch.compile has no backend {self.compile!r}: choose one of {usual}")

    def apply(self, unet: Any, vae: Any) -> None:
        """Change a U-Net and an autoencoder in place; weights, their names and fingerprints stay."""
        if self.channels_last:
            unet.to(memory_format=torch.channels_last)
            vae.to(memory_format=torch.channels_last)
        if self.vae_slicing:
            vae.enable_slicing()
        if self.vae_tiling:
            vae.enable_tiling()
        if self.compile is not None:
            # A kernel for each shape, and never a fall back to none: which kernel a sample meets, and so its last bits,
            # must not depend on what came before it.
            config: Any = torch._dynamo.config
            config.recompile_limit = max(config.recompile_limit, RECOMPILATIONS)
            config.skip_nnmodule_hook_guards = False  # erasers hook adapters and recordings onto layers that ran before
            unet.compile_repeated_blocks(backend=self.compile, dynamic=False, fullgraph=True)

    def settings(self) -> dict[str, Any]:
        """The options in use on which results depend, if only in their last bits."""
        return {name: value for name, value in asdict(self).items() if value and name not in ALIKE}
