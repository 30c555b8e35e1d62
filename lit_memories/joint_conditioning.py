"""What the transformers of Stable Diffusion 3 and FLUX are told of a prompt; see `lit_memories.conditioning`."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor
from torch.nn import functional

from lit_memories.prompt_rows import Reader, check_same_words, clip_states, repadded, tokenize, with_row

T5_WINDOW = 256
"""Tokens that T5 sees, in Stable Diffusion 3 and in FLUX-schnell; of FLUX-dev twice as many."""
MIXED = "this model's text encoders read different tokens (CLIP's and T5's): it takes prompts, not token ids"


class JointConditioning:
    """Stable Diffusion 3: hidden states of two CLIP encoders, side by side, then those of T5; both CLIPs' pooled ones.

    As diffusers has it, CLIP's hidden states are the last but one, filled up with zeros to T5's width, and T5 sees 256
    tokens. It can be left out, for a smaller model that knows less of long prompts; its 256 rows are zeros then, of
    which one is kept (`ops.joint_attention.RepeatedRow`).

    Args:
        pipeline: whose tokenizers and text encoders to use.

    Raises:
        ValueError: if an encoder other than T5 is missing, or the parts do not belong together.
    """

    def __init__(self, pipeline: StableDiffusion3Pipeline) -> None:
        self.tokenizer, self.tokenizer_2 = pipeline.tokenizer, pipeline.tokenizer_2
        self.encoders = {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}
        if None in (*self.encoders.values(), self.tokenizer, self.tokenizer_2):
            raise ValueError(
                "the pipeline lacks one of Stable Diffusion 3's two CLIP encoders: only T5 can be left out"
            )
        self.tokenizer_3 = pipeline.tokenizer_3 if pipeline.text_encoder_3 is not None else None
        self.window = 1
        if self.tokenizer_3 is not None:
            self.encoders["text_encoder_3"] = pipeline.text_encoder_3
            self.window = min(T5_WINDOW, self.tokenizer_3.model_max_length)
        config = pipeline.transformer.config
        self.width = config.joint_attention_dim
        widths = [pipeline.text_encoder.config.projection_dim, pipeline.text_encoder_2.config.projection_dim]
        self.pooled_width = sum(widths)
        hidden = pipeline.text_encoder.config.hidden_size + pipeline.text_encoder_2.config.hidden_size
        last = self.width if self.tokenizer_3 is None else pipeline.text_encoder_3.config.d_model
        if self.pooled_width != config.pooled_projection_dim or hidden > self.width or last != self.width:
            raise ValueError(
                f"the transformer takes text {self.width} and pooled embeddings {config.pooled_projection_dim} wide, "
                f"the text encoders give {hidden} and {last}, and {self.pooled_width}: they do not belong together"
            )

    @property
    def tokens(self) -> int:
        """Rows of text in an embedding."""
        return int(self.tokenizer.model_max_length) + self.window

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Who reads a prompt, and into which rows: both CLIPs into the same, then T5."""
        clip = Reader(self.tokenizer, 0, int(self.tokenizer.model_max_length))
        if self.tokenizer_3 is None:
            return (clip,)
        return (clip, Reader(self.tokenizer_3, clip.window, self.window))

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, tokens + 1, width)."""
        last = None
        if self.tokenizer_3 is not None:
            last = _t5(self.encoders["text_encoder_3"], self.tokenizer_3, prompts, self.window)
        return self._encoded(tokenize(self.tokenizer, prompts), tokenize(self.tokenizer_2, prompts), last)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (n, tokens + 1, width) of the first tokenizer's ids (n, tokens), where T5 is left out.

        Raises:
            ValueError: if it is not.
        """
        if self.tokenizer_3 is not None:
            raise ValueError(MIXED)
        return self._encoded(ids, repadded(ids, self.tokenizer, self.tokenizer_2), None)

    @property
    def token_encoders(self) -> list[Any]:
        """The text encoders that read the first tokenizer's ids: both CLIPs.

        Raises:
            ValueError: if the second one's tokenizer numbers words in another way.
        """
        check_same_words(self.tokenizer, self.tokenizer_2)
        return [self.encoders["text_encoder"], self.encoders["text_encoder_2"]]

    def _encoded(self, ids: Tensor, ids_2: Tensor, last: Tensor | None) -> Tensor:
        clip, found = clip_states(list(self.encoders.values())[:2], ids, ids_2)
        clip = functional.pad(clip, (0, self.width - clip.shape[-1]))
        last = clip.new_zeros(len(clip), self.window, self.width) if last is None else last.to(clip)
        return with_row(torch.cat([clip, last], 1), torch.cat([one.text_embeds for one in found], -1))

    def split(self, embeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """What the transformer takes: rows of text, and the pooled embedding."""
        added: dict[str, Any] = {"pooled_projections": embeds[:, -1, : self.pooled_width]}
        if self.tokenizer_3 is None:
            added["joint_attention_kwargs"] = {"repeated": T5_WINDOW}
        return embeds[:, :-1], added

    def pipeline(self, **parts: Any) -> StableDiffusion3Pipeline:
        """A pipeline of the other parts and these."""
        encoders = {"text_encoder_3": None, **self.encoders}
        return StableDiffusion3Pipeline(
            **parts,
            **encoders,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            tokenizer_3=self.tokenizer_3,
        )


class FluxConditioning:
    """FLUX: hidden states of T5, and CLIP's pooled embedding.

    Args:
        pipeline: whose tokenizers and text encoders to use.

    Raises:
        ValueError: if an encoder is missing, or the parts do not belong together.
    """

    def __init__(self, pipeline: FluxPipeline) -> None:
        self.tokenizer, self.tokenizer_2 = pipeline.tokenizer, pipeline.tokenizer_2
        self.encoders = {"text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}
        if None in (*self.encoders.values(), self.tokenizer, self.tokenizer_2):
            raise ValueError("the pipeline lacks one of FLUX's text encoders, CLIP and T5: it needs both")
        config = pipeline.transformer.config
        self.window = min(2 * T5_WINDOW if config.guidance_embeds else T5_WINDOW, self.tokenizer_2.model_max_length)
        self.pooled_width = pipeline.text_encoder.config.hidden_size
        width = pipeline.text_encoder_2.config.d_model
        if self.pooled_width != config.pooled_projection_dim or width != config.joint_attention_dim:
            raise ValueError(
                f"the transformer takes text {config.joint_attention_dim} and pooled embeddings "
                f"{config.pooled_projection_dim} wide, the text encoders give {width} and {self.pooled_width}: they do "
                "not belong together"
            )
        if self.pooled_width > width:
            raise ValueError(
                f"the pooled embedding ({self.pooled_width} wide) does not fit into a row of the prompt's embeddings "
                f"({width} wide), in which it is kept"
            )

    @property
    def tokens(self) -> int:
        """Rows of text in an embedding."""
        return self.window

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Who reads a prompt, and into which rows: T5, as of CLIP there is the pooled embedding alone."""
        return (Reader(self.tokenizer_2, 0, self.window),)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, tokens + 1, width)."""
        clip = self.encoders["text_encoder"]
        pooled = clip(tokenize(self.tokenizer, prompts).to(clip.device)).pooler_output
        return with_row(_t5(self.encoders["text_encoder_2"], self.tokenizer_2, prompts, self.window), pooled)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Refuse: two tokenizers cut differently, and two encoders read.

        Raises:
            ValueError: always.
        """
        raise ValueError(MIXED)

    @property
    def token_encoders(self) -> list[Any]:
        """CLIP, which alone does not tell the network of words."""
        return [self.encoders["text_encoder"]]

    def split(self, embeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """What the transformer takes: rows of text, and the pooled embedding."""
        return embeds[:, :-1], {"pooled_projections": embeds[:, -1, : self.pooled_width]}

    def pipeline(self, **parts: Any) -> FluxPipeline:
        """A pipeline of the other parts and these."""
        return FluxPipeline(**parts, **self.encoders, tokenizer=self.tokenizer, tokenizer_2=self.tokenizer_2)


def _t5(encoder: Any, tokenizer: Any, prompts: Sequence[str], window: int) -> Tensor:
    """T5's last hidden states (n, window, width); as in diffusers, padding is attended to like words."""
    ids = tokenizer(list(prompts), padding="max_length", max_length=window, truncation=True, return_tensors="pt")
    return cast("Tensor", encoder(ids.input_ids.to(encoder.device))[0])
