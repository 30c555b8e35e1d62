"""The model under study: base weights, and an optional erasure on top."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Generator, Tensor, nn

from lit_memories.erasure import Erasure
from lit_memories.ops.adapters import Adapter, gate
from lit_memories.ops.rollout import NoiseFn, rollout
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.ops.tokens import content
from lit_memories.pipelines import check_finite, load_pipeline, noise_schedule, randomise

Weights = Literal["pretrained", "random"]


class Diffusion(nn.Module):
    """A text-to-image latent diffusion model in Stable Diffusion's layout.

    All tensors are in diffusers' conventions: images (n, 3, h, w) in [0, 1], latents (n, c, h / f, w / f) already
    scaled, prompt embeddings (n, tokens, width); the network's prediction always arrives as noise epsilon.

    Args:
        base: hub id or folder of a `StableDiffusionPipeline`.
        erasure: folder of an `Erasure` to apply, or None for the base as it is.
        revision: git revision of a hub id.
        weights: ``"random"`` draws the U-Net's weights anew from its configuration: a negative control that knows
            nothing.
        torch_dtype: storage type of the weights.
        gated: whether an erasure that is an adapter acts as strongly as each prompt is near to the concept, where it
            says how (SPM); if not, and for every other adapter, it is worked into the weights at full strength.

    Raises:
        ValueError: if weights hold NaN or infinity, or the erasure does not fit.
        FileNotFoundError: if `base` is neither a pipeline folder nor a reachable hub id.
    """

    base: str
    revision: str | None
    weights: Weights
    erasure: Erasure | None
    replaced: dict[str, Tensor]
    adapter: Adapter | None
    schedule: NoiseSchedule
    fingerprint: str
    # Untyped by diffusers; declared so that attribute access is not taken for `nn.Module.__getattr__`'s.
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any

    def __init__(
        self,
        base: str,
        erasure: Path | None = None,
        revision: str | None = None,
        weights: Weights = "pretrained",
        torch_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        gated: bool = True,
    ) -> None:
        super().__init__()
        dtype = getattr(torch, torch_dtype)
        self._adopt(load_pipeline(base, revision, dtype), str(base), revision)
        self.weights = weights
        if weights == "random":
            randomise(self.unet)
        if erasure is not None:
            self.erasure = Erasure.load(erasure)
            self.replaced = self.erasure.apply(self, gated)

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """Load from a folder or the hub; `options` as for the class."""
        return cls(str(path_or_repo_id), revision=revision, **options)

    @classmethod
    def from_pipeline(cls, pipeline: StableDiffusionPipeline, name: str = "in memory") -> Self:
        """Take the parts of a pipeline that is already in memory; nothing is copied."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._adopt(pipeline, name, None)
        return self

    def _adopt(self, pipeline: StableDiffusionPipeline, name: str, revision: str | None) -> None:
        self.base, self.revision = name, revision
        self.weights, self.erasure, self.replaced, self.adapter = "pretrained", None, {}, None
        self._gate_prompts: list[str] = []
        self.unet, self.vae, self.text_encoder = pipeline.unet, pipeline.vae, pipeline.text_encoder
        self.tokenizer = pipeline.tokenizer
        self.scheduler_config = dict(pipeline.scheduler.config)
        self.schedule = noise_schedule(pipeline.scheduler.config)
        self.requires_grad_(False).eval()
        for component in ("unet", "text_encoder", "vae"):
            check_finite(getattr(self, component), f"{component} of {name}")
        self.fingerprint = fingerprint(self.unet, self.text_encoder)

    @property
    def device(self) -> torch.device:
        """Where the U-Net lives."""
        return next(self.unet.parameters()).device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of one latent at the model's native size."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """Native (height, width) of an image in pixels."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        _, height, width = self.latent_shape
        return height * factor, width * factor

    def add_adapter(self, adapter: Adapter, gate_prompts: Sequence[str]) -> None:
        """Put an adapter on the U-Net that acts as strongly as a prompt is near to `gate_prompts`."""
        self.adapter, self._gate_prompts = adapter, list(gate_prompts)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (n, tokens), padded; prompts beyond the encoder's window are cut as in Stable Diffusion."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return tokens.input_ids.to(self.device)

    def words(self, prompt: str) -> list[int]:
        """A prompt's tokens without markers and padding."""
        (ids,) = self.tokenize([prompt]).tolist()
        return content(ids, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, tokens, width): all the U-Net is told of the prompts.

        Under a gated adapter they have one row more, which holds its strength for the prompt.
        """
        embeds = self._encode(prompts)
        if self.adapter is None:
            return embeds
        concepts = self._encode(self._gate_prompts)
        tokens, concept_tokens = ([set(self.words(p)) for p in group] for group in (prompts, self._gate_prompts))
        strength = gate(embeds, concepts, tokens, concept_tokens)
        return torch.cat([embeds, strength[:, None, None].expand(-1, 1, embeds.shape[-1])], 1)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (n, tokens, width) of token ids (n, tokens)."""
        return self.text_encoder(ids)[0]

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        return self.encode_tokens(self.tokenize(prompts))

    def encode_images(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Latents of images (n, 3, h, w) in [0, 1]: the posterior's mean, or a sample of it given a generator."""
        posterior = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        return latents * self.vae.config.scaling_factor

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [0, 1] of latents."""
        return self.decode_unscaled(latents / self.vae.config.scaling_factor).clamp(0, 1)

    def decode_unscaled(self, latents: Tensor) -> Tensor:
        """Images (n, 3, h, w), not clamped, of latents as the decoder takes them: what an optimiser can climb."""
        return self.vae.decode(latents.to(self.vae.dtype)).sample / 2 + 0.5

    def predict_noise(
        self,
        latents: Tensor,
        timestep: int | Tensor,
        prompt_embeds: Tensor,
        guidance_scale: float = 1.0,
        negative_prompt_embeds: Tensor | None = None,
    ) -> Tensor:
        """The noise in latents, by classifier-free guidance (Ho & Salimans 2022) if `guidance_scale` is not 1.

        Args:
            latents: (n, c, h, w).
            timestep: one for all, or a tensor (n,).
            prompt_embeds: (n, tokens, width).
            guidance_scale: 1 is the conditional prediction alone and costs one evaluation a sample, else two.
            negative_prompt_embeds: (n, tokens, width) to guide away from; the empty prompt if None.
        """
        timesteps = torch.as_tensor(timestep, device=latents.device).expand(len(latents))
        if guidance_scale == 1.0:
            return self._epsilon(latents, timesteps, prompt_embeds)
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self.encode_prompts([""]).expand(len(latents), -1, -1)
        both = self._epsilon(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            torch.cat([negative_prompt_embeds, prompt_embeds]),
        )
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def _epsilon(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor) -> Tensor:
        if self.adapter is not None:
            prompt_embeds, self.adapter.strength = prompt_embeds[:, :-1], prompt_embeds[:, -1, 0]
        prediction = self.unet(latents.to(self.unet.dtype), timesteps, prompt_embeds.to(self.unet.dtype)).sample
        return self.schedule.to_epsilon(prediction.to(latents.dtype), latents, timesteps)

    def noise_fn(self, prompt_embeds: Tensor, guidance_scale: float = 1.0) -> NoiseFn:
        """`predict_noise` with the conditioning (n, tokens, width) fixed."""
        empty = None if guidance_scale == 1.0 else self.encode_prompts([""]).expand(len(prompt_embeds), -1, -1)
        return lambda latents, timestep: self.predict_noise(latents, timestep, prompt_embeds, guidance_scale, empty)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seeds: Tensor, num_inference_steps: int = 50, guidance_scale: float = 1.0
    ) -> Tensor:
        """Images (n, 3, h, w) that DDIM makes of seeds (n, c, h, w) under `prompts`."""
        predict_noise = self.noise_fn(self.encode_prompts(prompts), guidance_scale)
        return self.decode_latents(rollout(predict_noise, seeds, self.schedule.ddim_steps(num_inference_steps)))

    def draw_seeds(self, generators: Sequence[Generator]) -> Tensor:
        """One seed (c, h, w) from the prior for each generator, stacked; always drawn on the CPU in float32."""
        seeds = [torch.randn(self.latent_shape, generator=generator) for generator in generators]
        return torch.stack(seeds).to(self.device)

    def weights_fingerprint(self) -> str:
        """Hash of what computes: U-Net, text encoder and adapter as they are now."""
        return fingerprint(self.unet, self.text_encoder, *([] if self.adapter is None else [self.adapter]))

    def pipeline(self) -> StableDiffusionPipeline:
        """The model as an ordinary diffusers pipeline with a DDIM scheduler.

        Raises:
            ValueError: under a gated adapter, which such a pipeline cannot express.
        """
        if self.adapter is not None:
            raise ValueError("a pipeline cannot hold a prompt-gated adapter: load the model with gated=False")
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=DDIMScheduler.from_config(self.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def fingerprint(*modules: nn.Module) -> str:
    """Hash of all tensors of some modules: with the same one, they compute the same."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
