"""What methods share that solve and do not train; and UCE, RECE and SPEED, who solve for keys and values."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, repeated
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser
from lit_memories.ops.select import POOLED
from lit_memories.ops.tokens import find

Tokens = Literal["last", "following", "all"]
Projections = Literal["attn2-kv", "attn2-v", "embedders"]
"""What takes prompt embeddings, and can be edited: cross-attention's keys and values, its values alone, or where text
enters a transformer."""


class OneStepEraser(Eraser):
    """An eraser of one step: `training_step` solves, be it for several concepts, and there is no optimiser."""

    several = True

    def erase_loss(self, batch: Batch) -> Tensor:
        """Nothing is trained."""
        raise NotImplementedError("closed forms have no loss")

    def train_dataloader(self) -> DataLoader[Any]:
        """All prompts, once."""
        return repeated({"prompts": self.concept.prompts, "retain": self.concept.retain}, 1)

    def configure_optimizers(self) -> None:
        """None is needed."""
        return


class SolvingEraser(OneStepEraser):
    """One whose step solves for what takes prompt embeddings.

    Of a U-Net what cross-attention reads is edited. SDXL's pooled embedding goes another way, and is left as it is. Of
    a transformer both ways are, each by a map of its own: the layer through which rows of text enter and, behind the
    pooled embedding, the first layer (``embedders``, as in UCE's code for FLUX).

    Args:
        diffusion: the model to change.
        concept: what to erase; its anchor is the guide, its ``retain`` prompts are preserved.
        train: which matrices are edited; None is keys and values of a U-Net, the embedders of a transformer.
        tokens: which vectors of a prompt's embedding are edited: the ``last`` token of the concept's name (official
            code of 2025), that and every ``following`` one with end marker and padding (code of 2023), or ``all``.
        preserve_tokens: which vectors of a preserved prompt are kept; ``last`` is its last word.
        probe_size: how many fixed noisy latents validation looks at.
        seed: of the probe, and of what is drawn besides.

    Raises:
        ValueError: if `train` selects what takes no prompt embeddings.
    """

    one_process = "its only step solves one system of equations, in which there is nothing to share"

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        train: Projections | None = None,
        tokens: Tokens = "last",
        preserve_tokens: Tokens = "last",
        probe_size: int = 8,
        seed: int = 0,
    ) -> None:
        if train is None:
            train = "attn2-kv" if diffusion.component == "unet" else "embedders"
        if train not in get_args(Projections):
            raise ValueError(
                f"train ({train}) must be {', '.join(get_args(Projections))}: these take prompt embeddings"
            )
        super().__init__(diffusion, concept, train, steps=1, probe_size=probe_size, seed=seed)
        self.tokens, self.preserve_tokens = tokens, preserve_tokens

    @abstractmethod
    def edits(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """For each edited matrix, by name, the map E (width, width) on embeddings: the new one is the original one's E.

        All in float64.
        """

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Solve, and put the edited matrices in place."""
        with torch.autocast(self.device.type, enabled=False):
            for name, edit in self.edits(batch):
                original = self._originals[name]
                self.selected[name].copy_((original.to(edit) @ edit).to(original))

    def rows_of(self, prompts: Sequence[str], tokens: Tokens | None = None) -> tuple[Tensor, Tensor]:
        """The vectors to edit and their guides, each (n, width): of each prompt, and of it with the anchor put in.

        Args:
            prompts: of the concept.
            tokens: which of their vectors; the method's own choice if None.
        """
        tokens = tokens or self.tokens
        guides = [self.concept.anchored(prompt) for prompt in prompts]
        named = [self.concept.of(prompt) for prompt in prompts]
        pairs = zip(
            self._vectors(prompts, [concept.phrase for concept in named], tokens),
            self._vectors(guides, [concept.anchor for concept in named], tokens),
            strict=True,
        )
        cut = [(c[:size], g[:size]) for c, g in pairs if (size := min(len(c), len(g)))]
        concepts, guided = (torch.cat(side) for side in zip(*cut, strict=True))
        return concepts, guided

    def preserved(self, prompts: Sequence[str]) -> Tensor:
        """The vectors (m, width) that are to stay."""
        if not prompts:
            return torch.zeros(0, self.diffusion.encode_prompts([""]).shape[-1], device=self.device)
        return torch.cat(self._vectors(prompts, [""] * len(prompts), self.preserve_tokens))

    def _vectors(self, prompts: Sequence[str], phrases: Sequence[str], tokens: Tokens) -> list[Tensor]:
        """Rows of prompts and their phrases, a list entry for each of them and for each tokenizer."""
        embeds, _ = self.diffusion.conditioning.split(self.diffusion.encode_prompts(prompts).float())
        chosen = []
        for reader in self.diffusion.conditioning.readers:
            ids = reader.tokenize(prompts)
            for row, prompt, phrase, embed in zip(ids, prompts, phrases, embeds, strict=True):
                # Without the phrase the prompt's own last word counts; of an empty one the first marker.
                ends = find(row, reader.words(phrase)) or [max(0, reader.begins + len(reader.words(prompt)) - 1)]
                first = {"last": ends[-1], "following": ends[-1], "all": 0}[tokens]
                stop = first + 1 if tokens == "last" else reader.window
                chosen.append(embed[reader.first + first : reader.first + stop])
        return chosen


class ClosedFormEraser(SolvingEraser):
    """What UCE and RECE share: one map of embeddings is solved for, the same for all keys and values.

    Args:
        diffusion: the model to change.
        concept: what to erase; its anchor is the guide, its ``retain`` prompts are preserved.
        lamb: weight of staying near the original.
        erase_scale: weight of the edit.
        preserve_scale: weight of the preserved prompts; None is 1 over their number, at least 0.1 (code of 2023).
        **options: see `SolvingEraser`; the matrices are all keys and values.

    Raises:
        ValueError: if a weight is out of range.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        lamb: float = 0.5,
        erase_scale: float = 1.0,
        preserve_scale: float | None = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(diffusion, concept, **options)
        if preserve_scale is None:
            preserve_scale = max(0.1, 1 / max(1, len(concept.retain)))
        if lamb <= 0 or erase_scale < 0 or preserve_scale < 0:
            raise ValueError(
                f"lamb ({lamb}) must be above 0, erase_scale ({erase_scale}) and preserve_scale ({preserve_scale}) not "
                "below"
            )
        self.lamb, self.erase_scale, self.preserve_scale = lamb, erase_scale, preserve_scale

    @abstractmethod
    def solve(self, concepts: Tensor, guides: Tensor, preserved: Tensor) -> Tensor:
        """The map E (width, width) on embeddings, such that every edited matrix is the original times E."""

    def edits(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """The same for every matrix; another for what reads the pooled embedding."""
        edit = self.edit(batch)
        for name in self.selected:
            yield name, self.pooled_edit(batch) if name.endswith(POOLED) else edit

    def edit(self, batch: Batch) -> Tensor:
        """The map for a batch's prompts."""
        return self.solve(*self.rows_of(batch["prompts"]), self.preserved(batch["retain"]))

    def pooled_edit(self, batch: Batch) -> Tensor:
        """The map (pooled width, pooled width) of a batch's prompts on their pooled embeddings."""
        guides = [self.concept.anchored(prompt) for prompt in batch["prompts"]]
        return self.solve(*(self._pooled(prompts) for prompts in (batch["prompts"], guides, batch["retain"])))

    def _pooled(self, prompts: Sequence[str]) -> Tensor:
        embeds = self.diffusion.encode_prompts(list(prompts) or [""]).float()
        _, added = self.diffusion.conditioning.split(embeds)
        return cast("Tensor", added["pooled_projections"])[: len(prompts)]
