"""Pretraining of the pictogram model: a text encoder and a U-Net, trained together to predict noise."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from lit_memories.classifier import load_classifier
from lit_memories.data.pictograms import FACTORS, draw, parse_caption
from lit_memories.diffusion import Diffusion
from lit_memories.training.base import Pretraining
from lit_memories.training.tokenizer import build_tokenizer


class TextToImage(Pretraining):
    """A small Stable Diffusion: the same classes, the same noise schedule, a few million parameters.

    Args:
        save_to: folder that receives the pipeline.
        autoencoder: folder of the trained autoencoder.
        classifier: folder of the trained classifier, which judges samples during validation.
        init_from: pipeline to start from, or None for fresh weights.
        block_out_channels: channels at each resolution; attention at all but the first.
        text_width: width of the text encoder and of the cross-attention.
        drop_prompt: share of prompts replaced by the empty one, so that guidance works.
        shorten_prompt: share of prompts that leave some factors open, so that a bare name is understood too.
        snr_gamma: cap of the signal-to-noise weight (Hang et al. 2023, eq. 9).
        **optimisation: see `Pretraining`.
    """

    def __init__(
        self,
        save_to: Path,
        autoencoder: Path,
        classifier: Path,
        init_from: Path | None = None,
        block_out_channels: tuple[int, ...] = (48, 96, 128),
        text_width: int = 96,
        drop_prompt: float = 0.1,
        shorten_prompt: float = 0.25,
        snr_gamma: float = 5.0,
        **optimisation: Any,
    ) -> None:
        super().__init__(save_to, **optimisation)
        self.drop_prompt, self.shorten_prompt, self.snr_gamma = drop_prompt, shorten_prompt, snr_gamma
        if init_from is None:
            self.diffusion = Diffusion.from_pipeline(build_pipeline(autoencoder, block_out_channels, text_width))
        else:
            self.diffusion = Diffusion.from_pretrained(init_from)
        self.diffusion.network.requires_grad_(True).train()
        self.diffusion.text_encoder.requires_grad_(True).train()
        self.classifier = load_classifier(classifier)

    def loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor, prompts: list[str]) -> Tensor:
        """Weighted squared error of the predicted noise, a value a sample (n,)."""
        schedule = self.diffusion.schedule
        noisy = schedule.add_noise(latents, noise, timesteps)
        predicted = self.diffusion.predict(noisy, timesteps, self.diffusion.encode_prompts(prompts))
        alpha = schedule.alphas_at(timesteps)
        weight = (self.snr_gamma * (1 - alpha) / alpha).clamp(max=1).to(noise.dtype)
        return weight * (predicted - noise).square().mean((1, 2, 3))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One batch at random noise levels."""
        prompts = [self.vary(caption) for caption in batch["captions"]]
        timesteps = torch.randint(self.diffusion.schedule.num_train_timesteps, (len(prompts),), device=self.device)
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
            shorter = parse_caption(caption).short_captions
            return shorter[int(torch.randint(len(shorter), ()))]
        return caption

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The loss at fixed noise and evenly spread levels; on the first batch also judged samples."""
        count = len(batch["captions"])
        generator = torch.Generator().manual_seed(batch_idx)
        noise = torch.randn(batch["mean"].shape, generator=generator).to(self.device)
        timesteps = torch.linspace(0, self.diffusion.schedule.num_train_timesteps - 1, count, device=self.device)
        loss = self.loss(batch["mean"], noise, timesteps.long(), batch["captions"]).mean()
        self.log("val/loss", loss, batch_size=count, sync_dist=True)
        if batch_idx == 0:
            self.judge_samples()

    def judge_samples(self, count: int = 48) -> None:
        """Sample held-out prompts at guidance 3 and log how often each factor is as asked."""
        pictures = [draw("test", index)[0] for index in range(count)]
        seeds = self.diffusion.draw_seeds([torch.Generator().manual_seed(i) for i in range(count)])
        images = self.diffusion.generate([picture.caption for picture in pictures], seeds, 25, 3.0)
        predicted = self.classifier.predict(images)
        for factor in FACTORS:
            right = [a == getattr(b, factor) for a, b in zip(predicted[factor], pictures, strict=True)]
            self.log(f"val/{factor}", sum(right) / count, prog_bar=True)
        self.log_grid("samples", images, columns=12)

    def save(self, folder: Path) -> None:
        """Write the whole pipeline in diffusers' layout, weights in half precision.

        All but the text encoder's: transformers would load it as half beside a U-Net that diffusers loads as float.
        """
        pipeline = self.diffusion.pipeline()
        pipeline.unet.half()
        pipeline.vae.half()
        pipeline.save_pretrained(folder)
        pipeline.to(torch.float32)


def build_pipeline(autoencoder: Path, block_out_channels: tuple[int, ...], text_width: int) -> StableDiffusionPipeline:
    """A pipeline with fresh U-Net and text encoder around a trained autoencoder."""
    tokenizer = build_tokenizer()
    vae = AutoencoderKL.from_pretrained(autoencoder, use_safetensors=True)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=text_width,
            intermediate_size=2 * text_width,
            projection_dim=text_width,
            num_hidden_layers=2,
            num_attention_heads=text_width // 32,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    deep = len(block_out_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deep),
        up_block_types=(*("CrossAttnUpBlock2D",) * deep, "UpBlock2D"),
        block_out_channels=block_out_channels,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=[max(1, channels // 32) for channels in block_out_channels],
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
