"""EAP, erasing with adversarial preservation (Bui et al. 2024, arXiv:2410.15618)."""

from torch import Generator, Tensor

from lit_memories.data.erasure import Batch
from lit_memories.erasers.max_min import MaxMinEraser


class EAP(MaxMinEraser):
    r"""ESD's target, and the concept that erasure affects most kept as it is; an adversary searches for that one.

    .. math:: \min_\theta \max_\pi \; \lVert \epsilon_\theta(x_t, c) - (\epsilon_0(x_t, \emptyset)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, \emptyset)]) \rVert^2
        + \lambda \lVert \epsilon_\theta(x'_t, c_\pi) - \epsilon_0(x'_t, c_\pi) \rVert^2

    where :math:`c_\pi` is drawn among candidates by the logits :math:`\pi` (Gumbel-softmax), and :math:`x'_t` lies on
    the way to an image of it.
    """

    def erase_loss(self, batch: Batch) -> Tensor:
        """What the model lowers, under the adversary's choice."""
        generator = self.generator()
        prompts = self.drawn_prompts(generator)
        embeds = self.chosen(self.search.found.detach(), self.batch_size, generator)
        latents, others, timestep = self.places(prompts, embeds, generator)
        with self.teacher():
            target = self.negated(latents, timestep, prompts)
        kept = self.kept(others, timestep, embeds)
        erase = self.distance(latents, timestep, self.predict(latents, timestep, prompts), target)
        self.log_dict({"train/erase": erase, "train/keep": kept}, batch_size=1)
        return erase + self.keep_weight * kept

    def search_loss(self, embeds: Tensor, generator: Generator) -> Tensor:
        """The adversary raises the second term."""
        _, others, timestep = self.places(self.drawn_prompts(generator), embeds, generator)
        return -self.kept(others, timestep, embeds)
