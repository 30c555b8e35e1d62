"""Fits of a few steps on the tiny pipeline, and what the erasers' tests look at before and after."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from lit_memories.concept import Concept
from lit_memories.data.erasure import Batch, Latents, repeated
from lit_memories.diffusion import Diffusion
from lit_memories.erasers.base import Eraser

UMBRELLA = Concept(
    "umbrella",
    "object",
    ["umbrella", "a red umbrella"],
    ["a blue star", "a red gear"],
    anchor="star",
)
PROMPTS: Batch = {"prompts": UMBRELLA.prompts, "retain": UMBRELLA.retain}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def noisy(diffusion: Diffusion, count: int = 2) -> Tensor:
    return diffusion.draw_seeds([Generator().manual_seed(i) for i in range(count)])


def pictures(captions: list[str], seed: int = 0) -> Latents:
    """A set of random latents."""
    return Latents(normal(len(captions), 4, 16, 16, seed=seed), captions)


def sets(forget: list[str] | None = None) -> Batch:
    """Five images to forget, one of them with a caption that does not name the concept, and six to retain."""
    named = ["umbrella", "a red umbrella", "a blue umbrella", "a picture", "a red umbrella on a blue background"]
    others = ["a blue star", "a red gear", "a star", "a gear", "a blue gear", "a red star"]
    return {**PROMPTS, "forget_set": pictures(forget or named), "retain_set": pictures(others, seed=1)}


class Given(LightningDataModule):
    """A batch that is there already, in the place of `ErasureData`."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> DataLoader[Any]:
        return repeated(self.batch, 1000)

    def val_dataloader(self) -> DataLoader[Any]:
        return repeated({}, 1)


def trainer(folder: Path, steps: int, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        **({"limit_val_batches": 0} | options),
    )


def fit(method: Eraser, folder: Path, steps: int = 2, batch: Batch | None = None, **options: Any) -> Trainer:
    """Train for some steps, on images if a batch of them is given."""
    run = trainer(folder, steps, **options)
    run.fit(method, datamodule=None if batch is None else Given(batch))
    return run


def attach(method: Eraser, folder: Path, batch: Batch | None = None) -> Eraser:
    """Let a method prepare itself as in a fit that has not made a step."""
    method.trainer = trainer(folder, 1)
    method.prepare(batch or PROMPTS)
    return method


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the tensors that are no longer the same to the bit."""
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def moved(method: Eraser, size: float = 0.05) -> Any:
    """The method with its parameters where training might have brought them."""
    with torch.no_grad():
        for number, parameter in enumerate(method.selected.values()):
            parameter.add_(size * normal(*parameter.shape, seed=number + 1))
    return method


def gradients(loss: Tensor, method: Eraser) -> list[Tensor]:
    """Of a loss, with respect to what is trained; zeros where it does not depend on it."""
    parameters = list(method.selected.values())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def resumed(
    make: Callable[[], Eraser], folder: Path, batch: Batch | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What four steps leave behind, and what two and another two from their checkpoint do."""
    whole = make()
    fit(whole, folder / "whole", 4, batch)
    keep = ModelCheckpoint(folder / "kept", save_last=True, every_n_train_steps=2, save_top_k=0)
    data = {} if batch is None else {"datamodule": Given(batch)}
    trainer(folder / "half", 2, keep).fit(make(), **data)
    half = make()
    trainer(folder / "half", 4).fit(half, ckpt_path=folder / "kept" / "last.ckpt", **data)
    return tuple({name: p.detach().clone() for name, p in method.selected.items()} for method in (whole, half))


class Watch(Callback):
    """Keeps what validation logged, in order."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Eraser) -> None:
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def probed(method: Eraser, folder: Path, steps: int, batch: Batch | None = None) -> list[dict[str, float]]:
    """What the probe says before the first and after the last of some steps."""
    watch = Watch()
    run = trainer(folder, steps, watch, limit_val_batches=1, val_check_interval=steps, check_val_every_n_epoch=None)
    run.fit(method, datamodule=None if batch is None else Given(batch))
    return [watch.seen[0], watch.seen[-1]]
