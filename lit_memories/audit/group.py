"""Samples that are asked together, and the model they are put to, as probes see them."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from lit_memories.audit.predictor import BlockwisePredictor, Tally
from lit_memories.concept import Concept
from lit_memories.data.samples import Sample
from lit_memories.diffusion import Diffusion
from lit_memories.inverters.base import Inversion, Inverter
from lit_memories.ops.path import DDIMStep
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.probes.base import Column
from lit_memories.records import SetName
from lit_memories.words import Words

if TYPE_CHECKING:
    from lit_memories.audit.base import Audit


class SampleGroup:
    """A `probes.base.Group` of an audit's samples.

    Args:
        audit: whose model, inverter and judge are asked.
        samples: of one set and one conditioning.
        seeds: that an earlier run found for all of them (n, c, h, w); None has them found where a probe needs them.
    """

    def __init__(self, audit: "Audit", samples: Sequence[Sample], seeds: Tensor | None = None) -> None:
        self.audit, self.samples, self._found = audit, samples, seeds
        self.tally = Tally()

    @property
    def set(self) -> SetName:
        """Of all samples."""
        return self.samples[0].set

    @property
    def concept(self) -> Concept:
        """What the model should have forgotten."""
        return self.audit.concept

    @property
    def prompts(self) -> list[str]:
        """One a sample."""
        return [sample.prompt for sample in self.samples]

    @property
    def keys(self) -> list[str]:
        """Of the samples' records, the same in the audits of all models."""
        return [self.audit.key(sample.name) for sample in self.samples]

    @property
    def rows(self) -> Tensor:
        """The samples' rows (n,), by which `predictor` knows whose prompts to take."""
        return torch.arange(len(self.samples), device=self.audit.device)

    @property
    def conditioned(self) -> bool:
        """Whether these are images under other prompts, or another guidance, than their own."""
        return self.samples[0].conditioning is not None

    @property
    def guidance_scale(self) -> float:
        """Of inversion and regeneration."""
        return self.audit.guidance_scale if self.asked_guidance is None else self.asked_guidance

    @property
    def asked_guidance(self) -> float | None:
        """The guidance that images are looked at under, where their conditioning says one."""
        return self.samples[0].guidance_scale

    @property
    def schedule(self) -> NoiseSchedule:
        """The model's noise levels."""
        return self.audit.diffusion.schedule

    @property
    def steps(self) -> Sequence[DDIMStep]:
        """The audit's DDIM steps, noise first."""
        return self.audit.steps

    @property
    def inverter(self) -> Inverter:
        """The audit's."""
        return self.audit.inverter

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        network: nn.Module = self.audit.diffusion.network
        return network

    @property
    def lesson(self) -> "SampleGroup":
        """The pictures of the set that probes teach the model, always the same object."""
        lesson = self.audit.lessons[self.set]
        lesson.tally = self.tally  # so that this group pays for it
        return lesson

    @cached_property
    def images(self) -> Tensor:
        """The samples' images (n, 3, h, w) in [0, 1]."""
        images = [sample.image for sample in self.samples if sample.image is not None]
        return torch.stack(images).to(self.audit.device)

    @cached_property
    def latents(self) -> Tensor:
        """Of the images (n, c, h, w)."""
        return self.audit.encode(self.images, self.audit.posterior_seed)

    @cached_property
    def round_trips(self) -> Tensor:
        """The latents decoded again (n, 3, h, w)."""
        return self.decode(self.latents)

    @cached_property
    def inversion(self) -> Inversion:
        """Of the latents, under the samples' prompts and guidance; found once, however many probes ask."""
        return self.inverter(self.predictor(self.guidance_scale), self.latents, self.steps)

    @property
    def seeds(self) -> Tensor:
        """The samples' seeds (n, c, h, w), those of an earlier run where it found them."""
        if self._found is None:
            return self.inversion.seeds
        return self._found.to(self.audit.device)

    def keep(self, seeds: Tensor) -> None:
        """Seeds that a probe found, for those that need them after it."""
        self._found = seeds

    def predictor(self, guidance_scale: float, prompts: Sequence[str] | None = None) -> BlockwisePredictor:
        """The model's predictions under prompts, the samples' own if None."""
        return self.predictor_of(self.audit.embed(self.prompts if prompts is None else prompts), guidance_scale)

    def predictor_of(
        self, embeds: Tensor, guidance_scale: float, diffusion: Diffusion | None = None
    ) -> BlockwisePredictor:
        """Predictions under embeddings (n, rows, width), differentiable; of another model than the audit's if given."""
        predictor = self.audit.predictor_of(embeds, guidance_scale, diffusion)
        predictor.tally = self.tally
        return predictor

    @property
    def words(self) -> Words:
        """The model's text encoder and vocabulary."""
        return Words(self.audit.diffusion)

    @property
    def evaluations(self) -> int:
        """Of networks, on all samples together, since the probe was asked."""
        return self.tally.evaluations

    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, 3, h, w) of latents, each decoded alone."""
        return self.audit.decode(latents)

    def judge(self, images: Tensor, prompts: Sequence[str] | None = None) -> dict[str, Column]:
        """What the judge sees, a column each of ``shows_concept``, ``probability``, ``correct``; {} without one."""
        return self.audit.judged(self.prompts if prompts is None else prompts, images)

    def generators(self, purpose: str = "") -> list[Generator]:
        """The samples' own sources of randomness on the CPU: the same for every model, another for each purpose."""
        return self.audit.generators(self.samples, purpose)

    def draw_seeds(self, generators: Sequence[Generator]) -> Tensor:
        """Seeds from the prior (n, c, h, w), one a generator."""
        return self.audit.diffusion.draw_seeds(generators)

    def blocks(self) -> Iterator["SampleGroup"]:
        """The samples again, as many at a time as fit a call of the network."""
        for first in range(0, len(self.samples), self.audit.block_size):
            rows = slice(first, first + self.audit.block_size)
            part = SampleGroup(self.audit, self.samples[rows], None if self._found is None else self._found[rows])
            part.tally = self.tally
            if self.samples[0].image is not None:
                part.images, part.latents = self.images[rows], self.latents[rows]
            yield part

    def spent(self) -> int:
        """Network evaluations since this was last asked."""
        spent, self.tally.evaluations = self.tally.evaluations, 0
        return spent
