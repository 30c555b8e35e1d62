"""FMN, Forget-Me-Not (Zhang et al. 2023, arXiv:2303.17591)."""

from typing import Any

import torch
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.data.naming import warn_of_renamed
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.attention import recorded_attention


class FMN(Eraser):
    r"""Turns attention away from the concept's words, on images of the concept (eq. 3, attention re-steering).

    .. math:: \Big\lVert \big(A^{(l)}_{h,p,j}\big)_{l,h,p,\,j \in J} \Big\rVert_2

    over layers, heads, pixels, and the positions J of the concept's tokens; of a transformer, over the attention of the
    picture's places to the text's rows, wherever both attend together. Nothing keeps other things as they are.
    Parameters behind the last cross-attention's softmax get no gradient: on several devices pass ``--trainer.strategy
    ddp_find_unused_parameters_true``. The official code's optional first stage, textual inversion of the concept into
    four pseudo-words, is not offered; the concept's name stands in their place.

    Args:
        diffusion: the model to change.
        concept: what to erase; where a caption does not hold its phrase, the phrase itself is the prompt.
        weight_decay: of AdamW.
        max_grad_norm: norm to clip gradients to.
        faithful: the official ``use_pooler`` on Stable Diffusion 1: J also holds the end marker and, as padding is the
            same token there, every position after it.
        **options: see `Eraser`.

    Raises:
        ValueError: if a weight is negative.
    """

    forget_images = "concept"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        weight_decay: float = 1e-2,
        max_grad_norm: float = 1.0,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if weight_decay < 0 or max_grad_norm <= 0:
            raise ValueError(
                f"weight_decay ({weight_decay}) cannot be negative, max_grad_norm ({max_grad_norm}) must be above 0"
            )
        self.weight_decay, self.max_grad_norm, self.faithful = weight_decay, max_grad_norm, faithful

    def configure_optimizers(self) -> Any:
        """AdamW on the selected parameters."""
        return torch.optim.AdamW(self.selected.values(), lr=self.lr, weight_decay=self.weight_decay)

    def prepare(self, batch: Batch) -> None:
        """Say which captions are not used as they are."""
        captions = batch["forget_set"].captions
        warn_of_renamed(captions, self.marked(captions), f"FMN needs the words {self.concept.phrase!r} in them")

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 3, as released: a plain norm."""
        latents, captions = self.rows(batch["forget_set"], self.batch_size)
        noisy, timesteps, _ = self.noised(latents, self.generator())
        prompts = self.marked(captions)
        with recorded_attention(self.diffusion.network) as layers:
            self.predict(noisy, timesteps, prompts)
        marks = self.marks(prompts)[:, None, None, :]
        self.log("train/attention", _mass(layers, marks), batch_size=1)
        return torch.stack([(layer * marks).square().sum() for layer in layers]).sum().sqrt()

    def marked(self, captions: list[str]) -> list[str]:
        """Captions as they are, or the phrase for those whose tokens, as the encoder's window cuts them, lack it."""
        return [c if self._places(c) else self.concept.phrase for c in captions]

    def marks(self, prompts: list[str]) -> Tensor:
        """1 at the positions of the concept's tokens, else 0 (n, tokens)."""
        return self.diffusion.marks(prompts, self.concept.phrase, self.faithful)

    def _places(self, prompt: str) -> list[int]:
        """Rows of a prompt's embedding that are the concept's tokens."""
        return self.diffusion.places(prompt, self.concept.phrase)


@torch.no_grad()
def _mass(layers: list[Tensor], marks: Tensor) -> Tensor:
    """Share of the attention that goes to the marked tokens, a mean over layers."""
    return torch.stack([(layer * marks).sum(-1).mean() for layer in layers]).mean()
