"""What every guard does: it acts on a model's predictions while pictures are drawn, and leaves the weights alone."""

from abc import ABC
from typing import Any, ClassVar, Literal

from torch import Tensor

from lit_memories.prompted import Prompted


class Guard(ABC):  # noqa: B024  each method has a default that leaves things as they are
    """Erases a concept at inference. It holds settings and no state: what it remembers of a picture travels with it."""

    remembers: ClassVar[bool] = False
    """Whether what it does depends on the steps before, on the way of one picture (`ops.rollout.Trajectories`)."""
    acts_on: ClassVar[Literal["guidance", "prompts"]] = "guidance"
    """What it changes: ``guidance``, which leaves predictions at guidance 1 as they are, or ``prompts``."""

    @property
    def beside(self) -> list[str]:
        """Prompts that a guided prediction asks the network about, besides the sample's own."""
        return [""]

    def guide(
        self, conditional: Tensor, others: tuple[Tensor, ...], guidance_scale: float, left: Tensor, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Guided predictions (n, c, h, w), and what to remember of them at the picture's next step (n, c, h, w).

        Args:
            conditional: predictions under the samples' prompts (n, c, h, w).
            others: those under the prompts `beside`, one after the other.
            guidance_scale: w.
            left: share of the way from noise to the picture that is left (n,), 1 at its beginning.
            memory: what the step before returned, zeros at a picture's first and where predictions are on no way.

        If not overridden, this is classifier-free guidance away from the one prompt `beside`.
        """
        (negative,) = others
        return negative + guidance_scale * (conditional - negative), memory

    def tell(self, model: Prompted, embeds: Tensor, ids: Tensor) -> Tensor:
        """Embeddings (n, more rows, width) with all that `seen` needs, of prompts' own (n, rows, width).

        Args:
            model: that is guarded.
            embeds: of the prompts, without a gated adapter's row.
            ids: of their tokens, with markers and padding.
        """
        return embeds

    def untold(self, model: Prompted, embeds: Tensor) -> Tensor:
        """The same of the prompts `beside`, which it leaves alone if its method does.

        Args:
            model: that is guarded.
            embeds: of these prompts, without a gated adapter's row.
        """
        return embeds

    def seen(self, embeds: Tensor, left: Tensor) -> Tensor:
        """What the network is told (n, rows, width) of what `tell` gave, with a share `left` (n,) of the way to go."""
        return embeds

    def check(self, model: Prompted, name: str) -> None:
        """Refuse a model on which it could do nothing.

        Args:
            model: to be guarded.
            name: of it.

        Raises:
            ValueError: if the model takes no guidance, or takes it as an input.
        """
        denoiser = model.denoiser
        if self.acts_on == "guidance" and (denoiser.takes_guidance or not denoiser.guidable):
            why = "guidance is an input of the network" if denoiser.takes_guidance else "it was distilled without any"
            raise ValueError(
                f"{type(self).__name__} acts on classifier-free guidance, and {name} has none ({why}): it would do "
                "nothing; leave the guard out"
            )

    def settings(self) -> dict[str, Any]:
        """Its name and options, all that it does depends on besides the model."""
        return {"name": type(self).__name__, **vars(self)}


STEPS = 50
"""Of the runs in which official code counts steps."""


def official_step(left: Tensor) -> Tensor:
    """The step of `STEPS`, from 0, that levels belong to, however many steps a run has.

    Args:
        left: share of the way from noise to the picture that is left (n,).

    Example:
        >>> import torch
        >>> official_step(torch.tensor([0.981, 0.980, 0.961, 0.781, 0.001]))
        tensor([ 0.,  0.,  1., 10., 49.])
    """
    return (((1 - left) * STEPS - 0.01).ceil() - 1).clamp(min=0)


def named(concept: str) -> str:
    """A concept in words.

    Raises:
        ValueError: if there are none.
    """
    if not concept.strip():
        raise ValueError("a guard's concept must not be empty: say in words what to keep out of pictures")
    return concept
