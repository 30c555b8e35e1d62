"""AdvUnlearn (Zhang et al. 2024, arXiv:2405.15234)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.attack import minimise
from lit_memories.ops.generators import seeded
from lit_memories.ops.select import Selection
from lit_memories.ops.targets import match
from lit_memories.ops.tokens import placed


class AdvUnlearn(RolloutEraser):
    r"""Erases from the text encoder, under the word that an attacker would put before the prompt (eq. 6 and 8).

    .. math:: \min_\phi \lVert \epsilon_0(x_t, \tau_\phi(\delta^* \oplus c)) - (\epsilon_0(x_t, \emptyset)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, \emptyset)]) \rVert^2
        + \gamma \lVert \epsilon_0(x^r_t, \tau_\phi(c^r)) - \epsilon_0(x^r_t, \tau_0(c^r)) \rVert^2

    .. math:: \delta^* = \arg\min_\delta \lVert \epsilon_0(x_t, \tau_\phi(\delta \oplus c)) - \epsilon_0(x_t, \tau_0(c))
        \rVert^2

    The U-Net never changes, so the latents :math:`x_t`, and what the original model predicts there, are made once, in a
    pool, instead of anew for every step of the attack.

    Args:
        diffusion: the model to change.
        concept: what to erase; its ``retain`` prompts keep the encoder useful.
        train: ``text-full`` (the official text_encoder_full, its last norm included), ``text-layers``, ``text-mlp`` or
            ``text-attn``.
        retain_weight: :math:`\gamma`.
        retain_batch_size: retain prompts a step.
        warmup_steps: steps before the attacker comes in.
        attack_steps: its steps for each of ours.
        attack_lr: its learning rate.
        pool_size: latents of either kind in the pool.
        faithful: as the official code attacks: gradients pile up over the attack's steps, and the vector before the
            last update is taken; a prompt is as long as it has words between spaces, so that of a word of several
            tokens one is cut out; latents are at ESD's mismatched levels of 2023.
        **options: see `RolloutEraser` and `Eraser`.

    Raises:
        ValueError: if there is nothing to retain, or an option is out of range.
    """

    amplifies = ("retain_weight",)

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Selection = "text-full",
        retain_weight: float = 0.3,
        retain_batch_size: int = 5,
        warmup_steps: int = 200,
        attack_steps: int = 30,
        attack_lr: float = 1e-3,
        pool_size: int = 512,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=train, **options)
        if min(retain_weight, warmup_steps, attack_steps, attack_lr) < 0 or min(retain_batch_size, pool_size) < 1:
            raise ValueError(
                f"retain_weight ({retain_weight}), warmup_steps ({warmup_steps}), attack_steps ({attack_steps}) and "
                f"attack_lr ({attack_lr}) cannot be negative, retain_batch_size ({retain_batch_size}) and pool_size "
                f"({pool_size}) must be at least 1"
            )
        if not concept.retain:
            raise ValueError(f"AdvUnlearn needs prompts to retain: concept {concept.name!r} has none")
        self.retain_weight, self.retain_batch_size, self.warmup_steps = retain_weight, retain_batch_size, warmup_steps
        self.attack_steps, self.attack_lr, self.faithful = attack_steps, attack_lr, faithful
        self.pool_size = pool_size

    def prepare(self, batch: Batch) -> None:
        """Make the pool with the original model."""
        with self.teacher():
            self._concept = self._pool(batch["prompts"], "concept")
            self._retain = self._pool(batch["retain"], "retain")
            parts = [self._concept.rows(slice(i, i + 32)) for i in range(0, self.pool_size, 32)]
            self._negated = torch.cat([self.negated(p.latents, p.timesteps, p.prompts) for p in parts])

    def _pool(self, prompts: Sequence[str], name: str) -> "Pool":
        parts, length = [], self.num_inference_steps
        for number, start in enumerate(range(0, self.pool_size, 16)):
            generator = seeded(f"{self.seed}/{self.global_rank}/{name}/{number}")
            chosen = draw(prompts, min(16, self.pool_size - start), generator)
            k = int(torch.randint(length, (1,), generator=generator))
            latents, timestep = (self.mismatched if self.faithful else self.stopped)(chosen, generator, k)
            timesteps = torch.full((len(chosen),), timestep, device=latents.device)
            parts.append(Pool(latents, timesteps, chosen, self.predict(latents, timesteps, chosen)))
        return Pool.joined(parts)

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 6 under the attacker's word of equation 8."""
        generator = self.generator()
        chosen = torch.randint(self.pool_size, (self.batch_size,), generator=generator).tolist()
        concept, target = self._concept.rows(chosen), self._negated[chosen]
        if self.global_step < self.warmup_steps:
            embeds = self.diffusion.encode_prompts(concept.prompts)
        else:
            embeds = self.attacked(concept.prompts, self.attack(generator))
        erase = match(self.diffusion.predict(concept.latents, concept.timesteps, embeds), target)
        kept = self._retain.rows(torch.randint(self.pool_size, (self.retain_batch_size,), generator=generator).tolist())
        retain = match(self.predict(kept.latents, kept.timesteps, kept.prompts), kept.predicted)
        self.log_dict({"train/erase": erase, "train/retain": retain}, batch_size=1)
        return erase + self.retain_weight * retain

    def attack(self, generator: Generator) -> Tensor:
        """The attacker's word (1, width): from a random word of the vocabulary, to what brings the concept back."""
        words = self.diffusion.text_encoder.get_input_embeddings().weight
        start = words[torch.randint(len(words), (1,), generator=generator).to(words.device)]
        draws = torch.randint(self.pool_size, (self.attack_steps, self.batch_size), generator=generator)

        def loss(word: Tensor, step: int) -> Tensor:
            rows = self._concept.rows(draws[step].tolist())
            embeds = self.attacked(rows.prompts, word)
            return match(self.diffusion.predict(rows.latents, rows.timesteps, embeds), rows.predicted)

        return minimise(loss, start, self.attack_steps, self.attack_lr, self.faithful)

    def attacked(self, prompts: Sequence[str], word: Tensor) -> Tensor:
        """Embeddings of prompts with a vector (1, width) before their first word, and the last token gone for it.

        Officially the token after as many as the prompt has words goes: one of the prompt's own, if words have several.
        """
        ids = self.diffusion.tokenize(prompts)
        last = ids.shape[1] - 1
        gone = [min(1 + len(prompt.split()), last) if self.faithful else last for prompt in prompts]
        rows = [torch.cat([row[:1], row[-1:], row[1:at], row[at + 1 :]]) for row, at in zip(ids, gone, strict=True)]
        with placed(self.diffusion.text_encoder, word[None], torch.ones(1, 1, dtype=torch.int64, device=word.device)):
            return self.diffusion.encode_tokens(torch.stack(rows))


@dataclass(frozen=True)
class Pool:
    """Latents on the way to images of prompts, their timesteps, and what the original model predicts there."""

    latents: Tensor
    timesteps: Tensor
    prompts: list[str]
    predicted: Tensor

    def rows(self, chosen: list[int] | slice) -> "Pool":
        """Some rows."""
        prompts = self.prompts[chosen] if isinstance(chosen, slice) else [self.prompts[i] for i in chosen]
        return Pool(self.latents[chosen], self.timesteps[chosen], prompts, self.predicted[chosen])

    @classmethod
    def joined(cls, parts: Sequence["Pool"]) -> "Pool":
        """Pools one after the other."""
        latents, timesteps, predicted = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "timesteps", "predicted")
        )
        return cls(latents, timesteps, [prompt for part in parts for prompt in part.prompts], predicted)
