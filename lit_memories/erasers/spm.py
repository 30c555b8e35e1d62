"""SPM, concept-semipermeable membrane (Lyu et al. 2024, arXiv:2312.16145)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.adapters import Adapter
from lit_memories.ops.targets import match


class SPM(RolloutEraser):
    r"""Learns ESD's target with a low-rank adapter that leaves random conditions alone (eq. 5 and 7).

    .. math:: \lVert \epsilon_{\theta_0+A}(x_t, c) - (\epsilon_0(x_t, \emptyset)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, \emptyset)]) \rVert^2
        + \lambda_a \lVert \epsilon_{\theta_0+A}(x_t, \tilde c) - \epsilon_0(x_t, \tilde c) \rVert^2

    The model is its own teacher: with the adapter off it is the original, to the bit. The artefact is the adapter,
    which at inference acts as strongly as a prompt is near to the concept (`lit_memories.ops.adapters.gate`). Latents
    :math:`x_t` come from a run with the adapter on, at the timestep they are at (the official code tells the network a
    timestep 33 to 42 levels above).

    Args:
        diffusion: the model; its weights are not changed.
        concept: what to erase.
        rank: of the adapter.
        anchor_weight: :math:`\lambda_a`; it does not carry over between models: compare the two logged terms. It
            multiplies the rounding of two nearly equal predictions: above 10 train in float32, as officially.
        anchors: random conditions :math:`\tilde c` a step. They are Gaussian, as long as the concept's embedding.
        warmup_steps: steps in which the learning rate rises.
        cycles: of the cosine schedule.
        faithful: the official code's mix-up: of interleaved pairs (empty prompt, anchor) only the second half is used,
            so that half of the anchors drop out and the empty prompt stands in their place.
        **options: see `RolloutEraser` and `Eraser`.

    Raises:
        ValueError: if rank, weight or number of anchors is out of range.
    """

    amplifies = ("anchor_weight",)

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rank: int = 1,
        anchor_weight: float = 1000.0,
        anchors: int = 4,
        warmup_steps: int = 0,
        cycles: int = 3,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=None, **options)
        if rank < 1 or anchor_weight < 0 or anchors < 1 or warmup_steps < 0 or cycles < 1:
            raise ValueError(
                f"rank ({rank}), anchors ({anchors}) and cycles ({cycles}) must be at least 1, "
                f"anchor_weight ({anchor_weight}) and warmup_steps ({warmup_steps}) not negative"
            )
        self.rank, self.anchor_weight, self.anchors = rank, anchor_weight, anchors
        self.warmup_steps, self.cycles, self.faithful = warmup_steps, cycles, faithful
        self.adapter = Adapter.fresh(diffusion.network, rank, Generator().manual_seed(self.seed))
        self.adopt({f"{diffusion.component}.{name}": factor for name, factor in self.adapter.factors().items()})

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model with the adapter off, without gradients."""
        with self.adapter.off(), torch.no_grad():
            yield

    def configure_optimizers(self) -> Any:
        """AdamW with the official schedule: cosine with hard restarts after a warm-up."""
        optimizer = torch.optim.AdamW(self.selected.values(), lr=self.lr)
        schedule = get_cosine_with_hard_restarts_schedule_with_warmup(
            optimizer, self.warmup_steps, self.steps, num_cycles=self.cycles
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equations 5 and 7."""
        generator = self.generator()
        prompts = draw(batch["prompts"], self.batch_size, generator)
        latents, timestep = self.stopped(prompts, generator)
        conditions = self._conditions(self.diffusion.encode_prompts(prompts), generator)
        many = latents.repeat(len(conditions) // len(latents), 1, 1, 1)
        with self.teacher():
            target = self.negated(latents, timestep, prompts)
            unmoved = self.diffusion.predict(many, timestep, conditions)
        erase = match(self.predict(latents, timestep, prompts), target)
        anchor = match(self.diffusion.predict(many, timestep, conditions), unmoved)
        self.log_dict({"train/erase": erase, "train/anchor": self.anchor_weight * anchor}, batch_size=1)
        return erase + self.anchor_weight * anchor

    def _conditions(self, embeds: Tensor, generator: Generator) -> Tensor:
        """Random conditions (anchors * n, tokens, width), 0.8 to 1.2 times as long as the concept's embeddings."""
        drawn = torch.randn(self.anchors, *embeds.shape, generator=generator).to(embeds)
        lengths = embeds.flatten(1).norm(dim=1) * (
            0.8 + 0.4 * torch.rand(drawn.shape[:2], generator=generator).to(embeds)
        )
        anchors = drawn * (lengths / drawn.flatten(2).norm(dim=2))[..., None, None]
        if self.faithful:
            empty = self.diffusion.encode_prompts([""]).expand_as(anchors[0])
            pairs = [condition for anchor in anchors for condition in (empty, anchor)]
            anchors = torch.stack(pairs[len(pairs) // 2 :])
        return anchors.flatten(0, 1)

    def gate_prompts(self) -> list[str]:
        """The concept's name."""
        return [self.concept.phrase]
