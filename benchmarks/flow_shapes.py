"""Stable Diffusion 3.5 medium and FLUX.1-dev as folders of configurations, of which shapes and costs are told.

What the models' own files say (huggingface.co/stabilityai/stable-diffusion-3.5-medium, black-forest-labs/FLUX.1-dev);
their tokenizers' words are numbers, as many as the real ones have.
"""

import json
from pathlib import Path
from typing import Any

CLIP_LARGE = {
    "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
    "num_hidden_layers": 12, "projection_dim": 768, "max_position_embeddings": 77, "vocab_size": 49408,
    "bos_token_id": 49406, "eos_token_id": 49407, "model_type": "clip_text_model",
}  # fmt: skip
CLIP_BIG = CLIP_LARGE | {
    "hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20,
    "num_hidden_layers": 32, "projection_dim": 1280,
}  # fmt: skip
T5 = {
    "d_ff": 10240, "d_kv": 64, "d_model": 4096, "feed_forward_proj": "gated-gelu", "num_heads": 64, "num_layers": 24,
    "relative_attention_num_buckets": 32, "vocab_size": 32128, "model_type": "t5", "tie_word_embeddings": False,
    "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
AUTOENCODER = {
    "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "in_channels": 3, "out_channels": 3, "latent_channels": 16,
    "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 1024, "force_upcast": True,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
MODELS: dict[str, dict[str, Any]] = {
    "sd35-medium": {
        "pipeline": "StableDiffusion3Pipeline",
        "transformer": {
            "_class_name": "SD3Transformer2DModel", "attention_head_dim": 64, "caption_projection_dim": 1536,
            "dual_attention_layers": list(range(13)), "in_channels": 16, "joint_attention_dim": 4096,
            "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2,
            "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "qk_norm": "rms_norm", "sample_size": 128,
        },
        "vae": AUTOENCODER | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
        "scheduler": FLOW,
        "text_encoder": ("CLIPTextModelWithProjection", CLIP_LARGE),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_BIG),
        "text_encoder_3": ("T5EncoderModel", T5),
    },
    "flux-dev": {
        "pipeline": "FluxPipeline",
        "transformer": {
            "_class_name": "FluxTransformer2DModel", "attention_head_dim": 128, "guidance_embeds": True,
            "in_channels": 64, "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 19,
            "num_single_layers": 38, "patch_size": 1, "pooled_projection_dim": 768,
        },
        "vae": AUTOENCODER | {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        "scheduler": FLOW | {
            "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
        "text_encoder": ("CLIPTextModel", CLIP_LARGE),
        "text_encoder_2": ("T5EncoderModel", T5),
    },
}  # fmt: skip
"""Configurations by model and part."""


def write(name: str, folder: Path) -> Path:
    """Write a model's configurations, as its pipeline has them.

    Args:
        name: of `MODELS`.
        folder: for them.
    """
    parts = dict(MODELS[name])
    index: dict[str, Any] = {"_class_name": parts.pop("pipeline")}
    for part, found in parts.items():
        kind, config = found if isinstance(found, tuple) else (found.get("_class_name", "AutoencoderKL"), found)
        index[part] = ["transformers" if part.startswith("text") else "diffusers", kind]
        _write(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), config)
        if part.startswith("text"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            t5 = kind == "T5EncoderModel"
            index[tokenizer] = ["transformers", "T5TokenizerFast" if t5 else "CLIPTokenizer"]
            (_t5_words if t5 else _clip_words)(folder / tokenizer)
    _write(folder / "model_index.json", index)
    return folder


def _clip_words(folder: Path) -> None:
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    words = [*(f"{number}</w>" for number in range(49406)), "<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _write(folder / "tokenizer_config.json", special | {"pad_token": "<|endoftext|>", "model_max_length": 77})


def _t5_words(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = ["<pad>", "</s>", "<unk>", *map(str, range(32097))]
    tokenizer = Tokenizer(models.Unigram([(word, 0.0) for word in words], unk_id=2))
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    _write(folder / "tokenizer_config.json", special | {"model_max_length": 512})


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
