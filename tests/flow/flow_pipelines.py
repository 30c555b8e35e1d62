"""Pipelines in the layouts of Stable Diffusion 3 and FLUX, small enough for seconds."""

import re
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from lit_memories.concept import Concept
from lit_memories.worlds.tokenizer import build_tokenizer

SD3_SCHEDULER = {"num_train_timesteps": 1000, "shift": 3.0}
"""What stable-diffusion-3.5-medium's scheduler_config.json says."""
FLUX_SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}
"""What FLUX.1-dev's says."""
WINDOW = 24


def words_of(concept: Concept) -> list[str]:
    texts = " ".join(concept.prompts + concept.retain + concept.anchor_prompts)
    return sorted(set(re.findall(r"\w+|,", texts.lower())))


def clip_tokenizer(concept: Concept) -> CLIPTokenizer:
    return build_tokenizer(words_of(concept), WINDOW)


def t5_tokenizer(concept: Concept, folder: Path) -> T5TokenizerFast:
    """Of a unigram vocabulary with the concept's words, as T5's: no first token, padding 0, end 1."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    vocabulary += [(f"▁{word}", -2.0) for word in words_of(concept)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return T5TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0, model_max_length=2 * WINDOW)


def clip(tokenizer: CLIPTokenizer, width: int, kind: type = CLIPTextModelWithProjection) -> CLIPTextModel:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=WINDOW,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def t5(tokenizer: T5TokenizerFast, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2)
    )


def autoencoder() -> AutoencoderKL:
    """f = 4, with a shift, and without the two convolutions that Stable Diffusion 1 has about its latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def sd3_pipeline(concept: Concept, folder: Path, with_t5: bool = True) -> StableDiffusion3Pipeline:
    """A random pipeline of Stable Diffusion 3.5's classes, for images of 64 pixels.

    What stands where in the real medium one: CLIPs of 768 and 1280 for 16 and 24, T5 of 4096 for 48, 24 blocks for 2.
    """
    torch.manual_seed(0)
    one = clip_tokenizer(concept)
    two = deepcopy(one)  # of a vocabulary made again words may have other numbers
    three = t5_tokenizer(concept, folder / "t5") if with_t5 else None
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=48,
            caption_projection_dim=32,
            pooled_projection_dim=40,
            out_channels=4,
            pos_embed_max_size=24,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**SD3_SCHEDULER),
        vae=autoencoder(),
        text_encoder=clip(one, 16),
        tokenizer=one,
        text_encoder_2=clip(two, 24),
        tokenizer_2=two,
        text_encoder_3=t5(three, 48) if three is not None else None,
        tokenizer_3=three,
    )


def flux_pipeline(concept: Concept, folder: Path, distilled: bool = True) -> FluxPipeline:
    """A random pipeline of FLUX.1's classes, dev if guidance is an input of it, else schnell.

    What stands where in the real one: CLIP of 768 for 16, T5 of 4096 for 48, 19 and 38 blocks for 1 and 1.
    """
    torch.manual_seed(0)
    one, two = clip_tokenizer(concept), t5_tokenizer(concept, folder / "t5")
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            pooled_projection_dim=16,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULER),
        vae=autoencoder(),
        text_encoder=clip(one, 16, CLIPTextModel),
        tokenizer=one,
        text_encoder_2=t5(two, 48),
        tokenizer_2=two,
    )
