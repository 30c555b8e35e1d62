"""Everything an erasure method does not say in its paper: selection, teacher, optimiser, probe, artefact."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from lit_memories.concept import Concept
from lit_memories.diffusion import Diffusion
from lit_memories.erasure import Erasure, Provenance, versions
from lit_memories.ops.rollout import rollout
from lit_memories.ops.select import Selection, select

Batch = dict[str, list[str]]
"""A training batch of a method that needs no images: the concept's ``prompts`` and those to ``retain``."""


class Eraser(LightningModule, ABC):
    """A model in erasure. Subclasses give the loss; the rest is here.

    The trainer's ``default_root_dir`` becomes the `Erasure` folder. Only the selected parameters are trained, only they
    are in checkpoints and in the artefact. Every random number comes from `generator`, so that a resumed run equals
    an uninterrupted one.

    Args:
        diffusion: the model to change.
        concept: what to erase.
        train: which parameters of the U-Net may change.
        lr: learning rate of Adam.
        probe_size: how many fixed noisy latents validation looks at.
        seed: of everything drawn in training.

    Raises:
        ValueError: if the selection is empty, or the model carries an erasure of other tensors.
    """

    diffusion: Diffusion
    concept: Concept
    seed: int

    def __init__(
        self, diffusion: Diffusion, concept: Concept, train: Selection, lr: float, probe_size: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        self.diffusion, self.concept = diffusion, concept
        self.train_rule, self.lr, self.probe_size, self.seed = train, lr, probe_size, seed
        self.strict_loading = False
        self.selected = {f"unet.{name}": parameter for name, parameter in select(diffusion.unet, train).items()}
        for parameter in self.selected.values():
            parameter.requires_grad_(True)
        if others := sorted(set(diffusion.replaced) - set(self.selected)):
            raise ValueError(f"the model's erasure changed {others[0]}, which train={train!r} does not select")
        self._originals = {
            name: diffusion.replaced.get(name, parameter.detach()).clone() for name, parameter in self.selected.items()
        }

    @abstractmethod
    def erase_loss(self, batch: Batch) -> Tensor:
        """The paper's objective for one step, a scalar."""

    @abstractmethod
    def probe_target(self, latents: Tensor, timestep: int, prompts: Sequence[str]) -> Tensor:
        """What the method wants predicted for concept prompts at `latents` (n, c, h, w); called inside `teacher`."""

    def settings(self) -> dict[str, Any]:
        """Hyper-parameters for the artefact's provenance."""
        return {"train": self.train_rule, "lr": self.lr}

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Within the context the model is the original one, to the bit, and gradients are off."""
        self._swap()
        try:
            with torch.no_grad():
                yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.selected.items():
            original = self._originals[name].to(parameter.device)
            self._originals[name], parameter.data = parameter.data, original

    def generator(self, purpose: str = "") -> Generator:
        """The source of randomness for this step, process and purpose."""
        source = f"{self.seed}/{self.global_step}/{self.global_rank}/{purpose}"
        return Generator().manual_seed(int.from_bytes(hashlib.sha256(source.encode()).digest()[:7], "big"))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches that name all prompts; the loss draws from them."""
        return _prompt_loader(self.concept, 1_000_000)

    def val_dataloader(self) -> DataLoader[Any]:
        """One batch of the probe."""
        return _prompt_loader(self.concept, 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the selected parameters."""
        return torch.optim.Adam(self.selected.values(), lr=self.lr)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of the method."""
        loss = self.erase_loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        return loss

    def setup(self, stage: str) -> None:
        """Check what is to be trained.

        Raises:
            ValueError: in fit, if the model carries an erasure already.
        """
        if stage == "fit" and self.diffusion.erasure is not None:
            raise ValueError("the base model carries an erasure already: erase from the base itself")

    def on_fit_start(self) -> None:
        """Make the probe before anything changes."""
        self._make_probe()

    def on_validation_start(self) -> None:
        """Make the probe if nothing was trained before, as in ``lit-memories validate``."""
        if not hasattr(self, "_probe_goal"):
            self._make_probe()

    def _make_probe(self) -> None:
        """Latents early in a run, where the concept is decided, on fixed prompts and seeds."""
        steps = self.diffusion.schedule.ddim_steps(20)
        prompts, retain = self.concept.prompts, self.concept.retain or [""]
        self._probe_prompts = [prompts[i % len(prompts)] for i in range(self.probe_size)]
        self._probe_retain = [retain[i % len(retain)] for i in range(self.probe_size)]
        seeds = self.diffusion.draw_seeds([Generator().manual_seed(i) for i in range(self.probe_size)])
        stop = len(steps) // 4
        self._probe_timestep = steps[stop].timestep
        with self.teacher():
            noise = self.diffusion.noise_fn(self.diffusion.encode_prompts(self._probe_prompts))
            self._probe_latents = rollout(noise, seeds, steps[:stop])
            self._probe_goal = self.probe_target(self._probe_latents, self._probe_timestep, self._probe_prompts)
            self._probe_start = self._predict(self._probe_prompts)
            self._probe_kept = self._predict(self._probe_retain)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log how far the concept's prediction went, and how far the others' drifted.

        ``erase_ratio`` is the squared distance to the method's target over what it was (1 at the start, 0 when
        reached); ``retain_drift`` the relative change of predictions for retained prompts (0 at the start).
        """
        distance = (self._predict(self._probe_prompts) - self._probe_goal).square().sum()
        start = (self._probe_start - self._probe_goal).square().sum()
        drift = (self._predict(self._probe_retain) - self._probe_kept).norm() / self._probe_kept.norm()
        self.log("val/erase_ratio", distance / start, prog_bar=True, batch_size=1)
        self.log("val/retain_drift", drift, prog_bar=True, batch_size=1)

    def _predict(self, prompts: Sequence[str]) -> Tensor:
        embeds = self.diffusion.encode_prompts(prompts)
        return self.diffusion.predict_noise(self._probe_latents, self._probe_timestep, embeds)

    def erasure(self) -> Erasure:
        """The selected tensors as they are now, with provenance."""
        return Erasure(
            tensors={name: parameter.detach().cpu().clone() for name, parameter in self.selected.items()},
            provenance=Provenance(
                method=type(self).__name__,
                concept=self.concept.to_dict(),
                base=self.diffusion.base,
                base_revision=self.diffusion.revision,
                base_fingerprint=self.diffusion.fingerprint,
                settings=self.settings(),
                steps=self.global_step,
                seed=self.seed,
                versions=versions(),
            ),
        )

    def on_fit_end(self) -> None:
        """Save the artefact.

        Raises:
            ValueError: if training left NaN or infinity behind.
        """
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            erasure = self.erasure()
            if bad := [name for name, tensor in erasure.tensors.items() if not tensor.isfinite().all()]:
                raise ValueError(f"training diverged: {bad[0]} holds NaN or infinity; lower the learning rate")
            erasure.save(Path(self.trainer.default_root_dir))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what can change."""
        mine = {f"diffusion.{name}" for name in self.selected}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in mine}


def _prompt_loader(concept: Concept, length: int) -> DataLoader[Any]:
    batch: Batch = {"prompts": concept.prompts, "retain": concept.retain}
    return DataLoader(cast("Dataset[Batch]", [batch] * length), batch_size=None)


def draw(prompts: Sequence[str], count: int, generator: Generator) -> list[str]:
    """`count` prompts at random, with replacement."""
    return [prompts[i] for i in torch.randint(len(prompts), (count,), generator=generator).tolist()]
