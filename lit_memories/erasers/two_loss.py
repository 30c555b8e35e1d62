"""What SalUn, EraseDiff and Scissorhands share: one loss to forget, one to retain."""

from abc import abstractmethod
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from lit_memories.data.erasure import Batch
from lit_memories.erasers.base import Eraser
from lit_memories.ops.gradients import Gradients
from lit_memories.ops.targets import match


class TwoLossEraser(Eraser):
    """An eraser with images of the concept, which it relabels, and images of other things, which it keeps learning."""

    forget_images = "concept"
    retain_images = True

    def forget_loss(self, batch: Batch) -> Tensor:
        """Distance from the prediction for the concept to the live model's own for the anchor, on concept images."""
        latents, captions = self.rows(batch["forget_set"], self.batch_size)
        noisy, timesteps, _ = self.noised(latents, self.generator("forget"))
        prompts = self.concept_prompts(captions)
        with torch.no_grad():
            target = self.predict(noisy, timesteps, [self.concept.anchored(prompt) for prompt in prompts])
        return match(self.predict(noisy, timesteps, prompts), target)

    def retain_loss(self, batch: Batch) -> Tensor:
        """The ordinary diffusion loss on images of other things."""
        latents, captions = self.rows(batch["retain_set"], self.batch_size)
        return self.diffusion_loss(latents, captions, self.generator("retain"))

    def concept_prompts(self, captions: list[str]) -> list[str]:
        """Captions that name the concept as they are, the concept's phrase for the others."""
        return [caption if self.concept.named_in(caption) else self.concept.phrase for caption in captions]


class MergingEraser(TwoLossEraser):
    """A `TwoLossEraser` that makes one gradient of the two itself, which loops of Lightning's cannot do."""

    one_process = "it needs the two gradients apart, and they would not be averaged over devices"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.automatic_optimization = False

    @abstractmethod
    def merge(self, retain: Gradients, forget: Gradients) -> list[Tensor]:
        """One gradient made of two."""

    def erase_loss(self, batch: Batch) -> Tensor:
        """The retain loss: the forget loss is no summand but a constraint on the step."""
        return self.retain_loss(batch)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step along the merged gradient."""
        forget, retain = self.forget_loss(batch), self.erase_loss(batch)
        gradients = self.merge(self._gradients(retain), self._gradients(forget))
        optimizer = cast("LightningOptimizer", self.optimizers())
        for parameter, gradient in zip(self.selected.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        self.log_dict({"train/forget": forget, "train/loss": retain}, prog_bar=True, batch_size=1)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        parameters = list(self.selected.values())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
