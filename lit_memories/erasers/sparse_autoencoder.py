"""No eraser but what one needs: a k-sparse autoencoder of what a layer of the text encoder gives (arXiv:2501.19066)."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from lit_memories.concept import Concept
from lit_memories.data.erasure import repeated
from lit_memories.diffusion import Diffusion
from lit_memories.guards.activations import Dictionary, encoder_of, layer_of, read_layer
from lit_memories.lock import OneWriter
from lit_memories.ops.fingerprint import fingerprint
from lit_memories.ops.generators import seeded
from lit_memories.ops.sound import check_weights
from lit_memories.ops.sparse_autoencoder import SparseAutoencoder, strongest, unexplained
from lit_memories.prompt_rows import tokenize
from lit_memories.storage.files import keep


class SparseAutoencoderTraining(OneWriter):
    r"""Learns to say what a layer gives for prompts in a few features a row: :math:`\lVert \hat x - x \rVert^2`.

    The states are those of all rows of all prompts, made once. The directions of features keep length 1. A second term
    has features that no row of a step uses say what is left, so that they come to be used (Gao et al. 2024, appendix
    A.2). `lit_memories.guards.concept_steerer.ConceptSteerer` takes what is saved to ``default_root_dir``.

    Args:
        diffusion: whose text encoder; its weights are not changed.
        concept: whose prompts, and what it retains, are encoded; one of many parts says much.
        layer: of the text encoder, from 0.
        expansion: features, as a multiple of the width.
        k: features a row.
        auxiliary: weight of the second term, which as many unused features serve as k says.
        steps: training steps; the length of an epoch.
        lr: learning rate of Adam.
        batch_size: rows a step.
        seed: of features and batches.

    Raises:
        ValueError: if the model has several text encoders or no such layer, or a number is out of range.
    """

    def __init__(
        self,
        diffusion: Diffusion,
        concept: Concept,
        layer: int = 9,
        expansion: int = 4,
        k: int = 32,
        auxiliary: float = 1 / 32,
        steps: int = 1000,
        lr: float = 4e-4,
        batch_size: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(expansion, k, steps, batch_size) < 1 or auxiliary < 0 or lr <= 0:
            raise ValueError(
                f"expansion ({expansion}), k ({k}), steps ({steps}) and batch_size ({batch_size}) must be at least 1, "
                f"auxiliary ({auxiliary}) not negative, lr ({lr}) above 0"
            )
        self.encoder = encoder_of(diffusion, diffusion.base)
        self.hooked = layer_of(self.encoder, layer)
        self.diffusion, self.concept, self.layer, self.strict_loading = diffusion, concept, layer, False
        self.expansion, self.k, self.auxiliary, self.steps = expansion, k, auxiliary, steps
        self.lr, self.batch_size, self.seed = lr, batch_size, seed
        self.states = self.read(list(dict.fromkeys([*concept.prompts, *concept.retain])))
        features, generator = expansion * self.states.shape[1], Generator().manual_seed(seed)
        self.autoencoder = SparseAutoencoder.fresh(self.states, features, k, generator)
        self.scale = (self.states - self.states.mean(0)).square().mean()

    @torch.no_grad()
    def read(self, prompts: list[str]) -> Tensor:
        """The layer's states (n, width) in all rows of prompts."""
        ids = tokenize(self.diffusion.tokenizer, prompts)
        with read_layer(self.hooked) as found:
            for rows in ids.split(64):
                self.diffusion.conditioning.encode_tokens(rows)
        return torch.cat([states.flatten(0, 1) for states in found]).float().cpu()

    def train_dataloader(self) -> DataLoader[Any]:
        """A step's number of batches; rows are drawn by the step."""
        return repeated({}, self.steps)

    def configure_optimizers(self) -> Any:
        """Adam on the autoencoder."""
        return torch.optim.Adam(self.autoencoder.parameters(), lr=self.lr, eps=6.25e-10)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean square of what is missed, over the states' variance, and of what unused features miss of that."""
        generator = seeded(f"{self.seed}/{self.global_step}")
        rows = self.states[torch.randint(len(self.states), (self.batch_size,), generator=generator)].to(self.device)
        scale = self.scale.to(rows)
        used = self.autoencoder.encode(rows)
        missed = rows - self.autoencoder.centre - self.autoencoder.direction(used)
        loss = missed.square().mean() / scale
        unused = self.autoencoder.activations(rows).masked_fill((used > 0).any(0), 0)
        left = missed.detach()
        second = (
            left - self.autoencoder.direction(strongest(unused, self.k))
        ).square().mean() / left.square().mean().clamp(min=1e-12)
        self.log_dict({"train/missed": loss, "train/used": (used > 0).any(0).float().mean()}, prog_bar=True)
        return loss + self.auxiliary * second

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        """Features' directions keep length 1."""
        decoder = self.autoencoder.decoder
        decoder.copy_(functional.normalize(decoder, dim=0))

    def on_fit_end(self) -> None:
        """Save it to ``default_root_dir``, and say how much of the states it misses.

        Raises:
            ValueError: if the training diverged.
            OSError: if it cannot be written; says where it is instead.
        """
        if not self.trainer.is_global_zero or self.trainer.interrupted:
            return
        check_weights(self.autoencoder.tensors())
        autoencoder = self.autoencoder.cpu()
        made = Dictionary(autoencoder, self.layer, fingerprint(self.encoder))
        keep(folder := Path(self.trainer.default_root_dir), made.save)
        with torch.no_grad():
            missed = float(unexplained(self.states, autoencoder(self.states)))
        count = len(autoencoder.encoder)
        rank_zero_info(f"{folder}: {count} features, {self.k} a row, which miss {missed:.1%} of the variance")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the autoencoder alone."""
        mine = {name: x for name, x in checkpoint["state_dict"].items() if name.startswith("autoencoder.")}
        checkpoint["state_dict"] = mine
