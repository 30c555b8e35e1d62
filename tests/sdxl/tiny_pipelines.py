"""Pipelines in the layouts of Stable Diffusion XL and of Stable Diffusion 2.1, small enough for seconds."""

import re
from copy import deepcopy

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lit_memories.concept import Concept
from lit_memories.worlds.tokenizer import build_tokenizer

EULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
"""SDXL's scheduler_config.json."""


def tokenizer_of(concept: Concept) -> CLIPTokenizer:
    """A tokenizer that knows a concept's words."""
    texts = " ".join(concept.prompts + concept.retain + concept.anchor_prompts)
    return build_tokenizer(sorted(set(re.findall(r"\w+|,", texts.lower()))), 24)


def text_config(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def autoencoder(scaling_factor: float) -> AutoencoderKL:
    """f = 4."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=scaling_factor,
    )


def sdxl_pipeline(concept: Concept) -> StableDiffusionXLPipeline:
    """A random pipeline of SDXL's classes, for images of 64 pixels, that knows a concept's words.

    What stands where in the real one: 1280 for 32, 768 for 16, 256 for 8, transformers of 2 and 10 layers for 1 and 2.
    """
    torch.manual_seed(0)
    tokenizer = tokenizer_of(concept)
    tokenizer_2 = deepcopy(tokenizer)  # of a vocabulary made again words may have other numbers
    tokenizer_2.add_special_tokens({"pad_token": "!"})
    return StableDiffusionXLPipeline(
        vae=autoencoder(0.13025),
        text_encoder=CLIPTextModel(text_config(tokenizer, 16, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, 32, "gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=UNet2DConditionModel(
            sample_size=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            transformer_layers_per_block=[1, 1, 2],
            attention_head_dim=[1, 2, 4],
            cross_attention_dim=48,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler.from_config(EULER),
        add_watermarker=False,
    )


def sd21_pipeline(concept: Concept) -> StableDiffusionPipeline:
    """A random pipeline of Stable Diffusion 2.1's classes, for images of 64 pixels, that knows a concept's words."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(concept)
    tokenizer.add_special_tokens({"pad_token": "!"})
    return StableDiffusionPipeline(
        vae=autoencoder(0.18215),
        text_encoder=CLIPTextModel(text_config(tokenizer, 32, "gelu")),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            attention_head_dim=[1, 2, 4],
            cross_attention_dim=32,
            norm_num_groups=4,
            use_linear_projection=True,
            upcast_attention=True,
        ),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
