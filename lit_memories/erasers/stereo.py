"""STEREO, search thoroughly enough, robustly erase once (Srivatsan et al. 2025, arXiv:2408.16807)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.attack import Descent
from lit_memories.ops.generators import seeded
from lit_memories.ops.targets import match, negate
from lit_memories.words import Caption, Words, beginning


class STEREO(RolloutEraser):
    r"""Erases once, against the words by which the concept came back in rounds of erasure and textual inversion.

    Search: in each round ESD's target erases the last word :math:`w_{r-1}`, at first the concept's name :math:`w_0`,
    and a new one is learnt on its images by the loss that trains the model (textual inversion). Then, from the original
    weights, one compositional target for a prompt with any of these words in it:

    .. math:: \lVert \epsilon_\theta(x_t, c(w)) - (\epsilon_0(x_t, \emptyset)
        + \eta_a [\epsilon_0(x_t, a) - \epsilon_0(x_t, \emptyset)]
        - \frac{\eta}{R + 1} \sum_{r=0}^{R} [\epsilon_0(x_t, w_r) - \epsilon_0(x_t, \emptyset)]) \rVert^2

    where the anchor's prompt a is :math:`c` with the concept's anchor for its name, and keeps what is beside it.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        anchor_eta: :math:`\eta_a`.
        rounds: R.
        search_steps: of erasure, a round.
        search_lr: its learning rate.
        search_eta: strength of its target, in ESD's form.
        word_steps: of textual inversion, a round.
        word_lr: its learning rate.
        word_start: words with whose mean vector it begins; None for the mean of all ordinary tokens.
        template: caption in place of those that lack the phrase, with ``{}`` for the word.
        faithful: as released: the guidance scales are one less for the anchor and one more for the words, so that 2
            pulls with 1 and pushes with 3 (`eta` counts 2 more), and a round's erasure pulls to the empty prompt's
            prediction (`search_eta` is 0) of the model as it was when the round began.
        **options: see `RolloutEraser` and `Eraser`. The model in training runs, as officially.

    Raises:
        ValueError: if a number is out of range, or the text encoders read different words.
    """

    forget_images = "concept"
    one_process = "its processes would each search for words of their own"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        anchor_eta: float = 1.0,
        rounds: int = 2,
        search_steps: int = 200,
        search_lr: float = 5e-6,
        search_eta: float = 1.0,
        word_steps: int = 3000,
        word_lr: float = 5e-3,
        word_start: str | None = None,
        template: str = "a photo of {}",
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if min(anchor_eta, search_eta, rounds, search_steps, word_steps) < 0 or min(search_lr, word_lr) <= 0:
            raise ValueError(
                f"anchor_eta ({anchor_eta}), search_eta ({search_eta}), rounds ({rounds}), search_steps "
                f"({search_steps}) and word_steps ({word_steps}) cannot be negative, search_lr ({search_lr}) and "
                f"word_lr ({word_lr}) must be above 0"
            )
        if template.count("{}") != 1:
            raise ValueError(f"template must have one {{}} for the word, got {template!r}")
        if word_start and not diffusion.words(word_start):
            raise ValueError(f"word_start has no token, got {word_start!r}")
        self._words = Words(diffusion)
        self.anchor_eta, self.rounds, self.search_steps, self.search_lr = anchor_eta, rounds, search_steps, search_lr
        self.search_eta, self.word_steps, self.word_lr, self.word_start = search_eta, word_steps, word_lr, word_start
        self.template, self.faithful = template, faithful
        self._found: Tensor | None = None

    def prepare(self, batch: Batch) -> None:
        """Search, unless the words are known from a run that is resumed, and go back to the original weights."""
        if self._found is None:
            before = {name: parameter.detach().clone() for name, parameter in self.selected.items()}
            with torch.enable_grad():
                self._found = self.searched(batch["forget_set"])
            with torch.no_grad():
                for name, parameter in self.selected.items():
                    parameter.copy_(before[name])
        self.vectors = self._found.to(self.device)
        with torch.no_grad():
            self._names = torch.cat([self.said([self.concept.phrase], word) for word in range(self.rounds + 1)])

    def searched(self, images: Latents) -> Tensor:
        """The words (rounds, width), a round after the other; the weights are those of the last erasure then."""
        original, self.vectors = self._originals, torch.zeros(0, self._words.table.shape[1], device=self.device)
        for number in range(self.rounds):
            if self.faithful:
                self._originals = {name: parameter.detach().clone() for name, parameter in self.selected.items()}
            self._erase_word(number)
            self.vectors = torch.cat([self.vectors, self._learn_word(images, number)[None]])
        self._originals = original
        return self.vectors

    def _erase_word(self, number: int) -> None:
        optimizer = torch.optim.AdamW(self.selected.values(), lr=self.search_lr)
        eta = 0.0 if self.faithful else self.search_eta
        for step in range(self.search_steps):
            generator = seeded(f"{self.seed}/search/{number}/{step}")
            with torch.no_grad():
                embeds = self.said(draw(self.concept.prompts, self.batch_size, generator), number)
                none = self.diffusion.encode_prompts([""]).expand_as(embeds)
            latents, timestep = self.stopped(embeds, generator)
            with self.teacher():
                empty, named = (self.diffusion.predict(latents, timestep, c) for c in (none, embeds))
            loss = match(self.diffusion.predict(latents, timestep, embeds), negate(empty, named, empty, eta))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            torch.clear_autocast_cache()  # or the next run would be that of the weights before the step
        optimizer.zero_grad()

    def _learn_word(self, images: Latents, number: int) -> Tensor:
        captions = [Caption.of(self._words, self.concept, caption, self.template) for caption in images.captions]

        def loss(vector: Tensor, step: int) -> Tensor:
            generator = seeded(f"{self.seed}/word/{number}/{step}")
            rows = torch.randint(len(captions), (self.batch_size,), generator=generator)
            noisy, timesteps, wanted = self.noised(images.latents[rows].to(self.device), generator)
            embeds = torch.cat([captions[row].embeds(self._words, vector) for row in rows.tolist()])
            return match(self.diffusion.predict(noisy, timesteps, embeds), wanted)

        return Descent(beginning(self._words, self.word_start or ""), self.word_lr).run(loss, self.word_steps)

    def said(self, prompts: Sequence[str], word: int) -> Tensor:
        """Embeddings (n, rows, width) of prompts with a word in the concept's place; 0 is its own name."""
        if not word:
            return self.diffusion.encode_prompts(prompts)
        captions = [Caption.of(self._words, self.concept, prompt, self.template) for prompt in prompts]
        return torch.cat([caption.embeds(self._words, self.vectors[word - 1]) for caption in captions])

    def erase_loss(self, batch: Batch) -> Tensor:
        """The compositional target, for a prompt with one of the words."""
        generator = self.generator()
        prompts = draw(batch["prompts"], self.batch_size, generator)
        words = torch.randint(self.rounds + 1, (self.batch_size,), generator=generator).tolist()
        with torch.no_grad():
            embeds = torch.cat([self.said([prompt], word) for prompt, word in zip(prompts, words, strict=True)])
        latents, timestep = self.stopped(embeds, generator)
        with self.teacher():
            target = self.composed(latents, timestep, prompts)
        return match(self.diffusion.predict(latents, timestep, embeds), target)

    def composed(self, latents: Tensor, timestep: float, prompts: Sequence[str]) -> Tensor:
        """The target for prompts; call it inside `teacher`."""
        none, anchored = [""] * len(prompts), [self.concept.anchored(prompt) for prompt in prompts]
        empty, anchor = self.predict_all(latents, timestep, none, anchored)
        names = [
            self.diffusion.predict(latents, timestep, name.expand(len(latents), -1, -1))
            for name in self._names.split(1)
        ]
        eta = self.eta + 2 if self.faithful else self.eta
        return negate(empty + self.anchor_eta * (anchor - empty), torch.stack(names).mean(0), empty, eta)

    def configure_optimizers(self) -> Any:
        """AdamW on the selected parameters."""
        return torch.optim.AdamW(self.selected.values(), lr=self.lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the words too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["words"] = self.vectors

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Know the words, so that they are not searched for again."""
        self._found = checkpoint["words"]
