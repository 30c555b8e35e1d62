"""EraseDiff (Wu et al. 2024, arXiv:2401.05779)."""

from typing import Any

from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.two_loss import MergingEraser
from lit_memories.ops.gradients import Gradients, adaptive_weight, add
from lit_memories.ops.select import Selection


class EraseDiff(MergingEraser):
    r"""Retains, under the constraint that forgetting is as good as it gets (eq. 4, solved as its eq. 8).

    .. math:: \min_\theta L_r(\theta) \;\text{s.t.}\; q(\theta) = f(\theta) - \min_\phi f(\phi) \le 0,
        \qquad \theta \leftarrow \theta - \zeta (\nabla L_r + \lambda \nabla q)

    with :math:`\lambda = \max(0, \eta - \cos(\nabla L_r, \nabla q))`. The inner minimum is a constant:
    :math:`\nabla q = \nabla f`, and the steps that look for it change nothing in the update, so they are not made.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: ``full`` for objects, ``not-attn2`` for nudity, as officially.
        eta: least share of the forgetting gradient where the two do not agree.
        lamb: a fixed :math:`\lambda` instead; None for the adaptive one.
        faithful: as the released Stable Diffusion code: ``lamb`` of 1 if none is given, and every step with the same
            first images of the forget set.
        **options: see `Eraser`.

    Raises:
        ValueError: if a weight is negative.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "full",
        eta: float = 0.1,
        lamb: float | None = None,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train, **options)
        if eta < 0 or (lamb is not None and lamb < 0):
            raise ValueError(f"eta ({eta}) and lamb ({lamb}) cannot be negative")
        self.eta, self.faithful = eta, faithful
        self.lamb = 1.0 if faithful and lamb is None else lamb

    def rows(self, images: Latents, count: int) -> tuple[Tensor, list[str]]:
        """This step's rows; the first again and again of the forget set in the faithful form."""
        if self.faithful and images is self._forget_set:
            return images.latents[:count].to(self.device), images.captions[:count]
        return super().rows(images, count)

    def forget_loss(self, batch: Batch) -> Tensor:
        """f, the relabelling loss."""
        self._forget_set = batch["forget_set"]
        return super().forget_loss(batch)

    def merge(self, retain: Gradients, forget: Gradients) -> list[Tensor]:
        """Equation 8."""
        weight = adaptive_weight(retain, forget, self.eta) if self.lamb is None else self.lamb
        self.log("train/lambda", weight, batch_size=1)
        return add(retain, forget, weight)
