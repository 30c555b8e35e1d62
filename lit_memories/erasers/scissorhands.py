"""Scissorhands (Wu & Harandi 2024, arXiv:2401.06187)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.two_loss import MergingEraser, Script
from lit_memories.ops.gradients import Gradients, add, project
from lit_memories.ops.saliency import largest, summed_gradients
from lit_memories.ops.select import Selection, select


class Scissorhands(MergingEraser):
    r"""Draws the weights anew that the concept hangs on most, then repairs without working against forgetting (eq. 5).

    Trim: :math:`s = |\theta| \odot \sum_b |\nabla_\theta \ell_b|` on images of the concept (eq. 3); weights above the
    threshold and within `scope` are drawn anew. Repair, with the gradients of the retain and the forget loss:

    .. math:: g = \arg\min_{g} \tfrac12 \lVert g - g_r \rVert^2 \;\text{s.t.}\; \langle g, g_f \rangle \ge 0

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: what is repaired, and scored; officially all.
        trim_ratio: share of the selected weights above the threshold, in (0, 1]; 1 - the official "sparsity".
        trim_batches: batches of concept images the score is summed over.
        scope: only these are drawn anew.
        margin: least share of the forgetting gradient in a step; the official helper's is 0.5, the equation's 0.
        lamb: weight of the forget term in the faithful forms.
        faithful: as the released script for ``objects`` or for ``nudity``. Neither projects: the first climbs the
            concept's diffusion loss, ``g_r - lamb * g_f``, the second adds the relabelling loss, ``g_r + lamb * g_f``.
            Both score the first images of the forget set again and again, that for objects by guided predictions, and
            draw weights anew otherwise: normal of deviation 0.02 for objects, uniform and 2.4 times as wide for nudity.
        **options: see `Eraser`.

    Raises:
        ValueError: if a ratio or weight is out of range.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "full",
        trim_ratio: float = 0.005,
        trim_batches: int = 10,
        scope: Selection = "selfup",
        margin: float = 0.5,
        lamb: float = 0.1,
        faithful: Script = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, faithful, train=train, **options)
        if not 0 < trim_ratio <= 1 or trim_batches < 1 or margin < 0 or lamb < 0:
            raise ValueError(
                f"trim_ratio ({trim_ratio}) must be in (0, 1], trim_batches ({trim_batches}) at least 1, "
                f"margin ({margin}) and lamb ({lamb}) not negative"
            )
        self.trim_ratio, self.trim_batches, self.scope = trim_ratio, trim_batches, scope
        self.margin, self.lamb = margin, lamb
        if outside := sorted(set(select(diffusion, scope)) - set(self.selected)):
            raise ValueError(f"scope={scope!r} would draw {outside[0]} anew, which train={self.train_rule!r} freezes")

    def prepare(self, batch: Batch) -> None:
        """Trim, once."""
        super().prepare(batch)
        if self.global_step > 0:
            return
        with torch.enable_grad():
            gradients = summed_gradients(self._trim_losses(batch), self.selected, absolute=True)
        scores = {name: gradient * self.selected[name].abs() for name, gradient in gradients.items()}
        masks = largest({name: score.detach() for name, score in scores.items()}, self.trim_ratio)
        generator = self.generator("trim")
        with torch.no_grad():
            for name in select(self.diffusion, self.scope):
                parameter = self.selected[name]
                parameter.copy_(parameter.where(~masks[name], _fresh(parameter, generator, self.faithful)))

    def _trim_losses(self, batch: Batch) -> Iterator[Tensor]:
        for number in range(self.trim_batches):
            latents, prompts = self._trim_rows(batch, number)
            generator = self.generator(f"trim/{number}")
            if self.faithful == "objects":
                yield self.guided_loss(latents, prompts, 8.5, generator)
            else:
                yield self.diffusion_loss(latents, prompts, generator)

    def _trim_rows(self, batch: Batch, number: int) -> tuple[Tensor, list[str]]:
        if self.faithful:
            return self.forget_rows(batch)
        latents, captions = batch["forget_set"].rows(number * self.batch_size, self.batch_size, self.seed)
        return latents.to(self.device), self.concept_prompts(captions)

    def forget_loss(self, batch: Batch, purpose: str = "forget") -> Tensor:
        """The relabelling loss; in the form for objects the concept's own diffusion loss, to be climbed."""
        if self.faithful != "objects":
            return super().forget_loss(batch, purpose)
        return self.diffusion_loss(*self.forget_rows(batch), self.generator(purpose))

    def merge(self, retain: Gradients, forget: Gradients) -> list[Tensor]:
        """Equation 5, or the sum or difference that was released."""
        if not self.faithful:
            return project(retain, forget, self.margin)
        return add(retain, forget, -self.lamb if self.faithful == "objects" else self.lamb)


def _fresh(parameter: Tensor, generator: torch.Generator, faithful: Script) -> Tensor:
    """A parameter as a new layer would have it (He et al. 2015), or as a released script draws it; biases of zero."""
    if parameter.ndim < 2:
        return torch.zeros_like(parameter)
    drawn = torch.empty(parameter.shape)
    if faithful == "objects":
        nn.init.trunc_normal_(drawn, std=0.02, generator=generator)
    else:
        nn.init.kaiming_uniform_(drawn, a=0 if faithful == "nudity" else 5**0.5, generator=generator)
    return drawn.to(parameter)
