"""Receler, reliable concept erasing via lightweight erasers (Huang et al. 2024, arXiv:2311.17717)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import draw
from lit_memories.erasers.rollout import RolloutEraser
from lit_memories.ops.attack import Descent
from lit_memories.ops.attention import recorded_attention
from lit_memories.ops.bottlenecks import Bottlenecks
from lit_memories.ops.generators import seeded
from lit_memories.ops.masks import attention_mask, check_stride, outside
from lit_memories.ops.targets import match


class Receler(RolloutEraser):
    r"""Learns ESD's target with a bottleneck behind each cross-attention, against words that bring the concept back.

    The words w are vectors in the place of the prompt's end marker and padding, behind its own words. An adversary
    lowers :math:`\lVert \epsilon_\theta(x_t, [c, w]) - \epsilon_0(x_t, c) \rVert^2` by them, and then

    .. math:: \lVert \epsilon_\theta(x_t, [c, w]) - (\epsilon_0(x_t, \emptyset)
        - \eta [\epsilon_0(x_t, c) - \epsilon_0(x_t, \emptyset)]) \rVert^2
        + \frac{\lambda}{L} \sum_l \frac{\lVert a^l \odot (1 - m) \rVert^2}{w_l \lVert 1 - m \rVert_1}

    is lowered by what the bottlenecks add, :math:`a^l` (w_l wide), where the mask m is where the original looks for the
    concept's words (`lit_memories.ops.masks`). Words and the adversary's Adam go on from step to step. The artefact
    acts beside the network under every prompt; no weights can hold it.

    Args:
        diffusion: the model; its weights are not changed.
        concept: what to erase; only prompts that hold its phrase are used.
        rank: width of the bottlenecks.
        regularise: :math:`\lambda`.
        mask_threshold: of the attention, brought to [0, 1], from which on a place is the concept's.
        mask_stride: how many times coarser than latents the attention is that makes the mask.
        words: how many vectors, if the window has room for them.
        attack_steps: the adversary's, before each of ours; 0 for no adversary, and prompts as they are.
        attack_lr: its learning rate.
        attack_decay: its weight decay, added to the gradient.
        faithful: ESD's mismatched levels of 2023, as released.
        **options: see `RolloutEraser` and `Eraser`. The model in training runs, as officially.

    Raises:
        ValueError: if the network has no cross-attention, none of the resolution asked for, no prompt holds the
            phrase, or a number is out of range.
    """

    one_process = "its processes would each search for words of their own"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rank: int = 128,
        regularise: float = 0.1,
        mask_threshold: float = 0.1,
        mask_stride: int = 4,
        words: int = 16,
        attack_steps: int = 50,
        attack_lr: float = 0.1,
        attack_decay: float = 0.1,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, train=None, **options)
        if diffusion.component != "unet":
            raise ValueError(
                f"Receler's erasers stand behind cross-attention, and {diffusion.base} has a transformer: of the "
                "methods that need prompts only ESD, UCE and SPM are for both"
            )
        if min(rank, words, mask_stride) < 1 or min(regularise, attack_steps, attack_decay) < 0 or attack_lr <= 0:
            raise ValueError(
                f"rank ({rank}), words ({words}) and mask_stride ({mask_stride}) must be at least 1, regularise "
                f"({regularise}), attack_steps ({attack_steps}) and attack_decay ({attack_decay}) not negative, "
                f"attack_lr ({attack_lr}) above 0"
            )
        if not 0 <= mask_threshold <= 1:
            raise ValueError(f"mask_threshold ({mask_threshold}) must be in [0, 1]")
        check_stride(diffusion.network, mask_stride)
        self.named = [prompt for prompt in concept.prompts if diffusion.places(prompt, concept.phrase)]
        if not self.named:
            raise ValueError(f"concept {concept.name!r} has no prompt with the phrase {concept.phrase!r} in it")
        self.rank, self.regularise, self.mask_threshold, self.mask_stride = (
            rank,
            regularise,
            mask_threshold,
            mask_stride,
        )
        self.words, self.attack_steps, self.attack_lr, self.attack_decay = words, attack_steps, attack_lr, attack_decay
        self.faithful = faithful
        self._resumed: dict[str, Any] | None = None
        self.adapter = Bottlenecks.fresh(diffusion.network, rank, Generator().manual_seed(self.seed))
        self.adopt({f"{diffusion.component}.{name}": tensor for name, tensor in self.adapter.factors().items()})

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The model with the bottlenecks off, without gradients."""
        with self.adapter.off(), torch.no_grad():
            yield

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """Begin to search for words, or go on."""
        width = self.diffusion.encode_prompts([""]).shape[2]
        start = torch.rand(self.words, width, generator=seeded(f"{self.seed}/words")).to(self.device)
        self.search = Descent(start, self.attack_lr, self.attack_decay, decoupled=False)
        if self._resumed is not None:
            self.search.load_state_dict(self._resumed)

    def erase_loss(self, batch: Batch) -> Tensor:
        """Search for words, then the target under them, and nothing added outside the mask."""
        generator = self.generator()
        prompts = draw(self.named, self.batch_size, generator)
        latents, timestep = (self.mismatched if self.faithful else self.stopped)(prompts, generator)
        embeds = self.diffusion.encode_prompts(prompts)
        with self.teacher():
            target = self.negated(latents, timestep, prompts)
            with recorded_attention(self.diffusion.network) as layers:
                shown = self.diffusion.predict(latents, timestep, embeds)
        _, *shape = self.diffusion.latent_shape
        mask = attention_mask(layers, self.marks(prompts), shape, self.mask_stride, self.mask_threshold)
        words = self.search.run(
            lambda found, _: match(self.diffusion.predict(latents, timestep, self.said(embeds, prompts, found)), shown),
            self.attack_steps,
        )
        if self.attack_steps:
            embeds = self.said(embeds, prompts, words)
        with self.adapter.recorded() as added:
            erase = match(self.diffusion.predict(latents, timestep, embeds), target)
        free = outside(list(added.values()), mask, shape)
        self.log_dict({"train/erase": erase, "train/outside": free, "train/mask": mask.mean()}, batch_size=1)
        return erase + self.regularise * free

    def said(self, embeds: Tensor, prompts: Sequence[str], vectors: Tensor) -> Tensor:
        """Embeddings (n, rows, width) of prompts with vectors (k, width) behind their words, where there is room."""
        rows = []
        for embed, prompt in zip(embeds, prompts, strict=True):
            (reader, *_) = self.diffusion.conditioning.readers
            first = reader.first + reader.begins + len(reader.words(prompt))
            fitting = vectors[: max(0, reader.first + reader.window - first)]
            rows.append(torch.cat([embed[:first], fitting.to(embed), embed[first + len(fitting) :]]))
        return torch.stack(rows)

    def marks(self, prompts: Sequence[str]) -> Tensor:
        """1 at the tokens of the concept's phrase, else 0 (n, tokens)."""
        return self.diffusion.marks(prompts, self.concept.phrase)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the search too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["search"] = self.search.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember where the search was, until it is prepared."""
        self._resumed = checkpoint["search"]
