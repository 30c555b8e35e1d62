"""What a network is told of a prompt, as one tensor of rows: in the ways of Stable Diffusion 1, XL and 3, and of FLUX.

Prompt embeddings (n, rows, width) are in this order: one row a token, which attention reads; but for Stable Diffusion 1
and 2 one that holds the pooled embedding; under a gated adapter one that holds its strength. What keeps, batches or
repeats embeddings keeps all of it together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor

from lit_memories.joint_conditioning import FluxConditioning, JointConditioning
from lit_memories.ops.everywhere import Everywhere
from lit_memories.prompt_rows import Reader, check_same_words, clip_states, repadded, tokenize, with_row
from lit_memories.storage.pipelines import Pipeline


class TextConditioning:
    """Stable Diffusion 1 and 2: the last hidden states of one text encoder.

    Args:
        pipeline: whose tokenizer and text encoder to use.
    """

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.tokenizer, self.encoders = pipeline.tokenizer, {"text_encoder": pipeline.text_encoder}

    @property
    def tokens(self) -> int:
        """Rows of text in an embedding."""
        return int(self.tokenizer.model_max_length)

    @property
    def token_encoders(self) -> list[Any]:
        """The text encoders that read the tokens' ids."""
        return list(self.encoders.values())

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Who reads a prompt, and into which rows."""
        return (Reader(self.tokenizer, 0, self.tokens),)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, tokens, width)."""
        return self.encode_tokens(tokenize(self.tokenizer, prompts))

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (n, tokens, width) of token ids (n, tokens)."""
        encoder = self.encoders["text_encoder"]
        return encoder(ids.to(encoder.device))[0]

    def split(self, embeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """What the U-Net takes: rows of text, and nothing more."""
        return embeds, {}

    def pipeline(self, **parts: Any) -> StableDiffusionPipeline:
        """A pipeline of the other parts and these."""
        return StableDiffusionPipeline(
            **parts,
            **self.encoders,
            tokenizer=self.tokenizer,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class PooledConditioning:
    """Stable Diffusion XL: hidden states of two text encoders, side by side, the second's pooled embedding, and sizes.

    As diffusers has it, hidden states are the last but one, and sizes say that a picture was neither resized nor cut.
    The empty prompt is what guidance goes away from: zeros in all rows if the pipeline's configuration says
    ``force_zeros_for_empty_prompt``, as that of SDXL does, whose training left prompts out so.

    Args:
        pipeline: whose tokenizers and text encoders to use.
        image_size: the model's native (height, width) in pixels.

    Raises:
        ValueError: if the pipeline is no base model of SDXL's layout.
    """

    def __init__(self, pipeline: StableDiffusionXLPipeline, image_size: tuple[int, int]) -> None:
        self.tokenizer, self.tokenizer_2 = pipeline.tokenizer, pipeline.tokenizer_2
        self.encoders = {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}
        self.zeros_if_empty = bool(pipeline.config.force_zeros_for_empty_prompt)
        sizes = torch.tensor([[*image_size, 0, 0, *image_size]], dtype=torch.float32)
        self.time_ids, self.pooled_width = Everywhere(sizes), _pooled_width(pipeline, sizes.shape[1])

    @property
    def tokens(self) -> int:
        """Rows of text in an embedding."""
        return int(self.tokenizer.model_max_length)

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Who reads a prompt, and into which rows."""
        return (Reader(self.tokenizer, 0, self.tokens),)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, tokens + 1, width)."""
        empty = torch.tensor([prompt == "" for prompt in prompts])
        return self._encoded(tokenize(self.tokenizer, prompts), tokenize(self.tokenizer_2, prompts), empty)

    @property
    def token_encoders(self) -> list[Any]:
        """The text encoders that read the first tokenizer's ids: both.

        Raises:
            ValueError: if the second one's tokenizer numbers words in another way.
        """
        check_same_words(self.tokenizer, self.tokenizer_2)
        return list(self.encoders.values())

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (n, tokens + 1, width) of the first tokenizer's ids (n, tokens)."""
        bare = ids[:, 1] == self.tokenizer.eos_token_id
        return self._encoded(ids, repadded(ids, self.tokenizer, self.tokenizer_2), bare)

    def _encoded(self, ids: Tensor, ids_2: Tensor, empty: Tensor) -> Tensor:
        states, (_, two) = clip_states(list(self.encoders.values()), ids, ids_2)
        embeds = with_row(states, two.text_embeds)
        return embeds.masked_fill(empty.to(embeds.device)[:, None, None], 0) if self.zeros_if_empty else embeds

    def split(self, embeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """What the U-Net takes: rows of text, and the pooled embedding with the sizes."""
        time_ids = self.time_ids.on(embeds.device).expand(len(embeds), -1)
        pooled = embeds[:, -1, : self.pooled_width]
        return embeds[:, :-1], {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids}}

    def pipeline(self, **parts: Any) -> StableDiffusionXLPipeline:
        """A pipeline of the other parts and these."""
        return StableDiffusionXLPipeline(
            **parts,
            **self.encoders,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            force_zeros_for_empty_prompt=self.zeros_if_empty,
            add_watermarker=False,
        )


Conditioning = TextConditioning | PooledConditioning | JointConditioning | FluxConditioning


def conditioning_of(pipeline: Pipeline, image_size: tuple[int, int]) -> Conditioning:
    """The way in which a pipeline with a native (height, width) tells its network of prompts.

    Raises:
        ValueError: if the parts of the pipeline do not belong together.
    """
    if isinstance(pipeline, StableDiffusion3Pipeline):
        return JointConditioning(pipeline)
    if isinstance(pipeline, FluxPipeline):
        return FluxConditioning(pipeline)
    if isinstance(pipeline, StableDiffusionXLPipeline):
        return PooledConditioning(pipeline, image_size)
    return TextConditioning(pipeline)


def _pooled_width(pipeline: StableDiffusionXLPipeline, sizes: int) -> int:
    """Width of the pooled embedding, after a look at whether the parts belong together."""
    if None in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.tokenizer, pipeline.tokenizer_2):
        raise ValueError("the pipeline lacks one of SDXL's two text encoders: pass a base model, not a refiner")
    config, pooled = pipeline.unet.config, pipeline.text_encoder_2.config.projection_dim
    windows = {pipeline.tokenizer.model_max_length, pipeline.tokenizer_2.model_max_length}
    if len(windows) > 1:
        raise ValueError(f"the pipeline's two tokenizers have windows of different length: {sorted(windows)}")
    if pooled > config.cross_attention_dim:
        raise ValueError(
            f"the pooled embedding ({pooled} wide) does not fit into a row of the prompt's embeddings "
            f"({config.cross_attention_dim} wide), in which it is kept"
        )
    wanted, given = pipeline.unet.add_embedding.linear_1.in_features, pooled + sizes * config.addition_time_embed_dim
    if wanted != given:
        raise ValueError(
            f"the U-Net takes {wanted} added values, text_encoder_2 and {sizes} sizes give {given}: this is no SDXL "
            "base model"
        )
    return int(pooled)
