"""EraseDiff (Wu et al. 2024, arXiv:2401.05779)."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.two_loss import MergingEraser, Script
from lit_memories.ops.gradients import Gradients, adaptive_weight, add
from lit_memories.ops.select import Selection


class EraseDiff(MergingEraser):
    r"""Retains, under the constraint that forgetting is as good as it gets (eq. 4, solved as its eq. 8).

    .. math:: \min_\theta L_r(\theta) \;\text{s.t.}\; q(\theta) = f(\theta) - \min_\phi f(\phi) \le 0,
        \qquad \theta \leftarrow \theta - \zeta (\nabla L_r + \lambda \nabla q)

    with :math:`\lambda = \max(0, \eta - \cos(\nabla L_r, \nabla q))`. The inner minimum is a constant:
    :math:`\nabla q = \nabla f`, so the paper's update does not depend on the steps that look for it, and they are not
    made. The released code's does, as one Adam makes them and the others: what they find is thrown away, its moments
    are kept. There, every pass over the forget set is preceded by one that follows f alone, and begins again where the
    first of `inner_passes` began; all but the last are lost, up to what Adam remembers.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: ``full`` for objects, ``not-attn2`` for nudity, as officially.
        eta: least share of the forgetting gradient where the two do not agree.
        lamb: a fixed :math:`\lambda` instead; None for the adaptive one.
        faithful: as the released script for ``objects`` or for ``nudity``: `lamb` of 1 if none is given, the forget
            set's first images at every step, for nudity the retain set's too, and one Adam over both loops.
        inner_passes: officially K, how often an epoch of the faithful forms makes its two passes: 1 for objects, 2 for
            nudity. A step of `steps` is one of the second kind, lost or not.
        **options: see `Eraser`.

    Raises:
        ValueError: if a weight is negative, or there is no pass.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "full",
        eta: float = 0.1,
        lamb: float | None = None,
        faithful: Script = False,
        inner_passes: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, faithful, train=train, **options)
        if eta < 0 or (lamb is not None and lamb < 0):
            raise ValueError(f"eta ({eta}) and lamb ({lamb}) cannot be negative")
        if inner_passes < 1:
            raise ValueError(f"inner_passes ({inner_passes}) must be at least 1")
        self.eta, self.inner_passes = eta, inner_passes
        self.lamb = 1.0 if faithful and lamb is None else lamb
        self._start: dict[str, Tensor] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Equation 8; faithful, the inner pass before the first step of an outer one."""
        length = -(-len(batch["forget_set"]) // self.batch_size)
        if self.faithful and self.global_step % length == 0:
            if self.global_step // length % self.inner_passes == 0:
                self._start = {name: parameter.detach().clone() for name, parameter in self.selected.items()}
            self._inner_pass(batch, length)
        super().training_step(batch, batch_idx)

    def _inner_pass(self, batch: Batch, length: int) -> None:
        """Follow f alone, and go back with Adam's moments."""
        optimizer = cast("Optimizer", self.optimizers(use_pl_optimizer=False))  # Lightning counts the outer steps only
        for number in range(length):
            self._follow(self._gradients(self.forget_loss(batch, f"inner/{number}")), optimizer)
        with torch.no_grad():
            for name, parameter in self.selected.items():
                parameter.copy_(self._start[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep where the epoch began, to which its passes return."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["start"] = self._start if self.inner_passes > 1 else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the epoch began."""
        self._start = checkpoint.get("start", {})

    def merge(self, retain: Gradients, forget: Gradients) -> list[Tensor]:
        """Equation 8."""
        weight = adaptive_weight(retain, forget, self.eta) if self.lamb is None else self.lamb
        self.log("train/lambda", weight, batch_size=1)
        return add(retain, forget, weight)
