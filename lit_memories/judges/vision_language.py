"""A vision-language model as a judge of anything that can be asked in a sentence."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from lit_memories.concept import Concept
from lit_memories.identity import config_of, digest, tokenizer_of
from lit_memories.images import to_pil
from lit_memories.judges.base import Judge, Verdict, sound
from lit_memories.judges.hub import load_image_processor, load_model, load_processor, locate
from lit_memories.ops.blocks import in_blocks
from lit_memories.ops.fingerprint import fingerprint

YES, NO = ("Yes", "yes", "YES", " Yes", " yes"), ("No", "no", "NO", " No", " no")
"""How an answer may begin."""


class VLMJudge(Judge):
    r"""A picture shows the concept if a model that is asked so would rather answer yes than no.

    .. math:: p = \frac{P(\text{yes})}{P(\text{yes}) + P(\text{no})}

    of the next token, whatever its case: nothing is sampled or generated. Such models say yes too readily, and to other
    questions than were asked, so that an audit with this judge must also ask the probe `Judging`, which measures on the
    run's own pictures how often it is wrong; the report sets that beside every rate.

    Args:
        model_id: folder or hub id of an image-text-to-text model of transformers with safetensors weights, a decoder.
        question: with ``{}`` where the concept's phrase goes.
        threshold: the probability from which the concept is seen.
        batch_size: pictures that are asked about at once. It is part of the settings, as rounding depends on it.
        revision: git revision of a hub id.

    Raises:
        FileNotFoundError: if the model cannot be had.
        ValueError: if an option is out of range, the question has no place for the concept, the model is no decoder, or
            its vocabulary has no yes and no.
    """

    fallible: ClassVar[bool] = True

    def __init__(
        self,
        model_id: str,
        question: str = 'Does this picture show "{}"? Answer yes or no.',
        threshold: float = 0.5,
        batch_size: int = 8,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1 or batch_size < 1:
            raise ValueError(f"threshold must be in (0, 1] and batch_size at least 1, got {threshold} and {batch_size}")
        if "{}" not in question:
            raise ValueError(f"the question {question!r} has no {{}}, where the concept's phrase goes: add it")
        folder = locate(model_id, revision)
        load_image_processor(folder)  # refuses what would take any memory
        self.processor = load_processor(folder)
        self.answers = [answers(self.processor.tokenizer, words, str(folder)) for words in (YES, NO)]
        self.model = load_model(AutoModelForImageTextToText, folder)
        if self.model.config.is_encoder_decoder:
            raise ValueError(f"the model in {folder} is no decoder, whose next token is the answer: take another")
        self.question, self.threshold, self.batch_size = question, threshold, batch_size

    @torch.no_grad()
    def forward(self, images: Tensor, prompts: Sequence[str], concept: Concept) -> list[Verdict]:
        """Judge pictures in calls of one size, so that a verdict does not depend on the pictures beside it.

        Args:
            images: (n, 3, h, w) in [0, 1], of any size.
            prompts: what was asked for; not looked at.
            concept: what to look for.
        """
        text = self.text(concept)
        found = in_blocks(lambda block: self._yes(block, text), self.batch_size, images)
        return [
            sound({"shows_concept": float(value >= self.threshold), "probability": value}) for value in found.tolist()
        ]

    def look(self, image: Tensor, prompt: str, concept: Concept) -> Verdict:
        """The verdict on one picture."""
        return self.forward(image, [prompt], concept)[0]

    def text(self, concept: Concept) -> str:
        """What the model is told, up to its answer: by its own template of a dialogue, where it has one."""
        asked = self.question.replace("{}", concept.phrase)
        if getattr(self.processor, "chat_template", None) is None:
            return f"{getattr(self.processor, 'image_token', '')}{asked}"
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}
        told: str = self.processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        return told

    def _yes(self, images: Tensor, text: str) -> Tensor:
        """The probability of yes (n,), against no."""
        pictures = [[to_pil(image)] for image in images]
        inputs = self.processor(images=pictures, text=[text] * len(pictures), return_tensors="pt")
        logits = self.model(**inputs.to(images.device)).logits[:, -1].float()
        yes, no = (logits[:, ids].logsumexp(1) for ids in self.answers)
        return (yes - no).sigmoid()

    def identity(self, concept: Concept) -> str:
        """Weights, configuration, preprocessing, tokenizer, what is told, threshold and batch size."""
        parts: list[Any] = [config_of(self.model), self.processor.image_processor.to_dict()]
        parts += [tokenizer_of(self.processor.tokenizer), self.answers]
        made = f"{fingerprint(self.model)}/{digest(parts)}"
        return f"VLMJudge {made} threshold={self.threshold} batch_size={self.batch_size} text={self.text(concept)!r}"


def answers(tokenizer: Any, words: Sequence[str], where: str) -> list[int]:
    """Ids of the words that are one token each, sorted.

    Args:
        tokenizer: of the model.
        words: ways to write one answer.
        where: the model is, for the message.

    Raises:
        ValueError: if none of them is one token.
    """
    coded = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    found = {ids[0] for ids in coded if len(ids) == 1} - {tokenizer.unk_token_id}
    if not found:
        raise ValueError(f"the vocabulary of the model in {where} has no token for {words[0]!r}: it cannot answer so")
    return sorted(found)
