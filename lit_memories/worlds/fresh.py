"""Pipelines with fresh weights around a trained autoencoder, which pretraining begins with."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lit_memories.storage.shipped import model_folder
from lit_memories.worlds.base import Grammar
from lit_memories.worlds.tokenizer import build_tokenizer

HEAD = 32
"""Width of an attention head."""


def unet_pipeline(
    grammar: Grammar, autoencoder: Path, block_out_channels: tuple[int, ...], text_width: int
) -> StableDiffusionPipeline:
    """A pipeline with fresh U-Net and text encoder around a trained autoencoder."""
    tokenizer = build_tokenizer(grammar.words)
    vae = AutoencoderKL.from_pretrained(model_folder(autoencoder), use_safetensors=True, low_cpu_mem_usage=False)
    text_encoder = CLIPTextModel(_text_config(tokenizer, text_width, layers=2))
    deep = len(block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=_latent_size(vae),
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deep),
        up_block_types=(*("CrossAttnUpBlock2D",) * deep, "UpBlock2D"),
        block_out_channels=block_out_channels,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=[max(1, channels // 32) for channels in block_out_channels],
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def flow_pipeline(
    grammar: Grammar, autoencoder: Path, width: int, blocks: int, text_width: int
) -> StableDiffusion3Pipeline:
    """A pipeline of Stable Diffusion 3's classes, without T5.

    Args:
        grammar: of the captions it will be told.
        autoencoder: folder of the trained autoencoder.
        width: of the transformer, a multiple of 32.
        blocks: of the transformer.
        text_width: of each of the two text encoders.
    """
    vae = AutoencoderKL.from_pretrained(model_folder(autoencoder), use_safetensors=True, low_cpu_mem_usage=False)
    vae.register_to_config(shift_factor=0.0)  # its latents lie about 0; Stable Diffusion 3's pipeline adds a number
    one = build_tokenizer(grammar.words)
    two = deepcopy(one)  # a vocabulary made again may number its words in another way
    encoders = [CLIPTextModelWithProjection(_text_config(tokenizer, text_width, layers=3)) for tokenizer in (one, two)]
    transformer = SD3Transformer2DModel(
        sample_size=_latent_size(vae),
        patch_size=2,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_layers=blocks,
        attention_head_dim=HEAD,
        num_attention_heads=width // HEAD,
        joint_attention_dim=2 * text_width,
        caption_projection_dim=width,
        pooled_projection_dim=2 * text_width,
        pos_embed_max_size=_latent_size(vae),
        qk_norm="rms_norm",
    )
    # Blocks begin as the identity, and the prediction as zero (Peebles & Xie 2023, arXiv:2212.09748, section 3.2).
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and (name == "proj_out" or "norm" in name):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=one,
        text_encoder_2=encoders[1],
        tokenizer_2=two,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _latent_size(vae: AutoencoderKL) -> int:
    return int(vae.config.sample_size) >> (len(vae.config.block_out_channels) - 1)


def _text_config(tokenizer: Any, width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
