"""The model under study: base weights, and an optional erasure on top."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from diffusers import DDIMScheduler
from torch import Generator, Tensor, nn

from lit_memories.conditioning import Conditioning, conditioning_of, tokenize, with_row
from lit_memories.erasure import Erasure
from lit_memories.ops.adapters import Adapter, gate
from lit_memories.ops.rollout import NoiseFn, rollout
from lit_memories.ops.schedule import NoiseSchedule
from lit_memories.ops.tokens import content
from lit_memories.ops.transforms import Transform
from lit_memories.speed import Speed
from lit_memories.storage.loading import check_finite
from lit_memories.storage.pipelines import Pipeline, load_pipeline, noise_schedule, randomise

Weights = Literal["pretrained", "random"]
HALVES = ((torch.float16,), (torch.bfloat16,), (torch.float16, torch.bfloat16))
"""How a file of float32 weights may come to be in half precision: stored or loaded so, or stored so and loaded so."""


class Diffusion(nn.Module):
    """A text-to-image latent diffusion model in the layout of Stable Diffusion 1, 2 or XL.

    All tensors are in diffusers' conventions: images (n, 3, h, w) in [0, 1], latents (n, c, h / f, w / f) already
    scaled, prompt embeddings (n, rows, width), see `lit_memories.conditioning`; the network's prediction always arrives
    as noise epsilon.

    Args:
        base: hub id or folder of a `StableDiffusionPipeline` or `StableDiffusionXLPipeline`, or a checkpoint of one in
            a single file.
        erasure: folder or hub id (``user/name`` or ``user/name@revision``) of an `Erasure` to apply, or None for the
            base as it is.
        revision: git revision of a hub id.
        weights: ``"random"`` draws the U-Net's weights anew from its configuration: a negative control that knows
            nothing.
        torch_dtype: storage type of the weights.
        gated: whether an erasure that is an adapter acts as strongly as each prompt is near to the concept, where it
            says how (SPM); if not, and for every other adapter, it is worked into the weights at full strength.
        gate_power: which power of that nearness is the adapter's strength: 2 as in SPM's released inference, which
            scales both factors by it, 1 as in the paper (eq. 10).
        variant: which of several sets of weights to take, such as ``"fp16"``; None for the files without a variant.
        config: for a single file, folder or hub id of the pipeline whose configuration it has.
        transform: what else is done to U-Net and text encoders, after the erasure (`lit_memories.ops.transforms`).
        speed: ways to compute faster or in less memory; none if None.

    Attributes:
        revision: the commit of the hub that `base` was at; None if it did not come from there.

    Raises:
        ValueError: if weights hold NaN or infinity, parts do not belong together, or the erasure does not fit.
        FileNotFoundError: if `base` is neither a pipeline folder nor a reachable hub id, or a part of it is missing.
    """

    base: str
    revision: str | None
    weights: Weights
    erasure: Erasure | None
    transform: Transform | None = None
    replaced: dict[str, Tensor]
    adapter: Adapter | None
    gate_prompts: list[str]
    gate_power: Literal[1, 2]
    schedule: NoiseSchedule
    conditioning: Conditioning
    fingerprint: str
    reload: Callable[[], tuple[Pipeline, str | None]] | None = None
    # Untyped by diffusers; declared so that attribute access is not taken for `nn.Module.__getattr__`'s.
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any

    def __init__(
        self,
        base: str,
        erasure: str | Path | None = None,
        revision: str | None = None,
        weights: Weights = "pretrained",
        torch_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        gated: bool = True,
        gate_power: Literal[1, 2] = 2,
        variant: str | None = None,
        config: str | None = None,
        transform: Transform | None = None,
        speed: Speed | None = None,
    ) -> None:
        super().__init__()
        pipeline, commit = load_pipeline(base, revision, getattr(torch, torch_dtype), variant, config)
        self._adopt(pipeline, str(base), commit)
        if torch_dtype != "float32":
            self.reload = partial(load_pipeline, base, revision, torch.float32, variant, config)
        self.weights = weights
        if weights == "random":
            randomise(self.unet)
        if erasure is not None:
            self.gate_power = gate_power
            self.erasure = Erasure.load(erasure)
            self.replaced = self.erasure.apply(self, gated)
        if transform is not None:
            if self.adapter is not None:
                raise ValueError("a gated adapter cannot be transformed: merge it by --model.diffusion.gated false")
            self.transform = transform
            transform.apply({k: x for k, x in self.named_parameters() if not k.startswith("vae.")}, self.replaced)
        if speed is not None:
            self.speed = speed
            speed.apply(self.unet, self.vae)

    def __repr__(self) -> str:
        """One line, without the network's layers."""
        weights = ", random weights" if self.weights == "random" else ""
        more = "".join(f", {x!r}" for x in (self.erasure, self.transform) if x is not None)
        return f"Diffusion({self.base!r}{weights}{more})"

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """Load from a folder or the hub; `options` as for the class."""
        return cls(str(path_or_repo_id), revision=revision, **options)

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, name: str = "in memory") -> Self:
        """Take the parts of a pipeline that is already in memory; nothing is copied."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._adopt(pipeline, name, None)
        return self

    def _adopt(self, pipeline: Pipeline, name: str, revision: str | None) -> None:
        self.base, self.revision, self.speed = name, revision, Speed()
        self.weights, self.erasure, self.replaced, self.adapter = "pretrained", None, {}, None
        self.gate_prompts, self.gate_power = [], 2
        self.unet, self.vae, self.tokenizer = pipeline.unet, pipeline.vae, pipeline.tokenizer
        self.conditioning = conditioning_of(pipeline, self.image_size)
        for component, encoder in self.conditioning.encoders.items():
            self.add_module(component, encoder)
        self.scheduler_config = dict(pipeline.scheduler.config)
        self.schedule = noise_schedule(pipeline.scheduler.config)
        self.requires_grad_(False).eval()
        for shift in ("latents_mean", "shift_factor"):
            if self.vae.config.get(shift):
                raise ValueError(f"the VAE of {name} shifts its latents ({shift}), which is not supported")
        if self.vae.config.force_upcast and self.vae.dtype == torch.float16:
            self.vae.float()  # SDXL's overflows in half precision
        for component, module in self.named_children():
            check_finite(module, f"{component} of {name}")
        self.fingerprint = self.weights_fingerprint()

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
        self.adapter, self.gate_prompts = adapter, list(gate_prompts)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (n, tokens), padded; prompts beyond the encoder's window are cut as in Stable Diffusion."""
        return tokenize(self.tokenizer, prompts).to(self.device)

    def words(self, prompt: str) -> list[int]:
        """A prompt's tokens without markers and padding."""
        (ids,) = self.tokenize([prompt]).tolist()
        return content(ids, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)

    def exceeds_window(self, prompt: str) -> bool:
        """Whether a prompt has more tokens than the text encoder sees, so that its end is cut."""
        return len(self.tokenizer(prompt).input_ids) > self.tokenizer.model_max_length

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings (n, rows, width): all the U-Net is told of the prompts.

        One row a token, and what else `lit_memories.conditioning` says.
        """
        embeds = self.conditioning.encode(prompts)
        return embeds if self.adapter is None else self.gated(embeds, [set(self.words(prompt)) for prompt in prompts])

    def gated(self, embeds: Tensor, tokens: Sequence[set[int]]) -> Tensor:
        """Embeddings (n, rows, width) with the row that says how strong a gated adapter is; as they are without one.

        Args:
            embeds: of prompts, however they were made.
            tokens: the prompts', without markers.
        """
        if self.adapter is None:
            return embeds
        text, _ = self.conditioning.split(embeds)
        concepts, _ = self.conditioning.split(self.conditioning.encode(self.gate_prompts))
        concept_tokens = [set(self.words(prompt)) for prompt in self.gate_prompts]
        return with_row(embeds, gate(text, concepts, tokens, concept_tokens)[:, None] ** self.gate_power)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings (n, tokens, width) of token ids (n, tokens).

        Raises:
            ValueError: if the model has two text encoders (SDXL).
        """
        return self.conditioning.encode_tokens(ids)

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
            prompt_embeds: (n, rows, width).
            guidance_scale: 1 is the conditional prediction alone and costs one evaluation a sample, else two.
            negative_prompt_embeds: (n, rows, width) to guide away from; the empty prompt if None.
        """
        if isinstance(timestep, Tensor):
            timesteps = timestep.to(latents.device).expand(len(latents))
        else:  # made on the device: a copy would have the host wait for it at every call
            timesteps = torch.full((len(latents),), timestep, device=latents.device)
        if guidance_scale == 1.0:
            return self._epsilon(latents, timesteps, prompt_embeds)
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self.encode_prompts([""]).expand(len(latents), -1, -1)
        if self.adapter is not None:  # as strong as for the prompt, on the way away from the other one too
            negative_prompt_embeds = torch.cat([negative_prompt_embeds[:, :-1], prompt_embeds[:, -1:]], 1)
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
        dtype = next(self.unet.parameters()).dtype  # diffusers' own property visits every module, at every call
        text, added = self.conditioning.split(prompt_embeds.to(dtype))
        prediction = self.unet(latents.to(dtype), timesteps, text, **added).sample
        return self.schedule.to_epsilon(prediction.to(latents.dtype), latents, timesteps)

    def noise_fn(self, prompt_embeds: Tensor, guidance_scale: float = 1.0) -> NoiseFn:
        """`predict_noise` with the conditioning (n, rows, width) fixed."""
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
        """Hash of what computes: U-Net, text encoders and adapter as they are now."""
        return fingerprint(self.unet, *self.conditioning.encoders.values(), *([self.adapter] if self.adapter else []))

    def settings(self) -> dict[str, str]:
        """What settings hold of a model that is an option: what it computes."""
        return {"fingerprint": self.weights_fingerprint()}

    def rounded_fingerprints(self) -> dict[str, str]:
        """Hashes of U-Net and text encoders as files of half precision have them, by the types they are rounded to."""
        parts = (self.unet, *self.conditioning.encoders.values())
        return {
            ", ".join(str(t).removeprefix("torch.") for t in types): fingerprint(*parts, to=types) for types in HALVES
        }

    def known_as(self) -> Iterator[str]:
        """The fingerprints that the base goes by: its own, rounded, and in half precision that of what it was before.

        Two bases that are equal when rounded are one to an erasure: no file in half precision can tell them apart.
        """
        yield self.fingerprint
        yield from self.rounded_fingerprints().values()
        if self.reload is not None:
            pipeline, _ = self.reload()
            yield fingerprint(pipeline.unet, *(getattr(pipeline, name) for name in self.conditioning.encoders))

    def pipeline(self) -> Pipeline:
        """The model as an ordinary diffusers pipeline with a DDIM scheduler.

        Raises:
            ValueError: under a gated adapter, which such a pipeline cannot express.
        """
        if self.adapter is not None:
            raise ValueError("a pipeline cannot hold a prompt-gated adapter: load the model with gated=False")
        # Latents have no range to be cut to, whatever a scheduler of another class leaves to DDIM's default.
        scheduler = DDIMScheduler.from_config(self.scheduler_config, clip_sample=False)
        return self.conditioning.pipeline(vae=self.vae, unet=self.unet, scheduler=scheduler)


def fingerprint(*modules: nn.Module, to: Sequence[torch.dtype] = ()) -> str:
    """Hash of all tensors of some modules: with the same one, they compute the same.

    Args:
        modules: to hash.
        to: types that weights are rounded to before, one after the other.
    """
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            tensor = tensor.detach().cpu().contiguous()
            for dtype in to if tensor.is_floating_point() else ():
                tensor = tensor.to(dtype)
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
