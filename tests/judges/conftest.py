"""Small random models of the classes that judges and measures are made of."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

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
