"""Small random models of the classes that judges and measures are made of."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP that spells, at temperature 1 so that probabilities are neither 0 nor 1."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    text = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "vocab_size": len(tokens), "max_position_embeddings": 16, "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8, logit_scale_init_value=0.0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


WORDS = (
    '[UNK] <s> </s> <pad> <image> USER ASSISTANT : Does this picture show " church umbrella ? Answer yes or no . Yes No'
)


@pytest.fixture(scope="session")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA of a few words, which tells pictures apart."""
    folder = tmp_path_factory.mktemp("vlm")
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(WORDS.split()))}
    splitter = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106, a word of the vocabulary
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, additional_special_tokens=["<image>"], model_max_length=64, **names
    )
    content = "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}"
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
        + content
        + "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT :{% endif %}",
    ).save_pretrained(folder)
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    text = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 16, "rope_theta": 5_000_000,
    }  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**text), image_token_id=vocabulary["<image>"]
    )
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(folder)
    return folder
