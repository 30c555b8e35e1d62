"""Stable Diffusion 1.4's networks without weights, and a network of its kind that is small enough to compute with."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel


@pytest.fixture(scope="session")
def sd_unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            layers_per_block=2,
            attention_head_dim=8,
        )


@pytest.fixture(scope="session")
def sd_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    with torch.device("meta"):
        return CLIPTextModel(config)


@pytest.fixture(scope="session")
def sd(sd_unet: UNet2DConditionModel, sd_text_encoder: CLIPTextModel) -> nn.Module:
    return nn.ModuleDict({"unet": sd_unet, "text_encoder": sd_text_encoder})


@pytest.fixture
def unet() -> UNet2DConditionModel:
    """A U-Net with two heads a layer, in double precision."""
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    return network.double().eval()
