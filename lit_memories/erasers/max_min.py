"""What EAP and AGE share: a search, between the steps, for the concept among many that erasure affects most."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.attack import Descent
from lit_memories.ops.clusters import centres
from lit_memories.ops.generators import seeded
from lit_memories.ops.path import ddim_step
from lit_memories.ops.simplex import gumbel_shares
from lit_memories.ops.targets import match


class MaxMinEraser(RolloutEraser):
    """An eraser with an adversary that chooses among concepts, by logits which Gumbel-softmax makes differentiable.

    Candidates are those nearest to the concept by their embeddings, thinned out: of clusters of their distances the
    member nearest to each centre.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        candidates: the ``words`` of the tokenizer that are one token (officially 3000 English ones), or the concept's
            ``retain`` prompts. What names the concept is none.
        nearest: how many of them, the nearest.
        clusters: of their distances; as many candidates are left, at most.
        keep_weight: of keeping the chosen concept.
        search_steps: the adversary's, before each of ours but the first.
        search_lr: its learning rate.
        temperature: of Gumbel-softmax.
        top_k: mix so many candidates; None for one.
        faithful: as released: distances are between clean latents, by the level of ESD's mismatched run of 2023 instead
            of between noises, so that noisy levels weigh by far the most.
        **options: see `RolloutEraser` and `Eraser`. The model in training runs, as officially.

    Raises:
        ValueError: if a number is out of range, or, in training, there are no candidates.
    """

    one_process = "its processes would each search for a concept of their own"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        candidates: Literal["words", "retain"] = "words",
        nearest: int = 2000,
        clusters: int = 50,
        keep_weight: float = 1.0,
        search_steps: int = 1,
        search_lr: float = 1e-2,
        temperature: float = 2.0,
        top_k: int | None = None,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if min(nearest, clusters, 1 if top_k is None else top_k) < 1 or min(keep_weight, search_steps, search_lr) < 0:
            raise ValueError(
                f"nearest ({nearest}), clusters ({clusters}) and top_k ({top_k}) must be at least 1, keep_weight "
                f"({keep_weight}), search_steps ({search_steps}) and search_lr ({search_lr}) not negative"
            )
        if temperature <= 0:
            raise ValueError(f"temperature ({temperature}) must be above 0")
        if candidates == "retain" and not concept.retain:
            raise ValueError(f"the concept {concept.name!r} has no retain prompts to search among: candidates words")
        self.candidates, self.nearest, self.clusters, self.keep_weight = candidates, nearest, clusters, keep_weight
        self.search_steps, self.search_lr, self.temperature = search_steps, search_lr, temperature
        self.top_k, self.faithful = top_k, faithful
        self._resumed: dict[str, Any] | None = None

    @abstractmethod
    def search_loss(self, embeds: Tensor, generator: Generator) -> Tensor:
        """What the adversary lowers by its choice, embeddings (n, rows, width) through which it is differentiated."""

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """Find the candidates, and begin to search among them, or go on."""
        self.choice = self._thinned(batch)
        self._embeds = self.diffusion.encode_prompts(self.choice)
        count = len(self.choice)
        self.search = Descent(torch.full((count,), 1 / count, device=self.device), self.search_lr)
        if self._resumed is not None:
            self.search.load_state_dict(self._resumed)

    def _thinned(self, batch: Batch) -> list[str]:
        names = batch["retain"] if self.candidates == "retain" else words_of(self.diffusion)
        names = [name for name in dict.fromkeys(names) if not self.concept.named_in(name)]
        if not names:
            raise ValueError(f"{type(self).__name__} has no candidates: all {self.candidates} name the concept")
        concept = self.diffusion.encode_prompts([self.concept.phrase])
        parts = [self.diffusion.encode_prompts(names[i : i + 64]) for i in range(0, len(names), 64)]
        far = torch.cat([(part - concept).flatten(1).norm(dim=1) for part in parts])
        order = far.argsort(stable=True)[: self.nearest]
        found = centres(far[order][:, None], self.clusters, seeded(f"{self.seed}/clusters"))
        nearest = torch.cdist(found, far[order][:, None]).argmin(1).unique()
        return [names[i] for i in order[nearest].tolist()]

    def chosen(self, logits: Tensor, count: int, generator: Generator) -> Tensor:
        """Embeddings (count, rows, width) of what the logits choose; differentiable."""
        shares = gumbel_shares(logits, count, generator, self.temperature, self.top_k)
        return (shares @ self._embeds.flatten(1)).unflatten(1, self._embeds.shape[1:])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let the adversary search."""
        if self.global_step:
            self.search.run(self._searched, self.search_steps)

    def _searched(self, logits: Tensor, step: int) -> Tensor:
        generator = self.generator(f"search/{step}")
        return self.search_loss(self.chosen(logits, self.batch_size, generator), generator)

    def places(self, prompts: Sequence[str], embeds: Tensor, generator: Generator) -> tuple[Tensor, Tensor, float]:
        """Latents (n, c, h, w) on the way to images of prompts, and of what embeddings ask for; their timestep."""
        both = torch.cat([self.diffusion.encode_prompts(prompts), embeds.detach()])
        latents, timestep = (self.mismatched if self.faithful else self.stopped)(both, generator)
        concept, other = latents.chunk(2)
        return concept, other, timestep

    def drawn_prompts(self, generator: Generator) -> list[str]:
        """This step's prompts of the concept."""
        return draw(self.concept.prompts, self.batch_size, generator)

    def kept(self, latents: Tensor, timestep: float, embeds: Tensor) -> Tensor:
        """How far predictions under embeddings (n, rows, width) are from the original's, which have no gradient."""
        with self.teacher():
            unmoved = self.diffusion.predict(latents, timestep, embeds)
        found = self.diffusion.predict(latents, timestep, embeds)
        return self.distance(latents, timestep, found, unmoved)

    def distance(self, latents: Tensor, timestep: float, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean square between two predictions of noise; faithful, between the clean latents that they make."""
        if not self.faithful:
            return match(predicted, target)
        steps = self.diffusion.schedule.ddim_steps(self.num_inference_steps)
        width = self.diffusion.schedule.num_train_timesteps // len(steps)
        clean = replace(steps[len(steps) - 1 - int(timestep) // width], alpha_prev=1.0)
        return match(ddim_step(latents, predicted, clean), ddim_step(latents, target, clean))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the search too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["search"] = self.search.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember where the search was, until it is prepared."""
        self._resumed = checkpoint["search"]


def words_of(diffusion: Diffusion) -> list[str]:
    """The words of a tokenizer's vocabulary that are one token, in three letters or more."""
    tokenizer = diffusion.tokenizer
    texts = {number: tokenizer.decode([number]).strip() for number in sorted(tokenizer.get_vocab().values())}
    words = {number: text for number, text in texts.items() if re.fullmatch(r"[a-z]{3,}", text)}
    return [word for number, word in words.items() if diffusion.words(word) == [number]]
