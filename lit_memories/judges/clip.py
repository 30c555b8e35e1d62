"""CLIP as a judge of any concept that has words: is the picture nearer to them than to others?"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from transformers import CLIPModel

from lit_memories.concept import Concept
from lit_memories.identity import config_of, digest, tokenizer_of
from lit_memories.images import to_pil
from lit_memories.judges.base import Judge, Verdict
from lit_memories.judges.hub import load_image_processor, load_model, load_tokenizer, locate, locate_processor
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.storage.complete import check_tokenizer

NEUTRAL = "a picture"
"""What a concept without an anchor is compared with."""


class CLIP(NamedTuple):
    """A `CLIPModel` with what makes its input of a picture and of texts."""

    processor: Any
    tokenizer: Any
    model: Any

    def logits(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """Cosines of a picture (1, 3, h, w) with texts (texts,), times the model's own scale."""
        window = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=window, return_tensors="pt")
        inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
        inputs = {name: value.to(image.device) for name, value in inputs.items()}
        found: Tensor = self.model(pixel_values=self.pixels(image), **inputs).logits_per_image[0]
        return found.float()

    def pixels(self, image: Tensor) -> Tensor:
        """What the model sees of a picture (1, 3, h, w)."""
        pixels: Tensor = self.processor(to_pil(image[0]), return_tensors="pt")["pixel_values"]
        return pixels.to(image.device)

    def identity(self) -> str:
        """Weights, configuration, preprocessing and tokenizer."""
        parts = [config_of(self.model), self.processor.to_dict(), tokenizer_of(self.tokenizer)]
        return f"{fingerprint(self.model)}/{digest(parts)}"


def load_clip(model_id: str, revision: str | None = None, processor_id: str | None = None) -> CLIP:
    """A model of CLIP's kind.

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights.
        revision: git revision of a hub id.
        processor_id: folder or hub id that has its tokenizer and image processor, where its own has none.

    Raises:
        FileNotFoundError: if the model cannot be had.
        ValueError: if the tokenizer is not the model's.
    """
    folder = locate(model_id, revision)
    beside = folder if processor_id is None else locate_processor(processor_id)
    found = CLIP(load_image_processor(beside), load_tokenizer(beside), load_model(CLIPModel, folder))
    check_tokenizer(found.tokenizer, found.model.config.text_config, f"the tokenizer in {beside}")
    return found


class CLIPJudge(Judge):
    r"""A picture shows the concept if CLIP (Radford et al. 2021) gives its phrase enough of the probability.

    .. math:: p = \operatorname{softmax}(\tau \cos(\text{image}, \text{text}_i))_{\text{phrase}}

    over the concept's phrase and the texts it is held against, with CLIP's own temperature.

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights.
        threshold: the probability from which the concept is seen.
        against: the other texts; if empty, the concept's anchor, or "a picture" if it has none.
        revision: git revision of a hub id.
        processor_id: folder or hub id of tokenizer and image processor, where the model's own has none.

    Raises:
        FileNotFoundError: if the model cannot be had.
        ValueError: if `threshold` is not in (0, 1], or the tokenizer is not the model's.
    """

    def __init__(
        self,
        model_id: str = "openai/clip-vit-large-patch14",
        threshold: float = 0.5,
        against: Sequence[str] = (),
        revision: str | None = None,
        processor_id: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}")
        self.clip = load_clip(model_id, revision, processor_id)
        self.model = self.clip.model  # a part of the judge, which goes where it goes
        self.threshold, self.against = threshold, list(against)

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture."""
        probability = float(self.clip.logits(image, self.texts(concept)).softmax(0)[0])
        return {"shows_concept": float(probability >= self.threshold), "probability": probability}

    def identity(self, concept: Concept) -> str:
        """Weights, configuration, preprocessing, tokenizer, threshold and texts."""
        return f"CLIPJudge {self.clip.identity()} threshold={self.threshold} texts={self.texts(concept)}"

    def texts(self, concept: Concept) -> list[str]:
        """The concept's phrase, and what it is held against."""
        return [concept.phrase, *(self.against or [concept.anchor or NEUTRAL])]
