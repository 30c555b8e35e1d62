"""CLIP as a judge of any concept that has words: is the picture nearer to them than to others?"""

from collections.abc import Sequence

from torch import Tensor
from transformers import CLIPModel

from lit_memories.concept import Concept
from lit_memories.identity import config_of, digest, tokenizer_of
from lit_memories.images import to_pil
from lit_memories.judges.base import Judge, Verdict
from lit_memories.judges.hub import load_image_processor, load_model, load_tokenizer, locate
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.storage.complete import check_tokenizer

NEUTRAL = "a picture"
"""What a concept without an anchor is compared with."""


class CLIPJudge(Judge):
    r"""A picture shows the concept if CLIP (Radford et al. 2021) gives its phrase enough of the probability.

    .. math:: p = \operatorname{softmax}(\tau \cos(\text{image}, \text{text}_i))_{\text{phrase}}

    over the concept's phrase and the texts it is held against, with CLIP's own temperature.

    Args:
        model_id: folder or hub id of a `CLIPModel` with safetensors weights.
        threshold: the probability from which the concept is seen.
        against: the other texts; if empty, the concept's anchor, or "a picture" if it has none.
        revision: git revision of a hub id.

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
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}")
        folder = locate(model_id, revision)
        self.processor = load_image_processor(folder)
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model(CLIPModel, folder)
        check_tokenizer(self.tokenizer, self.model.config.text_config, f"the tokenizer in {folder}")
        self.threshold, self.against = threshold, list(against)

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture."""
        window = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            self.texts(concept), padding=True, truncation=True, max_length=window, return_tensors="pt"
        )
        pixels = self.processor(to_pil(image[0]), return_tensors="pt")["pixel_values"]
        inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask, "pixel_values": pixels}
        scores = self.model(**{name: value.to(image.device) for name, value in inputs.items()}).logits_per_image[0]
        probability = float(scores.float().softmax(0)[0])
        return {"shows_concept": float(probability >= self.threshold), "probability": probability}

    def identity(self, concept: Concept) -> str:
        """Weights, configuration, preprocessing, tokenizer, threshold and texts."""
        parts = [config_of(self.model), self.processor.to_dict(), tokenizer_of(self.tokenizer)]
        made = f"{fingerprint(self.model)}/{digest(parts)}"
        return f"CLIPJudge {made} threshold={self.threshold} texts={self.texts(concept)}"

    def texts(self, concept: Concept) -> list[str]:
        """The concept's phrase, and what it is held against."""
        return [concept.phrase, *(self.against or [concept.anchor or NEUTRAL])]
