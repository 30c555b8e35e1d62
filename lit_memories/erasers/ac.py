"""AC, concept ablation (Kumari et al. 2023, arXiv:2303.13516)."""

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.attention import detached_first_token
from lit_memories.ops.select import Selection
from lit_memories.ops.targets import match


class AC(Eraser):
    r"""Makes the prediction for the concept that for its anchor, on images of the anchor (eq. 3 and 5).

    .. math:: C\, \overline{(\epsilon_\theta(x_t, c^*) - \operatorname{sg}[\epsilon_\theta(x_t, c)])^2}
        + \lambda\, \overline{(\epsilon_\theta(x_t, c) - \epsilon)^2}

    with an anchor's image x, its caption c, and :math:`c^*` the caption with the concept put in; bars are means over
    elements. As in the official code, the ablation term is summed over the C channels of a latent (its mask has one)
    where the anchor's own loss is a plain mean: with 4 channels it weighs 4 times as much. In the noise-based form the
    target is the true noise, or of a flow the true velocity. The teacher is the live model, as in the official code.

    In a U-Net's cross-attention the first token, which begins every prompt, gets no gradient, as officially. In a
    transformer rows of text mix from block to block, so that none is the same under all prompts: there all get theirs.

    Args:
        diffusion: the model to change.
        concept: what to erase; its anchor prompts are the captions.
        train: ``attn2-kv`` for objects and styles, ``attn`` for nudity, ``full`` for a memorised image.
        target: ``model`` or ``noise``.
        prior_weight: :math:`\lambda`, weight of the anchor's own diffusion loss, 0 for none; official 1 for nudity and
            memorised images.
        weight_decay: of AdamW.
        max_grad_norm: norm to clip gradients to.
        **options: see `Eraser`.

    Raises:
        ValueError: if the concept cannot be put into the anchor's prompts, or a weight is negative.
    """

    forget_images = "anchor"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "attn2-kv",
        target: Literal["model", "noise"] = "model",
        prior_weight: float = 0.0,
        weight_decay: float = 1e-2,
        max_grad_norm: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train, **options)
        if prior_weight < 0 or weight_decay < 0 or max_grad_norm <= 0:
            raise ValueError(
                f"prior_weight ({prior_weight}) and weight_decay ({weight_decay}) cannot be negative, "
                f"max_grad_norm ({max_grad_norm}) must be above 0"
            )
        for prompt in concept.anchors:
            concept.put_into(prompt)
        self.target, self.prior_weight = target, prior_weight
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm

    def prepare(self, batch: Batch) -> None:
        """See to it that the concept can be put into every caption."""
        for caption in batch["forget_set"].captions:
            self.concept.put_into(caption)

    def configure_optimizers(self) -> Any:
        """AdamW on the selected parameters."""
        return torch.optim.AdamW(self.selected.values(), lr=self.lr, weight_decay=self.weight_decay)

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 3 or 5, and the anchor's diffusion loss if asked for."""
        latents, captions = self.rows(batch["forget_set"], self.batch_size)
        generator = self.generator()
        noisy, timesteps, noise = self.noised(latents, generator)
        numbers = torch.randint(2**31, (len(captions),), generator=generator).tolist()
        renamed = [self.concept.put_into(caption, number) for caption, number in zip(captions, numbers, strict=True)]
        with torch.no_grad():
            target = noise if self.target == "noise" else self.predict(noisy, timesteps, captions)
        network = self.diffusion.network
        with detached_first_token(network) if self.diffusion.component == "unet" else nullcontext():
            loss = noisy.shape[1] * match(self.predict(noisy, timesteps, renamed), target)
            if self.prior_weight:
                loss = loss + self.prior_weight * self.diffusion_loss(latents, captions, generator)
        return loss
