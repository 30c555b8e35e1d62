"""SalUn, saliency unlearning (Fan et al. 2024, arXiv:2310.12508)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.two_loss import TwoLossEraser
from lit_memories.ops.generators import seeded
from lit_memories.ops.saliency import largest, summed_gradients
from lit_memories.ops.select import Selection


class SalUn(TwoLossEraser):
    r"""Relabels images of the concept, and moves only the weights that the concept's own loss depends on most (eq. 6).

    .. math:: \lVert \epsilon_\theta(x_t, c) - \epsilon_\theta(x_t, a) \rVert^2
        + \alpha \lVert \epsilon_\theta(x^r_t, c^r) - \epsilon \rVert^2,
        \quad \theta = \theta_0 + m_S \odot \Delta\theta

    with the anchor's prediction taken without gradient, and :math:`m_S` marking the weights with the largest
    :math:`|\nabla_\theta \ell_f(\theta_0)|` over the forget set (eq. 4).

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: what the mask chooses from; officially all.
        alpha: weight of the retain loss.
        mask_ratio: share of the selected weights that may move, in (0, 1]; the paper's threshold is the median.
        mask_guidance: guidance scale of the predictions that the mask is made of, as in the official code
            (8.5 c - 7.5 empty); 1 is the paper's plain loss.
        **options: see `Eraser`.

    Raises:
        ValueError: if a weight or the ratio is out of range.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "full",
        alpha: float = 0.1,
        mask_ratio: float = 0.5,
        mask_guidance: float = 8.5,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train, **options)
        if alpha < 0 or not 0 < mask_ratio <= 1:
            raise ValueError(f"alpha ({alpha}) cannot be negative, mask_ratio ({mask_ratio}) must be in (0, 1]")
        self.alpha, self.mask_ratio, self.mask_guidance = alpha, mask_ratio, mask_guidance

    def prepare(self, batch: Batch) -> None:
        """Make the mask, at the original weights."""
        super().prepare(batch)
        with self.teacher(), torch.enable_grad():
            gradients = summed_gradients(self._mask_losses(batch), self.selected)
        self.mask = largest({name: gradient.abs() for name, gradient in gradients.items()}, self.mask_ratio)

    def _mask_losses(self, batch: Batch) -> Iterator[Tensor]:
        """The official code's loss, a pass over the forget set."""
        images = batch["forget_set"]
        for start in range(0, len(images), 8):
            latents = images.latents[start : start + 8].to(self.device)
            prompts = self.concept_prompts(images.captions[start : start + 8])
            yield self.guided_loss(latents, prompts, self.mask_guidance, seeded(f"{self.seed}/mask/{start}"))

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 6."""
        return self.forget_loss(batch) + self.alpha * self.retain_loss(batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop the weights outside the mask: without decay and with moments of zero they stay to the bit."""
        for name, parameter in self.selected.items():
            if parameter.grad is not None:
                parameter.grad *= self.mask[name]
