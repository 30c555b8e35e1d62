"""Stable Diffusion 3.5 medium's and FLUX.1-dev's transformers in their real shapes, without weights."""

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import nn


def sd35_medium() -> nn.ModuleDict:
    """As its transformer/config.json says."""
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "transformer": SD3Transformer2DModel(
                    sample_size=128,
                    patch_size=2,
                    in_channels=16,
                    num_layers=24,
                    attention_head_dim=64,
                    num_attention_heads=24,
                    joint_attention_dim=4096,
                    caption_projection_dim=1536,
                    pooled_projection_dim=2048,
                    out_channels=16,
                    pos_embed_max_size=384,
                    dual_attention_layers=tuple(range(13)),
                    qk_norm="rms_norm",
                )
            }
        )


def flux_dev() -> nn.ModuleDict:
    """As its transformer/config.json says."""
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "transformer": FluxTransformer2DModel(
                    patch_size=1,
                    in_channels=64,
                    num_layers=19,
                    num_single_layers=38,
                    attention_head_dim=128,
                    num_attention_heads=24,
                    joint_attention_dim=4096,
                    pooled_projection_dim=768,
                    guidance_embeds=True,
                )
            }
        )


REAL = {"sd35": sd35_medium, "flux": flux_dev}
