"""AGE, adaptive guided erasure (Bui et al. 2025, arXiv:2501.18950)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from lit_memories.data.erasure import Batch
from lit_memories.erasers.max_min import MaxMinEraser
from lit_memories.ops.targets import negate


class AGE(MaxMinEraser):
    r"""Guides the concept away from itself to a neighbour that erasure affects most, searched for while training.

    .. math:: \min_\theta \max_\pi \; \lVert \epsilon_\theta(x_t, c) - (\epsilon_0(x_t, c_\pi)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, c_\pi)]) \rVert^2
        + \lambda \lVert \epsilon_\theta(x'_t, c_\pi) - \epsilon_0(x'_t, c_\pi) \rVert^2

    where :math:`c_\pi` takes the place that the empty prompt has in ESD. The adversary raises the second term and
    :math:`\lVert \epsilon_\theta(x_t, c) - \epsilon_0(x_t, c_\pi) \rVert^2`; as released (`faithful`) only the second,
    as the target's embedding is cut off there. `direction` has no meaning here: it is ``prompt``.
    """

    def probe_target(self, latents: Tensor, timestep: float, prompts: Sequence[str]) -> Tensor:
        """With the concept's own anchor in the place of what is searched for."""
        anchored = [self.concept.anchored(prompt) for prompt in prompts]
        anchor, concept = self.predict_all(latents, timestep, anchored, prompts)
        return negate(anchor, concept, anchor, self.eta)

    def erase_loss(self, batch: Batch) -> Tensor:
        """What the model lowers, under the adversary's choice."""
        generator = self.generator()
        prompts = self.drawn_prompts(generator)
        embeds = self.chosen(self.search.found.detach(), self.batch_size, generator)
        latents, others, timestep = self.places(prompts, embeds, generator)
        with self.teacher():
            goal = self.diffusion.predict(latents, timestep, embeds)
            target = negate(goal, self.predict(latents, timestep, prompts), goal, self.eta)
        kept = self.kept(others, timestep, embeds)
        erase = self.distance(latents, timestep, self.predict(latents, timestep, prompts), target)
        self.log_dict({"train/erase": erase, "train/keep": kept}, batch_size=1)
        return erase + self.keep_weight * kept

    def search_loss(self, embeds: Tensor, generator: Generator) -> Tensor:
        """Less what the adversary raises, or what has its gradient."""
        prompts = self.drawn_prompts(generator)
        latents, others, timestep = self.places(prompts, embeds, generator)
        apart = 0.0 if self.faithful else self._apart(latents, timestep, prompts, embeds)
        return -self.keep_weight * self.kept(others, timestep, embeds) - apart

    def _apart(self, latents: Tensor, timestep: float, prompts: Sequence[str], embeds: Tensor) -> Tensor:
        """A number with the gradient of the first term by embeddings (n, rows, width).

        The original's weights are in place only within `teacher`, so that it is differentiated there.
        """
        with torch.no_grad():
            concept = self.predict(latents, timestep, prompts)
        with self.teacher(), torch.enable_grad():
            target = embeds.detach().requires_grad_(True)
            distance = self.distance(latents, timestep, self.diffusion.predict(latents, timestep, target), concept)
            (slope,) = torch.autograd.grad(distance, target)
        return (embeds * slope).sum()
