"""MACE, mass concept erasure (Lu et al. 2024, arXiv:2403.06135)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents
from lit_memories.data.naming import warn_of_renamed
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.adapters import DOWN, UP, Adapter, initial_factors
from lit_memories.ops.attention import recorded_attention
from lit_memories.ops.masks import attention_mask, attention_norms, check_stride
from lit_memories.ops.ridge import edit_map, fused
from lit_memories.ops.tokens import shared

MASK_LEVEL = 0.3
"""Of all timesteps, where the original is asked what in a picture is the concept: the middle of `focal_shares`."""


class MACE(Eraser):
    r"""Takes the concept out of the words around its name, then turns attention away from the name itself.

    1. *Refinement.* Keys and values of the words that a prompt c shares with its anchored form g, end marker and
       padding among them, become those they have there: the minimum W_r of :math:`\sum_i \lVert W c_i - W_0 g_i
       \rVert^2 + s \sum_j \lVert (W - W_0) p_j \rVert^2 + \lambda \lVert W - W_0 \rVert^2` (eq. 2).
    2. *Attention.* A low-rank adapter BA beside these matrices lowers the attention A that images of the concept pay
       to the places J of its name, where it is in them (mask m, eq. 4):

       .. math:: \sum_l \Big\lVert \big(A^l_{h,p,j}\, m^l_p\big)_{h,p,\,j \in J} \Big\rVert_2

    3. *Fusion.* One matrix that does the same on all words of the concept's prompts, and else is W_r (eq. 7,
       `lit_memories.ops.ridge.fused`).

    Several concepts are refined together, and have an adapter each; steps are theirs in turn, with the others switched
    off, and the fusion fits all.

    The official mask is GroundedSAM's. Here it is where the original looks for the concept's name, in the same image
    at a low noise level; styles have none.

    Args:
        diffusion: the model to change: keys and values of its cross-attention.
        concept: what to erase, and the anchor that takes its place in the words around it; ``steps`` are those of all
            its parts together.
        rank: of the adapter.
        lamb: :math:`\lambda`, in refinement and fusion.
        preserve_scale: s, of all words of the ``retain`` prompts, in refinement and fusion.
        mask_threshold: of that attention, brought to [0, 1], from which on a place is the concept's; None for the
            whole picture.
        mask_stride: how many times coarser than latents the attention is that makes the mask.
        importance: draw timesteps by `focal_shares`; else evenly.
        weight_decay: of AdamW.
        max_grad_norm: norm to clip gradients to.
        faithful: J also holds the end marker and, as padding is the same token in Stable Diffusion 1, all of that
            (``use_pooler``).
        **options: see `Eraser`.

    Raises:
        ValueError: if the network has no cross-attention, none of the resolution asked for, the phrase has no token,
            or a number is out of range.
    """

    forget_images = "concept"
    several = True
    one_process = "its two closed forms leave nothing to share, and the steps between them take seconds"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        rank: int = 1,
        lamb: float = 1000.0,
        preserve_scale: float = 0.0,
        mask_threshold: float | None = 0.4,
        mask_stride: int = 4,
        importance: bool = True,
        weight_decay: float = 1e-2,
        max_grad_norm: float = 1.0,
        faithful: bool = False,
        **options: Any,
    ) -> None:
        if diffusion.component != "unet":
            raise ValueError(
                f"MACE edits what cross-attention reads, and {diffusion.base} has a transformer: UCE edits what its "
                "text enters through, FMN turns its attention away"
            )
        super().__init__(diffusion, concept, train="attn2-kv", **options)
        if min(rank, mask_stride) < 1 or min(lamb, max_grad_norm) <= 0 or min(preserve_scale, weight_decay) < 0:
            raise ValueError(
                f"rank ({rank}) and mask_stride ({mask_stride}) must be at least 1, lamb ({lamb}) and max_grad_norm "
                f"({max_grad_norm}) above 0, preserve_scale ({preserve_scale}) and weight_decay ({weight_decay}) not "
                "negative"
            )
        if mask_threshold is not None and not 0 <= mask_threshold <= 1:
            raise ValueError(f"mask_threshold ({mask_threshold}) must be in [0, 1], or null for the whole picture")
        if mask_threshold is not None:
            check_stride(diffusion.network, mask_stride)
        self.concepts: list[Concept] = [*concept.parts] or [concept]
        for one in self.concepts:
            if not diffusion.places(one.phrase, one.phrase):
                raise ValueError(f"concept {one.name!r}: the phrase {one.phrase!r} has no token to look away from")
        self.rank, self.lamb, self.preserve_scale = rank, lamb, preserve_scale
        self.mask_threshold, self.mask_stride, self.importance = mask_threshold, mask_stride, importance
        self.weight_decay, self.max_grad_norm, self.faithful = weight_decay, max_grad_norm, faithful
        parts = dict(diffusion.network.named_modules())
        layers = {name: parts[name] for name in map(self._layer, self.selected)}
        generator = Generator().manual_seed(self.seed)
        factors = [initial_factors(layers, rank, generator) for _ in self.concepts]
        self.beside = nn.ModuleList(Adapter(diffusion.network, one) for one in factors)
        self._switch(None)  # images are drawn before adapters are where the network is
        for matrix in self.selected.values():
            matrix.requires_grad_(False)  # solved for; what is trained is the adapter

    def _layer(self, name: str) -> str:
        return name.removeprefix(f"{self.diffusion.component}.").removesuffix(".weight")

    @property
    def adapters(self) -> list[Adapter]:
        """One a concept."""
        return cast("list[Adapter]", [*self.beside])

    def _switch(self, number: int | None) -> None:
        """Let one adapter act, or none."""
        for turn, adapter in enumerate(self.adapters):
            adapter.strength = float(turn == number)

    @property
    def turn(self) -> int:
        """Whose step this is, of the concepts."""
        return self.global_step % len(self.concepts)

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """The original matrices, and the adapters off."""
        with super().teacher(), ExitStack() as stack:
            for adapter in self.adapters:
                stack.enter_context(adapter.off())
            yield

    def configure_optimizers(self) -> Any:
        """AdamW on the adapters; those without a gradient stay."""
        return torch.optim.AdamW(self.beside.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> None:
        """Refine, part the images by concept, and let the first adapter act."""
        self._switch(self.turn)
        images, prompts = batch["forget_set"], batch["prompts"]
        self._images = [images] if len(self.concepts) == 1 else [self._showing(images, one) for one in self.concepts]
        for one, mine in zip(self.concepts, self._images, strict=True):
            marked = self.marked(mine.captions, one)
            warn_of_renamed(mine.captions, marked, f"MACE needs the words {one.phrase!r} in them")
        with torch.autocast(self.device.type, enabled=False):
            contexts, guides = self.contexts(prompts)
            self._words = [self.words([p for p in prompts if self.concept.of(p) is one]) for one in self.concepts]
            self._kept = self.words(batch["retain"])
            edit = edit_map(contexts, guides, self._kept, self.lamb, preserve_scale=self.preserve_scale)
            for name, matrix in self.selected.items():
                original = self._originals[name].to(edit)
                matrix.copy_((original @ edit).to(matrix))

    def _showing(self, images: Latents, one: Concept) -> Latents:
        """Those of some images that show one of several concepts, by their captions."""
        rows = [row for row, caption in enumerate(images.captions) if self.concept.of(caption) is one]
        if not rows:
            raise ValueError(f"MACE needs images of {one.name}, and no caption of the forget set names it")
        return Latents(images.latents[rows], [images.captions[row] for row in rows])

    def contexts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (n, width) of the words around the concept's name, and of the same words around its anchor."""
        pairs = []
        guided = [self.concept.anchored(prompt) for prompt in prompts]
        for prompt, guide, c, g in zip(prompts, guided, self._text(prompts), self._text(guided), strict=True):
            for reader in self.diffusion.conditioning.readers:
                ids, others = (reader.tokenizer(x, truncation=True, max_length=reader.window).input_ids
                               for x in (prompt, guide))  # fmt: skip
                mine, theirs = ([reader.first + i for i in rows] for rows in shared(ids, others, reader.window))
                pairs.append((c[mine], g[theirs]))
        contexts, guides = (torch.cat(side) for side in zip(*pairs, strict=True))
        return contexts, guides

    def words(self, prompts: Sequence[str]) -> Tensor:
        """All vectors (n, width) of prompts."""
        if not prompts:
            return self._text([""])[0][:0]
        return self._text(prompts).flatten(0, 1)

    def _text(self, prompts: Sequence[str]) -> Tensor:
        text, _ = self.diffusion.conditioning.split(self.diffusion.encode_prompts(prompts).float())
        return text

    def erase_loss(self, batch: Batch) -> Tensor:
        """Equation 4, of the concept whose turn it is."""
        one, start = self.concepts[self.turn], self.global_step // len(self.concepts) * self.batch_size
        self._switch(self.turn)
        latents, captions = self._images[self.turn].rows(start, self.batch_size, self.seed)
        latents = latents.to(self.device)
        prompts, (_, *shape) = self.marked(captions, one), self.diffusion.latent_shape
        generator, schedule = self.generator(), self.diffusion.schedule
        timesteps = schedule.draw_timesteps(len(latents), generator)
        if self.importance:
            shares = focal_shares(schedule.num_train_timesteps)
            timesteps = torch.multinomial(shares, len(latents), replacement=True, generator=generator)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        mask = None if self.mask_threshold is None else self.mask(latents, noise, prompts, one)
        noisy = schedule.add_noise(latents, noise, timesteps.to(latents.device))
        with recorded_attention(self.diffusion.network) as layers:
            self.predict(noisy, timesteps.to(latents.device), prompts)
        return attention_norms(layers, self.diffusion.marks(prompts, one.phrase, self.faithful), mask, shape)

    def mask(self, latents: Tensor, noise: Tensor, prompts: Sequence[str], one: Concept) -> Tensor:
        """Where the original looks for a concept in images (n, c, h, w) with a little noise: (n, 1, h, w)."""
        level = int(MASK_LEVEL * self.diffusion.schedule.num_train_timesteps)
        timesteps = torch.full((len(latents),), level, device=latents.device)
        noisy = self.diffusion.schedule.add_noise(latents, noise, timesteps)
        with self.teacher(), recorded_attention(self.diffusion.network) as layers:
            self.predict(noisy, timesteps, prompts)
        assert self.mask_threshold is not None  # noqa: S101 - asked for by who has one
        _, *shape = self.diffusion.latent_shape
        marks = self.diffusion.marks(prompts, one.phrase)
        return attention_mask(layers, marks, shape, self.mask_stride, self.mask_threshold)

    def marked(self, captions: Sequence[str], one: Concept) -> list[str]:
        """Captions of images of a concept as they are, or its phrase for those whose tokens lack it."""
        return [caption if self.diffusion.places(caption, one.phrase) else one.phrase for caption in captions]

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Fuse, before the probe looks."""
        factors = [adapter.factors() for adapter in self.adapters]
        for name, matrix in self.selected.items():
            down, up = ([one[f"{self._layer(name)}.{part}"].double() for one in factors] for part in (DOWN, UP))
            refined, original = matrix.double(), self._originals[name].to(matrix.device)
            tuned = [refined + u @ d for u, d in zip(up, down, strict=True)]
            matrix.copy_(fused(tuned, refined, original, self._words, self._kept, self.lamb, self.preserve_scale))
        self._switch(None)
        super().on_train_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapters too."""
        state = checkpoint["state_dict"]
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"] |= {name: tensor for name, tensor in state.items() if name.startswith("beside.")}


def focal_shares(num_train_timesteps: int) -> Tensor:
    r"""Shares (t,) of timesteps, :math:`\sigma(0.05 (t - 200)) - \sigma(0.05 (t - 400))`, of 1000 or in proportion.

    The official importance sampling, of levels at which words are told apart from one another ("relation-focal").
    """
    t = torch.arange(num_train_timesteps, dtype=torch.float64) * 1000 / num_train_timesteps
    found = (0.05 * (t - 200)).sigmoid() - (0.05 * (t - 400)).sigmoid()
    return found / found.sum()
