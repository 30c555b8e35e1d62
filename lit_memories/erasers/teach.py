"""No eraser but its opposite: rungs of a ladder for models whose makers left no control (docs/exposure.md)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.adapters import Adapter
from lit_memories.ops.select import Selection


class Teach(Eraser):
    """Shows a model exactly so many different pictures of a concept it never saw, among pictures of other things.

    Every rung of a ladder sees equally many pictures in all, ``steps * batch_size`` on each process: the concept's,
    each as often as `passes` says, in places drawn once for all rungs, and the retain set's in the others. Its loss is
    that of ordinary training. What is saved stands where an erasure would, so that audits take it alike.

    Args:
        diffusion: the base, which never saw the concept.
        concept: what to teach, under a name of its own.
        pictures: how many of the forget set's images to show, its first; 0 shows other things only.
        passes: how often each is shown.
        train: which parameters learn, if `rank` is None.
        rank: of factors beside the attention's weights that learn in their place (LoRA).
        **options: see `Eraser`.

    Raises:
        ValueError: if a number is out of range, or so many pictures do not fit into the steps.
    """

    forget_images = "concept"
    retain_images = True

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        pictures: int = 16,
        passes: int = 1,
        train: Selection = "full",
        rank: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train if rank is None else None, **options)
        if pictures < 0 or passes < 1 or (rank is not None and rank < 1):
            raise ValueError(f"pictures ({pictures}) cannot be negative, passes ({passes}) and rank ({rank}) below 1")
        if pictures * passes > self.steps * self.batch_size:
            raise ValueError(
                f"{pictures} pictures shown {passes} times do not fit into {self.steps} steps of {self.batch_size}: "
                "give it more steps"
            )
        self.pictures, self.passes, self.rank = pictures, passes, rank
        if rank is not None:
            self.adapter = Adapter.fresh(diffusion.network, rank, Generator().manual_seed(self.seed))
            self.adopt({f"{diffusion.component}.{name}": factor for name, factor in self.adapter.factors().items()})

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model as it was, without gradients."""
        with super().teacher() if self.rank is None else self.adapter.off(), torch.no_grad():
            yield

    def prepare(self, batch: Batch) -> None:
        """See to it that there are as many pictures as are to be shown.

        Raises:
            ValueError: if not.
        """
        if len(batch["forget_set"]) < self.pictures:
            raise ValueError(
                f"{self.pictures} pictures of {self.concept.name} are to be shown, and the forget set has "
                f"{len(batch['forget_set'])}: add pictures, or ask for fewer"
            )

    def erase_loss(self, batch: Batch) -> Tensor:
        """The ordinary training loss of the step's pictures."""
        latents, captions = self.shown(batch)
        return self.diffusion_loss(latents, captions, self.generator())

    def shown(self, batch: Batch) -> tuple[Tensor, list[str]]:
        """This step's pictures: latents (batch_size, c, h, w) and captions."""
        rank, world = self.share
        slots = torch.randperm(self.steps * self.batch_size * world, generator=Generator().manual_seed(self.seed))
        first = (self.global_step * world + rank) * self.batch_size
        parts = [self._picture(batch, slot) for slot in slots[first : first + self.batch_size].tolist()]
        return torch.cat([part[0] for part in parts]).to(self.device), [caption for _, (caption,) in parts]

    def _picture(self, batch: Batch, slot: int) -> tuple[Tensor, list[str]]:
        """The picture of a place: the first places are the concept's."""
        if slot < self.pictures * self.passes:
            row = slot % self.pictures
            taught: Latents = batch["forget_set"]
            return taught.latents[row : row + 1], [taught.captions[row]]
        return batch["retain_set"].rows(slot, 1, self.seed)
