"""What SalUn, EraseDiff and Scissorhands share: one loss to forget, one to retain."""

from abc import abstractmethod
from typing import Any, Literal, cast, get_args

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Generator, Tensor
from torch.optim import Optimizer

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents
from lit_memories.data.naming import warn_of_renamed
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.gradients import Gradients
from lit_memories.ops.targets import match

Script = Literal[False, "objects", "nudity"]
"""Which of a method's two released scripts is followed, if any: that for objects, or that for nudity."""


class TwoLossEraser(Eraser):
    """An eraser with images of the concept, which it relabels, and images of other things, which it keeps learning."""

    forget_images = "concept"
    retain_images = True
    several = True

    def prepare(self, batch: Batch) -> None:
        """Say which captions are not learnt as they are."""
        captions = batch["forget_set"].captions
        warn_of_renamed(captions, self.concept_prompts(captions), "add it to the concept's prompts, or to its pairs")

    def forget_loss(self, batch: Batch, purpose: str = "forget") -> Tensor:
        """Distance from the prediction for the concept to the live model's own for what takes its place, on its images.

        Args:
            batch: has the images.
            purpose: of the random numbers.
        """
        latents, prompts = self.forget_rows(batch)
        noisy, timesteps, _ = self.noised(latents, self.generator(purpose))
        with torch.no_grad():
            target = self.predict(noisy, timesteps, [self.concept.anchored(prompt) for prompt in prompts])
        return match(self.predict(noisy, timesteps, prompts), target)

    def retain_loss(self, batch: Batch) -> Tensor:
        """The ordinary diffusion loss on images of other things."""
        latents, captions = self.retain_rows(batch)
        return self.diffusion_loss(latents, captions, self.generator("retain"))

    def guided_loss(self, latents: Tensor, prompts: list[str], scale: float, generator: Generator) -> Tensor:
        """The diffusion loss of predictions with guidance, by which official code finds the weights that matter."""
        noisy, timesteps, wanted = self.noised(latents, generator)
        conditional = self.predict(noisy, timesteps, prompts)
        empty = self.predict(noisy, timesteps, [""] * len(prompts))
        return match(empty + scale * (conditional - empty), wanted)

    def forget_rows(self, batch: Batch) -> tuple[Tensor, list[str]]:
        """This step's latents (n, c, h, w) of the concept, and prompts that name it."""
        latents, captions = self.rows(batch["forget_set"], self.batch_size)
        return latents, self.concept_prompts(captions)

    def retain_rows(self, batch: Batch) -> tuple[Tensor, list[str]]:
        """This step's latents (n, c, h, w) of other things, and their captions."""
        return self.rows(batch["retain_set"], self.batch_size)

    def concept_prompts(self, captions: list[str]) -> list[str]:
        """Captions that name the concept as they are, the concept's phrase for the others; several must be named."""
        return [c if self.concept.named_in(c) else self.concept.of(c).phrase for c in captions]


class MergingEraser(TwoLossEraser):
    """A `TwoLossEraser` that makes one gradient of the two itself, which loops of Lightning's cannot do.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        faithful: which released script is followed, if any. Both forget the set's first images at every step, as they
            ask their loader for its first batch again and again; that for nudity retains the first ones too.
        **options: see `Eraser`.

    Raises:
        ValueError: if there is no such script.
    """

    one_process = "it needs the two gradients apart, and they would not be averaged over devices"

    def __init__(self, diffusion: Diffusion, concept: Concept, faithful: Script = False, **options: Any) -> None:
        super().__init__(diffusion, concept, **options)
        if faithful not in get_args(Script):
            raise ValueError(f"faithful ({faithful}) must be objects or nudity, the released scripts, or false")
        self.faithful = faithful
        self.automatic_optimization = False

    def forget_rows(self, batch: Batch) -> tuple[Tensor, list[str]]:
        """This step's rows; faithful, the first at every step."""
        if not self.faithful:
            return super().forget_rows(batch)
        latents, captions = self._first(batch["forget_set"])
        return latents, self.concept_prompts(captions)

    def retain_rows(self, batch: Batch) -> tuple[Tensor, list[str]]:
        """This step's rows; faithful for nudity, the first at every step."""
        return self._first(batch["retain_set"]) if self.faithful == "nudity" else super().retain_rows(batch)

    def _first(self, images: Latents) -> tuple[Tensor, list[str]]:
        return images.latents[: self.batch_size].to(self.device), images.captions[: self.batch_size]

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
        self._follow(gradients, optimizer)
        self.log_dict({"train/forget": forget, "train/loss": retain}, prog_bar=True, batch_size=1)

    def _follow(self, gradients: Gradients, optimizer: LightningOptimizer | Optimizer) -> None:
        """A step along a gradient."""
        for parameter, gradient in zip(self.selected.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        parameters = list(self.selected.values())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
