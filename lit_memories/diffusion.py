"""The model under study: base weights, and an optional erasure on top."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor, nn

from lit_memories import autoencoder
from lit_memories.conditioning import conditioning_of
from lit_memories.denoisers import denoiser_of
from lit_memories.erasure import Erasure
from lit_memories.guards.base import Guard
from lit_memories.ops.attachment import Attachment
from lit_memories.ops.fingerprint import fingerprint, rounded_fingerprints
from lit_memories.ops.rollout import PredictFn, Trajectories, rollout
from lit_memories.ops.schedule import NoiseSchedule, on_each
from lit_memories.ops.transforms import Transform
from lit_memories.prompted import Prompted
from lit_memories.settings import short_hash
from lit_memories.speed import Speed
from lit_memories.storage.loading import check_finite
from lit_memories.storage.pipelines import Pipeline, load_pipeline, randomise
from lit_memories.storage.schedules import noise_schedule, scheduler_of

Weights = Literal["pretrained", "random"]


class Diffusion(Prompted):
    """A text-to-image latent diffusion model in the layout of Stable Diffusion 1, 2, XL or 3, or of FLUX.

    All tensors are in diffusers' conventions: images (n, 3, h, w) in [0, 1], latents (n, c, h / f, w / f) already
    scaled, prompt embeddings (n, rows, width), see `lit_memories.conditioning`. Noisy latents are in the scale of
    `lit_memories.ops.path`, those of flows too, and predictions arrive as ``schedule.predicts`` says.

    Args:
        base: hub id or folder of a pipeline of diffusers, `StableDiffusionPipeline`, `StableDiffusionXLPipeline`,
            `StableDiffusion3Pipeline` or `FluxPipeline`, or a checkpoint of one of these in one
            file.
        erasure: folder or hub id (``user/name`` or ``user/name@revision``) of an `Erasure` to apply, or None for the
            base as it is.
        revision: git revision of a hub id.
        weights: ``"random"`` draws the network's weights anew from its configuration: a negative control that knows
            nothing.
        torch_dtype: storage type of the weights.
        gated: whether an erasure that is an adapter acts as strongly as each prompt is near to the concept, where it
            says how (SPM); if not, and for every other adapter, it is worked into the weights at full strength. What
            weights cannot hold (Receler) is refused then.
        gate_power: which power of that nearness is the adapter's strength: 2 as in SPM's released inference, which
            scales both factors by it, 1 as in the paper (eq. 10).
        variant: which of several sets of weights to take, such as ``"fp16"``; None for the files without a variant.
        config: for a single file, folder or hub id of the pipeline whose configuration it has.
        transform: what else is done to network and text encoders, after the erasure (`lit_memories.ops.transforms`).
        guard: what keeps a concept out of guided predictions while pictures are drawn (`lit_memories.guards`).
        speed: ways to compute faster or in less memory; none if None.
        image_size: pixels of a picture's sides, or of height and width; the model's native size if None.

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
    schedule: NoiseSchedule
    image_size: tuple[int, int]
    fingerprint: str
    reload: Callable[[], tuple[Pipeline, str | None]] | None = None
    vae: Any  # untyped by diffusers; declared so that access is not taken for `nn.Module.__getattr__`'s
    text_encoder: Any

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
        guard: Guard | None = None,
        speed: Speed | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        pipeline, commit = load_pipeline(base, revision, getattr(torch, torch_dtype), variant, config)
        self._adopt(pipeline, str(base), commit, image_size)
        if torch_dtype != "float32":
            self.reload = partial(load_pipeline, base, revision, torch.float32, variant, config)
        self.weights = weights
        if weights == "random":
            randomise(self.network)
        if erasure is not None:
            self.gate_power = gate_power
            self.erasure = Erasure.load(erasure)
            self.replaced = self.erasure.apply(self, gated)
        if transform is not None:
            if self.adapter is not None:
                raise ValueError(f"what stands beside the network cannot be transformed: {self.adapter.remedy}")
            self.transform = transform
            transform.apply({k: x for k, x in self.named_parameters() if not k.startswith("vae.")}, self.replaced)
        if guard is not None:
            guard.check(self, self.base)
            self.guard = guard
        if speed is not None:
            self.speed = speed
            speed.apply(self.network, self.vae)

    def __repr__(self) -> str:
        """One line, without the network's layers."""
        more = [", random weights"] * (self.weights == "random")
        more += [f", {x!r}" for x in (self.erasure, self.transform, self.guard) if x is not None]
        return f"Diffusion({self.base!r}{''.join(more)})"

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """Load from a folder or the hub; `options` as for the class."""
        return cls(str(path_or_repo_id), revision=revision, **options)

    @classmethod
    def from_pipeline(cls, pipeline: Pipeline, name: str = "in memory") -> Self:
        """Take the parts of a pipeline that is already in memory; nothing is copied."""
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self._adopt(pipeline, name, None, None)
        return self

    def _adopt(self, pipeline: Pipeline, name: str, revision: str | None, size: int | tuple[int, int] | None) -> None:
        self.base, self.revision, self.speed = name, revision, Speed()
        self.weights, self.erasure, self.replaced, self.adapter = "pretrained", None, {}, None
        self.gate_prompts, self.gate_power = [], 2
        self.vae, self.tokenizer = pipeline.vae, pipeline.tokenizer
        self.denoiser, network = denoiser_of(pipeline)
        self.add_module(self.denoiser.component, network)
        self.image_size = self.denoiser.image_size(autoencoder.factor(self.vae), size)
        self.conditioning = conditioning_of(pipeline, self.image_size)
        for component, encoder in self.conditioning.encoders.items():
            self.add_module(component, encoder)
        self.scheduler_config = dict(pipeline.scheduler.config)
        places = self.latent_shape[1] * self.latent_shape[2] // self.denoiser.patch**2
        self.schedule = noise_schedule(pipeline.scheduler.config, places, even=self.denoiser.even)
        self.requires_grad_(False).eval()
        autoencoder.check(self.vae, name)
        for component, module in self.named_children():
            check_finite(module, f"{component} of {name}")
        self.fingerprint = self.weights_fingerprint()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of one latent at the model's size."""
        factor = autoencoder.factor(self.vae)
        return self.denoiser.latent_shape[0], self.image_size[0] // factor, self.image_size[1] // factor

    def add_adapter(self, adapter: Attachment, gate_prompts: Sequence[str]) -> None:
        """Put an adapter on the network that acts as strongly as a prompt is near to `gate_prompts`, or always."""
        self.adapter, self.gate_prompts = adapter, list(gate_prompts)

    def encode_images(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Latents of images (n, 3, h, w) in [0, 1]: the posterior's mean, or a sample of it given a generator."""
        return autoencoder.encode(self.vae, images, generator)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [0, 1] of latents."""
        return autoencoder.decode(self.vae, latents).clamp(0, 1)

    def decode_unscaled(self, latents: Tensor) -> Tensor:
        """Images (n, 3, h, w), not clamped, of latents as the decoder takes them: what an optimiser can climb."""
        return autoencoder.decode_unscaled(self.vae, latents)

    def predict(
        self,
        latents: Tensor,
        timestep: float | Tensor,
        prompt_embeds: Tensor,
        guidance_scale: float = 1.0,
        negative_prompt_embeds: Tensor | None = None,
    ) -> Tensor:
        """What the network predicts, as ``schedule.predicts`` says, guided if `guidance_scale` is not 1.

        Guidance is classifier-free (Ho & Salimans 2022), what a guidance-distilled network was taught of it, or what
        the model's guard makes of it, at a picture's first step.

        Args:
            latents: (n, c, h, w).
            timestep: one for all, or a tensor (n,).
            prompt_embeds: (n, rows, width).
            guidance_scale: 1 is the conditional prediction alone; else it costs what `evaluations` says.
            negative_prompt_embeds: (n, rows, width) to guide away from; the empty prompt if None. With a guard
                (k n, rows, width), of the k prompts `beside`, one after the other.

        Raises:
            ValueError: if a guidance-distilled model is to be guided away from something.
        """
        return self.predict_after(None, latents, timestep, prompt_embeds, guidance_scale, negative_prompt_embeds)[0]

    def predict_after(
        self,
        memory: Tensor | None,
        latents: Tensor,
        timestep: float | Tensor,
        prompt_embeds: Tensor,
        guidance_scale: float,
        negative_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`predict`, whose other arguments these are, after what a guard remembers of the step before (n, c, h, w).

        Returns:
            The prediction, and what is remembered of it.
        """
        timesteps = on_each(timestep, latents)
        if self.evaluations(guidance_scale) == 1:
            if negative_prompt_embeds is not None and guidance_scale != 1.0:
                raise ValueError(
                    "guidance is an input of this model (guidance distillation): no prompt to guide away from"
                )
            return self._ask(latents, timesteps, prompt_embeds, guidance_scale), memory
        count = len(self.beside)
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self.beside_embeds().repeat_interleave(len(latents), 0)
        if self.adapter is not None:  # as strong as for the prompt, on the way away from the other ones too
            strength = prompt_embeds[:, -1:].repeat(count, 1, 1)
            negative_prompt_embeds = torch.cat([negative_prompt_embeds[:, :-1], strength], 1)
        found = self._ask(
            latents.repeat(count + 1, 1, 1, 1),
            timesteps.repeat(count + 1),
            torch.cat([negative_prompt_embeds, prompt_embeds]),
        )
        *others, conditional = found.chunk(count + 1)
        if self.guard is None:
            return others[0] + guidance_scale * (conditional - others[0]), memory
        left = timesteps / self.schedule.num_train_timesteps
        before = torch.zeros_like(conditional) if memory is None else memory
        return self.guard.guide(conditional, tuple(others), guidance_scale, left, before)

    def predict_noise(self, latents: Tensor, timestep: float | Tensor, *conditions: Any, **guidance: Any) -> Tensor:
        """`predict`, whose arguments these are, as noise (n, c, h, w), whatever the model predicts."""
        prediction = self.predict(latents, timestep, *conditions, **guidance)
        return self.schedule.to_noise(prediction, latents, on_each(timestep, latents))

    def evaluations(self, guidance_scale: float) -> int:
        """Network evaluations that a prediction with this guidance costs a sample.

        Raises:
            ValueError: if the model was never taught what guidance goes away from.
        """
        if guidance_scale != 1.0 and not self.denoiser.guidable:
            raise ValueError(
                f"guidance_scale must be 1 for {self.base}, got {guidance_scale:g}: it was distilled to few steps "
                "without guidance, and never taught the empty prompt that guidance goes away from"
            )
        return 1 if guidance_scale == 1.0 or self.denoiser.takes_guidance else 1 + len(self.beside)

    def _ask(self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor, guidance: float = 1.0) -> Tensor:
        if self.adapter is not None:
            prompt_embeds, self.adapter.strength = prompt_embeds[:, :-1], prompt_embeds[:, -1, 0]
        if self.guard is not None:
            prompt_embeds = self.guard.seen(prompt_embeds, timesteps / self.schedule.num_train_timesteps)
        dtype = next(self.network.parameters()).dtype  # diffusers' own property visits every module, at every call
        text, added = self.conditioning.split(prompt_embeds.to(dtype))
        seen = self.schedule.network_latents(latents, timesteps).to(dtype)
        prediction = self.denoiser(self.network, seen, timesteps, text, guidance, added)
        return self.schedule.from_network(prediction.to(latents.dtype), latents, timesteps)

    def predict_fn(self, prompt_embeds: Tensor, guidance_scale: float = 1.0) -> PredictFn:
        """`predict` with the conditioning (n, rows, width) fixed, and what a guard remembers kept along a rollout."""
        beside = None
        if self.evaluations(guidance_scale) > 1:
            beside = self.beside_embeds().repeat_interleave(len(prompt_embeds), 0)

        def after(memory: Tensor | None, latents: Tensor, timestep: float) -> tuple[Tensor, Tensor | None]:
            return self.predict_after(memory, latents, timestep, prompt_embeds, guidance_scale, beside)

        return Trajectories(after)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seeds: Tensor, num_inference_steps: int = 50, guidance_scale: float = 1.0
    ) -> Tensor:
        """Images (n, 3, h, w) that DDIM, or Euler's steps of a flow, make of seeds (n, c, h, w) under `prompts`."""
        predict = self.predict_fn(self.encode_prompts(prompts), guidance_scale)
        return self.decode_latents(rollout(predict, seeds, self.schedule.ddim_steps(num_inference_steps)))

    def draw_seeds(self, generators: Sequence[Generator]) -> Tensor:
        """One seed (c, h, w) from the prior for each generator, stacked; always drawn on the CPU in float32."""
        seeds = [torch.randn(self.latent_shape, generator=generator) for generator in generators]
        return torch.stack(seeds).to(self.device)

    def weights_fingerprint(self) -> str:
        """Hash of what computes: network, text encoders and adapter as they are now."""
        return fingerprint(
            self.network, *self.conditioning.encoders.values(), *([self.adapter] if self.adapter else [])
        )

    def guarded_fingerprint(self) -> str:
        """Hash of what computes with its guard, if it has one: of other settings of the guard, another."""
        weights = self.weights_fingerprint()
        return weights if self.guard is None else short_hash(json.dumps([weights, self.guard.settings()]))

    def settings(self) -> dict[str, str]:
        """What settings hold of a model that is an option: what it computes."""
        return {"fingerprint": self.guarded_fingerprint()}

    def rounded_fingerprints(self) -> dict[str, str]:
        """Hashes of network and text encoders as files of half precision have them, by types of rounding."""
        return rounded_fingerprints(self.network, *self.conditioning.encoders.values())

    def known_as(self) -> Iterator[str]:
        """The fingerprints that the base goes by: its own, rounded, and in half precision that of what it was before.

        Two bases that are equal when rounded are one to an erasure: no file in half precision can tell them apart.
        """
        yield self.fingerprint
        yield from self.rounded_fingerprints().values()
        if self.reload is not None:
            pipeline, _ = self.reload()
            yield fingerprint(
                getattr(pipeline, self.denoiser.component),
                *(getattr(pipeline, name) for name in self.conditioning.encoders),
            )

    def pipeline(self) -> Pipeline:
        """The model as an ordinary diffusers pipeline with a DDIM scheduler, or with a flow's own.

        Raises:
            ValueError: under a gated adapter, bottlenecks or a guard, which such a pipeline cannot express.
        """
        if self.guard is not None:
            raise ValueError(f"a pipeline cannot hold a guard ({type(self.guard).__name__}): load the model without")
        if self.adapter is not None:
            raise ValueError(f"a pipeline cannot hold what stands beside the network: {self.adapter.remedy}")
        network = {self.component: self.network}
        return self.conditioning.pipeline(vae=self.vae, scheduler=scheduler_of(self.scheduler_config), **network)
