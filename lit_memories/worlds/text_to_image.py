"""Pretraining of a world's models: text encoders and a network, trained together to predict."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_memories.diffusion import Diffusion
from lit_memories.worlds.base import World
from lit_memories.worlds.classifier import load_classifier
from lit_memories.worlds.fresh import flow_pipeline, unet_pipeline
from lit_memories.worlds.pretraining import Pretraining


class TextToImage(Pretraining):
    """A small Stable Diffusion, 1 or 3: the same classes, the same noise levels, a few million parameters.

    Args:
        world: whose captions it is told.
        save_to: folder that receives the pipeline.
        autoencoder: folder of the trained autoencoder.
        classifier: folder of the trained classifier, which judges samples during validation.
        init_from: pipeline to start from, or None for fresh weights.
        block_out_channels: channels at each resolution of a U-Net; attention at all but the first.
        transformer: width and number of blocks of Stable Diffusion 3's transformer, a rectified flow, in the U-Net's
            place; a U-Net if None.
        text_width: width of a text encoder, and with a U-Net of its cross-attention.
        drop_prompt: share of prompts replaced by the empty one, so that guidance works.
        shorten_prompt: share of prompts that leave some factors open, so that a bare name is understood too.
        snr_gamma: cap of the signal-to-noise weight where noise is predicted (Hang et al. 2023, eq. 9).
        **optimisation: see `Pretraining`.
    """

    def __init__(
        self,
        world: World,
        save_to: Path,
        autoencoder: Path,
        classifier: Path,
        init_from: Path | None = None,
        block_out_channels: tuple[int, ...] = (48, 96, 128),
        transformer: tuple[int, int] | None = None,
        text_width: int = 96,
        drop_prompt: float = 0.1,
        shorten_prompt: float = 0.25,
        snr_gamma: float = 5.0,
        **optimisation: Any,
    ) -> None:
        super().__init__(save_to, **optimisation)
        self.world = world
        self.drop_prompt, self.shorten_prompt, self.snr_gamma = drop_prompt, shorten_prompt, snr_gamma
        if init_from is not None:
            self.diffusion = Diffusion.from_pretrained(init_from)
        elif transformer is not None:
            self.diffusion = Diffusion.from_pipeline(
                flow_pipeline(world.grammar, autoencoder, *transformer, text_width)
            )
        else:
            self.diffusion = Diffusion.from_pipeline(
                unet_pipeline(world.grammar, autoencoder, block_out_channels, text_width)
            )
        self.diffusion.network.requires_grad_(True).train()
        for encoder in self.diffusion.conditioning.encoders.values():
            encoder.requires_grad_(True).train()
        self.classifier = load_classifier(classifier)

    def loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor, prompts: list[str]) -> Tensor:
        """Weighted squared error of the prediction, a value a sample (n,)."""
        schedule = self.diffusion.schedule
        noisy, target = schedule.add_noise(latents, noise, timesteps), schedule.target(latents, noise, timesteps)
        predicted = self.diffusion.predict(noisy, timesteps, self.diffusion.encode_prompts(prompts))
        errors = (predicted - target).square().mean((1, 2, 3))
        if schedule.predicts != "epsilon":
            return errors
        alpha = schedule.alphas_at(timesteps)
        return (self.snr_gamma * (1 - alpha) / alpha).clamp(max=1).to(noise.dtype) * errors

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One batch at random noise levels."""
        prompts = [self.vary(caption) for caption in batch["captions"]]
        timesteps = self.diffusion.schedule.draw_timesteps(len(prompts), torch.default_generator).to(self.device)
        latents = batch["mean"] + batch["std"] * torch.randn_like(batch["mean"])
        loss = self.loss(latents, torch.randn_like(latents), timesteps, prompts).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def vary(self, caption: str) -> str:
        """The caption, or now and then the empty or a shortened one."""
        coin = float(torch.rand(()))
        if coin < self.drop_prompt:
            return ""
        if coin < self.drop_prompt + self.shorten_prompt:
            grammar = self.world.grammar
            shorter = grammar.say_less(grammar.parse(caption)) or [caption]
            return shorter[int(torch.randint(len(shorter), ()))]
        return caption

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The loss at fixed noise and evenly spread levels; on the first batch also judged samples."""
        count = len(batch["captions"])
        generator = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(batch["mean"].shape, generator=generator).to(self.device)
        timesteps = torch.linspace(0, self.diffusion.schedule.num_train_timesteps - 1, count, device=self.device).long()
        loss = self.loss(batch["mean"], noise, timesteps, batch["captions"]).mean()
        self.log("val/loss", loss, batch_size=count, sync_dist=True)
        if batch_idx == 0:
            self.judge_samples()

    def judge_samples(self, count: int = 48) -> None:
        """Sample held-out prompts at guidance 3 and log how often each factor is as asked."""
        asked = self.world.asked("test", count)
        seeds = self.diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(count)])
        images = self.diffusion.generate([self.world.grammar.say(labels) for labels in asked], seeds, 25, 3.0)
        for factor, seen in self.classifier.predict(images).items():
            right = [value == labels[factor] for value, labels in zip(seen, asked, strict=True)]
            self.log(f"val/{factor}", sum(right) / count, prog_bar=True)
        self.log_grid("samples", images, columns=12)

    def save(self, folder: Path) -> None:
        """Write the whole pipeline in diffusers' layout, weights in half precision.

        All but the text encoders': transformers would load them as half beside a network that diffusers loads as float.
        """
        pipeline = self.diffusion.pipeline()
        self.diffusion.network.half()
        pipeline.vae.half()
        pipeline.save_pretrained(folder)
        pipeline.to(torch.float32)
